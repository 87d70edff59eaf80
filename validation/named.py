"""What a record names, and so what whoever passes it on carries along as headers."""

from __future__ import annotations

from typing import Any

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.kinds import ENTRY_OPERATIONS, LEARNING_OPERATIONS, PART, SERVER_RUN, SHARE
from chain.learning import LearningOperation, Reveal, Start, read_learning
from chain.learning_outcome import Result
from chain.record import Record
from chain.secure_part import Part, read_part
from chain.server_app import ServerOperation, read_server
from chain.share import Share, read_share
from crdt.errors import CrdtError
from crdt.operations import Delete, Describe, Operation, Purge, Unlink, Untag, said_by


def named_in_header(record: Record) -> tuple[Cid, ...]:
    """The records that the header names: prev, subject, subject_prev and deps; ascending."""
    header = record.header
    places = {header.prev, header.subject, header.subject_prev, *header.deps}
    return tuple(sorted(cid for cid in places if cid is not None))


def named_by(record: Record) -> tuple[Cid, ...]:
    """The same with the targets that the payload names, if there is one that can be read; ascending."""
    return tuple(
        sorted({*named_in_header(record), *targets(operation_of(record)), *_learning_targets(record)})
    )


def operation_of(record: Record) -> Operation | None:
    """What an operation on an entry says; None for other kinds and for unreadable or absent payloads."""
    if record.header.kind not in ENTRY_OPERATIONS or record.payload is None:
        return None
    try:
        return said_by(record)
    except (ChainError, CrdtError):
        return None  # the rule `operation` says what is wrong with it


def targets(operation: Operation | None) -> tuple[Cid, ...]:
    """The records that an operation acts on."""
    match operation:
        case Content(over=over) | Describe(over=over):
            return over
        case Untag(adds=adds) | Unlink(adds=adds):
            return adds
        case Delete(seen=seen):
            return seen
        case Purge(records=records):
            return records
        case _:
            return ()


def read_on_task(kind: str, body: dict[str, Any]) -> LearningOperation | ServerOperation | Part | Share:
    """Read the body of an operation on a task; raises `RecordError` naming what is wrong with it."""
    if kind == PART:
        return read_part(body)
    if kind == SHARE:
        return read_share(body)
    return read_server(kind, body) if kind in SERVER_RUN else read_learning(kind, body)


def learning_of(record: Record) -> LearningOperation | ServerOperation | Part | Share | None:
    """What an operation on a learning task says; None for other kinds and without the payload.

    Raises `ChainError` for a payload that cannot be read.
    """
    if record.header.kind not in LEARNING_OPERATIONS or record.payload is None:
        return None
    return record.read(read_on_task)


def _learning_targets(record: Record) -> tuple[Cid, ...]:
    """The joins of a roster, and the commit that a reveal keeps."""
    try:
        said = learning_of(record)
    except ChainError:
        return ()  # the rule `learning-body` says what is wrong with it
    match said:
        case Start(roster=roster):
            return tuple(join for _, join in roster)
        case Result(outcome=outcome):
            return tuple(join for _, join in outcome.roster)
        case Reveal(commit=commit):
            return (commit,)
        case _:
            return ()
