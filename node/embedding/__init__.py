"""Embedders: from texts or callers' vectors to int8 codes of the network's embedding space.

`Embedder` is the port; `StaticEmbedder` is built in and needs no model, `CallerVectors` takes what the
caller brings. `packaged_atlas` is the atlas that belongs to the built-in space. Nothing heavy is imported
before an embedder is made.
"""

from node.embedding.caller import CallerVectors
from node.embedding.embedder import Embedder
from node.embedding.errors import EmbeddingError
from node.embedding.packaged import packaged_atlas
from node.embedding.static import SPACE, StaticEmbedder

__all__ = ["SPACE", "CallerVectors", "Embedder", "EmbeddingError", "StaticEmbedder", "packaged_atlas"]
