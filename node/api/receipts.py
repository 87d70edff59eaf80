"""The route that shows, and waits for, the receipts of this node's own records.

A wait ends with status 200 whether enough came or not: `reached` says which, and what has come until then.
"""

from __future__ import annotations

import base64
from typing import Annotated

import trio
from fastapi import FastAPI, Path, Query
from pydantic import BaseModel

from chain.cid import Cid, to_text
from chain.identity import peer_id
from node.api.editing import entry_id
from node.api.service import NodeService
from node.api.shapes import RecordOut
from node.models import EntryView, Validated

MAX_WAIT_S = 600.0
"""Seconds that one request may wait for receipts."""
MAX_SHOWN = 64
"""Own records of one entry that are shown with who validated them."""


class ReceiptOut(BaseModel):
    """One holder's signed word: what it holds, since when, and in base64 the bytes that prove it."""

    holder: str
    full: bool
    bases: list[str]
    epoch: str
    issued_us: int
    data: str


class ReceiptsOut(BaseModel):
    """Who validated a record: distinct holders, never this node itself."""

    id: str
    full: list[str]
    header_only: list[str]
    reached: bool
    waited_s: float
    receipts: list[ReceiptOut]


def add_receipt_routes(app: FastAPI, node: NodeService) -> None:
    """Mount the route."""

    @app.get(
        "/v1/records/{id}/receipts",
        response_model=ReceiptsOut,
        tags=["knowledge"],
        summary="Which holders have validated a record of this node, if need be once enough have",
    )
    async def receipts(
        id: Annotated[str, Path(description="the CID of a record in this node's chain")],
        at_least: Annotated[int, Query(ge=0, le=256, description="distinct holders with full receipts")] = 0,
        timeout_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="wait so long for them")] = 0,
    ) -> ReceiptsOut:
        began = trio.current_time()
        found = await node.receipts(entry_id(id), at_least, timeout_s)
        return ReceiptsOut(
            id=to_text(found.id),
            full=[peer_id(agent) for agent in found.full],
            header_only=[peer_id(agent) for agent in found.header],
            reached=len(found.full) >= at_least,
            waited_s=round(trio.current_time() - began, 3),
            receipts=[
                ReceiptOut(
                    holder=peer_id(one.holder),
                    full=one.found.whole,
                    bases=[basis.hex() for basis in one.found.bases],
                    epoch=to_text(one.found.epoch),
                    issued_us=one.issued_us,
                    data=base64.b64encode(one.data).decode("ascii"),
                )
                for one in found.receipts
            ],
        )


async def with_receipts(node: NodeService, view: EntryView, records: list[RecordOut]) -> list[RecordOut]:
    """An entry's records, this node's own ones with who validated them; the first `MAX_SHOWN` of these."""
    agent = node.status().agent
    own: dict[str, Cid] = {to_text(one.cid): one.cid for one in view.records if one.header.author == agent}
    shown: dict[str, Validated] = {}
    for name in list(own)[:MAX_SHOWN]:
        shown[name] = await node.receipts(own[name], 0, 0)
    return [
        one.model_copy(
            update={
                "validated_by": [peer_id(agent) for agent in shown[one.id].full],
                "headers_at": [peer_id(agent) for agent in shown[one.id].header],
            }
        )
        if one.id in shown
        else one
        for one in records
    ]
