"""Guests: copies beyond the usual ones, of shards that are asked for more than their holders can well answer.

Holders weigh what one more copy of a shard would save against what it costs (`sharding.load.saved_by_copy`)
and say in their heartbeats of which it would be worth it. A node next to the holders that hears so from two
of them keeps a copy for some minutes, and as long as they say so: what one liar says moves nothing, and what
two say costs a bounded number of copies. A guest compares with two of the holders every few seconds, and
answers for the shard only while that is fresh. It is no holder: writes do not count it, it signs nothing, and
who wants all, or the newest, does not ask it. So an answer lacks at most what came within `FRESH_S`, which is
less than what sketches may be behind. What it has copied stays until the room is needed, as with any former
holder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from chain.identity import AgentId
from dht.errors import NetworkError
from dht.overlay.health import HealthBook
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random
from dht.records.layouts import Layouts
from dht.records.record_store import Digest
from dht.repair.catch_up import CatchUp
from sharding.tree import Prefix

LOOK_S = 10.0
"""From one comparison to the next."""
FRESH_S = 25.0
"""So long after one a guest answers."""
KEEP_S = 300.0
"""So long a copy is kept up to date after it was last said to be worth it."""
VOICES = 2
"""Holders that have to say so, and with whom it is compared."""
BESIDE = 2
"""So many nodes beyond the holders may be guests."""
MAX_GUESTS = 16
"""Shards that a node is a guest of."""

log = logging.getLogger(f"roseforest.{__name__}")


class Guests:
    """The shards that this node is a guest of. `may_hold`: whether there is room."""

    def __init__(
        self,
        kademlia: Kademlia,
        catch_up: CatchUp,
        book: HealthBook,
        layouts: Layouts,
        replication: int,
        may_hold: Callable[[Prefix], bool],
        clock: Clock,
        random: Random,
    ) -> None:
        self._kademlia = kademlia
        self._catch_up = catch_up
        self._book = book
        self._layouts = layouts
        self._replication = replication
        self._may_hold = may_hold
        self._clock = clock
        self._rng = random.choice
        self._until: dict[Prefix, float] = {}
        self._fresh_at: dict[Prefix, float] = {}
        self._taken: dict[tuple[AgentId, Prefix], Digest | None] = {}

    def __len__(self) -> int:
        return len(self._until)

    def serves(self, shard: Prefix) -> bool:
        """Whether this node has all of a shard that others hold, but for what came within `FRESH_S`."""
        at = self._fresh_at.get(shard)
        return at is not None and self._clock.monotonic() - at <= FRESH_S and self._may_hold(shard)

    async def helpers(self, shards: Sequence[Prefix]) -> list[AgentId]:
        """Those next to the holders of shards that this node holds: who may become guests."""
        found: list[AgentId] = []
        for shard in shards:
            near = await self._kademlia.holders(shard.basis(), self._replication + BESIDE)
            found += [contact.agent for contact in near[self._replication :]]
        return found

    async def run(self) -> None:
        """Be a guest where that helps, for ever."""
        while True:
            await trio.sleep(LOOK_S * self._rng.uniform(0.8, 1.2))
            await self.look()

    async def look(self) -> None:
        """Hear what is wanted, and bring the copies up to date."""
        now = self._clock.monotonic()
        tree = self._layouts.current.tree
        said = self._book.hot(now)
        for shard in sorted(said):
            if len(said[shard]) < VOICES or shard not in tree:
                continue
            if shard in self._until or len(self._until) < MAX_GUESTS:
                holders = await self._holders_beside(shard)
                if len(said[shard].intersection(holders)) >= VOICES:
                    self._until[shard] = now + KEEP_S
        for shard in [shard for shard, until in self._until.items() if until <= now or shard not in tree]:
            self._leave(shard)
        for shard in sorted(self._until):
            await self._refresh(shard)

    async def _holders_beside(self, shard: Prefix) -> list[AgentId]:
        """The holders of a shard if this node is next to them; none where it is one, or is farther."""
        count = self._replication + BESIDE
        if self._kademlia.crowded_out(shard.basis(), count):
            return []  # most of them, and it takes no lookup to see that
        agents = [contact.agent for contact in await self._kademlia.holders(shard.basis(), count)]
        if self._kademlia.agent not in agents[self._replication :]:
            return []
        return agents[: self._replication]

    async def _refresh(self, shard: Prefix) -> None:
        began = self._clock.monotonic()
        holders = await self._holders_beside(shard)
        if len(holders) < VOICES:
            self._leave(shard)
            return
        for agent in self._rng.sample(holders, VOICES):
            try:
                key = agent, shard
                self._taken[key] = await self._catch_up.copy(agent, shard, self._taken.get(key))
            except NetworkError as error:
                log.info("a copy of shard %s from %s: %s", shard.text(), agent.hex()[:8], error)
                return
            if self._taken[key] is None:
                return
        self._fresh_at[shard] = began

    def _leave(self, shard: Prefix) -> None:
        self._until.pop(shard, None)
        self._fresh_at.pop(shard, None)
        for key in [key for key in self._taken if key[1] == shard]:
            del self._taken[key]
