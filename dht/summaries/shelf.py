"""What an asker has of others' blocks: by shard, of one kind, within bounds, and never older than it says.

A state machine: it is told what was asked and answered and says what to ask next, and of whom; `now` is an
argument. Of each shard there is one copy, from one holder, with the time at which that holder last said that
it is so. A copy that comes in pages is no copy before its last one; what does not add up to the digest that
its holder gave is dropped. `MAX_ROWS_KEPT` bounds all of it: beyond it the shard that was not wanted for
longest goes. Who was found to lie is not taken at its word for `DISTRUST_S`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from chain.identity import AgentId
from dht.summaries.block import MAX_ROWS, Block, Kind, SummaryError, Version, check_rows
from dht.summaries.messages import Item, State, Told
from sharding.tree import Prefix

MAX_ROWS_KEPT = 1_000_000
"""Rows kept in all. A block of one shard has at most `dht.summaries.block.MAX_ROWS`."""
STALE_S = 30.0
"""A copy that its holder has not confirmed for so long is not gone by."""
FRESH_S = 5.0
"""One that was confirmed since is not asked about."""
DISTRUST_S = 3_600.0
ABSENT_S = 60.0
"""Who had no block of a shard, or did not answer, is not asked for it for so long, if there are others."""
MAX_REMEMBERED = 65_536
"""Pairs of shard and holder of which that is remembered."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A holder's block, as it said at `confirmed`; `after`: the last key of one that is still coming.

    `complete`: all pages have come. `wanting`: it was seen to lack something, and counts as stale.
    """

    holder: AgentId
    version: Version
    block: Block
    confirmed: float
    complete: bool = True
    after: bytes | None = None
    wanting: bool = False


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    asked: int = 0
    same: int = 0
    deltas: int = 0
    wholes: int = 0
    bytes: int = 0
    dropped: int = 0
    """Blocks that did not add up, or whose holder lied."""
    hits: int = 0
    misses: int = 0
    """Shards that a question wanted to know about, and of which there was, or was not, a block."""


@dataclass(slots=True)
class Shelf:
    """Copies of one kind."""

    kind: Kind
    max_rows: int = MAX_ROWS_KEPT
    counts: Counts = field(default_factory=Counts)
    _copies: OrderedDict[Prefix, Copy] = field(default_factory=OrderedDict)
    _rows: int = 0
    _distrusted: dict[AgentId, float] = field(default_factory=dict)
    _absent: OrderedDict[tuple[Prefix, AgentId], float] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def rows(self) -> int:
        """Rows kept in all."""
        return self._rows

    def copy(self, shard: Prefix) -> Copy | None:
        """The complete copy of a shard, however old."""
        copy = self._copies.get(shard)
        return copy if copy is not None and copy.complete else None

    def holders(self) -> dict[AgentId, list[Prefix]]:
        """The shards whose complete copies are each holder's; O(copies)."""
        found: dict[AgentId, list[Prefix]] = {}
        for shard, copy in self._copies.items():
            if copy.complete:
                found.setdefault(copy.holder, []).append(shard)
        return found

    def blocks(self, shards: Iterable[Prefix], now: float) -> dict[Prefix, Block]:
        """The blocks of those of `shards` that may be gone by now; they are the last to make room."""
        found: dict[Prefix, Block] = {}
        for shard in shards:
            copy = self.copy(shard)
            if copy is None or now - copy.confirmed > STALE_S:
                self.counts.misses += 1
                continue
            self.counts.hits += 1
            self._copies.move_to_end(shard)
            found[shard] = copy.block
        return found

    def due(self, shards: Iterable[Prefix], now: float, age: float = FRESH_S) -> list[Prefix]:
        """Those of `shards` of which there is a copy that nobody has confirmed for `age` seconds."""
        return [
            shard
            for shard in shards
            if (copy := self.copy(shard)) is not None and (copy.wanting or now - copy.confirmed > age)
        ]

    def missing(self, shards: Iterable[Prefix]) -> list[Prefix]:
        """Those of `shards` of which there is no complete copy."""
        return [shard for shard in shards if self.copy(shard) is None]

    def may_ask(self, shard: Prefix, holder: AgentId, now: float) -> bool:
        """Whether `holder` is worth asking about a shard."""
        if now < self._distrusted.get(holder, now):
            return False
        return now >= self._absent.get((shard, holder), now)

    def item(self, shard: Prefix, holder: AgentId) -> Item:
        """What to ask `holder` about a shard."""
        copy = self._copies.get(shard)
        if copy is None or (not copy.complete and copy.holder != holder):
            return Item(shard)
        return Item(shard, copy.version) if copy.complete else Item(shard, None, copy.after)

    def heard(self, shard: Prefix, holder: AgentId, told: Told, now: float) -> bool:
        """`holder` answered `item`; whether there is more to ask it about this shard at once.

        Raises `SummaryError` for what does not go with what it said before; the shard's copy is then gone.
        """
        if told.state is State.LATER:
            return True
        if told.state is State.ABSENT or told.version is None:
            self.failed(shard, holder, now)
            return False
        before = self._copies.get(shard)
        try:
            copy, more = self._applied(before, holder, told, now)
        except SummaryError:
            self.counts.dropped += 1
            self.drop(shard)
            raise
        self._put(shard, copy)
        return more

    def _applied(self, before: Copy | None, holder: AgentId, told: Told, now: float) -> tuple[Copy, bool]:
        version = told.version
        assert version is not None
        if told.state is State.WHOLE:
            self.counts.wholes += 1
            self.counts.bytes += len(told.rows)
            goes_on = before is not None and not before.complete and before.holder == holder
            if before is None or not goes_on or before.version.instance != version.instance:
                block, first = Block.read(self.kind, told.rows), version
            else:
                new = {row[: self.kind.key]: row[self.kind.key :] for row in check_rows(self.kind, told.rows)}
                block, first = before.block.changed((), new), before.version
            if len(block) > MAX_ROWS:
                raise SummaryError(f"a block of more than {MAX_ROWS} rows")
            last = told.rows[-self.kind.row :][: self.kind.key] or None
            if not told.more and first.counter == version.counter and block.digest != version.digest:
                raise SummaryError("a block that does not add up to its digest")
            # What changed while pages came is asked for next, from the count of the first.
            late = first.counter != version.counter
            known = replace(first, digest=block.digest)
            return Copy(holder, known, block, now, not told.more, last, late), told.more or late
        if before is None or not before.complete:
            raise SummaryError("an answer about a block that is not there")
        if told.state is State.SAME:
            self.counts.same += 1
            return replace(before, holder=holder, version=version, confirmed=now, wanting=False), False
        assert told.delta is not None
        self.counts.deltas += 1
        removed, added = told.delta.removed, told.delta.added
        self.counts.bytes += len(removed) * self.kind.key + len(added) * self.kind.row
        block = before.block.changed(removed, added)
        if block.digest != version.digest or len(block) > MAX_ROWS:
            raise SummaryError("a delta that does not lead to its digest")
        return Copy(holder, version, block, now), False

    def failed(self, shard: Prefix, holder: AgentId, now: float) -> None:
        """`holder` has no block of a shard now, or did not answer."""
        self._absent[shard, holder] = now + ABSENT_S
        while len(self._absent) > MAX_REMEMBERED:
            self._absent.popitem(last=False)
        copy = self._copies.get(shard)
        if copy is not None and not copy.complete and copy.holder == holder:
            self.drop(shard)

    def doubt(self, shard: Prefix) -> None:
        """Something lies in a shard that its copy does not show: it is asked about before it counts again."""
        copy = self.copy(shard)
        if copy is not None:
            self._copies[shard] = replace(copy, wanting=True)

    def accuse(self, holder: AgentId, now: float) -> list[Prefix]:
        """`holder` lied: nothing of it stays; the shards of which there is no copy now."""
        self._distrusted = {one: until for one, until in self._distrusted.items() if until > now}
        self._distrusted[holder] = now + DISTRUST_S
        gone = [shard for shard, copy in self._copies.items() if copy.holder == holder]
        for shard in gone:
            self.counts.dropped += 1
            self.drop(shard)
        return gone

    def restore(self, shard: Prefix, copy: Copy) -> None:
        """Keep a former copy rather than the present one."""
        self._put(shard, copy)

    def drop(self, shard: Prefix) -> None:
        """Forget the copy of a shard."""
        copy = self._copies.pop(shard, None)
        if copy is not None:
            self._rows -= len(copy.block)

    def keep_only(self, shards: Collection[Prefix]) -> None:
        """There are no other shards than these any more."""
        for shard in [shard for shard in self._copies if shard not in shards]:
            self.drop(shard)

    def _put(self, shard: Prefix, copy: Copy) -> None:
        self.drop(shard)
        self._copies[shard] = copy
        self._rows += len(copy.block)
        while self._rows > self.max_rows and len(self._copies) > 1:
            self.drop(next(iter(self._copies)))


