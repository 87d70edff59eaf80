"""Payload bodies of the operations on an entry: one reader and one builder for each kind.

| kind | body |
|---|---|
| entry.create, entry.edit | a content value (`chain.content`); an edit's `over` is what it overwrites |
| entry.tag | `tag` |
| entry.untag | `tag`, `adds`: the CIDs of the records whose adding of the tag it removes |
| entry.delete | `seen`: the CIDs of the heads that it deletes |
| entry.retract | nothing |
| entry.vote | `value` 1, -1 or 0 (withdrawn); optional `reason`, `confidence` in ppm, and `behalf` |
| entry.describe | `fields` to set, by name (`chain.metadata`), `clear`: others; `over`: what it overwrites |
| entry.link | `references` to add (`chain.reference`) |
| entry.unlink | `reference`, `adds`: the CIDs of the records whose adding of it is removed |
| entry.assess | `confidence` in ppm that the entry is right, as its author sees it from now on |
| entry.purge | `records`: the CIDs of the author's own records whose payloads are erased |

Readers check shape and limits, `validation` checks that what is named exists and is of the right kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from chain.behalf import Behalf, read_behalf
from chain.cid import Cid, is_record_cid
from chain.content import MAX_TAG, Content, check_over, content_from_body
from chain.errors import ChainError, RecordError
from chain.kinds import (
    ASSESS,
    CREATE,
    DELETE,
    DESCRIBE,
    EDIT,
    LINK,
    PURGE,
    RETRACT,
    TAG,
    UNLINK,
    UNTAG,
    VOTE,
)
from chain.metadata import READERS, FieldValue, check_ppm, read_field, read_map, to_wire
from chain.record import MAX_DEPS, Record
from chain.reference import Reference, read_reference, read_references, reference_to_wire, references_to_wire
from chain.text import check_strings, check_text
from crdt.errors import OperationError

MAX_ADDS = 64
"""Adds that one untag removes; more take another untag."""
MAX_SEEN = MAX_DEPS
"""Heads that one delete lists."""
MAX_PURGED = 64
"""Records that one purge erases; more take another purge."""
MAX_NAME = 20
"""Bytes of the name of a field that is cleared."""
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

    `confidence` is in ppm. `behalf`: whose vote the author passes on.
    """

    value: int
    reason: str | None = None
    confidence: int | None = None
    behalf: Behalf | None = None


