"""An author's own chain, fetched back from those who hold it.

The headers come from the holders of the author's activity, a page at a time, and are verified as a chain
before anything else is asked for. The payloads lie elsewhere: with the holders of each record's subject, and
when none of these has one, with whoever else is known. A payload that nobody has is left out and its record
kept as a header: the chain verifies without it. Nothing is decided about forks but that they are named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from chain.cid import Cid
from chain.errors import ChainBrokenError
from chain.identity import AgentId
from chain.record import Record
from chain.source_chain import continuation
from dht.errors import NetworkError
from dht.evidence.heads import Heads
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.basis import Basis, subject_basis
from dht.records.bundle import Item
from dht.records.methods import MAX_FETCH, RecordService

MAX_OTHERS: Final = 8
"""Nodes asked for a payload besides the holders of its subject."""

log = logging.getLogger(f"roseforest.{__name__}")


class OwnHistory:
    """Fetches what follows in the chain of this node's own agent; nothing is kept here."""

    def __init__(
        self,
        kademlia: Kademlia,
        heads: Heads,
        records: RecordService,
        local: Callable[[Sequence[Cid]], list[Record | None]],
        network_id: Cid,
        replication: int,
        run_blocking: RunBlocking,
    ) -> None:
        """`local`: records that this node holds anyway."""
        self._kademlia = kademlia
        self._heads = heads
        self._records = records
        self._local = local
        self._network_id = network_id
        self._replication = replication
        self._run_blocking = run_blocking

    async def page(self, previous: Record | None, holders: Sequence[AgentId]) -> list[Record]:
        """The next records after `previous` (None: from the beginning), verified, with the payloads found.

        Asks `holders` in turn until one has some; empty when none has. Raises `ChainForkedError`.
        """
        start = 0 if previous is None else previous.header.seq + 1
        me = self._kademlia.agent
        for holder in holders:
            try:
                headers = await self._heads.headers(holder, me, start)
                found = await self._run_blocking(continuation, previous, headers, me, self._network_id)
            except NetworkError as error:
                log.info("fetching the own chain from %s failed: %s", holder.hex()[:8], error)
                continue
            except ChainBrokenError as error:
                log.warning("%s shows a chain of ours that is none: %s", holder.hex()[:8], error)
                self._kademlia.report(holder)
                continue
            if found:
                return await self._with_payloads(found)
        return []

    async def _with_payloads(self, records: Sequence[Record]) -> list[Record]:
        missing = {record.cid: record for record in records if record.payload is None}
        payloads: dict[Cid, bytes] = {}
        _note(payloads, missing, await self._run_blocking(self._local, list(missing)))
        near: dict[Basis, list[AgentId]] = {}
        for place in range(self._replication):
            wanted: dict[AgentId, list[Cid]] = {}
            for cid in sorted(missing.keys() - payloads.keys()):
                basis = subject_basis(missing[cid].subject)
                if basis not in near:
                    contacts = await self._kademlia.holders(basis, self._replication + 1)
                    near[basis] = [one.agent for one in contacts if one.agent != self._kademlia.agent]
                if place < len(near[basis]):
                    wanted.setdefault(near[basis][place], []).append(cid)
            await self._ask(wanted, missing, payloads)
        asked = {agent for agents in near.values() for agent in agents[: self._replication]}
        others = [one.agent for one in self._kademlia.contacts() if one.agent not in asked]
        for agent in others[:MAX_OTHERS]:
            if left := sorted(missing.keys() - payloads.keys()):
                await self._ask({agent: left}, missing, payloads)
        return [
            record
            if record.payload is not None or record.cid not in payloads
            else Record(
                record.header, record.signature, payloads[record.cid], record.cid, record.header_bytes
            )
            for record in records
        ]

    async def _ask(
        self, wanted: dict[AgentId, list[Cid]], missing: dict[Cid, Record], payloads: dict[Cid, bytes]
    ) -> None:
        async with trio.open_nursery() as nursery:
            for agent in sorted(wanted):
                nursery.start_soon(self._fetch, agent, wanted[agent], missing, payloads)

    async def _fetch(
        self, agent: AgentId, cids: list[Cid], missing: dict[Cid, Record], payloads: dict[Cid, bytes]
    ) -> None:
        while cids:
            try:
                bundle = await self._records.fetch(agent, cids[:MAX_FETCH])
            except NetworkError as error:
                log.info("fetching own records from %s failed: %s", agent.hex()[:8], error)
                return
            _note(payloads, missing, [item.record for item in bundle.items if isinstance(item, Item)])
            # A reply holds as many as fit; what was asked for first and did not come is not there.
            came = [cid for cid in cids[:MAX_FETCH] if cid in payloads]
            last = max((cids.index(cid) for cid in came), default=len(cids[:MAX_FETCH]) - 1)
            cids = cids[last + 1 :]


def _note(payloads: dict[Cid, bytes], missing: dict[Cid, Record], records: Sequence[Record | None]) -> None:
    """Take the payloads of these records; that each is its header's own was checked when it was decoded."""
    for record in records:
        if record is not None and record.cid in missing and record.payload is not None:
            payloads[record.cid] = record.payload
