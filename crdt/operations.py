"""Payload bodies of the operations on an entry: one reader and one builder for each kind.

| kind | body |
|---|---|
| entry.create, entry.edit | a content value (`chain.content`); an edit's `over` is what it overwrites |
| entry.tag | `tag` |
| entry.untag | `tag`, `adds`: the CIDs of the records whose adding of the tag it removes |
| entry.delete | `seen`: the CIDs of the heads that it deletes |
| entry.retract | nothing |
| entry.vote | `value` 1, -1 or 0 (withdrawn); optional `reason`, and `confidence` in ppm |
| entry.purge | `records`: the CIDs of the author's own records whose payloads are erased |

Readers check shape and limits, `validation` checks that what is named exists and is of the right kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from chain.cid import Cid, is_record_cid
from chain.content import MAX_TAG, Content, check_text, content_from_body
from chain.errors import ChainError, RecordError
from chain.kinds import CREATE, DELETE, EDIT, PURGE, RETRACT, TAG, UNTAG, VOTE
from chain.record import MAX_DEPS, Record
from chain.vector import PPM
from crdt.errors import OperationError

MAX_ADDS = 64
"""Adds that one untag removes; more take another untag."""
MAX_SEEN = MAX_DEPS
"""Heads that one delete lists."""
MAX_PURGED = 64
"""Records that one purge erases; more take another purge."""
MAX_REASON = 1000
"""Bytes of UTF-8 of a vote's reason."""


@dataclass(frozen=True, slots=True)
class Tag:
    """Add `tag` to the entry, under the record's own CID."""

    tag: str


@dataclass(frozen=True, slots=True)
class Untag:
    """Remove `tag` as added by the records `adds` (ascending); adds that it had not seen stay."""

    tag: str
    adds: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete what lies in the causal past of the heads `seen` (ascending)."""

    seen: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Retract:
    """The creator takes the entry back for good."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What its author thinks of the entry from now on: 1 for it, -1 against it, 0 nothing any more.

    `confidence` is in ppm.
    """

    value: int
    reason: str | None = None
    confidence: int | None = None


@dataclass(frozen=True, slots=True)
class Purge:
    """The payloads of the author's own `records` (ascending) are erased, everywhere and for good."""

    records: tuple[Cid, ...]


Operation: TypeAlias = Content | Tag | Untag | Delete | Retract | Vote | Purge


def read_operation(kind: str, body: dict[str, Any]) -> Operation:
    """Read the body of an operation; raises `OperationError` naming what is wrong with it."""
    try:
        if kind in (CREATE, EDIT):
            return _read_content(kind, body)
        if kind == TAG:
            _fields(kind, body, "tag")
            check_text("tag", body["tag"], MAX_TAG)
            return Tag(body["tag"])
        if kind == UNTAG:
            _fields(kind, body, "adds", "tag")
            check_text("tag", body["tag"], MAX_TAG)
            return Untag(body["tag"], _cids("adds", body["adds"], MAX_ADDS))
        if kind == DELETE:
            _fields(kind, body, "seen")
            return Delete(_cids("seen", body["seen"], MAX_SEEN))
        if kind == RETRACT:
            _fields(kind, body)
            return Retract()
        if kind == VOTE:
            return _read_vote(body)
        if kind == PURGE:
            _fields(kind, body, "records")
            return Purge(_cids("records", body["records"], MAX_PURGED))
    except ChainError as error:
        raise OperationError(f"{kind}: {error}") from error
    raise OperationError(f"{kind!r:.80} is not an operation on an entry")


def said_by(record: Record) -> Operation:
    """What an operation on an entry says, or the create of one; read once, see `Record.read`.

    Raises `ChainError` for a payload that is missing or cannot be read, `OperationError` for one that says
    something else.
    """
    return record.read(read_operation)


def content_of(record: Record) -> Content:
    """The content value of a create or an edit, read once; raises `ChainError` when there is none."""
    try:
        said = said_by(record)
    except OperationError as error:
        raise RecordError(str(error)) from error
    if not isinstance(said, Content):
        raise RecordError(f"{record.header.kind} carries no content")
    return said


def tag_body(tag: str) -> dict[str, Any]:
    """Body of entry.tag; raises `OperationError` beyond the limits."""
    return _checked(TAG, {"tag": tag})


def untag_body(tag: str, adds: Iterable[Cid]) -> dict[str, Any]:
    """Body of entry.untag; raises `OperationError` beyond the limits."""
    return _checked(UNTAG, {"adds": sorted(set(adds)), "tag": tag})


def delete_body(seen: Iterable[Cid]) -> dict[str, Any]:
    """Body of entry.delete; raises `OperationError` beyond the limits."""
    return _checked(DELETE, {"seen": sorted(set(seen))})


def retract_body() -> dict[str, Any]:
    """Body of entry.retract."""
    return {}


def vote_body(value: int, reason: str | None = None, confidence: int | None = None) -> dict[str, Any]:
    """Body of entry.vote; raises `OperationError` beyond the limits."""
    optional = {"confidence": confidence, "reason": reason}
    return _checked(VOTE, {"value": value, **{k: v for k, v in optional.items() if v is not None}})


def purge_body(records: Iterable[Cid]) -> dict[str, Any]:
    """Body of entry.purge; raises `OperationError` beyond the limits."""
    return _checked(PURGE, {"records": sorted(set(records))})


def _read_vote(body: dict[str, Any]) -> Vote:
    unknown = sorted(set(body) - {"confidence", "reason", "value"})
    if unknown or "value" not in body:
        raise OperationError(
            f"{VOTE} has the field value and maybe reason and confidence, found {sorted(body)!r:.120}"
        )
    value, reason, confidence = body["value"], body.get("reason"), body.get("confidence")
    if type(value) is not int or value not in (-1, 0, 1):
        raise OperationError(f"{VOTE}: value {value!r:.40} is not 1, -1 or 0")
    if "reason" in body:
        check_text("reason", reason, MAX_REASON)
    if "confidence" in body and not (type(confidence) is int and 0 <= confidence <= PPM):
        raise OperationError(f"{VOTE}: confidence {confidence!r:.40} is not an integer from 0 to {PPM} ppm")
    return Vote(value, reason, confidence)


def _read_content(kind: str, body: dict[str, Any]) -> Content:
    content = content_from_body(body)
    if kind == CREATE and content.over:
        raise OperationError("entry.create overwrites nothing, but its body has the field 'over'")
    if kind == EDIT and not content.over:
        raise OperationError("entry.edit names under 'over' at least one content record that it overwrites")
    return content


def _checked(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    read_operation(kind, body)
    return body


def _fields(kind: str, body: dict[str, Any], *names: str) -> None:
    if sorted(body) != list(names):
        raise OperationError(f"{kind} has exactly the fields {list(names)}, found {sorted(body)!r:.120}")


def _cids(name: str, value: object, most: int) -> tuple[Cid, ...]:
    if type(value) is not list or not 0 < len(value) <= most or not all(map(is_record_cid, value)):
        raise OperationError(f"{name} is malformed: expected 1 to {most} record CIDs")
    if any(a >= b for a, b in zip(value, value[1:], strict=False)):
        raise OperationError(f"{name} is not ascending and unique")
    return tuple(value)
