"""Who has validated this agent's records: receipts as their author shows them, and waiting for enough.

The chain's file keeps what holders signed, many records under one signature. Here each becomes a receipt that
stands alone: what was found follows from the record, the roles and the layout, and must hash to the leaf that
the holder signed. Only others count, once each, whatever keys sign for: this node's own copy proves nothing.
"""

from __future__ import annotations

from dataclasses import replace

import trio

from chain.cid import Cid, to_text
from chain.content import content_from_body
from chain.errors import ChainError
from chain.kinds import CARRIES_CONTENT
from chain.receipt import Receipt, open_receipt, write_receipt
from chain.record import Record, decode_payload
from dht.placement import Layout, Role, bases_of
from dht.ports import RunBlocking
from dht.publisher import Publisher
from dht.receipts import finding
from node.errors import InvalidInput, NotFound, NotReady
from node.models import Validated
from node.storage.own_chain import OwnChain
from validation.receipts import validators

MAX_WAITING = 32
"""Requests that wait for receipts at a time: they leave room for others."""


class Receipts:
    """The receipts for the records of one chain."""

    def __init__(
        self,
        own: OwnChain,
        layout: Layout,
        network: Cid,
        replication: int,
        publisher: Publisher,
        run_blocking: RunBlocking,
    ) -> None:
        self._own = own
        self._layout = layout
        self._network = network
        self._replication = replication
        self._publisher = publisher
        self._run_blocking = run_blocking
        self._waiting = 0

    async def wait(self, cid: Cid, at_least: int, timeout_s: float) -> Validated:
        """What others signed for an own record, once `at_least` of them have signed in full.

        After `timeout_s` seconds what there is then. Raises `NotFound` for a record of another chain,
        `InvalidInput` for more receipts than a network's R, and `NotReady` when too many wait.
        """
        if at_least > self._replication:
            raise InvalidInput(
                f"{at_least} receipts asked for: this network keeps {self._replication} copies, so ask for "
                f"{self._replication} at most"
            )
        found = await self._run_blocking(self._of, cid)
        if len(found.full) >= at_least or timeout_s <= 0:
            return found
        if self._waiting >= MAX_WAITING:
            raise NotReady(f"{MAX_WAITING} requests wait for receipts already; ask again in a moment")
        self._waiting += 1
        try:
            with trio.move_on_after(timeout_s):
                while len(found.full) < at_least:
                    news = self._publisher.next_receipts
                    found = await self._run_blocking(self._of, cid)
                    if len(found.full) < at_least:
                        await news.wait()
        finally:
            self._waiting -= 1
        return found

    def _of(self, cid: Cid) -> Validated:
        record = self._own.get(cid)
        if record is None:
            raise NotFound(f"no record {to_text(cid)} is in this node's chain: only its author has receipts")
        shard = self._shard(record)
        receipts: list[Receipt] = []
        for kept in self._own.receipts(cid):
            found = finding(record, bases_of(record, Role(kept.roles), shard), valid=True)
            found = replace(found, whole=kept.whole)
            if found.leaf() == kept.leaves[kept.place]:
                # It was verified when it came; opened again, because this is what others will do.
                receipts.append(open_receipt(write_receipt(kept.statement, kept.leaves, kept.place, found)))
        full = validators(receipts, self._network, cid, author=record.header.author, whole=True)
        everybody = validators(receipts, self._network, cid, author=record.header.author)
        return Validated(cid, tuple(receipts), tuple(sorted(full)), tuple(sorted(everybody - full)))

    def _shard(self, record: Record) -> bytes | None:
        if record.header.kind not in CARRIES_CONTENT or record.payload is None:
            return None
        try:
            content = content_from_body(decode_payload(record.payload))
        except ChainError:
            return None
        (key,) = self._layout.keys([(record, content)])
        return self._layout.shard_basis(key)
