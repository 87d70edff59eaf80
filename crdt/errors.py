"""Errors of the `crdt` floor: malformed bodies, vectors and deltas, foreign records, false snapshots."""

from __future__ import annotations


class CrdtError(ValueError):
    """Base of every error that bad bytes or bad values can raise on this floor."""


class OperationError(CrdtError):
    """The payload body of an operation has the wrong shape or exceeds a limit."""


class SubjectError(CrdtError):
    """A record does not belong to the entry that it was given to."""


class VersionVectorError(CrdtError):
    """A version vector is malformed or exceeds a limit."""


class SnapshotError(CrdtError):
    """A snapshot is malformed, too large, or not what its records fold to."""


class SnapshotLacks(SnapshotError):
    """Records that a snapshot was taken of, or their payloads, are not here: `missing`."""

    def __init__(self, missing: tuple[bytes, ...]) -> None:
        super().__init__(f"{len(missing)} records of the snapshot are missing, the first {missing[0].hex()}")
        self.missing = missing


class SnapshotVoid(SnapshotError):
    """What a snapshot shows was erased by its author since, so nobody can check it any more."""


class Reopen(CrdtError):
    """To show a compacted entry takes `records` whole again: what had ended them does not count any more."""

    def __init__(self, records: tuple[bytes, ...]) -> None:
        super().__init__(f"{len(records)} records must be read again, the first {records[0].hex()}")
        self.records = records


class DeltaError(CrdtError):
    """A delta, or what is asked of one, is malformed or exceeds a limit."""
