"""Errors of the `crdt` floor: malformed operation bodies, foreign records, malformed vectors and deltas."""

from __future__ import annotations


class CrdtError(ValueError):
    """Base of every error that bad bytes or bad values can raise on this floor."""


class OperationError(CrdtError):
    """The payload body of an operation has the wrong shape or exceeds a limit."""


class SubjectError(CrdtError):
    """A record does not belong to the entry that it was given to."""


class VersionVectorError(CrdtError):
    """A version vector is malformed or exceeds a limit."""


class DeltaError(CrdtError):
    """A delta, or what is asked of one, is malformed or exceeds a limit."""
