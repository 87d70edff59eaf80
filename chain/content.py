"""The content value of an entry: what a create or an edit says.

A content value is text with its vector code and optional metadata; in a payload body it is the map of
`to_body`, with absent fields left out. Limits stand here, in one place, because every node must refuse the
same values. An edit's body also lists, under `over`, the content records that it overwrites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain.cid import Cid, is_record_cid
from chain.errors import RecordError
from chain.vector import MAX_DIM, PPM

MAX_TEXT = 64 * 1024
"""Bytes of UTF-8."""
MAX_TAGS = 64
MAX_TAG = 100
"""Bytes of UTF-8."""
MAX_DOMAIN = 100
MAX_CITATIONS = 64
MAX_CITATION = 1000
MAX_OVER = 64

_FIELDS = frozenset({"citations", "codes", "confidence", "domain", "over", "tags", "text"})


@dataclass(frozen=True, slots=True)
class Content:
    """One content value: `codes` are the int8 codes as bytes, `confidence` is in ppm.

    `tags` are ascending and unique. `over` is empty for a create.
    """

    text: str
    codes: bytes
    tags: tuple[str, ...] = ()
    domain: str | None = None
    confidence: int | None = None
    citations: tuple[str, ...] = ()
    over: tuple[Cid, ...] = ()

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
        content_from_body(body)
        return body


def content_from_body(body: dict[str, Any]) -> Content:
    """Check and read a content body; raises `RecordError` naming the field and the limit."""
    unknown = sorted(set(body) - _FIELDS)
    if unknown:
        raise RecordError(f"content has the unknown field {unknown[0]!r:.80}")
    text = body.get("text")
    check_text("text", text, MAX_TEXT)
    codes = body.get("codes")
    if type(codes) is not bytes or not 0 < len(codes) <= MAX_DIM:
        raise RecordError(f"codes are malformed: expected 1 to {MAX_DIM} bytes")
    domain = body.get("domain")
    if "domain" in body:
        check_text("domain", domain, MAX_DOMAIN)
    confidence = body.get("confidence")
    if "confidence" in body and not (type(confidence) is int and 0 <= confidence <= PPM):
        raise RecordError(f"confidence {confidence!r:.40} is not an integer from 0 to {PPM} ppm")
    tags = _strings(body, "tags", MAX_TAGS, MAX_TAG)
    if any(a >= b for a, b in zip(tags, tags[1:], strict=False)):
        raise RecordError("tags are not ascending and unique")
    citations = _strings(body, "citations", MAX_CITATIONS, MAX_CITATION)
    over = body.get("over", [])
    if "over" in body and not (
        type(over) is list and 0 < len(over) <= MAX_OVER and all(map(is_record_cid, over))
    ):
        raise RecordError(f"over is malformed: expected 1 to {MAX_OVER} record CIDs")
    if any(a >= b for a, b in zip(over, over[1:], strict=False)):
        raise RecordError("over is not ascending and unique")
    assert isinstance(text, str)
    return Content(text, codes, tags, domain, confidence, citations, tuple(over))


def check_text(name: str, value: object, limit: int) -> None:
    """Raise `RecordError` unless `value` is a non-empty string of at most `limit` bytes of UTF-8."""
    if type(value) is not str or not value:
        raise RecordError(f"{name} is empty or not a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise RecordError(f"{name} is not valid Unicode: {error.reason}") from error
    if size > limit:
        raise RecordError(f"{name} has {size} bytes, the limit is {limit}")


def _strings(body: dict[str, Any], name: str, most: int, limit: int) -> tuple[str, ...]:
    if name not in body:
        return ()
    items = body[name]
    if type(items) is not list or not 0 < len(items) <= most:
        raise RecordError(f"{name} is malformed: expected 1 to {most} strings")
    for item in items:
        check_text(f"one of {name}", item, limit)
    return tuple(items)
