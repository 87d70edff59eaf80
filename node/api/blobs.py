"""The blob routes: large content in and out, in portions, so that memory holds a chunk of it and no more.

`POST /v1/blobs` takes raw bytes and answers with their CID once they are durable; `GET /v1/blobs/{cid}` gives
them back, chunk by chunk as the client reads. What this node was given is pinned, what it fetched is not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import trio
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from chain.blob import ChunkList, check_size
from chain.cid import Cid, from_text, is_blob_cid, to_text
from chain.errors import CidError
from dht.blobs.blob_store import BlobStore
from node.api.problems import BadId
from node.api.service import NodeService
from node.errors import InvalidInput, NotFound

STREAMED = (("POST", "/v1/blobs"),)
"""Routes that read their body themselves."""


class BlobOut(BaseModel):
    """A blob; `size` in bytes."""

    cid: str
    size: int
    complete: bool = True
    pinned: bool


class BlobsOut(BaseModel):
    """What is here, least recently used first; `used` counts against the quota, in bytes."""

    blobs: list[BlobOut]
    used: int


class DeletedOut(BaseModel):
    """The blob is gone from this node."""

    deleted: bool = True


class BlobCut(Exception):
    """A blob vanished, or was found damaged, while it was being sent."""


def add_blob_routes(app: FastAPI, node: NodeService, max_blob: int) -> None:
    """Mount the routes. `max_blob`: bytes of the largest blob taken or fetched."""

    @app.post(
        "/v1/blobs",
        response_model=BlobOut,
        status_code=201,
        tags=["blobs"],
        summary="Keep the bytes of the body; durable and pinned when this answers",
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def post_blob(
        request: Request,
        pin: Annotated[bool, Query(description="false: may be deleted when the space is needed")] = True,
    ) -> BlobOut:
        announced = request.headers.get("content-length", "0")
        if announced.isdigit():
            check_size(int(announced), max_blob)
        size = 0
        async with node.blobs.drafting() as draft:
            try:
                async for portion in request.stream():
                    size += len(portion)
                    check_size(size, max_blob)
                    await trio.to_thread.run_sync(draft.write, portion)
            except ClientDisconnect as error:
                raise InvalidInput("the body did not end: its sender is gone, or was silent") from error
            info = await trio.to_thread.run_sync(lambda: draft.finish(pin=pin))
        return BlobOut(cid=to_text(info.cid), size=info.size, pinned=info.pinned)

    @app.get("/v1/blobs", response_model=BlobsOut, tags=["blobs"], summary="The blobs that are here")
    async def list_blobs() -> BlobsOut:
        store = node.blobs.store
        shown = [
            BlobOut(cid=to_text(one.cid), size=one.size, complete=one.complete, pinned=one.pinned)
            for one in store.infos()
        ]
        return BlobsOut(blobs=shown, used=store.size())

    @app.get(
        "/v1/blobs/{cid}",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/octet-stream": {}}}},
        tags=["blobs"],
        summary="The bytes of a blob",
    )
    async def get_blob(
        cid: Annotated[str, Path(description="the blob's CID")],
        fetch: Annotated[bool, Query(description="ask the peers when it is not here")] = False,
    ) -> StreamingResponse:
        blob = _blob_id(cid)
        if fetch:
            await node.fetch_blob(blob, max_blob)
        info, chunks = node.blobs.store.info(blob), node.blobs.store.chunk_list(blob)
        if info is None or chunks is None or not info.complete:
            raise NotFound(f"the blob {cid} is not here; add ?fetch=1 to ask the peers for it")
        return StreamingResponse(
            _send(node.blobs.store, blob, chunks),
            media_type="application/octet-stream",
            headers={"content-length": str(chunks.size)},
        )

    @app.delete(
        "/v1/blobs/{cid}", response_model=DeletedOut, tags=["blobs"], summary="Delete a blob from this node"
    )
    async def delete_blob(cid: Annotated[str, Path(description="the blob's CID")]) -> DeletedOut:
        if not await trio.to_thread.run_sync(node.blobs.store.delete, _blob_id(cid)):
            raise NotFound(f"the blob {cid} is not here")
        return DeletedOut()


async def _send(store: BlobStore, cid: Cid, chunks: ChunkList) -> AsyncIterator[bytes]:
    for index in range(len(chunks)):
        data = await trio.to_thread.run_sync(store.chunk, cid, index)
        if data is None:
            # The status is sent already: the client sees a body that is too short.
            raise BlobCut(f"chunk {index} of the blob {to_text(cid)} is not here any more")
        yield data


def _blob_id(text: str) -> Cid:
    try:
        cid = from_text(text)
    except CidError as error:
        raise BadId(str(error)) from error
    if not is_blob_cid(cid):
        raise BadId(f"{text} is the id of a record or payload, not of a blob")
    return cid
