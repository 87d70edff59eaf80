"""Reads JSON-lines files: one object a line, with ``text`` and optionally what else is known of it.

| field | JSON | becomes |
|---|---|---|
| text | non-empty string, required | text |
| tags, citations | list of non-empty strings | tuple, ascending, repeats dropped |
| domain | non-empty string | domain |
| confidence | number from 0 to 1 | integer ppm |
| vector | non-empty list of finite numbers | tuple of floats |
| title, type, subdomains, reasoning, statements, format, generated_by, references | as in HTTP | more |
| id, network, author | of an exported entry, all three | origin, which the importer cites |

What else an export says of an entry (votes, versions, records: `TOLD`) is true of that entry, and nobody can
sign for it here, so it is passed over. An entry that is deleted, retracted or erased is not taken.

Limits are those of a record's content, so that what is read here can be signed. A line is either an entry
or a `BadLine` with its number and the reason; nothing in a file's content raises, and no line, however
long, occupies more than `MAX_LINE_BYTES`. Blank lines are skipped. A field that is null counts as absent;
an unknown field, or one given twice, makes the line bad, because a misspelt "tag" would otherwise be lost
without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from chain.content import MAX_CITATION, MAX_CITATIONS, MAX_DOMAIN, MAX_TAG, MAX_TAGS, MAX_TEXT
from chain.reference import MAX_REFERENCES
from chain.vector import MAX_DIM
from node.corpus.entry import CorpusEntry, Origin

MAX_LINE_BYTES = 1 << 20
"""Longest line read, its line feed not counted."""
PPM = 1_000_000

FIELDS = frozenset({"text", "tags", "domain", "confidence", "citations", "vector"})
MORE = frozenset(
    {"title", "type", "subdomains", "reasoning", "statements", "format", "generated_by", "references"}
)
ORIGIN = frozenset({"id", "network", "author"})
GONE = ("deleted", "retracted", "private")
TOLD = frozenset(
    {
        *GONE,
        "erased",
        "assessments",
        "conflict",
        "delete_overruled",
        "excluded",
        "field_values",
        "left_out",
        "records",
        "trust",
        "values",
        "version",
        "version_id",
        "votes",
    }
)
"""Fields of an export that are not imported."""
MAX_ORIGIN = 200
"""Bytes of each part of an origin."""
MAX_KEPT = MAX_REFERENCES - 1
"""References taken of an exported entry: one more is the source itself."""
MAX_QUOTE = 500
"""Bytes of the text that are quoted beside the source."""


@dataclass(frozen=True, slots=True)
class GoodLine:
    """An entry and the number, from 1, of the line that holds it."""

    number: int
    entry: CorpusEntry


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, counted from 1, that was skipped, and why."""

    number: int
    reason: str


class _Unusable(ValueError):
    """A line's content cannot become an entry; the message is the reason."""


