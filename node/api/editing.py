"""The routes that change an entry: edit, tags, references, vote, confidence, resolve, delete, retract.

Each takes `If-Match` with the version that the caller saw (the `ETag` or `version_id` of a GET) and answers
412 when the entry has moved on, naming what changed; without it the change is made on top of what is there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Header, Path, Response
from pydantic import BaseModel, Field

from chain.cid import Cid, from_text, is_record_cid, to_text
from chain.content import MAX_CITATIONS, MAX_TAGS
from chain.errors import CidError
from chain.vector import MAX_DIM, PPM
from node.api.knowledge import (
    FIELDS,
    BehalfShape,
    FieldsIn,
    References,
    Share,
    VoterShape,
    ppm,
    references_of,
)
from node.api.problems import BadId
from node.api.service import NodeService
from node.api.shape import Shape, Tag, Text
from node.errors import InvalidInput
from node.models import Assess, Change, Delete, Edit, Relate, Resolve, Retag, Retract, Vote

VOTES = {"up": 1, "down": -1, "none": 0}
CLEARABLE = frozenset({"domain", "confidence", "citations", "format", "generated_by", *FIELDS})
"""What null takes away."""


Id = Annotated[str, Path(description="the CID of the entry's create record")]
IfMatch = Annotated[str | None, Header(description="the version that the caller saw", max_length=200)]


class EditIn(FieldsIn):
    """What is to be different: fields that are left out stay as they are, null takes a field away."""

    text: Text | None = None
    vector: Annotated[list[float], Field(min_length=1, max_length=MAX_DIM)] | None = None
    tags: list[Tag] = Field(default=[], max_length=MAX_TAGS, description="tags to add")
    domain: str | None = None
    confidence: Share | None = None
    citations: Annotated[list[str], Field(max_length=MAX_CITATIONS)] | None = None
    format: str | None = None
    generated_by: str | None = None
    on_behalf_of: BehalfShape | None = None

    def to_change(self) -> Edit:
        """The node's noun."""
        nulls = {name for name in self.model_fields_set if getattr(self, name) is None}
        for name in sorted(nulls - CLEARABLE):
            raise InvalidInput(f"{name} cannot be null: leave it out to keep it")
        if not self.model_fields_set:
            raise InvalidInput("nothing is to be changed: give a text, tags, or one of the fields")
        for name in ("domain", "format", "generated_by"):
            if getattr(self, name) == "":
                raise InvalidInput(f"{name} is empty: null takes it away")
        empty = {name for name in ("citations", "statements", "subdomains") if getattr(self, name) == []}
        return Edit(
            text=self.text,
            vector=self.vector,
            tags=tuple(self.tags),
            domain=self.domain,
            confidence=ppm(self.confidence),
            citations=None if self.citations is None else tuple(self.citations),
            clear=frozenset(nulls | empty),
            format=self.format,
            generated_by=self.generated_by,
            fields=self.fields(),
            behalf=None if self.on_behalf_of is None else self.on_behalf_of.to_behalf(),
        )


class TagsIn(Shape):
    """Tags to add and to remove."""

    add: list[Tag] = Field(default=[], max_length=MAX_TAGS)
    remove: list[Tag] = Field(default=[], max_length=MAX_TAGS)


class VoteIn(Shape):
    """This agent's vote, in place of the one before."""

    value: Literal["up", "down", "none"]
    reason: str | None = None
    confidence: Share | None = None
    on_behalf_of: VoterShape | None = None


class ReferencesIn(Shape):
    """Sources and relations to add and to remove."""

    add: References = Field(default=[])
    remove: References = Field(default=[])


class AssessIn(Shape):
    """How sure this agent is that the entry is right, in place of what it said before."""

    confidence: Share


class ResolveIn(Shape):
    """How a conflict of texts ends: accept or reject the value of a record, or merge all to a text."""

    decision: Literal["accept", "reject", "merge"]
    record: str | None = Field(default=None, description="the record whose value is accepted or rejected")
    text: Text | None = Field(default=None, description="what a merge gives")
    vector: Annotated[list[float], Field(min_length=1, max_length=MAX_DIM)] | None = None
    reason: str

    def to_change(self) -> Resolve:
        """The node's noun; raises `InvalidInput` where the parts do not fit together."""
        if (self.decision == "merge") != (self.text is not None):
            raise InvalidInput("a merge takes a text, accept and reject take none")
        if (self.decision == "merge") == (self.record is not None):
            raise InvalidInput("accept and reject take the record of a value, a merge takes none")
        chosen = None if self.record is None else entry_id(self.record)
        return Resolve(self.decision, self.reason, chosen, self.text, self.vector)


