"""What a record names, and so what whoever passes it on carries along as headers."""

from __future__ import annotations

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.kinds import ENTRY_OPERATIONS
from chain.record import Record, decode_payload
from crdt.errors import CrdtError
from crdt.operations import Delete, Operation, Untag, read_operation


def named_in_header(record: Record) -> tuple[Cid, ...]:
    """The records that the header names: prev, subject, subject_prev and deps; ascending."""
    header = record.header
    places = {header.prev, header.subject, header.subject_prev, *header.deps}
    return tuple(sorted(cid for cid in places if cid is not None))


def named_by(record: Record) -> tuple[Cid, ...]:
    """The same with the targets that the payload names, if there is one that can be read; ascending."""
    return tuple(sorted({*named_in_header(record), *targets(operation_of(record))}))


def operation_of(record: Record) -> Operation | None:
    """What an operation on an entry says; None for other kinds and for unreadable or absent payloads."""
    if record.header.kind not in ENTRY_OPERATIONS or record.payload is None:
        return None
    try:
        return read_operation(record.header.kind, decode_payload(record.payload))
    except (ChainError, CrdtError):
        return None  # the rule `operation` says what is wrong with it


def targets(operation: Operation | None) -> tuple[Cid, ...]:
    """The records that an operation acts on."""
    match operation:
        case Content(over=over):
            return over
        case Untag(adds=adds):
            return adds
        case Delete(seen=seen):
            return seen
        case _:
            return ()
