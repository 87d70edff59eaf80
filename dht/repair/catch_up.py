"""Catching up: a holder makes sure that it has what the other holders of its shards have.

A node that joins, returns, or becomes one of a shard's R holders because another left, compares the shard's
digest (count and sum of record digests) with each other holder, and with the nodes next to them, which may
have held it before, finds out by ranges what it lacks (`dht.repair.comparison`), and fetches that. Until then
it answers queries for the shard as incomplete, and askers go on to another holder. The comparison is repeated
every minute, which bounds how long a record that was published around a change of membership can be missing
from a replica. Records fetched are judged like any other.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import trio

from chain.cid import Cid
from chain.identity import AgentId
from dht.errors import FrameError, NetworkError
from dht.negentropy.reconciliation import bounds_of, cid_of, mask_of
from dht.overlay.distance import distance
from dht.overlay.kademlia import Kademlia
from dht.records.bundle import Bundle, Item
from dht.records.methods import MAX_DIGESTS, MAX_FETCH, RecordService
from dht.records.placement import Role
from dht.records.record_store import HeldStore
from dht.repair.comparison import Comparisons
from sharding.tree import Prefix, ShardTree

INTERVAL_S = 60.0
INTERVAL_FIRST_S = 5.0
"""After a change of membership the comparison is repeated this soon, then after twice as long each time:
who publishes may learn of the change a little later than who holds."""
QUIET_S = 2.0
"""When records have been stored here, shards are compared once this long nothing more has come."""
SETTLE_S = 0.2
"""Changes of membership come in bursts; wait this long for the burst to end."""
MAX_PAUSE_S = 1.0
"""Between two batches the node rests as long as the last one took, at most this long: queries go first."""
FORMER_HOLDERS = 5
"""Nodes beyond the R holders with whom a shard is compared: when several join at once, those who held it
before are pushed out of the R nearest, and the new ones would agree among themselves that it is empty."""
PATIENCE = 3
"""A fellow holder with whom no comparison succeeded for so many rounds is not waited for any more: one that
refuses to compare, or answers everything but that, must not keep the others from ever being complete."""
MAX_MISSING = 200_000
"""Records fetched for one shard from one holder in one round."""
BY_RANGES = 256
"""With so many records of a shard here, what is missing is found by ranges, with fewer from a list of all."""

log = logging.getLogger(f"roseforest.{__name__}")


class CatchUp:
    """Keeps `complete`, the shards of which this node holds everything its fellow holders hold."""

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        comparisons: Comparisons,
        store: HeldStore,
        tree: ShardTree,
        replication: int,
        rng: random.Random,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._comparisons = comparisons
        self._store = store
        self._tree = tree
        self._replication = replication
        self._rng = rng
        self._complete: set[Prefix] = set()
        self._alone: set[Prefix] = set()
        self._taken: dict[tuple[AgentId, Prefix], tuple[int, bytes]] = {}
        self._dropped: set[Prefix] = set()
        self._turns = {shard: trio.Lock() for shard in tree.leaves}
        self._liars: set[AgentId] = set()
        self._failures: dict[AgentId, int] = {}
        self._stored = trio.Event()
        self.fetched = 0
        """Records fetched so far."""

    def is_complete(self, shard: Prefix) -> bool:
        """Whether a query for `shard` gets everything from this node.

        What is complete only for want of anybody to compare with is not, once somebody is there: a founder
        that returns has to hear first what it missed.
        """
        return shard in self._complete and not (shard in self._alone and self._kademlia.storing_nodes() > 1)

    @property
    def shards_held(self) -> int:
        """How many shards this node is a complete holder of."""
        return len(self._complete)

    async def run(self) -> None:
        """Catch up at every change of membership and once a minute, for ever."""
        pause = INTERVAL_FIRST_S
        while True:
            seen = self._kademlia.version
            self._stored = trio.Event()
            await self.round()
            self._stand_back()
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + pause * self._rng.uniform(0.8, 1.2)
                nursery.start_soon(self._wait_for_quiet, nursery.cancel_scope)
                await self._kademlia.wait_changed(seen)
                self._stand_back()
                await trio.sleep(SETTLE_S)
                nursery.cancel_scope.cancel()
            pause = INTERVAL_FIRST_S if self._kademlia.version != seen else min(2 * pause, INTERVAL_S)

    def _stand_back(self) -> None:
        """Shards to which R others are known to be nearer are not ours now: what comes goes to those.

        A node that took others for dead, and was the slow one itself, took their shards over.
        """
        me = self._kademlia.self_contact().position
        others = [
            contact.position
            for contact in self._kademlia.contacts()
            if contact.stores and not self._kademlia.is_suspect(contact.agent)
        ]
        for shard in sorted(self._complete):
            basis = shard.basis()
            mine = distance(me, basis)
            if sum(distance(other, basis) < mine for other in others) >= self._replication:
                self._complete.discard(shard)

    def dropped(self, basis: bytes) -> None:
        """What lies at a basis was given up: if that is a shard, nothing is complete about it any more.

        Nor is it after a round that began before.
        """
        gone = {shard for shard in self._tree.leaves if shard.basis() == basis}
        self._complete -= gone
        self._dropped |= gone

    def regained(self, bases: set[bytes] | None) -> None:
        """There is room again for what was refused at these bases, None: at all; it is fetched now."""
        for shard in self._tree.leaves:
            if bases is None or shard.basis() in bases:
                self._complete.discard(shard)
                self._dropped.add(shard)
        self._stored.set()

    def note_stored(self) -> None:
        """Records have been stored here; what came may have had companions that went elsewhere."""
        self._stored.set()

    async def _wait_for_quiet(self, scope: trio.CancelScope) -> None:
        await self._stored.wait()
        while self._stored.is_set():
            self._stored = trio.Event()
            with trio.move_on_after(QUIET_S):
                await self._stored.wait()
        scope.cancel()

    async def round(self) -> None:
        """Compare all shards that this node should hold with their other holders."""
        self._dropped = set()
        others: dict[AgentId, list[Prefix]] = {}
        mine: dict[Prefix, list[AgentId]] = {}
        for shard in self._tree.leaves:
            near = [
                contact.agent
                for contact in await self._kademlia.holders(shard.basis(), self._replication + FORMER_HOLDERS)
            ]
            if self._kademlia.agent in near[: self._replication]:
                mine[shard] = [agent for agent in near if agent != self._kademlia.agent]
                for agent in mine[shard]:
                    others.setdefault(agent, []).append(shard)
        # What was complete only because nobody else held it has to be compared once somebody does.
        self._complete -= {shard for shard in self._alone if mine.get(shard)}
        self._complete &= mine.keys()
        self._alone = {shard for shard, agents in mine.items() if not agents}
        pairs = {(agent, shard) for agent, shards in others.items() for shard in shards}
        self._taken = {pair: digest for pair, digest in self._taken.items() if pair in pairs}
        agreed: dict[AgentId, set[Prefix]] = {agent: set() for agent in others}
        self._liars = set()
        self._failures = {agent: rounds for agent, rounds in self._failures.items() if agent in others}
        async with trio.open_nursery() as nursery:
            for agent in sorted(others):
                nursery.start_soon(self._with, agent, others[agent], agreed[agent])
        for shard, agents in mine.items():
            # Every fellow holder counts, for each may be the one that has what the others lack. Who fails to
            # answer is suspected, and mostly no fellow holder in the next round; who lies, or has failed for
            # `PATIENCE` rounds, does not count in this.
            fellows = [
                agent
                for agent in agents[: max(1, self._replication - 1)]
                if agent not in self._liars and self._failures.get(agent, 0) < PATIENCE
            ]
            if (
                shard not in self._dropped
                and (fellows or not agents)
                and all(shard in agreed[agent] for agent in fellows)
            ):
                self._complete.add(shard)

    async def _with(self, agent: AgentId, shards: Sequence[Prefix], agreed: set[Prefix]) -> None:
        try:
            for start in range(0, len(shards), MAX_DIGESTS):
                part = shards[start : start + MAX_DIGESTS]
                digests = await self._records.digests(agent, [shard.basis() for shard in part])
                for shard, theirs in zip(part, digests, strict=True):
                    # One at a time: what this fellow holder brings need not come from the next.
                    async with self._turns[shard]:
                        await self._compare(agent, shard, theirs)
                    agreed.add(shard)
            self._failures.pop(agent, None)
        except NetworkError as error:
            log.info("catching up with %s stopped: %s", agent.hex()[:8], error)
            self._failures[agent] = self._failures.get(agent, 0) + 1
            if isinstance(error, FrameError):
                self._liars.add(agent)
                self._kademlia.report(agent)

    async def _compare(self, agent: AgentId, shard: Prefix, theirs: tuple[int, bytes]) -> None:
        # Who holds less than we do stays different: what was taken over is not listed again.
        known = theirs in (self._taken.get((agent, shard)), self._store.digest_of(shard.basis()))
        if theirs[0] and not known and await self._fetch_missing(agent, shard):
            self._taken[agent, shard] = theirs

    async def _fetch_missing(self, agent: AgentId, shard: Prefix) -> bool:
        """Fetch what `agent` has of a shard and we lack; whether all of it could be kept."""
        basis = shard.basis()
        if len(self._store.cids_at(basis, None, BY_RANGES)) == BY_RANGES and self._comparisons.knows(agent):
            found = await self._comparisons.compare(agent, [bounds_of(basis)], _rest)
            if found is not None and not found.unknown:
                mask = mask_of(basis)
                return await self._fetch(agent, shard, [cid_of(one, mask) for _, one in found.need])
        after: Cid | None = None
        budget = MAX_MISSING
        whole = True
        while budget > 0:
            theirs = await self._records.cids(agent, basis, after)
            if not theirs:
                return whole
            mine = set(self._store.cids_at(basis, after, len(theirs) + MAX_MISSING))
            missing = [cid for cid in theirs if cid not in mine]
            budget -= len(missing)
            whole &= await self._fetch(agent, shard, missing)
            after = theirs[-1]
        raise FrameError(f"{agent.hex()[:8]} offers more than {MAX_MISSING} records of shard {shard.text()}")

    async def _fetch(self, agent: AgentId, shard: Prefix, missing: list[Cid]) -> bool:
        whole = True
        while missing:
            started = trio.current_time()
            wanted = set(missing[:MAX_FETCH])
            bundle = await self._records.fetch(agent, missing[:MAX_FETCH])
            items = tuple(
                Item(item.record, int(Role.SHARD), (shard.basis(),))
                for item in bundle.items
                if isinstance(item, Item) and item.record.cid in wanted
            )
            if not items:
                raise FrameError(f"{agent.hex()[:8]} lists records that it does not serve")
            judged = await self._records.admit(Bundle(bundle.openings, bundle.headers, items), sender=agent)
            refused = sum(1 for one in judged if one.rule)
            if refused:
                self._kademlia.report(agent)
            kept = sum(1 for one in judged if one.held is not None)
            self.fetched += kept
            whole &= kept == len(items)
            served = {item.record.cid for item in items}
            missing = [cid for cid in missing if cid not in served]
            await trio.sleep(min(trio.current_time() - started, MAX_PAUSE_S))
        return whole


async def _rest(began: float, _size: int) -> None:
    await trio.sleep(min(trio.current_time() - began, MAX_PAUSE_S))
