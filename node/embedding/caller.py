"""Vectors that the caller brings: for networks whose space is not computed by the node.

The manifest of such a network names the model that its members agreed on; the node only checks and
quantises what it is given. A text without its vector is refused, because nothing here could embed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.embedding.errors import TextNotAccepted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_DIM = 4096
"""Most dimensions of a space that takes the caller's vectors."""


@dataclass(frozen=True, slots=True)
class CallerVectors:
    """Embedder of a space of ``dim`` dimensions whose vectors come with the request."""

    space: str
    dim: int

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= MAX_DIM:
            raise ValueError(f"the space {self.space!r} has {self.dim} dimensions; use 1 to {MAX_DIM}")

    exact = False

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Codes of shape (0, dim) for no texts; any text raises `TextNotAccepted`."""
        import numpy as np

        if texts:
            raise TextNotAccepted(
                f"the network's space {self.space} takes the caller's vectors;"
                f" give {self.dim} numbers with the text"
            )
        return np.zeros((0, self.dim), dtype=np.int8)

    def quantise(self, vector: Sequence[float]) -> NDArray[np.int8]:
        """Code of one vector, shape (dim,). Raises `WrongSize`, `NotFinite` or `ZeroVector`."""
        from node.embedding.quantise import quantise_floats

        code: NDArray[np.int8] = quantise_floats([vector], self.dim)[0]
        return code
