"""Catching up: a holder makes sure that it has what the other holders of its shards have.

A node that joins, returns, or becomes one of a shard's R holders because another left, compares the shard's
digest (count and sum of record digests) with each other holder, and with the nodes next to them, which may
have held it before, finds out by ranges what it lacks (`dht.repair.comparison`), and fetches that. Until then
it answers queries for the shard as incomplete, and askers go on to another holder. With each of them it is
repeated soon after, where anything lies, and then every minute, which bounds how long a record that was
published around a change of membership can be missing from a replica. A change costs only the shards whose
holders it changed, there only who is new, and a lost message only what it was about: every pair of a node and
a shard has its own next time. Records fetched are judged like any other.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import trio

from chain.cid import Cid
from chain.identity import AgentId
from dht.errors import FrameError, NetworkError, RequestTimeout
from dht.negentropy.reconciliation import bounds_of, cid_of, mask_of
from dht.overlay.distance import distance
from dht.overlay.kademlia import Kademlia
from dht.records.bundle import Bundle, Item
from dht.records.layouts import Layouts
from dht.records.methods import MAX_DIGESTS, MAX_FETCH, RecordService, size_of
from dht.records.placement import Role
from dht.records.record_store import Digest, HeldStore
from dht.repair.circuit import decorrelated
from dht.repair.comparison import Comparisons
from dht.repair.transfers import Transfers
from sharding.tree import Prefix, shard_at

INTERVAL_S = 60.0
INTERVAL_FIRST_S = 5.0
"""After a change of membership the comparison is repeated this soon, then after twice as long each time:
who publishes may learn of the change a little later than who holds. So is one that failed."""
AGAIN_MOST_S = 40.0
"""The longest pause after one that failed."""
INTERVAL_FORMER_S = 300.0
"""The longest pause to those beyond the R holders, after `INTERVAL_S`: what they are given they push."""
TOGETHER = 0.25
"""What is due within such a share of its pause is asked about now, so that one request serves many shards."""
QUIET_S = 2.0
"""When records have been stored here, shards are compared once this long nothing more has come."""
SETTLE_S = 0.2
"""Changes of membership come in bursts; wait this long for the burst to end."""
SETTLE_MOST_S = 2.0
"""And up to so long when more than `QUICK` follow each other within `CALM_S`: when half a network is cut off,
one peer after the other is found to be gone."""
CALM_S = 5.0
QUICK = 3
FORMER_HOLDERS = 5
"""Nodes beyond the R holders with whom a shard is compared: when several join at once, those who held it
before are pushed out of the R nearest, and the new ones would agree among themselves that it is empty."""
PATIENCE = 3
"""A fellow holder with whom no comparison succeeded for so many rounds is not waited for any more: one that
refuses to compare, or answers everything but that, must not keep the others from ever being complete."""
WAIT_MOST_S = 10.0
"""Seconds for which one other holder may keep this node waiting in a round, and further ones for each shard
and record that it brings: one that trickles does not keep a round from ending. Less after a failure."""
WAIT_SHARD_S = 1.0
WAIT_RECORD_S = 0.1
MAX_MISSING = 200_000
"""Records fetched for one shard from one holder in one round."""
BY_RANGES = 256
"""With so many records of a shard here, what is missing is found by ranges, with fewer from a list of all."""
EVERYTHING = float("inf")

log = logging.getLogger(f"roseforest.{__name__}")


def settle_s(hasty: int) -> float:
    """How long to wait for a burst of changes to end, after so many of them in a row came fast."""
    doubled = min(max(0, hasty - QUICK), 8)  # a network under churn has thousands in a row
    return min(SETTLE_S * 2.0**doubled, SETTLE_MOST_S)


@dataclass(slots=True)
class _Pair:
    """What this node knows of one shard at one other node."""

    due: float
    pause: float = INTERVAL_FIRST_S
    agreed: bool = False
    """All that the other had when it was asked last is here, or is known to be worth nothing."""
    taken: Digest | None = None
    """What the other said when everything that it has and we lacked was taken over."""


@dataclass(slots=True)
class _Patience:
    """For how long one holder may keep this node waiting yet, in seconds."""

    left: float

    def spend(self, seconds: float) -> None:
        """It was waited for so long; raises `RequestTimeout` when that is too much."""
        self.left -= seconds
        if self.left < 0:
            raise RequestTimeout("it brings too little for the time that it takes")


class CatchUp:
    """Keeps `complete`, the shards of which this node holds everything its fellow holders hold."""

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        transfers: Transfers,
        comparisons: Comparisons,
        store: HeldStore,
        layouts: Layouts,
        replication: int,
        rng: random.Random,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._transfers = transfers
        self._comparisons = comparisons
        self._store = store
        self._layouts = layouts
        self._replication = replication
        self._rng = rng
        self._complete: set[Prefix] = set()
        self._alone: set[Prefix] = set()
        self._mine: dict[Prefix, list[AgentId]] = {}
        """The shards that this node should hold, and the others near them, nearest first."""
        self._pairs: dict[tuple[AgentId, Prefix], _Pair] = {}
        self._placed = (-1, -1)
        self._placed_at = -EVERYTHING
        self._touched: set[bytes] = set()
        self._turns: defaultdict[Prefix, trio.Lock] = defaultdict(trio.Lock)
        self._liars: set[AgentId] = set()
        self._failures: dict[AgentId, int] = {}
        self._pauses_s: dict[AgentId, float] = {}
        """The pause after the last failure with each."""
        self._stored = trio.Event()
        self.fetched = 0
        """Records fetched so far."""

    def is_complete(self, shard: Prefix) -> bool:
        """Whether a query for `shard` gets everything from this node.

        What is complete only for want of anybody to compare with is not, once somebody is there: a founder
        that returns has to hear first what it missed.
        """
        return shard in self._complete and not (shard in self._alone and self._kademlia.storing_nodes() > 1)

    async def copy(self, agent: AgentId, shard: Prefix, taken: Digest | None) -> Digest | None:
        """Take over what another node has of any shard; what it has, if all of that is here now.

        `taken`: what it had when that was so before. Raises `NetworkError`.
        """
        with self._transfers.asking(agent):
            (theirs,) = await self._records.digests(agent, [shard.basis()])
        pair = _Pair(0.0, taken=taken)
        async with self._turns[shard]:
            await self._compare(agent, shard, pair, theirs, _Patience(WAIT_MOST_S))
        if theirs[0] and theirs not in (pair.taken, self._store.digest_of(shard.basis())):
            return None
        return theirs

    @property
    def shards_held(self) -> int:
        """How many of the network's shards this node is a complete holder of."""
        tree = self._layouts.current.tree
        return sum(shard in tree for shard in self._complete)

    async def run(self) -> None:
        """Catch up at every change of membership and once a minute, for ever."""
        hasty = 0
        while True:
            seen, began = self._kademlia.placement, trio.current_time()
            layouts = self._layouts.version
            self._stored = trio.Event()
            await self.round(trio.current_time())
            self._stand_back()
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = self._next_due()
                nursery.start_soon(self._wait_for_quiet, nursery.cancel_scope)
                nursery.start_soon(self._wait_for_layout, layouts, nursery.cancel_scope)
                await self._kademlia.wait_moved(seen)
                self._stand_back()
                hasty = hasty + 1 if trio.current_time() < began + CALM_S else 0
                await trio.sleep(settle_s(hasty))
                nursery.cancel_scope.cancel()

    def _next_due(self) -> float:
        """When a pair is due, or where everybody lies has to be looked up again."""
        return min(self._placed_at + INTERVAL_S, *(pair.due for pair in self._pairs.values()), EVERYTHING)

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
        self._forget([shard for shard in self._mine if shard.basis() == basis])

    def regained(self, bases: set[bytes] | None) -> None:
        """There is room again for what was refused at these bases, None: at all; it is fetched now."""
        self._forget([shard for shard in self._mine if bases is None or shard.basis() in bases])
        self._stored.set()

    def note_stored(self, bases: Iterable[bytes]) -> None:
        """Records have been stored here at these bases; what came may have had companions that went
        elsewhere."""
        touched = {basis for basis in bases if shard_at(basis) is not None}
        if touched:
            self._touched |= touched
            self._stored.set()

    def _forget(self, shards: Collection[Prefix]) -> None:
        """Nothing is known of these any more: all pairs are new, also to a comparison under way."""
        self._complete.difference_update(shards)
        now = trio.current_time()
        for pair in [pair for pair in self._pairs if pair[1] in shards]:
            self._pairs[pair] = _Pair(now)

    async def _wait_for_layout(self, seen: int, scope: trio.CancelScope) -> None:
        await self._layouts.wait_changed(seen)
        scope.cancel()

    async def _wait_for_quiet(self, scope: trio.CancelScope) -> None:
        await self._stored.wait()
        while self._stored.is_set():
            self._stored = trio.Event()
            with trio.move_on_after(QUIET_S):
                await self._stored.wait()
        scope.cancel()

    async def round(self, until: float = EVERYTHING) -> None:
        """Compare what is due by then of the shards that this node should hold with their other holders."""
        await self._place()
        self._hurry()
        now = trio.current_time()
        due: dict[AgentId, list[Prefix]] = {}
        if any(pair.due <= until for pair in self._pairs.values()):
            for (agent, shard), pair in self._pairs.items():
                if pair.due <= until + TOGETHER * pair.pause:
                    due.setdefault(agent, []).append(shard)
        later = self._rng.uniform(0.8, 1.2)
        async with trio.open_nursery() as nursery:
            for agent in sorted(due):
                pairs = [(shard, self._pairs[agent, shard]) for shard in due[agent]]
                for shard, pair in pairs:
                    least, most = self._pauses(agent, shard)
                    pause = max(least, pair.pause)
                    pair.due, pair.pause = now + pause * later, min(2 * pause, most)
                nursery.start_soon(self._with, agent, pairs)
        for shard, agents in self._mine.items():
            # Every fellow holder counts, for each may be the one that has what the others lack. Who fails to
            # answer is suspected, and mostly no fellow holder in the next round; who lies, or has failed for
            # `PATIENCE` rounds, does not count in this.
            fellows = [
                agent
                for agent in self._fellows(shard)
                if agent not in self._liars and self._failures.get(agent, 0) < PATIENCE
            ]
            if (fellows or not agents) and all(self._pairs[agent, shard].agreed for agent in fellows):
                self._complete.add(shard)

    def _pauses(self, agent: AgentId, shard: Prefix) -> tuple[float, float]:
        """The shortest and the longest pause between two comparisons of a shard with another node."""
        if agent not in self._fellows(shard):
            return INTERVAL_S, INTERVAL_FORMER_S
        # where nothing lies nobody has published lately, and when somebody does, that is a reason by itself
        return (INTERVAL_FIRST_S if self._holds_any(shard) else INTERVAL_S), INTERVAL_S

    def _holds_any(self, shard: Prefix) -> bool:
        return bool(self._store.cids_at(shard.basis(), None, 1))

    def _fellows(self, shard: Prefix) -> list[AgentId]:
        return self._mine[shard][: max(1, self._replication - 1)]

    async def _place(self) -> None:
        """Find out which shards are ours and who else is near them, if that may have changed."""
        placement, now = (self._kademlia.placement, self._layouts.version), trio.current_time()
        if placement == self._placed and now < self._placed_at + INTERVAL_S:
            return
        mine: dict[Prefix, list[AgentId]] = {}
        shards = self._layouts.shards()
        for shard in shards:
            basis = shard.basis()
            if self._kademlia.crowded_out(basis, self._replication):
                continue  # most of them: it takes no lookup to see that
            near = [
                contact.agent
                for contact in await self._kademlia.holders(
                    basis, self._replication + FORMER_HOLDERS, steady=self._replication
                )
            ]
            if self._kademlia.agent in near[: self._replication]:
                mine[shard] = [agent for agent in near if agent != self._kademlia.agent]
        before = {shard: self._fellows(shard) for shard in self._mine}
        self._mine, self._placed, self._placed_at = mine, placement, now
        # What was complete only because nobody else held it has to be compared once somebody does.
        self._complete -= {shard for shard in self._alone if mine.get(shard)}
        self._complete &= mine.keys()
        self._alone = {shard for shard, agents in mine.items() if not agents}
        known, self._pairs = self._pairs, {}
        self._turns = defaultdict(trio.Lock, {one: self._turns[one] for one in shards if one in self._turns})
        for shard, agents in mine.items():
            fellows, former = self._fellows(shard), before.get(shard, [])
            for agent in agents:
                pair = known.get((agent, shard))
                if pair is None:
                    # who comes, and is no holder, brings what it has by itself: this is in case it does not
                    needless = agent not in fellows and shard in self._complete
                    pair = _Pair(now + INTERVAL_S * self._rng.uniform(0.5, 1.5) if needless else now)
                self._pairs[agent, shard] = pair
            if fellows == former:
                continue
            soon = now + INTERVAL_FIRST_S if former and self._holds_any(shard) else EVERYTHING
            for agent in fellows:
                pair = self._pairs[agent, shard]
                pair.due = min(pair.due, soon if agent in former else now)
                pair.pause = INTERVAL_FIRST_S
        there = {agent for agents in mine.values() for agent in agents}
        self._failures = {agent: rounds for agent, rounds in self._failures.items() if agent in there}
        self._pauses_s = {agent: pause_s for agent, pause_s in self._pauses_s.items() if agent in there}
        self._liars &= there

    def _hurry(self) -> None:
        """Shards in which records were stored since the last round are due with their holders."""
        touched, self._touched = self._touched, set()
        if not touched:
            return
        now = trio.current_time()
        for shard in self._mine:
            if shard.basis() in touched:
                for agent in self._fellows(shard):
                    self._pairs[agent, shard].due = now

    async def _with(self, agent: AgentId, pairs: Sequence[tuple[Prefix, _Pair]]) -> None:
        self._liars.discard(agent)
        patience = _Patience(WAIT_MOST_S / (1 + self._failures.get(agent, 0)))
        done = 0
        try:
            for start in range(0, len(pairs), MAX_DIGESTS):
                part = pairs[start : start + MAX_DIGESTS]
                with self._transfers.asking(agent):
                    digests = await self._records.digests(agent, [shard.basis() for shard, _ in part])
                for (shard, pair), theirs in zip(part, digests, strict=True):
                    # One at a time: what this fellow holder brings need not come from the next.
                    async with self._turns[shard]:
                        patience.left += WAIT_SHARD_S
                        await self._compare(agent, shard, pair, theirs, patience)
                    pair.agreed = True
                    done += 1
            self._failures.pop(agent, None)
            self._pauses_s.pop(agent, None)
        except NetworkError as error:
            log.info("catching up with %s stopped: %s", agent.hex()[:8], error)
            self._failures[agent] = self._failures.get(agent, 0) + 1
            last_s, draw = self._pauses_s.get(agent, 0.0), self._rng.random()
            again = decorrelated(last_s, draw, INTERVAL_FIRST_S, AGAIN_MOST_S)
            self._pauses_s[agent] = again
            for _, pair in pairs[done:]:
                pair.due = min(pair.due, trio.current_time() + again)
            if isinstance(error, FrameError):
                self._liars.add(agent)
                self._kademlia.report(agent)

    async def _compare(
        self, agent: AgentId, shard: Prefix, pair: _Pair, theirs: Digest, patience: _Patience
    ) -> None:
        # Who holds less than we do stays different: what was taken over is not listed again.
        if not theirs[0] or theirs in (pair.taken, self._store.digest_of(shard.basis())):
            return
        if await self._fetch_missing(agent, shard, patience):
            pair.taken = theirs

    async def _fetch_missing(self, agent: AgentId, shard: Prefix, patience: _Patience) -> bool:
        """Fetch what `agent` has of a shard and we lack; whether all of it could be kept."""
        basis = shard.basis()
        if len(self._store.cids_at(basis, None, BY_RANGES)) == BY_RANGES and self._comparisons.knows(agent):
            found = await self._comparisons.compare(agent, [bounds_of(basis)])
            if found is not None and not found.unknown:
                mask = mask_of(basis)
                missing = [cid_of(one, mask) for _, one in found.need]
                return await self._fetch(agent, shard, missing, patience)
        after: Cid | None = None
        budget = MAX_MISSING
        whole = True
        while budget > 0:
            started = trio.current_time()
            with self._transfers.asking(agent):
                theirs = await self._records.cids(agent, basis, after)
            patience.spend(trio.current_time() - started)
            if not theirs:
                return whole
            mine = set(self._store.cids_at(basis, after, len(theirs) + MAX_MISSING))
            missing = [cid for cid in theirs if cid not in mine]
            budget -= len(missing)
            whole &= await self._fetch(agent, shard, missing, patience)
            after = theirs[-1]
        raise FrameError(f"{agent.hex()[:8]} offers more than {MAX_MISSING} records of shard {shard.text()}")

    async def _fetch(self, agent: AgentId, shard: Prefix, missing: list[Cid], patience: _Patience) -> bool:
        whole = True
        while missing:
            started = trio.current_time()
            wanted = set(missing[:MAX_FETCH])
            with self._transfers.asking(agent):
                bundle = await self._records.fetch(agent, missing[:MAX_FETCH])
            waited = trio.current_time() - started
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
            patience.spend(waited - WAIT_RECORD_S * kept)
            whole &= kept == len(items)
            served = {item.record.cid for item in items}
            missing = [cid for cid in missing if cid not in served]
            await self._transfers.rest(started, sum(size_of(item.record) for item in items))
        return whole
