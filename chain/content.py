"""The content value of an entry: what a create or an edit says.

A content value is text with its vector code and optional metadata; in a payload body it is the map of
`to_body`, with absent fields left out. Limits stand here, in one place, because every node must refuse the
same values. An edit's body also lists, under `over`, the content records that it overwrites, and under
`resolution`, when it ends a conflict, how and why, and under `splices` how it was typed. The fields of
`chain.metadata` are an entry's own and not a value's: only a create has any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain.behalf import Behalf, read_behalf
from chain.cid import Cid, is_record_cid
from chain.errors import RecordError
from chain.metadata import READERS, FieldValue, check_ppm, read_field, read_map, to_wire
from chain.reference import Reference, read_references, references_to_wire
from chain.splices import Splice, read_splices, splices_to_wire
from chain.text import check_strings, check_text
from chain.vector import MAX_DIM

MAX_TEXT = 64 * 1024
"""Bytes of UTF-8."""
MAX_TAGS = 64
MAX_TAG = 100
"""Bytes of UTF-8."""
MAX_DOMAIN = 100
MAX_CITATIONS = 64
MAX_CITATION = 1000
MAX_OVER = 64
MAX_FORMAT = 100
MAX_GENERATED_BY = 200

MAX_REASON = 1000
"""Bytes of UTF-8 of why a conflict was resolved so."""
DECISIONS = ("accept", "merge", "reject")

_FIRST = frozenset({"citations", "codes", "confidence", "domain", "over", "tags", "text"})
SINCE_5 = frozenset({"behalf", "format", "generated_by", "references", "resolution", "splices"}) | frozenset(
    READERS
)
"""Fields of a body that rule versions before 5 did not know."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How an edit ended a conflict: one of `DECISIONS`, about the value `chosen` (none to merge), and why.

    `behalf`: who decided, if not the author of the edit; without a signature.
    """

    decision: str
    reason: str
    chosen: Cid | None = None
    behalf: Behalf | None = None

    def to_wire(self) -> dict[str, Any]:
        """As a payload carries it."""
        behalf = None if self.behalf is None else self.behalf.to_wire()
        wire: dict[str, Any] = {"decision": self.decision, "reason": self.reason}
        optional = {"chosen": self.chosen, "behalf": behalf}
        return wire | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Content:
    """One content value: `codes` are the int8 codes as bytes, `confidence` is in ppm.

    `tags` are ascending and unique, `fields` ascending by name. `over` is empty for a create. `format` is
    that of the text ("markdown"), `generated_by` the model or person that wrote it. `splices` make the text
    out of what an edit overwrites; None where the edit does not say.
    """

    text: str
    codes: bytes
    tags: tuple[str, ...] = ()
    domain: str | None = None
    confidence: int | None = None
    citations: tuple[str, ...] = ()
    over: tuple[Cid, ...] = ()
    format: str | None = None
    generated_by: str | None = None
    references: tuple[Reference, ...] = ()
    fields: tuple[tuple[str, FieldValue], ...] = ()
    behalf: Behalf | None = None
    resolution: Resolution | None = None
    splices: tuple[Splice, ...] | None = None

    def to_body(self) -> dict[str, Any]:
        """The payload body; raises `RecordError` when a limit is exceeded."""
        body: dict[str, Any] = {"codes": self.codes, "text": self.text}
        if self.tags:
            body["tags"] = list(self.tags)
        if self.domain is not None:
            body["domain"] = self.domain
        if self.confidence is not None:
            body["confidence"] = self.confidence
        if self.citations:
            body["citations"] = list(self.citations)
        if self.over:
            body["over"] = list(self.over)
        if self.format is not None:
            body["format"] = self.format
        if self.generated_by is not None:
            body["generated_by"] = self.generated_by
        if self.references:
            body["references"] = references_to_wire(self.references)
        if self.behalf is not None:
            body["behalf"] = self.behalf.to_wire()
        if self.resolution is not None:
            body["resolution"] = self.resolution.to_wire()
        if self.splices is not None:
            body["splices"] = splices_to_wire(self.splices)
        body.update((name, to_wire(value)) for name, value in self.fields)
        content_from_body(body)
        return body


def content_from_body(body: dict[str, Any]) -> Content:
    """Check and read a content body; raises `RecordError` naming the field and the limit."""
    unknown = sorted(set(body) - _FIRST - SINCE_5)
    if unknown:
        raise RecordError(f"content has the unknown field {unknown[0]!r:.80}")
    codes = body.get("codes")
    text = check_text("text", body.get("text"), MAX_TEXT)
    if type(codes) is not bytes or not 0 < len(codes) <= MAX_DIM:
        raise RecordError(f"codes are malformed: expected 1 to {MAX_DIM} bytes")
    over = body.get("over", [])
    if "over" in body:
        check_over(over)
    return Content(
        text,
        codes,
        _strings(body, "tags", MAX_TAGS, MAX_TAG, ascending=True),
        _text(body, "domain", MAX_DOMAIN),
        check_ppm("confidence", body["confidence"]) if "confidence" in body else None,
        _strings(body, "citations", MAX_CITATIONS, MAX_CITATION),
        tuple(over),
        _text(body, "format", MAX_FORMAT),
        _text(body, "generated_by", MAX_GENERATED_BY),
        read_references(body["references"]) if "references" in body else (),
        tuple((name, read_field(name, body[name])) for name in READERS if name in body),
        read_behalf(body["behalf"]) if "behalf" in body else None,
        _resolution(body["resolution"], over) if "resolution" in body else None,
        read_splices(body["splices"]) if "splices" in body else None,
    )


def check_over(over: object) -> None:
    """Raise `RecordError` unless these are 1 to `MAX_OVER` CIDs of records, ascending and unique."""
    if type(over) is not list or not 0 < len(over) <= MAX_OVER or not all(map(is_record_cid, over)):
        raise RecordError(f"over is malformed: expected 1 to {MAX_OVER} record CIDs")
    if any(a >= b for a, b in zip(over, over[1:], strict=False)):
        raise RecordError("over is not ascending and unique")


def _resolution(value: object, over: list[Cid]) -> Resolution:
    wire = read_map("resolution", value, ("decision", "reason"), ("behalf", "chosen"))
    decision, chosen = wire["decision"], wire.get("chosen")
    if decision not in DECISIONS:
        raise RecordError(f"the decision {decision!r:.40} is none of {', '.join(DECISIONS)}")
    if (chosen is None) != (decision == "merge"):
        raise RecordError("a resolution names the value that it accepts or rejects, and none when it merges")
    if chosen is not None and chosen not in over:
        raise RecordError("the value that a resolution accepts or rejects is not among those it overwrites")
    behalf = read_behalf(wire["behalf"]) if "behalf" in wire else None
    if behalf is not None and behalf.signature is not None:
        raise RecordError("a resolution's behalf carries no signature")
    return Resolution(decision, check_text("reason", wire["reason"], MAX_REASON), chosen, behalf)


def _text(body: dict[str, Any], name: str, limit: int) -> str | None:
    return check_text(name, body[name], limit) if name in body else None


def _strings(
    body: dict[str, Any], name: str, most: int, limit: int, *, ascending: bool = False
) -> tuple[str, ...]:
    return check_strings(name, body[name], most, limit, ascending=ascending) if name in body else ()
