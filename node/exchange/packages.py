"""Packages: an entry as systems of other makers send and get it, and the way from it to the node's nouns.

Confidences are numbers from 0 to 1, which the node keeps in ppm; keys and signatures are hexadecimal or
base64. What a package that replaces an entry leaves out, or has as null, stays as it was; an empty list takes
away what was there. So a package can be sent back as it came, with what is to be different.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from chain.behalf import MAX_NAME, MAX_SIGNED_MS, Behalf
from chain.cid import Cid, from_text, is_record_cid
from chain.content import MAX_DOMAIN, MAX_FORMAT, MAX_REASON, MAX_TAGS
from chain.errors import CidError
from chain.metadata import (
    MAX_ALTERNATIVE,
    MAX_ALTERNATIVES,
    MAX_METHOD,
    MAX_STATEMENT,
    MAX_STATEMENTS,
    MAX_STEP,
    MAX_STEPS,
    MAX_SUBDOMAIN,
    MAX_SUBDOMAINS,
    MAX_TITLE,
    MAX_TYPE,
    Alternative,
    FieldValue,
    Reasoning,
    Statement,
)
from chain.reference import MAX_PREDICATE, MAX_QUOTE, MAX_REFERENCES, MAX_SOURCE, Reference, Relation, Source
from chain.vector import PPM
from crdt.operations import MAX_REASON as MAX_VOTE_REASON
from node.api.knowledge import ppm
from node.api.shape import Shape, Tag, Text, at_most
from node.models import Edit, EntryView, NewEntry, Relate, Retag

RELATED = "related"
"""The relation of a related entry that is given by its id alone."""
DEFAULT_FORMAT = "markdown"
MAX_STAMP = 64


NOT_LOOKED_AT: Final[dict[str, Any]] = {
    "version_id": True,
    "conflict": True,
    "metadata": {"created_at", "updated_at"},
    "trust": {"score", "votes"},
}
"""What a new package says that only the node can: who sends it again with another time says the same."""


def _without_controls(text: str) -> str:
    if any(ord(one) < 0x20 for one in text):
        raise ValueError("it has control characters")
    return text


def _id(text: str) -> str:
    read_id(text)
    return text


NodeId = Annotated[str, Field(min_length=1), at_most(MAX_NAME), AfterValidator(_without_controls)]
"""How a system of another maker calls itself."""
EntryId = Annotated[str, Field(max_length=200), AfterValidator(_id)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Format = Annotated[str, Field(min_length=1), at_most(MAX_FORMAT)]
Claimed = Annotated[str, Field(min_length=1), at_most(MAX_STATEMENT)]
Considered = Annotated[str, Field(min_length=1), at_most(MAX_ALTERNATIVE)]
Method = Annotated[str, Field(min_length=1), at_most(MAX_METHOD)]
Step = Annotated[str, Field(min_length=1), at_most(MAX_STEP)]
Origin = Annotated[str, Field(min_length=1), at_most(MAX_SOURCE)]
Quote = Annotated[str, Field(min_length=1), at_most(MAX_QUOTE)]
Predicate = Annotated[str, Field(min_length=1), at_most(MAX_PREDICATE)]
Domain = Annotated[str, Field(min_length=1), at_most(MAX_DOMAIN)]
Subdomain = Annotated[str, Field(min_length=1), at_most(MAX_SUBDOMAIN)]
Type = Annotated[str, Field(min_length=1), at_most(MAX_TYPE)]
Title = Annotated[str, Field(min_length=1), at_most(MAX_TITLE)]
Stamp = Annotated[str, Field(max_length=MAX_STAMP)]
Signature = Annotated[str, Field(max_length=200)]


class ContentPart(Shape):
    """What is known, how it is written, and which system wrote it."""

    text: Text
    format: Format = DEFAULT_FORMAT
    generated_by: NodeId


class ConfidencePart(Shape):
    """How sure its author is, of all of it and of single statements."""

    overall: Ratio | None
    statements: Annotated[dict[Claimed, Ratio], Field(max_length=MAX_STATEMENTS)] | None = None


class AlternativePart(Shape):
    """What else was considered."""

    text: Considered
    confidence: Ratio | None = None
    reasoning: Considered | None = None


class ReasoningPart(Shape):
    """How its author came to it."""

    method: Method | None
    steps: list[Step] = Field(default=[], max_length=MAX_STEPS)
    alternatives: Annotated[list[AlternativePart], Field(max_length=MAX_ALTERNATIVES)] | None = None


class CitationPart(Shape):
    """Where something stands outside the network."""

    source: Origin
    link: Origin | None = None
    citation_text: Quote | None = None


class RelatedPart(Shape):
    """Another entry, and how this one relates to it."""

    knowledge_id: EntryId
    relation: Predicate = RELATED


def _related(value: object) -> object:
    return {"knowledge_id": value} if isinstance(value, str) else value


Related = Annotated[RelatedPart, BeforeValidator(_related)]


class MetadataPart(Shape):
    """What it is about. When it was made and changed the node says; what is sent of that is not looked at."""

    domain: Domain | None
    type_: Type | None
    title: Title | None = None
    subdomains: Annotated[list[Subdomain], Field(max_length=MAX_SUBDOMAINS)] | None = None
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS)] | None = None
    source_citations: Annotated[list[CitationPart], Field(max_length=MAX_REFERENCES)] | None = None
    related_knowledge: Annotated[list[Related], Field(max_length=MAX_REFERENCES)] | None = None
    created_at: Stamp | None = None
    updated_at: Stamp | None = None


class TrustPart(Shape):
    """The author's signature over its text. Score and votes sent are not looked at: the network has them."""

    signature: Signature | None = None
    score: Any = None
    votes: Any = None