@dataclass(frozen=True, slots=True)
class Purge:
    """The payloads of the author's own `records` (ascending) are erased, everywhere and for good."""

    records: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Describe:
    """Set `fields` (name and value, by ascending names) and clear others, over what `over` said of them."""

    fields: tuple[tuple[str, FieldValue], ...] = ()
    clear: tuple[str, ...] = ()
    over: tuple[Cid, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """Add `references` (ascending by their canonical bytes) under the record's own CID."""

    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Unlink:
    """Remove `reference` as added by the records `adds` (ascending); adds that it had not seen stay."""

    reference: Reference
    adds: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Assess:
    """How sure its author is that the entry is right, in ppm."""

    confidence: int


Operation: TypeAlias = (
    Content | Tag | Untag | Delete | Retract | Vote | Purge | Describe | Link | Unlink | Assess
)


def read_operation(kind: str, body: dict[str, Any]) -> Operation:
    """Read the body of an operation; raises `OperationError` naming what is wrong with it."""
    reader = _READERS.get(kind)
    if reader is None:
        raise OperationError(f"{kind!r:.80} is not an operation on an entry")
    try:
        return reader(body)
    except ChainError as error:
        raise OperationError(f"{kind}: {error}") from error


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


def vote_body(
    value: int, reason: str | None = None, confidence: int | None = None, behalf: Behalf | None = None
) -> dict[str, Any]:
    """Body of entry.vote; raises `OperationError` beyond the limits."""
    optional = {
        "behalf": None if behalf is None else behalf.to_wire(),
        "confidence": confidence,
        "reason": reason,
    }
    return _checked(VOTE, {"value": value, **{k: v for k, v in optional.items() if v is not None}})


def describe_body(
    fields: Mapping[str, FieldValue], clear: Iterable[str] = (), over: Iterable[Cid] = ()
) -> dict[str, Any]:
    """Body of entry.describe; raises `OperationError` beyond the limits."""
    optional = {
        "clear": sorted(set(clear)),
        "fields": {name: to_wire(value) for name, value in fields.items()},
        "over": sorted(set(over)),
    }
    return _checked(DESCRIBE, {name: value for name, value in optional.items() if value})


def link_body(references: Iterable[Reference]) -> dict[str, Any]:
    """Body of entry.link; raises `OperationError` beyond the limits."""
    return _checked(LINK, {"references": references_to_wire(references)})


def unlink_body(reference: Reference, adds: Iterable[Cid]) -> dict[str, Any]:
    """Body of entry.unlink; raises `OperationError` beyond the limits."""
    return _checked(UNLINK, {"adds": sorted(set(adds)), "reference": reference_to_wire(reference)})


def assess_body(confidence: int) -> dict[str, Any]:
    """Body of entry.assess; raises `OperationError` beyond the limits."""
    return _checked(ASSESS, {"confidence": confidence})


def purge_body(records: Iterable[Cid]) -> dict[str, Any]:
    """Body of entry.purge; raises `OperationError` beyond the limits."""
    return _checked(PURGE, {"records": sorted(set(records))})


def _create(body: dict[str, Any]) -> Content:
    content = content_from_body(body)
    for name in ("over", "resolution", "splices"):
        if name in body:
            raise OperationError(f"entry.create overwrites nothing, but its body has the field {name!r}")
    return content


def _edit(body: dict[str, Any]) -> Content:
    content = content_from_body(body)
    if not content.over:
        raise OperationError("entry.edit names under 'over' at least one content record that it overwrites")
    if content.fields:
        raise OperationError(f"entry.edit has the field {content.fields[0][0]!r}: entry.describe sets it")
    return content


def _tag(body: dict[str, Any]) -> Tag:
    _fields(TAG, body, "tag")
    return Tag(check_text("tag", body["tag"], MAX_TAG))


def _untag(body: dict[str, Any]) -> Untag:
    _fields(UNTAG, body, "adds", "tag")
    return Untag(check_text("tag", body["tag"], MAX_TAG), _cids("adds", body["adds"], MAX_ADDS))


def _delete(body: dict[str, Any]) -> Delete:
    _fields(DELETE, body, "seen")
    return Delete(_cids("seen", body["seen"], MAX_SEEN))


def _retract(body: dict[str, Any]) -> Retract:
    _fields(RETRACT, body)
    return Retract()


def _purge(body: dict[str, Any]) -> Purge:
    _fields(PURGE, body, "records")
    return Purge(_cids("records", body["records"], MAX_PURGED))


def _vote(body: dict[str, Any]) -> Vote:
    wire = read_map("a vote", body, ("value",), ("behalf", "confidence", "reason"))
    value = wire["value"]
    if type(value) is not int or value not in (-1, 0, 1):
        raise OperationError(f"{VOTE}: value {value!r:.40} is not 1, -1 or 0")
    return Vote(
        value,
        check_text("reason", wire["reason"], MAX_REASON) if "reason" in wire else None,
        check_ppm("confidence", wire["confidence"]) if "confidence" in wire else None,
        read_behalf(wire["behalf"], of_vote=True) if "behalf" in wire else None,
    )


def _describe(body: dict[str, Any]) -> Describe:
    wire = read_map("a description", body, (), ("clear", "fields", "over"))
    fields = read_map("fields", wire.get("fields", {}), (), tuple(READERS))
    clear = (
        check_strings("clear", wire["clear"], len(READERS), MAX_NAME, ascending=True)
        if "clear" in wire
        else ()
    )
    over = wire.get("over", [])
    if "over" in wire:
        check_over(over)
    if not fields and ("fields" in wire or not clear):
        raise OperationError(f"{DESCRIBE} sets or clears a field at least")
    for name in clear:
        if name not in READERS or name in fields:
            raise OperationError(f"{DESCRIBE} cannot clear {name!r:.80}")
    if clear and not over:
        raise OperationError(f"{DESCRIBE} clears what records under 'over' said, and names none")
    return Describe(
        tuple((name, read_field(name, fields[name])) for name in READERS if name in fields),
        clear,
        tuple(over),
    )


def _link(body: dict[str, Any]) -> Link:
    _fields(LINK, body, "references")
    return Link(read_references(body["references"]))


def _unlink(body: dict[str, Any]) -> Unlink:
    _fields(UNLINK, body, "adds", "reference")
    return Unlink(read_reference(body["reference"]), _cids("adds", body["adds"], MAX_ADDS))


def _assess(body: dict[str, Any]) -> Assess:
    _fields(ASSESS, body, "confidence")
    return Assess(check_ppm("confidence", body["confidence"]))


_READERS: Mapping[str, Callable[[dict[str, Any]], Operation]] = {
    ASSESS: _assess,
    CREATE: _create,
    DELETE: _delete,
    DESCRIBE: _describe,
    EDIT: _edit,
    LINK: _link,
    PURGE: _purge,
    RETRACT: _retract,
    TAG: _tag,
    UNLINK: _unlink,
    UNTAG: _untag,
    VOTE: _vote,
}


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
