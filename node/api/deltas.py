"""The routes of readers who keep a copy: what has come since a version, and snapshots to begin with.

A version is text: the version vector in base64url. Nothing here is to be believed as it stands: a delta's
records are signed, and a snapshot is true where they fold to it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Response
from pydantic import BaseModel, Field

from chain.cid import to_text
from chain.identity import peer_id
from crdt.delta import MAX_PAGE, Page
from crdt.delta_codec import encode_delta
from crdt.errors import SnapshotError, VersionVectorError
from crdt.snapshot import Snapshot
from crdt.version_vector import MAX_VECTOR, VersionVector, decode_version_vector
from node.api.editing import Id, entry_id
from node.api.service import NodeService
from node.api.shape import Shape
from node.api.shapes import RecordOut, record_out
from node.deltas import MAX_SET
from node.errors import InvalidInput

MAX_IN_PATH = 8_000
"""Characters of a version in a URL; longer ones are posted."""
MAX_TEXT = 4 * MAX_VECTOR // 3 + 4
COMPACT = "application/vnd.roseforest.delta"


class DeltaOut(BaseModel):
    """Records in causal order, and the version of a reader who had `since` and has applied them."""

    id: str
    version: str = Field(description="what to send as `since` the next time")
    more: bool = Field(description="there are more: ask again at once")
    records: list[RecordOut]


class DeltaIn(Shape):
    """The same as in the URL, for long versions."""

    since: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE
    form: Literal["json", "compact"] = "json"


class AgainstOut(BaseModel):
    """An author of the entry who did not count when the snapshot was taken, and from which seq on."""

    agent: str
    since_seq: int


class SnapshotOut(BaseModel):
    """What an entry came to. `snapshot` is all of it in canonical bytes, in base64; `digest` is its hash."""

    id: str
    digest: str
    version: str = Field(description="what to send as `since` for the tail")
    heads: list[str]
    against: list[AgainstOut]
    snapshot: str | None = None


class SnapshotsIn(Shape):
    """Entries by id."""

    ids: Annotated[list[str], Field(min_length=1, max_length=MAX_SET)]


class SnapshotsOut(BaseModel):
    """`root` stands for all these snapshots, ascending by id: equal roots, equal views of all of them."""

    root: str
    snapshots: list[SnapshotOut]


def add_delta_routes(app: FastAPI, node: NodeService) -> None:
    """Mount the routes."""

    @app.get(
        "/v1/entries/{id}/delta",
        response_model=DeltaOut,
        tags=["knowledge"],
        summary="The records of an entry that have come since a version",
    )
    async def delta(
        id: Id,
        since: Annotated[str, Query(max_length=MAX_IN_PATH, description="the version you have")] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
        form: Annotated[Literal["json", "compact"], Query(description="compact: bytes")] = "json",
    ) -> DeltaOut | Response:
        return await answer(id, since, limit, form)

    @app.post(
        "/v1/entries/{id}/delta",
        response_model=DeltaOut,
        tags=["knowledge"],
        summary="The same, for a version that is too long for a URL",
    )
    async def posted_delta(id: Id, asked: DeltaIn) -> DeltaOut | Response:
        return await answer(id, asked.since, asked.limit, asked.form)

    async def answer(id: str, since: str, limit: int, form: str) -> DeltaOut | Response:
        page = await node.deltas.page(entry_id(id), version_in(since), limit)
        if form == "json":
            return _delta_out(id, page)
        return Response(
            encode_delta(page.records, node.deltas.network),
            media_type=COMPACT,
            headers={
                "roseforest-version": version_out(page.version),
                "roseforest-more": "true" if page.more else "false",
            },
        )

    @app.get(
        "/v1/entries/{id}/snapshot",
        response_model=SnapshotOut,
        tags=["knowledge"],
        summary="What an entry came to, to begin a copy with",
    )
    async def snapshot(id: Id) -> SnapshotOut:
        try:
            return _snapshot_out(await node.deltas.snapshot(entry_id(id)), whole=True)
        except SnapshotError as error:
            raise InvalidInput(str(error)) from error

    @app.post(
        "/v1/snapshots",
        response_model=SnapshotsOut,
        tags=["knowledge"],
        summary="One hash for many entries, to compare two nodes by",
    )
    async def snapshots(asked: SnapshotsIn) -> SnapshotsOut:
        try:
            root, taken = await node.deltas.root([entry_id(one) for one in asked.ids])
        except SnapshotError as error:
            raise InvalidInput(str(error)) from error
        return SnapshotsOut(root=root.hex(), snapshots=[_snapshot_out(one, whole=False) for one in taken])


def version_out(version: VersionVector) -> str:
    """A version as text; one that is too long claims less (`VersionVector.bounded`)."""
    return base64.urlsafe_b64encode(version.bounded().encode()).decode("ascii").rstrip("=")


def version_in(text: str) -> VersionVector:
    """The version that `version_out` wrote; empty text: nothing seen. Raises `InvalidInput`."""
    if not text:
        return VersionVector()
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return decode_version_vector(data)
    except (binascii.Error, ValueError, VersionVectorError) as error:
        raise InvalidInput(f"since is not a version that this interface gave: {error}") from error


def _delta_out(id: str, page: Page) -> DeltaOut:
    return DeltaOut(
        id=id,
        version=version_out(page.version),
        more=page.more,
        records=[record_out(record, data=True) for record in page.records],
    )


def _snapshot_out(one: Snapshot, whole: bool) -> SnapshotOut:
    return SnapshotOut(
        id=to_text(one.entry),
        digest=one.digest.hex(),
        version=version_out(one.version),
        heads=[to_text(cid) for cid in one.heads],
        against=[AgainstOut(agent=peer_id(agent), since_seq=seq) for agent, seq in one.against],
        snapshot=base64.b64encode(one.encode()).decode("ascii") if whole else None,
    )
