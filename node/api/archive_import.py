"""The import route: an archive of records of this network, judged and held as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from chain.cid import to_text
from node.api.service import NodeService
from node.archive_import import Imported
from node.errors import InvalidInput
from node.exchange_formats import CAR, MEDIA_TYPES

STREAMED: Final = (("POST", "/v1/import"),)
"""Routes that read their body themselves, see `node.api.guard`."""


class RefusedOut(BaseModel):
    """A record that was not taken, its place in the archive in bytes, and why."""

    record: str
    at: int
    reason: str


class ImportedOut(BaseModel):
    """What became of an archive; `error` says where it broke, what came before was taken."""

    network: str | None
    whole: bool
    error: str | None
    entries: int
    records: int
    added: int
    known: int = Field(description="were here before")
    refused: int
    faults: list[RefusedOut] = Field(description="the first 1000 of those refused")


def add_import_route(app: FastAPI, node: NodeService) -> None:
    """Mount the route."""

    @app.post(
        "/v1/import",
        response_model=ImportedOut,
        tags=["exchange"],
        summary="Take in an archive of records of this network; durable when this answers",
        openapi_extra={"requestBody": {"required": True, "content": {MEDIA_TYPES[CAR]: {}}}},
    )
    async def import_archive(request: Request) -> ImportedOut:
        return _out(await node.archive_import.take(_portions(request)))


async def _portions(request: Request) -> AsyncIterator[bytes]:
    try:
        async for portion in request.stream():
            yield portion
    except ClientDisconnect as error:
        raise InvalidInput("the archive did not end: its sender is gone, or was silent") from error


def _out(told: Imported) -> ImportedOut:
    return ImportedOut(
        network=None if told.network is None else to_text(told.network),
        whole=told.whole,
        error=told.error,
        entries=told.entries,
        records=told.records,
        added=told.added,
        known=told.known,
        refused=told.refused,
        faults=[RefusedOut(record=to_text(one.record), at=one.at, reason=one.reason) for one in told.faults],
    )
