"""The routes of a text that several people write in: what it is now, and splices of what one saw of it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Response
from pydantic import BaseModel, Field

from chain.cid import to_text
from chain.content import MAX_OVER
from chain.identity import peer_id
from chain.splices import MAX_SPLICED, MAX_SPLICES, Splice
from chain.vector import MAX_DIM
from node.api.editing import ChangedOut, Id, entry_id
from node.api.service import NodeService
from node.api.shape import Shape, at_most
from node.errors import NotFound
from node.models import SharedText, Write, WrittenText

Place = Annotated[int, Field(ge=0, le=MAX_SPLICED)]


class SpliceIn(Shape):
    """At code point `at` of the text as the splices before left it: delete so many, then insert."""

    at: Place
    delete: Place = 0
    insert: Annotated[str, at_most(MAX_SPLICED)] = ""


class WritingIn(Shape):
    """Splices of the text at `version`, as a GET of it gave both."""

    version: Annotated[list[str], Field(min_length=1, max_length=MAX_OVER)]
    splices: Annotated[list[SpliceIn], Field(max_length=MAX_SPLICES)]
    vector: Annotated[list[float], Field(min_length=1, max_length=MAX_DIM)] | None = None


class ApartOut(BaseModel):
    """A text that could not be put together with the one shown, who wrote it, and its version."""

    text: str | None
    version: list[str]
    authors: list[str]


class TextOut(BaseModel):
    """The text with all put together that can be; `apart` is what cannot be, and `reason` says why."""

    id: str
    text: str | None
    version: list[str]
    authors: list[str]
    apart: list[ApartOut]
    more: int = Field(description="texts apart that are not listed")
    reason: str | None


def add_writing_routes(app: FastAPI, node: NodeService) -> None:
    """Mount the routes over `node`."""

    @app.get(
        "/v1/entries/{id}/text",
        response_model=TextOut,
        tags=["knowledge"],
        summary="The text of an entry, with what was written apart put together",
    )
    async def text(id: Id) -> TextOut:
        found = await node.text(entry_id(id))
        if found is None:
            raise NotFound(f"no entry {id} is known here or to its holders")
        return _text_out(id, found)

    @app.patch(
        "/v1/entries/{id}/text",
        response_model=ChangedOut,
        tags=["knowledge"],
        summary="Splice the text of an entry at the version one saw; what others wrote meanwhile stays",
    )
    async def write(id: Id, body: WritingIn, response: Response) -> ChangedOut:
        wish = Write(
            tuple(sorted({entry_id(one) for one in body.version})),
            tuple(Splice(one.at, one.delete, one.insert) for one in body.splices),
            body.vector,
        )
        changed = await node.change(entry_id(id), wish)
        response.headers["etag"] = f'"{changed.version}"'
        return ChangedOut(
            id=id, records=[to_text(cid) for cid in changed.records], version_id=changed.version
        )


def _text_out(id: str, found: SharedText) -> TextOut:
    return TextOut(
        id=id,
        **_written(found.shown),
        apart=[ApartOut(**_written(one)) for one in found.apart],
        more=found.more,
        reason=found.reason,
    )


def _written(one: WrittenText) -> dict[str, Any]:
    return {
        "text": one.text,
        "version": [to_text(cid) for cid in one.version],
        "authors": [peer_id(author) for author in one.authors],
    }
