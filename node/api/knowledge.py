"""The JSON of what an entry says beside its text: fields, references, and for whom it is said.

The same shapes go in and out. Confidences are numbers from 0 to 1, which records keep as integer ppm; keys
and signatures are base64. Limits are those of `chain.metadata` and `chain.reference`; what is over one is
refused with its name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from chain.behalf import Behalf, read_behalf
from chain.cid import from_text, to_text
from chain.errors import ChainError
from chain.metadata import (
    MAX_ALTERNATIVES,
    MAX_STATEMENTS,
    MAX_STEPS,
    MAX_SUBDOMAINS,
    READERS,
    Alternative,
    FieldValue,
    Reasoning,
    Statement,
    read_field,
    to_wire,
)
from chain.reference import MAX_REFERENCES, Reference, Relation, read_reference, reference_to_wire
from chain.vector import PPM
from node.api.shape import Shape
from node.errors import InvalidInput

Share = Annotated[float, Field(ge=0, le=1)]
"""A confidence from 0 to 1."""
FIELDS: Final = tuple(READERS)
"""The names of the fields, as JSON and records have them."""


class AlternativeShape(Shape):
    """What else was considered, how likely that was, and why it was not taken."""

    text: str
    confidence: Share | None = None
    reasoning: str | None = None


class ReasoningShape(Shape):
    """How the author came to it."""

    method: str
    steps: list[str] = Field(default=[], max_length=MAX_STEPS)
    alternatives: list[AlternativeShape] = Field(default=[], max_length=MAX_ALTERNATIVES)


class StatementShape(Shape):
    """One thing that the text says, and how sure its author is of it."""

    text: str
    confidence: Share


class ReferenceShape(Shape):
    """A source (`source`, maybe `link` and `quote`), or a relation (`predicate`) to an entry (`target`)."""

    source: str | None = None
    link: str | None = None
    quote: str | None = None
    predicate: str | None = Field(default=None, description='"supports", "contradicts", "extends", …')
    target: str | None = Field(default=None, description="the id of an entry")

    def to_reference(self) -> Reference:
        """The record's noun; raises `InvalidInput`."""
        wire: dict[str, Any] = {name: value for name, value in self if value is not None}
        try:
            if self.target is not None:
                wire["target"] = from_text(self.target)
            return read_reference(wire)
        except ChainError as error:
            raise InvalidInput(f"a reference is refused: {error}") from error


References = Annotated[list[ReferenceShape], Field(max_length=MAX_REFERENCES)]


class BehalfShape(Shape):
    """The system for which this is said: by its name, its Ed25519 key, and its signature over its words."""

    name: str
    key: str | None = Field(default=None, description="base64 of 32 bytes")
    signature: str | None = Field(default=None, description="base64 of 64 bytes, see docs/knowledge.md")

    def to_behalf(self) -> Behalf:
        """The record's noun; raises `InvalidInput`."""
        return _behalf(self, {}, of_vote=False)


class VoterShape(BehalfShape):
    """The system whose vote it is, and when it signed it."""

    signed_ms: int | None = Field(default=None, description="in ms since 1970; a signed vote has it")

    def to_behalf(self) -> Behalf:
        """The record's noun; raises `InvalidInput`."""
        return _behalf(self, {} if self.signed_ms is None else {"signed_ms": self.signed_ms}, of_vote=True)


def _behalf(shape: BehalfShape, when: dict[str, int], of_vote: bool) -> Behalf:
    given = {"key": shape.key, "signature": shape.signature}
    try:
        wire = {name: base64.b64decode(text, validate=True) for name, text in given.items() if text}
        return read_behalf({"name": shape.name, **wire, **when}, of_vote=of_vote)
    except binascii.Error as error:
        raise InvalidInput(f"on_behalf_of has a key or signature that is not base64: {error}") from error
    except ChainError as error:
        raise InvalidInput(str(error)) from error


class FieldsIn(Shape):
    """The fields beside the text."""

    title: str | None = None
    type: str | None = None
    subdomains: list[str] | None = Field(default=None, max_length=MAX_SUBDOMAINS)
    reasoning: ReasoningShape | None = None
    statements: list[StatementShape] | None = Field(default=None, max_length=MAX_STATEMENTS)

    def fields(self) -> tuple[tuple[str, FieldValue], ...]:
        """Those that are given, ascending by name; raises `InvalidInput` naming the field and the limit."""
        given = {name: getattr(self, name) for name in FIELDS}
        return fields_of({name: value for name, value in given.items() if value is not None and value != []})


def fields_of(given: Mapping[str, Any]) -> tuple[tuple[str, FieldValue], ...]:
    """Fields as records have them, ascending by name; raises `InvalidInput` naming field and limit."""
    try:
        return tuple((name, read_field(name, _wire(given[name]))) for name in sorted(given))
    except ChainError as error:
        raise InvalidInput(str(error)) from error


def references_of(shapes: Iterable[ReferenceShape]) -> tuple[Reference, ...]:
    """References as records have them, each once; raises `InvalidInput`."""
    return tuple(dict.fromkeys(one.to_reference() for one in shapes))


def field_out(value: FieldValue) -> Any:
    """A field's value as JSON."""
    if isinstance(value, Reasoning):
        return ReasoningShape(
            method=value.method,
            steps=list(value.steps),
            alternatives=[_alternative_out(one) for one in value.alternatives],
        ).model_dump()
    if isinstance(value, str):
        return value
    return [
        one if isinstance(one, str) else {"text": one.text, "confidence": one.confidence / PPM}
        for one in value
    ]


def reference_out(reference: Reference) -> ReferenceShape:
    """A reference as JSON."""
    if isinstance(reference, Relation):
        return ReferenceShape(predicate=reference.predicate, target=to_text(reference.target))
    return ReferenceShape(**reference_to_wire(reference))


def behalf_out(behalf: Behalf | None) -> BehalfShape | None:
    """For whom something is said, as JSON."""
    if behalf is None:
        return None
    texts = {
        name: base64.b64encode(data).decode("ascii")
        for name, data in (("key", behalf.key), ("signature", behalf.signature))
        if data is not None
    }
    return BehalfShape(name=behalf.name, **texts)


def voter_out(behalf: Behalf | None) -> VoterShape | None:
    """For whom a vote is passed on, as JSON."""
    shape = behalf_out(behalf)
    if shape is None or behalf is None:
        return None
    return VoterShape(**shape.model_dump(), signed_ms=behalf.signed_ms)


def ppm(share: float | None) -> int | None:
    """A share from 0 to 1 in ppm."""
    return None if share is None else round(share * PPM)


def _alternative_out(one: Alternative) -> AlternativeShape:
    confidence = None if one.confidence is None else one.confidence / PPM
    return AlternativeShape(text=one.text, confidence=confidence, reasoning=one.reasoning)


def _wire(value: Any) -> Any:
    """A field's shape as `read_field` takes it: sets ascend, so people may give them in any order."""
    if isinstance(value, ReasoningShape):
        return to_wire(
            Reasoning(
                value.method,
                tuple(value.steps),
                tuple(
                    Alternative(one.text, ppm(one.confidence), one.reasoning) for one in value.alternatives
                ),
            )
        )
    if isinstance(value, list) and value and isinstance(value[0], StatementShape):
        said = {one.text: round(one.confidence * PPM) for one in value}
        return to_wire(tuple(Statement(text, said[text]) for text in sorted(said)))
    return sorted(set(value)) if isinstance(value, list) else value