class ChangedOut(BaseModel):
    """The records that were written, durable on this node; none when there was nothing to change."""

    id: str
    records: list[str]
    version_id: str


def add_editing_routes(app: FastAPI, node: NodeService) -> None:
    """Mount the routes over `node`."""

    async def change(id: str, wish: Change, if_match: str | None, response: Response) -> ChangedOut:
        changed = await node.change(entry_id(id), wish, version_of(if_match))
        response.headers["etag"] = f'"{changed.version}"'
        return ChangedOut(
            id=id, records=[to_text(cid) for cid in changed.records], version_id=changed.version
        )

    @app.patch(
        "/v1/entries/{id}",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Edit an entry; it overwrites the values that the entry has now",
    )
    async def edit(id: Id, body: EditIn, response: Response, if_match: IfMatch = None) -> ChangedOut:
        return await change(id, body.to_change(), if_match, response)

    @app.post(
        "/v1/entries/{id}/tags",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Add and remove tags of an entry",
    )
    async def retag(id: Id, body: TagsIn, response: Response, if_match: IfMatch = None) -> ChangedOut:
        if (not body.add and not body.remove) or set(body.add) & set(body.remove):
            raise InvalidInput("give tags to add or to remove, and none in both lists")
        return await change(id, Retag(tuple(body.add), tuple(body.remove)), if_match, response)

    @app.put(
        "/v1/entries/{id}/vote",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Vote on an entry; one vote an agent",
    )
    async def vote(id: Id, body: VoteIn, response: Response, if_match: IfMatch = None) -> ChangedOut:
        behalf = None if body.on_behalf_of is None else body.on_behalf_of.to_behalf()
        vote = Vote(VOTES[body.value], body.reason, ppm(body.confidence), behalf)
        return await change(id, vote, if_match, response)

    @app.post(
        "/v1/entries/{id}/references",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Add and remove sources and relations of an entry",
    )
    async def relate(id: Id, body: ReferencesIn, response: Response, if_match: IfMatch = None) -> ChangedOut:
        add, remove = references_of(body.add), references_of(body.remove)
        if not (add or remove) or set(add) & set(remove):
            raise InvalidInput("give references to add or to remove, and none in both lists")
        return await change(id, Relate(add, remove), if_match, response)

    @app.put(
        "/v1/entries/{id}/confidence",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Say how sure this agent is that the entry is right",
    )
    async def assess(id: Id, body: AssessIn, response: Response, if_match: IfMatch = None) -> ChangedOut:
        return await change(id, Assess(round(body.confidence * PPM)), if_match, response)

    @app.post(
        "/v1/entries/{id}/resolve",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="End a conflict of texts: accept or reject one, or merge them",
    )
    async def resolve(id: Id, body: ResolveIn, response: Response, if_match: IfMatch = None) -> ChangedOut:
        return await change(id, body.to_change(), if_match, response)

    @app.delete(
        "/v1/entries/{id}",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Delete an entry as it is now; an edit that this has not seen wins over it",
    )
    async def delete(id: Id, response: Response, if_match: IfMatch = None) -> ChangedOut:
        return await change(id, Delete(), if_match, response)

    @app.post(
        "/v1/entries/{id}/retract",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Take back an entry that this agent created, for good",
    )
    async def retract(id: Id, response: Response, if_match: IfMatch = None) -> ChangedOut:
        return await change(id, Retract(), if_match, response)

    @app.post(
        "/v1/entries/{id}/purge",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Erase for good what this agent said in an entry, or in one of its own records",
    )
    async def purge(id: Id, response: Response) -> ChangedOut:
        changed = await node.purge(entry_id(id))
        response.headers["etag"] = f'"{changed.version}"'
        return ChangedOut(
            id=to_text(changed.id),
            records=[to_text(cid) for cid in changed.records],
            version_id=changed.version,
        )


def entry_id(text: str) -> Cid:
    """The CID of an entry; raises `BadId`."""
    try:
        cid = from_text(text)
    except CidError as error:
        raise BadId(f"{text[:80]!r} is not a CID: give an id as add and query print it") from error
    if not is_record_cid(cid):
        raise BadId(f"{text} is the id of a payload or blob, not of an entry")
    return cid


def version_of(if_match: str | None) -> str | None:
    """The version in an `If-Match` header; None for none and for `*`, which any entry that is there meets."""
    if if_match is None or if_match.strip() == "*":
        return None
    return if_match.strip().removeprefix("W/").strip('"')
