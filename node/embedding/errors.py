"""Errors of the embedders: one small tree, so that the edges can turn any of them into one line.

Every message names the thing that was refused, the value found, and what to do about it.
"""

from __future__ import annotations


class EmbeddingError(ValueError):
    """A text or vector cannot be turned into a code of the network's embedding space."""


class UnknownText(EmbeddingError):
    """The text holds no word piece that the token table knows."""


class TextTooLong(EmbeddingError):
    """The text is longer than an embedder accepts."""


class WrongSize(EmbeddingError):
    """A vector has another number of dimensions than the space."""


class NotFinite(EmbeddingError):
    """A vector holds NaN, an infinity, or something that is not a number."""


class ZeroVector(EmbeddingError):
    """A vector has no direction: all of its components are zero."""


class TextNotAccepted(EmbeddingError):
    """The space takes the caller's vectors, and a text came without one."""


class TextRefused(EmbeddingError):
    """An embedder that is not ours does not take a text."""


class EmbedderMissing(EmbeddingError):
    """This node has no embedder for the network's space; it can hold and answer, not add or ask."""


class EmbedderFailed(EmbeddingError):
    """The embedder cannot be had or answers with nonsense; another text would fare no better."""


class BadSample(EmbeddingError):
    """A file of vectors from which no atlas can be made."""


class DamagedData(EmbeddingError):
    """A packaged data file is missing or is not the one that the space's name stands for."""
