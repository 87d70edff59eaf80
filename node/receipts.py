"""Who has validated this agent's records: receipts as their author shows them, and waiting for enough.

The chain's file keeps what holders signed, many records under one signature. Here each becomes a receipt that
stands alone: what was found follows from the record, the roles and the layout, and must hash to the leaf that
the holder signed. For records of others their holders are asked to sign now. Only others count, once each:
this node's own copy proves nothing. So where the author is one of the R holders itself, and somebody waits
for R receipts, the next nearest node is asked to hold the record, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from chain.cid import Cid, to_text
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT
from chain.receipt import Receipt, open_receipt, write_receipt
from chain.record import Record
from crdt.operations import content_of
from dht.evidence.attestations import Attestations
from dht.ports import RunBlocking
from dht.records.basis import subject_basis
from dht.records.layouts import Layouts, bases_ever
from dht.records.placement import Role, bases_of
from dht.records.receipts import finding
from dht.repair.publisher import Publisher
from node.errors import InvalidInput, NotFound, NotReady
from node.models import Validated
from node.storage.own_chain import OwnChain
from validation.receipts import validators

ASK_S = 2.0
"""Seconds that holders of others' records have to sign for them."""
MAX_WAITING = 32
"""Requests that wait for receipts at a time: they leave room for others."""


class Receipts:
    """The receipts for the records of one chain."""

    def __init__(
        self,
        own: OwnChain,
        records_of: Callable[[Sequence[Cid]], list[Record | None]],
        layouts: Layouts,
        network: Cid,
        replication: int,
        publisher: Publisher,
        attestations: Attestations,
        run_blocking: RunBlocking,
    ) -> None:
        self._own = own
        self._records_of = records_of
        self._layouts = layouts
        self._network = network
        self._replication = replication
        self._publisher = publisher
        self._attestations = attestations
        self._run_blocking = run_blocking
        self._waiting = 0

    async def wait(self, cid: Cid, at_least: int, timeout_s: float) -> Validated:
        """What others signed for an own record, once `at_least` of them have signed in full.

        After `timeout_s` seconds what there is then. Holders of another chain's record are asked, once.
        Raises `NotFound` when nobody knows it, `InvalidInput` for more receipts than a network's R, and
        `NotReady` when too many wait.
        """
        if at_least > self._replication:
            raise InvalidInput(
                f"{at_least} receipts asked for: this network keeps {self._replication} copies, so ask for "
                f"{self._replication} at most"
            )
        found = await self._run_blocking(self._of, cid)
        if found is None:
            return await self._ask_holders(cid)
        if len(found.full) >= at_least or timeout_s <= 0:
            return found
        if self._waiting >= MAX_WAITING:
            raise NotReady(f"{MAX_WAITING} requests wait for receipts already; ask again in a moment")
        self._waiting += 1
        asked = 0
        try:
            with trio.move_on_after(timeout_s):
                while len(found.full) < at_least:
                    news = self._publisher.next_receipts
                    found = await self._run_blocking(self._of, cid) or found
                    missing = at_least - len(found.full)
                    if missing > 0 and missing != asked and not self._own.unplaced([cid]):
                        asked = missing
                        await self._publisher.place_more(cid, frozenset(found.full), missing)
                    if missing > 0:
                        await news.wait()
        finally:
            self._waiting -= 1
        return found

    async def _ask_holders(self, cid: Cid) -> Validated:
        """Of a record of somebody else's: what the holders of its subject sign for now."""
        (record,) = await self._run_blocking(self._records_of, [cid])
        basis = subject_basis(cid if record is None else record.subject)
        receipts = await self._attestations.gather(cid, basis, self._replication, ASK_S)
        if record is None and not receipts:
            raise NotFound(f"no record {to_text(cid)} is known here or to its holders")
        author = None if record is None else record.header.author
        return _validated(cid, receipts, self._network, author)

    def _of(self, cid: Cid) -> Validated | None:
        record = self._own.get(cid)
        if record is None:
            return None
        shard = self._shard(record)
        receipts: list[Receipt] = []
        for kept in self._own.receipts(cid):
            # Signed for the shard by the atlas of its time; the leaf tells which one that was.
            for basis in bases_ever(shard, self._layouts) if Role(kept.roles) & Role.SHARD else (None,):
                found = finding(record, bases_of(record, Role(kept.roles), basis), valid=True)
                found = replace(found, whole=kept.whole)
                if found.leaf() == kept.leaves[kept.place]:
                    # It was verified when it came; opened again, because this is what others will do.
                    batch = write_receipt(kept.statement, kept.leaves, kept.place, found)
                    receipts.append(open_receipt(batch))
                    break
        return _validated(cid, receipts, self._network, record.header.author)

    def _shard(self, record: Record) -> bytes | None:
        if record.header.kind not in CARRIES_CONTENT or record.payload is None:
            return None
        try:
            content = content_of(record)
        except ChainError:
            return None
        layout = self._layouts.writes
        (key,) = layout.keys([(record, content)])
        return layout.shard_basis(key)


def _validated(cid: Cid, receipts: Sequence[Receipt], network: Cid, author: AgentId | None) -> Validated:
    full = validators(receipts, network, cid, author=author, whole=True)
    everybody = validators(receipts, network, cid, author=author)
    return Validated(cid, tuple(receipts), tuple(sorted(full)), tuple(sorted(everybody - full)))