def read_json_lines(stream: BinaryIO) -> Iterator[GoodLine | BadLine]:
    """Each non-blank line of ``stream`` in order, lazily.

    Raises only what reading ``stream`` itself raises (OSError). Memory: one line.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            _skip_rest_of_line(stream)
            yield BadLine(number, f"line is longer than {MAX_LINE_BYTES} bytes")
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            yield GoodLine(number, parse_line(line))
        except _Unusable as error:
            yield BadLine(number, str(error))


def parse_line(line: bytes) -> CorpusEntry:
    """The entry in ``line``. Raises ValueError with the reason if it holds none."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Unusable(f"not UTF-8 at byte {error.start}") from error
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except _Unusable:
        raise
    except RecursionError as error:
        raise _Unusable("not JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise _Unusable(f"not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise _Unusable(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _Unusable(f"not a JSON object but {_kind(value)}")
    return entry_of(value)


def entry_of(value: dict[str, Any]) -> CorpusEntry:
    """The entry that a JSON object describes. Raises ValueError with the reason if it holds none."""
    known = FIELDS | MORE
    unknown = sorted(set(value) - known - ORIGIN - TOLD)
    if unknown:
        raise _Unusable(f"unknown field {unknown[0]!r:.80}; known are {', '.join(sorted(known | ORIGIN))}")
    gone = next((name for name in GONE if value.get(name)), None)
    if value.get("text") is None and value.get("erased"):
        gone = "erased"
    if gone is not None:
        raise _Unusable(f"the entry is {gone} where it comes from")
    if value.get("text") is None:
        raise _Unusable("field 'text' is missing")
    origin = _origin(value)
    more = {name: value[name] for name in sorted(MORE) if value.get(name) is not None}
    more = {name: one for name, one in more.items() if one != []}
    if origin is not None:
        more["references"] = [*_references(more.get("references", [])), _source(origin, value["text"])]
    return CorpusEntry(
        more=tuple(sorted(more.items())),
        origin=origin,
        text=_string("text", value["text"], MAX_TEXT),
        tags=_strings("tags", value.get("tags"), MAX_TAGS, MAX_TAG),
        domain=None if value.get("domain") is None else _string("domain", value["domain"], MAX_DOMAIN),
        confidence=_confidence(value.get("confidence")),
        citations=_strings("citations", value.get("citations"), MAX_CITATIONS, MAX_CITATION),
        vector=_vector(value.get("vector")),
    )


def _origin(value: dict[str, Any]) -> Origin | None:
    given = sorted(name for name in ORIGIN if value.get(name) is not None)
    if not given:
        return None
    if len(given) < len(ORIGIN):
        raise _Unusable(f"an exported entry has all of {', '.join(sorted(ORIGIN))}, this one {given[0]} only")
    return Origin(**{name: _string(name, value[name], MAX_ORIGIN) for name in given})


def _references(value: object) -> list[Any]:
    kept = _list("references", value, MAX_LINE_BYTES)
    return kept[:MAX_KEPT]


def _source(origin: Origin, text: object) -> dict[str, str]:
    """How the importer says where it has an entry from."""
    quote = text if isinstance(text, str) else ""
    return {
        "source": f"entry of {origin.author} in the network {origin.network}",
        "link": f"urn:roseforest:entry:{origin.id}",
        "quote": quote.encode("utf-8", "replace")[:MAX_QUOTE].decode("utf-8", "ignore"),
    }


def _skip_rest_of_line(stream: BinaryIO) -> None:
    while piece := stream.readline(MAX_LINE_BYTES):
        if piece.endswith(b"\n"):
            return


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Unusable(f"field {twice!r:.80} is given twice")
    return result


def _refuse_constant(name: str) -> None:
    raise _Unusable(f"{name} is not a JSON number")


def _string(field: str, value: object, limit: int) -> str:
    if not isinstance(value, str):
        raise _Unusable(f"field {field!r} is {_kind(value)}, not a string")
    if not value.strip():
        raise _Unusable(f"field {field!r} is empty")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise _Unusable(
            f"field {field!r} holds half of a surrogate pair at character {error.start}"
        ) from error
    if size > limit:
        raise _Unusable(f"field {field!r} has {size} bytes, the limit is {limit}")
    return value


def _list(field: str, value: object, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise _Unusable(f"field {field!r} is {_kind(value)}, not a list")
    if len(value) > most:
        raise _Unusable(f"field {field!r} has {len(value)} items, the limit is {most}")
    return value


def _strings(field: str, value: object, most: int, limit: int) -> tuple[str, ...]:
    if value is None:
        return ()
    items = enumerate(_list(field, value, most))
    return tuple(sorted({_string(f"{field}[{at}]", item, limit) for at, item in items}))


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unusable(f"field {field!r} is {_kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Unusable(f"field {field!r} is not finite")
    return number


def _confidence(value: object) -> int | None:
    if value is None:
        return None
    number = _number("confidence", value)
    if not 0 <= number <= 1:
        raise _Unusable(f"field 'confidence' is {number:g}; give a number from 0 to 1")
    return round(number * PPM)


def _vector(value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    components = tuple(
        _number(f"vector[{at}]", item) for at, item in enumerate(_list("vector", value, MAX_DIM))
    )
    if not components:
        raise _Unusable("field 'vector' is empty")
    return components


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