class Evaluation(Shape):
    """What a system thinks of an entry; `signature` is its own over the vote statement, at `signed_ms`."""

    evaluating_node: NodeId
    vote: Literal["upvote", "downvote"]
    reason: Annotated[str, at_most(MAX_VOTE_REASON)] | None = None
    confidence: Ratio | None = None
    signature: Signature | None = None
    signed_ms: Annotated[int, Field(ge=1, le=MAX_SIGNED_MS)] | None = None


class MergedPart(Shape):
    """The text that comes of a merge; on the wire a text, or the content of a package."""

    text: Text
    format: Format | None = None
    generated_by: NodeId | None = None


def _merged(value: object) -> object:
    """Who sends every field sends an empty text where there is none to merge to."""
    return ({"text": value} if value else None) if isinstance(value, str) else value


Merged = Annotated[MergedPart | None, BeforeValidator(_merged)]


class Settlement(Shape):
    """How a conflict ends. `value_id`: which value is accepted or rejected, if not the one that is shown."""

    resolving_node: NodeId
    resolution_type: Literal["accept", "reject", "merge"]
    reasoning: Annotated[str, Field(min_length=1), at_most(MAX_REASON)]
    merged_content: Merged = None
    value_id: EntryId | None = None


class Package(Shape):
    """An entry to publish, or to put in the place of the one with its `knowledge_id`."""

    knowledge_id: EntryId | None = None
    version_id: Annotated[str, Field(max_length=200)] | None = None
    content: ContentPart
    confidence: ConfidencePart
    reasoning_trace: ReasoningPart
    metadata: MetadataPart
    trust: TrustPart | None = None
    conflict: Any = Field(default=None, description="what a GET shows of a conflict; not looked at")

    def missing(self) -> str | None:
        """Which part that a new entry must have is null, by its place; None for none."""
        parts = {
            "confidence.overall": self.confidence.overall,
            "reasoning_trace.method": self.reasoning_trace.method,
            "metadata.domain": self.metadata.domain,
            "metadata.type_": self.metadata.type_,
        }
        return next((place for place, value in parts.items() if value is None), None)

    def too_many(self) -> str | None:
        """Which list makes the sources and relations more than a record takes; None for none."""
        named = set(self.references(sources=True, relations=True))
        return "metadata.related_knowledge" if len(named) > MAX_REFERENCES else None

    def to_entry(self, behalf: Behalf, key: bytes) -> NewEntry:
        """The node's noun; `key` makes publishing it twice the same as once."""
        fields = {name: value for name, value in self._fields() if value != ()}
        return NewEntry(
            text=self.content.text,
            tags=tuple(sorted(set(self.metadata.tags or ()))),
            domain=self.metadata.domain,
            confidence=ppm(self.confidence.overall),
            key=key,
            format=self.content.format,
            generated_by=self.content.generated_by,
            references=tuple(self.references(sources=True, relations=True)),
            fields=tuple(sorted(fields.items())),
            behalf=behalf,
        )

    def to_edit(self, behalf: Behalf, now: EntryView) -> Edit:
        """What puts this text and these fields in the place of an entry's."""
        there = {field.name for field in now.fields}
        fields = {name: value for name, value in self._fields() if value != ()}
        emptied = {name for name, value in self._fields() if value == ()}
        return Edit(
            text=self.content.text,
            domain=self.metadata.domain,
            confidence=ppm(self.confidence.overall),
            clear=frozenset(emptied & there),
            format=self.content.format,
            generated_by=self.content.generated_by,
            fields=tuple(sorted(fields.items())),
            behalf=behalf,
        )

    def to_retag(self, now: EntryView) -> Retag | None:
        """What makes the entry's tags those of the package; None when there is nothing to do."""
        if self.metadata.tags is None:
            return None
        wanted, there = set(self.metadata.tags), set(now.tags)
        add, remove = tuple(sorted(wanted - there)), tuple(sorted(there - wanted))
        return Retag(add, remove) if add or remove else None

    def to_relate(self, now: EntryView) -> Relate | None:
        """What makes the entry's references those of the package; None when there is nothing to do.

        Sources and relations are two lists: the one that is left out stays.
        """
        sources = self.metadata.source_citations is not None
        relations = self.metadata.related_knowledge is not None
        wanted = set(self.references(sources=sources, relations=relations))
        replaced = {one for one in now.references if (sources if isinstance(one, Source) else relations)}
        add, remove = tuple(wanted - replaced), tuple(replaced - wanted)
        return Relate(add, remove) if add or remove else None

    def references(self, *, sources: bool, relations: bool) -> Iterator[Reference]:
        """The sources and relations that it names."""
        for one in self.metadata.source_citations or () if sources else ():
            yield Source(one.source, one.link, one.citation_text)
        for related in self.metadata.related_knowledge or () if relations else ():
            yield Relation(related.relation, read_id(related.knowledge_id))

    def _fields(self) -> Iterator[tuple[str, FieldValue]]:
        """The fields that the package says something about; empty ones are to be taken away."""
        trace = self.reasoning_trace
        if trace.method is not None:
            considered = tuple(
                Alternative(one.text, ppm(one.confidence), one.reasoning) for one in trace.alternatives or ()
            )
            yield "reasoning", Reasoning(trace.method, tuple(trace.steps), considered)
        if self.metadata.type_ is not None:
            yield "type", self.metadata.type_
        if self.confidence.statements is not None:
            said = sorted(self.confidence.statements.items())
            yield "statements", tuple(Statement(text, round(sure * PPM)) for text, sure in said)
        if self.metadata.subdomains is not None:
            yield "subdomains", tuple(sorted(set(self.metadata.subdomains)))
        if self.metadata.title is not None:
            yield "title", self.metadata.title


def read_id(text: str) -> Cid:
    """The id of an entry or of one of its values; raises ValueError."""
    try:
        cid = from_text(text)
    except CidError as error:
        raise ValueError(f"{text[:80]!r} is not the id of an entry") from error
    if not is_record_cid(cid):
        raise ValueError(f"{text[:80]!r} is the id of something else than an entry")
    return cid


def read_bytes(text: str, size: int) -> bytes:
    """Bytes in hexadecimal or base64, of either alphabet; raises ValueError unless there are `size`.

    A space counts as the plus that the query of an address makes it from.
    """
    what = f"expected {size} bytes in hexadecimal or base64"
    if len(text) > 4 * size:
        raise ValueError(what)
    try:
        if len(text) == 2 * size:
            return bytes.fromhex(text)
        plain = text.replace(" ", "+").replace("-", "+").replace("_", "/").rstrip("=")
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(what) from error
    if len(data) != size:
        raise ValueError(what)
    return data
