"""The port through which a node turns texts into vector codes.

A network pins one embedding space in its manifest: the model's id with its version, and the
dimension. Two embedders that carry the same ``space`` promise the same codes for the same text, which
is what lets an asker re-score an answer from the signed code alone. Codes are int8 with the largest
component at ±127 (see `node.embedding.quantise`); only the direction of a code has a meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """What turns texts into codes of one embedding space."""

    @property
    def space(self) -> str:
        """Model id including its version, for example ``roseforest-static-256-v1``."""
        ...

    @property
    def dim(self) -> int:
        """Number of components of a code."""
        ...

    @property
    def exact(self) -> bool:
        """Whether every machine gets the same codes, so that a text's vector can be validated."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Codes of ``texts``, shape (n, dim), row i for text i.

        Raises `EmbeddingError` naming the position of the first text that has no code; then no code
        is returned. Blocking and CPU bound: call it from a worker thread.
        """
        ...
