"""What a hit must be beside near: its author, its field of knowledge, how sure its author was, and when.

Filters are applied where the postings lie, so that a question for what is rare still brings k answers, and
again by the asker: the signed record of a hit says everything that they look at, so a holder that leaves them
out sends hits that prove it. They are about the value that is shown, its author and its author's clock; tags,
which belong to the entry and come with proofs of their own, stand beside them in a request.

Every field is one row of `FIELDS`: its name in a request, how a request's value is read, what it means for
one value's facts, and the same as a condition on the table of postings. A filter that a holder does not know
is refused, never passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from chain.content import MAX_DOMAIN, Content
from chain.errors import RecordError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.record import Record
from chain.text import check_text
from chain.vector import PPM

MAX_AUTHORS = 16
MAX_DOMAINS = 16
MAX_US = (1 << 63) - 1
"""The latest time that can be asked for, in µs: what a column of the postings holds."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What filters look at in one content value: who wrote it, when (µs), and what its record says."""

    author: AgentId
    hlc: int
    domain: str | None = None
    confidence: int | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """Only values for which all of these hold; None and no authors or domains: any.

    One of `authors` (ascending) wrote it, in one of `domains` (ascending), with `confidence` ppm or more, not
    before `since` and before `until`, in µs. A value that names no domain, or no confidence, passes no filter
    for it.
    """

    authors: tuple[AgentId, ...] = ()
    domains: tuple[str, ...] = ()
    confidence: int | None = None
    since: int | None = None
    until: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is filtered."""
        return any(value not in (None, ()) for value in self._values().values())

    def admit(self, facts: Facts) -> bool:
        """Whether a value with these facts is wanted."""
        return all(field.passes(wanted, facts) for field, wanted in self._given())

    def condition(self) -> tuple[str, tuple[Any, ...]]:
        """The same as SQL over the columns of the postings, with its parameters; "" where nothing is."""
        parts = [(field.sql(wanted), field.parameters(wanted)) for field, wanted in self._given()]
        return " AND ".join(sql for sql, _ in parts), tuple(one for _, ones in parts for one in ones)

    def to_wire(self) -> dict[str, Any]:
        """The filters that are given, by name; empty when none is."""
        return {
            field.name: list(wanted) if isinstance(wanted, tuple) else wanted
            for field, wanted in self._given()
        }

    def _given(self) -> list[tuple[Field, Any]]:
        values = self._values()
        return [(field, values[field.name]) for field in FIELDS if values[field.name] not in (None, ())]

    def _values(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True, slots=True)
class Field:
    """One filter: `read` a request's value (raises `RecordError`), `passes`, and the condition in SQL."""

    name: str
    read: Callable[[object], Any]
    passes: Callable[[Any, Facts], bool]
    sql: Callable[[Any], str]
    parameters: Callable[[Any], tuple[Any, ...]]


def read_filters(raw: Mapping[str, object]) -> Filters:
    """The filters of a request, by name; raises `RecordError` for an unknown, empty or malformed one."""
    known = {field.name: field for field in FIELDS}
    for name in raw:
        if name not in known:
            raise RecordError(f"a filter by {name!r:.80} is not known here")
    found = Filters(**{name: known[name].read(value) for name, value in raw.items()})
    if found.since is not None and found.until is not None and found.since >= found.until:
        raise RecordError("the filter since is not before until")
    return found


def facts_of(record: Record, content: Content) -> Facts:
    """What a content record says for filters."""
    return Facts(record.header.author, record.header.hlc, content.domain, content.confidence)


def _authors(raw: object) -> tuple[AgentId, ...]:
    found = _ascending("authors", raw, MAX_AUTHORS)
    if not all(type(one) is bytes and len(one) == AGENT_ID_SIZE for one in found):
        raise RecordError(f"the filter authors holds agents of {AGENT_ID_SIZE} bytes")
    return found


def _domains(raw: object) -> tuple[str, ...]:
    found = _ascending("domains", raw, MAX_DOMAINS)
    for one in found:
        check_text("a domain to filter by", one, MAX_DOMAIN)
    return found


def _ascending(name: str, raw: object, most: int) -> tuple[Any, ...]:
    if type(raw) is not list or not 0 < len(raw) <= most or len({type(one) for one in raw}) > 1:
        raise RecordError(f"the filter {name} is not a list of 1 to {most}")
    if type(raw[0]) not in (bytes, str) or any(a >= b for a, b in zip(raw, raw[1:], strict=False)):
        raise RecordError(f"the filter {name} is not ascending and unique")
    return tuple(raw)


def _number(name: str, most: int) -> Callable[[object], int]:
    def read(raw: object) -> int:
        if type(raw) is not int or not 0 <= raw <= most:
            raise RecordError(f"the filter {name} is not an integer from 0 to {most}")
        return raw

    return read


def _one_of(column: str) -> Callable[[tuple[Any, ...]], str]:
    return lambda wanted: f"{column} IN ({', '.join('?' * len(wanted))})"


def _same(wanted: tuple[Any, ...]) -> tuple[Any, ...]:
    return wanted


def _alone(wanted: int) -> tuple[int]:
    return (wanted,)


FIELDS: Final = (
    Field("authors", _authors, lambda wanted, facts: facts.author in wanted, _one_of("author"), _same),
    Field(
        "confidence",
        _number("confidence", PPM),
        lambda wanted, facts: facts.confidence is not None and facts.confidence >= wanted,
        lambda _: "confidence >= ?",
        _alone,
    ),
    Field("domains", _domains, lambda wanted, facts: facts.domain in wanted, _one_of("domain"), _same),
    Field(
        "since",
        _number("since", MAX_US),
        lambda wanted, facts: facts.hlc >= wanted,
        lambda _: "hlc >= ?",
        _alone,
    ),
    Field(
        "until",
        _number("until", MAX_US),
        lambda wanted, facts: facts.hlc < wanted,
        lambda _: "hlc < ?",
        _alone,
    ),
)
"""By name, as they stand in a request."""

ANY: Final = Filters()
