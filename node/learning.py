"""The node's part in learning: its blobs, chain and records handed to the `federated` floor."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from mmap import mmap
from typing import TypeVar

from chain.blob import MalformedBlobError, OversizedBlobError, chunk_list
from chain.cid import Cid
from chain.identity import AgentId
from dht.blobs.service import BlobService, BlobUnavailable
from dht.ports import RunBlocking
from federated.ports import NoRoom, TooLarge
from node.storage.errors import StorageError

T = TypeVar("T")

log = logging.getLogger(f"roseforest.{__name__}")


class ModelBlobs:
    """`federated.ports.Blobs` on the node's blob service. What is put stays until released."""

    def __init__(self, service: BlobService, run_blocking: RunBlocking) -> None:
        self._service = service
        self._run_blocking = run_blocking

    async def put(self, data: bytes) -> Cid:
        try:
            return (await self._service.put(data, pin=True)).cid
        except StorageError as error:
            raise NoRoom(str(error)) from error

    async def map(self, cid: Cid) -> bytes | mmap | None:
        return await self._run_blocking(self._service.store.map, cid)

    async def get(self, cid: Cid) -> bytes | None:
        return await self._run_blocking(self._service.store.read, cid)

    async def fetch(self, cid: Cid, size_limit: int, agents: Sequence[AgentId]) -> bytes | None:
        return await self._fetched(self._service.fetch, cid, size_limit, agents)

    async def fetch_mapped(self, cid: Cid, size_limit: int, agents: Sequence[AgentId]) -> bytes | mmap | None:
        return await self._fetched(self._service.fetch_mapped, cid, size_limit, agents)

    async def _fetched(
        self,
        fetch: Callable[[Cid, int, Sequence[AgentId]], Awaitable[T]],
        cid: Cid,
        size_limit: int,
        agents: Sequence[AgentId],
    ) -> T | None:
        try:
            return await fetch(cid, size_limit, agents)
        except (OversizedBlobError, MalformedBlobError) as error:
            raise TooLarge(str(error)) from error
        except BlobUnavailable as error:
            log.info("%s", error)
        except StorageError as error:
            log.warning("a model cannot be kept: %s", error)
        return None

    def cid_of(self, data: bytes) -> Cid:
        return chunk_list(data).cid

    async def release(self, cid: Cid) -> None:
        await self._run_blocking(self._service.store.pin, cid, False)
