"""The routes that tell of conflicts: which entries have one, and what stands against what."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import BaseModel, Field

from chain.cid import Cid, to_text
from chain.identity import peer_id
from chain.kinds import DELETE
from chain.record import Record
from crdt.conflicts import DELETED, TEXT, Side
from node.api.editing import Id, entry_id
from node.api.knowledge import field_out
from node.api.service import Disputes
from node.api.shapes import instant
from node.conflicts import MAX_PAGE, Disputed
from node.errors import NotFound

MAX_HISTORY = 100
"""Records of a side's history that are told, the last ones."""


class PastOut(BaseModel):
    """A record that a side had seen and not all of the others."""

    record: str
    kind: str
    author: str
    at: str


class SideOut(BaseModel):
    """One side of a conflict: what it says (null for a delete), who says it, and what it had seen."""

    record: str
    author: str
    at: str
    value: Any
    deletes: bool = False
    history: list[PastOut]


class ConflictOut(BaseModel):
    """`about` is text, delete or the name of a field; the side that is shown is the first."""

    about: str
    sides: list[SideOut]
    common: list[str] = Field(description="the last records that all sides had seen")


class DisputedOut(BaseModel):
    """An entry in conflict; `version_id` is what If-Match takes."""

    id: str
    version_id: str
    text: str | None
    conflicts: list[ConflictOut]


class ConflictsOut(BaseModel):
    """A page of entries in conflict; `next` is the id to go on after, null at the end."""

    entries: list[DisputedOut]
    next: str | None


def add_conflict_routes(app: FastAPI, disputes: Disputes) -> None:
    """Mount the routes."""

    @app.get(
        "/v1/conflicts",
        response_model=ConflictsOut,
        tags=["knowledge"],
        summary="Entries in conflict: those that this agent changed, and those held here",
    )
    async def conflicts(
        after: str | None = None, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE
    ) -> ConflictsOut:
        page = await disputes.page(None if after is None else entry_id(after), limit)
        return ConflictsOut(
            entries=[_disputed_out(one) for one in page.entries],
            next=None if page.next is None else to_text(page.next),
        )

    @app.get(
        "/v1/entries/{id}/conflicts",
        response_model=DisputedOut,
        tags=["knowledge"],
        summary="The conflicts of one entry, asked of its holders",
    )
    async def conflicts_of_entry(id: Id) -> DisputedOut:
        found = await disputes.of(entry_id(id))
        if found is None:
            raise NotFound(f"no entry {id} is known here or to its holders")
        return _disputed_out(found)


def _disputed_out(one: Disputed) -> DisputedOut:
    view = one.entry
    records = {record.cid: record for record in view.records}
    said: dict[str, dict[Cid, Any]] = {
        field.name: {cid: field_out(value) for cid, _, value in field.values} for field in view.fields
    }
    said[TEXT] = said[DELETED] = {value.record: value.text for value in view.values}
    return DisputedOut(
        id=to_text(view.id),
        version_id=view.fingerprint,
        text=view.text,
        conflicts=[
            ConflictOut(
                about=conflict.about,
                sides=[_side_out(side, said[conflict.about], records) for side in conflict.sides],
                common=[to_text(cid) for cid in conflict.common],
            )
            for conflict in one.conflicts
        ],
    )


def _side_out(side: Side, said: dict[Cid, Any], records: dict[Cid, Record]) -> SideOut:
    return SideOut(
        record=to_text(side.record),
        author=peer_id(side.author),
        at=instant(side.hlc),
        value=said.get(side.record),
        deletes=records[side.record].header.kind == DELETE,
        history=[_past_out(records[cid]) for cid in side.history[-MAX_HISTORY:] if cid != side.record],
    )


def _past_out(record: Record) -> PastOut:
    return PastOut(
        record=to_text(record.cid),
        kind=record.header.kind,
        author=peer_id(record.header.author),
        at=instant(record.header.hlc),
    )
