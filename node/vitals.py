"""Vitals: how this node is doing, by its own measure: what it tells its peers, `status` and `/metrics`.

Processors and memory come from the machine (`machine`; nothing in simulations), the rest from the searches
that it serves: how many, how long each takes, how many fail, and how many go to each shard that lies here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from dht.overlay.health import MAX_HOT, MOST, Health, clipped
from dht.ports import Clock
from sharding.load import Pulse, Smoothed, saved_by_copy, wants_copy
from sharding.tree import Prefix

MAX_SHARDS = 4096
"""Shards of which the load is kept; one more forgets the one that was not asked for longest."""

HOT_S = 5.0
"""From one look for shards that are asked for too much to the next."""
RECORD_BYTES = 1_000
"""What a record takes, about, on its way to another node."""

Usage = Callable[[], tuple[float, float]]
"""Shares of the machine's processors and memory in use, each from 0 to 1."""


def machine() -> Usage:
    """Of the machine that this process runs on; processors since the last call."""
    import psutil

    psutil.cpu_percent()  # the first call measures from here

    def usage() -> tuple[float, float]:
        return psutil.cpu_percent() / 100, psutil.virtual_memory().percent / 100

    return usage


class Vitals:
    """Counts what is served. `records`: how many are held for others."""

    def __init__(self, clock: Clock, usage: Usage, records: Callable[[], int]) -> None:
        self._clock = clock
        self._usage = usage
        self._records = records
        self._all = Pulse()
        self._seconds = Smoothed()
        self._errors = Smoothed()
        self._shards: OrderedDict[Prefix, Pulse] = OrderedDict()
        self._hot: frozenset[Prefix] = frozenset()
        self._looked_at = -HOT_S
        self.copies = 1
        """How many nodes hold each shard."""
        self.is_holder: Callable[[Prefix], bool] = lambda shard: False
        """Whether this node is one of those."""
        self.records_at: Callable[[Prefix], int] = lambda shard: 0

    def served(self, shards: Iterable[Prefix], seconds: float) -> None:
        """A search in these shards, which lie here, was answered after so long."""
        now = self._clock.monotonic()
        self._all.beat(now)
        self._seconds.add(seconds)
        self._errors.add(0.0)
        for shard in shards:
            pulse = self._shards.pop(shard, None) or Pulse()
            pulse.beat(now)
            self._shards[shard] = pulse
        while len(self._shards) > MAX_SHARDS:
            self._shards.popitem(last=False)

    def failed(self) -> None:
        """A search could not be answered."""
        self._all.beat(self._clock.monotonic())
        self._errors.add(1.0)

    def load(self, shard: Prefix) -> float:
        """Searches of a shard a second, served here lately."""
        pulse = self._shards.get(shard)
        return 0.0 if pulse is None else pulse.per_second(self._clock.monotonic())

    def loads(self) -> dict[Prefix, float]:
        """The same of every shard asked for lately."""
        now = self._clock.monotonic()
        return {shard: pulse.per_second(now) for shard, pulse in self._shards.items()}

    def hot(self) -> tuple[Prefix, ...]:
        """The shards held here of which one more copy would be worth what it costs, as far as is told.

        Looked for every `HOT_S`: whoever asks how this node is doing does not make it look.
        """
        now = self._clock.monotonic()
        if now < self._looked_at + HOT_S:
            return tuple(sorted(self._hot))
        self._looked_at = now
        seconds = self._seconds.value or 0.0
        busy = self._all.per_second(now) * seconds
        found: list[tuple[float, Prefix]] = []
        for shard, pulse in self._shards.items():
            rate, has = pulse.per_second(now), shard in self._hot
            at_best = saved_by_copy(rate, seconds, busy, self.copies, 0)
            if not wants_copy(at_best, has) or not self.is_holder(shard):
                continue
            size = RECORD_BYTES * self.records_at(shard)
            saved = saved_by_copy(rate, seconds, busy, self.copies, size)
            if wants_copy(saved, has):
                found.append((-saved, shard))
        self._hot = frozenset(shard for _, shard in sorted(found)[:MAX_HOT])
        return tuple(sorted(self._hot))

    def health(self) -> Health:
        """What to tell others."""
        cpu, memory = self._usage()
        return clipped(
            self.hot(),
            cpu=MOST * cpu,
            memory=MOST * memory,
            errors=MOST * (self._errors.value or 0.0),
            latency_ms=1_000 * (self._seconds.value or 0.0),
            searches=1_000 * self._all.per_second(self._clock.monotonic()),
            records=self._records(),
        )
