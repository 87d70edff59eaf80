"""Embedders that are not ours: which spaces they make, and which of them this node can use.

A network's manifest names such a space by where its vectors come from:

    sentence-transformers:NAME    a model of that library, run here
    openai:NAME                   a model behind any endpoint that speaks OpenAI's embeddings interface

The name is a convention between members. Nothing checks that two of them run the same weights, and results
differ in their last digits between machines; so vectors are not validated against their texts, as those of
the built-in embedder are. A node without the embedder takes part all the same: it holds, and answers what
others ask, whose questions carry their vectors. It can only not add or ask, and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from node.embedding.embedder import Embedder
from node.embedding.errors import EmbedderMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SENTENCE_TRANSFORMERS: Final = "sentence-transformers:"
OPENAI: Final = "openai:"
KEY_VARIABLE: Final = "ROSEFOREST_EMBEDDER_KEY"
"""Where an endpoint's key is given; never in a file of ours, never on a command line."""


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """How this node reaches the network's embedder.

    `url` is an endpoint's base, such as http://127.0.0.1:8080/v1; `model` is what to ask it for, or to load,
    where that is not the space's name (a local folder, say). `batch` texts go into one call, of at most
    `timeout_s` seconds and `retries` more tries. `key` authorises at the endpoint.
    """

    url: str | None = None
    model: str | None = None
    batch: int = 64
    timeout_s: float = 30.0
    retries: int = 3
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Stands for an embedder that this node lacks: every text is refused with the reason."""

    space: str
    dim: int
    reason: str

    exact = False

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Codes of shape (0, dim) for no texts; any text raises `EmbedderMissing`."""
        import numpy as np

        if texts:
            raise EmbedderMissing(self.reason)
        return np.zeros((0, self.dim), dtype=np.int8)


def is_external(space: str) -> bool:
    """Whether a space's vectors come from an embedder that is not ours."""
    return any(space.startswith(prefix) and space != prefix for prefix in (SENTENCE_TRANSFORMERS, OPENAI))


def external_embedder(space: str, dim: int, settings: EmbedderSettings) -> Embedder:
    """The embedder of an external space, or an `Unavailable` one that says what is missing.

    Nothing is loaded or asked yet.
    """
    if space.startswith(OPENAI):
        from node.embedding.endpoint import EndpointEmbedder

        if settings.url is None:
            return Unavailable(
                space,
                dim,
                f"this node has no embedder for the network's space {space!r}: set url in the section "
                "[embedder] of config.toml to an endpoint that serves it",
            )
        return EndpointEmbedder(space, dim, space.removeprefix(OPENAI), settings)
    from node.embedding.sentence_transformers import SentenceTransformersEmbedder, installed

    if not installed():
        return Unavailable(
            space,
            dim,
            f"this node has no embedder for the network's space {space!r}: "
            "install roseforest[sentence-transformers]",
        )
    name = settings.model or space.removeprefix(SENTENCE_TRANSFORMERS)
    return SentenceTransformersEmbedder(space, dim, name, settings.batch)
