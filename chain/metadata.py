"""What an entry says about itself beside its text: title, type, subdomains, reasoning and statements.

Each field is one register of its own (`crdt.registers`), so that who mends a title and who adds to the
reasoning do not undo each other. A field is one row of `READERS`: how its value is read from a payload, with
its limits; `to_wire` is the way back. Values are frozen, so they can be compared and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from chain.errors import RecordError
from chain.text import check_strings, check_text
from chain.vector import PPM

MAX_TITLE = 300
"""Bytes of UTF-8, like all limits of texts here."""
MAX_TYPE = 100
MAX_SUBDOMAINS = 16
MAX_SUBDOMAIN = 100
MAX_METHOD = 1000
MAX_STEPS = 64
MAX_STEP = 4096
MAX_ALTERNATIVES = 16
MAX_ALTERNATIVE = 4096
MAX_STATEMENTS = 64
MAX_STATEMENT = 2000


@dataclass(frozen=True, slots=True)
class Alternative:
    """What else was considered; `confidence` in ppm, `reasoning` why it was not taken."""

    text: str
    confidence: int | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How the author came to it: a method, its steps in order, and what else was considered."""

    method: str
    steps: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that the text says, and how sure its author is of it, in ppm."""

    text: str
    confidence: int


FieldValue: TypeAlias = "str | tuple[str, ...] | Reasoning | tuple[Statement, ...]"


def read_field(name: str, value: object) -> FieldValue:
    """Check and read the value of a field; raises `RecordError` naming the field and the limit."""
    reader = READERS.get(name)
    if reader is None:
        raise RecordError(f"there is no field {name!r:.80}, there are {', '.join(READERS)}")
    return reader(name, value)


def to_wire(value: FieldValue) -> Any:
    """The value as a payload carries it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Reasoning):
        wire: dict[str, Any] = {"method": value.method}
        if value.steps:
            wire["steps"] = list(value.steps)
        if value.alternatives:
            wire["alternatives"] = [_alternative_to_wire(one) for one in value.alternatives]
        return wire
    return [one if isinstance(one, str) else [one.text, one.confidence] for one in value]


def check_ppm(name: str, value: object) -> int:
    """The confidence, in ppm; raises `RecordError` unless it is an integer from 0 to a million."""
    if type(value) is not int or not 0 <= value <= PPM:
        raise RecordError(f"{name} {value!r:.40} is not an integer from 0 to {PPM} ppm")
    return value


def read_map(
    name: str, value: object, required: Sequence[str], optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    """A map with these fields, and no more; raises `RecordError`."""
    if type(value) is not dict or not set(required) <= set(value) <= {*required, *optional}:
        wanted = ", ".join((*required, *(f"maybe {one}" for one in optional)))
        raise RecordError(f"{name} is malformed: expected a map of {wanted}")
    return value


def _text(limit: int) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        return check_text(name, value, limit)

    return read


def _subdomains(name: str, value: object) -> tuple[str, ...]:
    return check_strings(name, value, MAX_SUBDOMAINS, MAX_SUBDOMAIN, ascending=True)


def _reasoning(name: str, value: object) -> Reasoning:
    wire = read_map(name, value, ("method",), ("steps", "alternatives"))
    method = check_text(f"{name}.method", wire["method"], MAX_METHOD)
    steps: tuple[str, ...] = ()
    if "steps" in wire:
        steps = check_strings(f"{name}.steps", wire["steps"], MAX_STEPS, MAX_STEP)
    alternatives = wire.get("alternatives", [])
    if "alternatives" in wire and not (
        type(alternatives) is list and 0 < len(alternatives) <= MAX_ALTERNATIVES
    ):
        raise RecordError(f"{name}.alternatives is malformed: expected 1 to {MAX_ALTERNATIVES}")
    return Reasoning(method, steps, tuple(_alternative(f"{name}.alternatives", one) for one in alternatives))


def _alternative(name: str, value: object) -> Alternative:
    wire = read_map(name, value, ("text",), ("confidence", "reasoning"))
    return Alternative(
        check_text(f"{name}.text", wire["text"], MAX_ALTERNATIVE),
        check_ppm(f"{name}.confidence", wire["confidence"]) if "confidence" in wire else None,
        check_text(f"{name}.reasoning", wire["reasoning"], MAX_ALTERNATIVE) if "reasoning" in wire else None,
    )


def _alternative_to_wire(one: Alternative) -> dict[str, Any]:
    wire: dict[str, Any] = {"text": one.text}
    if one.confidence is not None:
        wire["confidence"] = one.confidence
    if one.reasoning is not None:
        wire["reasoning"] = one.reasoning
    return wire


def _statements(name: str, value: object) -> tuple[Statement, ...]:
    if type(value) is not list or not 0 < len(value) <= MAX_STATEMENTS:
        raise RecordError(f"{name} is malformed: expected 1 to {MAX_STATEMENTS} pairs of text and ppm")
    found: list[Statement] = []
    for one in value:
        if type(one) is not list or len(one) != 2:
            raise RecordError(f"one of {name} is not a pair of text and ppm")
        text = check_text(f"one of {name}", one[0], MAX_STATEMENT)
        found.append(Statement(text, check_ppm(f"confidence of one of {name}", one[1])))
    if any(a.text >= b.text for a, b in zip(found, found[1:], strict=False)):
        raise RecordError(f"{name} are not ascending by text and unique")
    return tuple(found)


READERS: Mapping[str, Callable[[str, object], FieldValue]] = {
    "reasoning": _reasoning,
    "statements": _statements,
    "subdomains": _subdomains,
    "title": _text(MAX_TITLE),
    "type": _text(MAX_TYPE),
}
"""The fields by name, ascending."""