def cover(wanted: Mapping[Prefix, Sequence[AgentId]]) -> dict[AgentId, list[Prefix]]:
    """Whom to ask for which shards, so that few are asked: greedily whoever can tell most (Chvátal 1979).

    `wanted`: each shard's holders, best first; one without any is left out. Of equals who is named first.
    """
    left = {shard: list(dict.fromkeys(holders)) for shard, holders in wanted.items() if holders}
    asks: dict[AgentId, list[Prefix]] = {}
    while left:
        reach: dict[AgentId, list[Prefix]] = {}
        for shard, holders in left.items():
            for holder in holders:
                reach.setdefault(holder, []).append(shard)
        best = max(reach, key=lambda holder: len(reach[holder]))  # the first of equals
        asks[best] = reach[best]
        for shard in reach[best]:
            del left[shard]
    return asks


def most_from_few(
    holders: Mapping[Prefix, AgentId], urgent: Container[Prefix], most: int
) -> dict[AgentId, list[Prefix]]:
    """Of each shard's holder so many as tell most together, first those who have something `urgent`."""
    asks = cover({shard: [holder] for shard, holder in holders.items()})
    ranked = sorted(
        asks, key=lambda one: (all(shard not in urgent for shard in asks[one]), -len(asks[one]), one)
    )
    return {one: asks[one] for one in ranked[:most]}
