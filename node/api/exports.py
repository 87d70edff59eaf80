"""The export route: what is known here leaves as a stream, entry by entry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Literal

from fastapi import FastAPI, Query
from fastapi.responses import StreamingResponse

from chain.cid import Cid
from node.api.editing import entry_id
from node.api.service import NodeService
from node.errors import InvalidInput
from node.exchange_formats import CAR, JSON_LD, JSON_LINES, MEDIA_TYPES
from node.exchange_formats.json_ld import BEGIN, END, joined, nodes_of
from node.exchange_formats.json_lines import entry_object, line_of
from node.exporting import MAX_IDS, Exporting, Selection
from node.models import EntryView


def add_export_route(app: FastAPI, node: NodeService) -> None:
    """Mount the route."""

    @app.get(
        "/v1/export",
        response_class=StreamingResponse,
        responses={200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
        tags=["exchange"],
        summary="Entries with their provenance, as a stream; without ids all that are here",
    )
    async def export(
        format: Annotated[Literal["car", "jsonl", "jsonld"], Query()] = "car",
        id: Annotated[list[str] | None, Query(max_length=MAX_IDS)] = None,
        domain: Annotated[str | None, Query(description="only entries of this domain")] = None,
        tag: Annotated[str | None, Query(description="only entries with this tag")] = None,
    ) -> StreamingResponse:
        ids = tuple(map(entry_id, id or ()))
        if any(one in node.private for one in ids):
            raise InvalidInput("a private entry is not exported: roseforest backup keeps it")
        selection = Selection(ids, domain, tag)
        await node.exporting.check(selection)
        network = node.status().network
        streams = {
            CAR: lambda: node.exporting.archive(selection),
            JSON_LINES: lambda: _lines(node.exporting, selection, network),
            JSON_LD: lambda: _graph(node.exporting, selection, network),
        }
        return StreamingResponse(streams[format](), media_type=MEDIA_TYPES[format])


async def _lines(exporting: Exporting, selection: Selection, network: Cid) -> AsyncIterator[bytes]:
    async with aclosing(exporting.entries(selection)) as entries:
        async for one in entries:
            if _is_shown(one.view, selection):
                yield line_of(entry_object(network, one.view))


async def _graph(exporting: Exporting, selection: Selection, network: Cid) -> AsyncIterator[bytes]:
    first = True
    yield BEGIN
    async with aclosing(exporting.entries(selection)) as entries:
        async for one in entries:
            if _is_shown(one.view, selection):
                yield joined(nodes_of(entry_object(network, one.view), one.view.records), first)
                first = False
    yield END


def _is_shown(view: EntryView, selection: Selection) -> bool:
    """What is deleted, retracted or erased is told of only where it was asked for."""
    return bool(selection.ids) or not (view.deleted or view.retracted or view.text is None)
