"""The errors of the sharding floor: one small tree, so that a caller can catch everything this floor refuses
with `ShardingError`, or one idea of it with a leaf. Every message names the thing, its value and the
remedy."""

from __future__ import annotations


class ShardingError(ValueError):
    """Input that the sharding floor refuses."""


class CurveError(ShardingError):
    """A point, an index or an order that no Hilbert curve of ours can have."""


class AtlasError(ShardingError):
    """An atlas, or a vector offered to one, that breaks the atlas's rules."""


class ShardKeyError(ShardingError):
    """A shard key that is not 32 bytes, or the parts of one that do not fit together."""


class TreeError(ShardingError):
    """A prefix that cannot exist, or leaves that do not partition the key space."""


class RoutingError(ShardingError):
    """A mass or a limit that no contact set can meet."""


class SketchError(ShardingError):
    """A sketch that nothing can have, or a vector that cannot be sketched."""


class ShardStatementError(ShardingError):
    """What claims to be a statement of a shard's holders, and is none."""


class TermError(ShardingError):
    """Counted terms, a question by words, or a sketch of terms that cannot be."""
