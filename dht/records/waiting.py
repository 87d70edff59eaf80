"""Waiting records: what cannot be judged yet, or comes from the future, in bounded memory.

A *pending* record names records, an opening or an epoch that are not here. It waits until they arrive, and
meanwhile may be fetched for a few times; after `patience_s` it is dropped and counted. A *parked* record is
valid, but its clock runs ahead; it waits until its time has come, a day at most. Neither is acknowledged or
held: this is memory, lost with the process, and whoever sent the record sends it again.

Who writes much must not push out who writes little: each author has a share, and when all room is taken one
of the authors that wait with most (by powers of two of their bytes) gives up what came last. As an author may
be a key that nobody paid for, who brings much must not push out who brings little either: each sender has a
share, the one with most gives way, and what records need is asked for by turns of their senders. Nothing goes
silently, every end of a wait is counted by its reason. Sans-IO: told what happened with the time it happened
at; monotonic seconds, and µs since 1970 for what parks.

Promises, for any order of events: no bound is exceeded; a record all of whose needs have arrived is handed
out to be judged, whatever the time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from dht.records.bundle import Item, Opening
from validation.rules import MAX_AHEAD_US
from validation.verdict import Pending

Need: TypeAlias = bytes
"""The CID of a record or an epoch, or `opening_need` of an author."""

ITEM_COST = 512
"""Bytes that a waiting record takes beside its own, rounded up."""
NEED_COST = 160


@dataclass(frozen=True, slots=True)
class WaitingLimits:
    """How much may wait, in bytes where not said otherwise, and for how long."""

    records: int = 4096
    """Records of all authors."""
    bytes: int = 32 << 20
    author_records: int = 256
    """Pending records of one author."""
    author_bytes: int = 4 << 20
    """Of one author, pending and parked: one record of any size fits, with all the headers that it names."""
    author_parked: int = 16
    """Parked records of one author."""
    sender_records: int = 1024
    """Records that one agent has brought last, pending and parked."""
    patience_s: float = 600.0
    """A record is pending at most so long."""
    parked_s: float = 24 * 3600.0
    """And parked at most so long."""
    fetches: int = 5
    """Times that what one record needs is asked for."""
    fetch_first_s: float = 1.0
    """Wait before the first of these; each further one waits three times as long."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One record that waits, with what came along to judge it by.

    `sender` brought it last. `since`: when it first waited; `tries`: how often its needs were asked for.
    """

    item: Item
    opening: Opening | None
    headers: tuple[Record, ...]
    sender: AgentId
    since: float
    tries: int = 0

    @property
    def author(self) -> AgentId:
        """Whose record it is."""
        return self.item.record.header.author

    @property
    def whole(self) -> bool:
        """Whether the payload came along."""
        return self.item.record.payload is not None

    @property
    def size(self) -> int:
        """Bytes that it takes up, needs aside."""
        parts = (self.item.record, *(self.opening or ()), *self.headers)
        return ITEM_COST + 32 * len(self.item.shards) + sum(map(_bytes, parts))


@dataclass(slots=True)
class _Entry:
    waiting: Waiting
    needs: set[Need]
    size: int
    until: float
    parked: bool
    fetch_at: float
    ready: bool = False


@dataclass(slots=True)
class _Share:
    """What of one author waits; `cids` in the order in which they came."""

    cids: dict[Cid, None] = field(default_factory=dict)
    parked: int = 0
    bytes: int = 0


@dataclass(slots=True)
class WaitingCounts:
    """What became of records that waited, since the start; `reasons` of those dropped."""

    waited: int = 0
    judged: int = 0
    fetched: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


EXPIRED = "pending-expired"
PARKED_EXPIRED = "parked-expired"
NO_ROOM = "no-room-to-wait"
AUTHORS_SHARE = "author-waits-too-much"
SENDERS_SHARE = "sender-brings-too-much"


class WaitingRoom:
    """The records that wait."""

    def __init__(self, limits: WaitingLimits | None = None) -> None:
        self._limits = limits or WaitingLimits()
        self._entries: dict[Cid, _Entry] = {}
        self._by_need: dict[Need, set[Cid]] = {}
        self._shares: dict[AgentId, _Share] = {}
        self._by_weight: dict[int, dict[AgentId, None]] = {}
        """Authors by the bit length of their bytes: one of the heaviest is found at once."""
        self._ready: dict[Cid, None] = {}
        self._ends: list[tuple[float, Cid]] = []
        self._fetch_times: dict[AgentId, list[tuple[float, Cid]]] = {}
        """By sender; who was served last stands last."""
        self._fetches = 0
        """How many they are together."""
        self._brought: dict[AgentId, dict[Cid, None]] = {}
        """By sender, in the order in which they came."""
        self._bytes = 0
        self.counts = WaitingCounts()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes

    @property
    def pending(self) -> int:
        """Records that wait for others."""
        return len(self._entries) - self.parked

    @property
    def parked(self) -> int:
        """Records that wait for their time."""
        return sum(share.parked for share in self._shares.values())

    # -- what comes --

    def wait(self, waiting: Waiting, verdict: Pending, now: float) -> bool:
        """A record was found pending; whether it waits. `since` in it decides how long. O(log n)."""
        needs = set(verdict.missing)
        if verdict.opening_of is not None:
            needs.add(opening_need(verdict.opening_of))
        return self._put(waiting, needs, False, now)

    def park(self, waiting: Waiting, now: float) -> bool:
        """A record was found to come from the future; whether it waits."""
        return self._put(waiting, set(), True, now)

    def arrived(self, needs: Iterable[Need]) -> None:
        """These are here now: what needs nothing more is ready. O(records that needed them)."""
        for need in needs:
            for cid in sorted(self._by_need.pop(need, ())):
                entry = self._entries[cid]
                entry.needs.discard(need)
                if not entry.needs and not entry.parked:
                    self._make_ready(cid, entry)

    def wants(self, need: Need) -> bool:
        """Whether anything waits for this."""
        return need in self._by_need

    # -- what goes --

    def pass_time(self, now: float, wall_us: int) -> None:
        """What parked and whose time has come is ready; who waited too long goes, unless it is ready.

        O(parked) and O(log n) for each that goes.
        """
        if any(share.parked for share in self._shares.values()):
            for cid, entry in self._entries.items():
                due = entry.waiting.item.record.header.hlc <= wall_us + MAX_AHEAD_US
                if entry.parked and not entry.ready and due:
                    self._make_ready(cid, entry)
        while self._ends and self._ends[0][0] <= now:
            until, cid = heapq.heappop(self._ends)
            found = self._entries.get(cid)
            if found is not None and found.until == until and not found.ready:
                self._remove(cid)
                self.counts.reasons[PARKED_EXPIRED if found.parked else EXPIRED] += 1

    def take_ready(self, limit: int) -> list[Waiting]:
        """Up to `limit` records that can be judged now, in the order in which they became ready."""
        cids = list(self._ready)[:limit]
        self.counts.judged += len(cids)
        return [self._remove(cid).waiting for cid in cids]

    def fetches(self, now: float, limit: int) -> list[tuple[Waiting, tuple[Need, ...]]]:
        """Up to `limit` records whose needs are to be asked for now, each with these, ascending.

        Of one sender after the other: a thousand of one keep nobody else's waiting. O(senders and answer).
        """
        due: list[tuple[Waiting, tuple[Need, ...]]] = []
        served = True
        while served:
            served = False
            for sender in list(self._fetch_times):
                if len(due) >= limit:
                    return due
                cid = self._due(sender, now)
                if cid is not None:
                    due.append(self._fetch(cid, now))
                    self._fetch_times[sender] = self._fetch_times.pop(sender)
                    served = True
        return due

    def _due(self, sender: AgentId, now: float) -> Cid | None:
        """The next record of a sender whose needs are to be asked for."""
        times = self._fetch_times[sender]
        while times and times[0][0] <= now:
            at, cid = heapq.heappop(times)
            self._fetches -= 1
            entry = self._entries.get(cid)
            if entry is None or (entry.fetch_at, entry.waiting.sender) != (at, sender):
                continue
            if self._fetchable(entry):
                return cid
        if not times:
            del self._fetch_times[sender]
        return None

    def _fetch(self, cid: Cid, now: float) -> tuple[Waiting, tuple[Need, ...]]:
        entry = self._entries[cid]
        waiting = entry.waiting
        self.counts.fetched += 1
        entry.waiting = replace(waiting, tries=waiting.tries + 1)
        self._schedule(cid, entry, now)
        return waiting, tuple(sorted(entry.needs))

    def _fetchable(self, entry: _Entry) -> bool:
        return not entry.ready and not entry.parked and entry.waiting.tries < self._limits.fetches

    def supplied(self, cid: Cid) -> Waiting | None:
        """Take a record out, for whoever fetched for it to judge with what came; None when it is gone."""
        if cid not in self._entries:
            return None
        self.counts.judged += 1
        return self._remove(cid).waiting

    def next_at(self, now: float, wall_us: int) -> float | None:
        """When `pass_time` or `fetches` has something to do; None: never, as things are. O(parked)."""
        times = [heap[0][0] for heap in (self._ends, *self._fetch_times.values()) if heap]
        if any(share.parked for share in self._shares.values()):
            hlcs = [
                e.waiting.item.record.header.hlc for e in self._entries.values() if e.parked and not e.ready
            ]
            times.extend(now + max(0.0, (hlc - MAX_AHEAD_US - wall_us) / 1_000_000) for hlc in hlcs)
        return min(times, default=None)

    # -- inside --

    def _put(self, waiting: Waiting, needs: set[Need], parked: bool, now: float) -> bool:
        cid, limits = waiting.item.record.cid, self._limits
        known = self._entries.get(cid)
        if known is not None:
            # What comes in other roles is sent again, as nothing here is acknowledged.
            if known.ready or known.waiting.whole or not waiting.whole:
                return True
            waiting = replace(waiting, since=known.waiting.since, tries=known.waiting.tries)
            self._remove(cid)
        until = waiting.since + (limits.parked_s if parked else limits.patience_s)
        if until <= now:
            self.counts.reasons[PARKED_EXPIRED if parked else EXPIRED] += 1
            return False
        entry = _Entry(waiting, needs, waiting.size + NEED_COST * len(needs), until, parked, now)
        if not self._make_room(entry):
            return False
        self.counts.waited += known is None and waiting.since == now
        self._insert(cid, entry, now)
        if not needs and not parked:
            self._make_ready(cid, entry)
        return True

    def _make_room(self, entry: _Entry) -> bool:
        """Whether the entry fits, after those who wait with more than its author gave up what came last."""
        limits, author = self._limits, entry.waiting.author
        share = self._shares.get(author, _Share())
        kind_full = (
            share.parked >= limits.author_parked
            if entry.parked
            else len(share.cids) - share.parked >= limits.author_records
        )
        if kind_full or share.bytes + entry.size > limits.author_bytes:
            self.counts.reasons[AUTHORS_SHARE] += 1
            return False
        mine = len(self._brought.get(entry.waiting.sender, ()))
        if mine >= limits.sender_records:
            self.counts.reasons[SENDERS_SHARE] += 1
            return False
        if entry.size > limits.bytes:
            self.counts.reasons[NO_ROOM] += 1
            return False
        while len(self._entries) >= limits.records or self._bytes + entry.size > limits.bytes:
            heavy = self._shares[next(iter(self._by_weight[max(self._by_weight)]))]
            last = self._last(heavy.cids) if heavy.bytes > share.bytes + entry.size else None
            if last is None:
                busy = max(self._brought.values(), key=len)
                last = self._last(busy) if len(busy) > mine + 1 else None
            if last is None:
                self.counts.reasons[NO_ROOM] += 1
                return False
            self._remove(last)
            self.counts.reasons[NO_ROOM] += 1
        return True

    def _last(self, cids: dict[Cid, None]) -> Cid | None:
        """What came last of these and is not about to be judged."""
        return next((cid for cid in reversed(cids) if not self._entries[cid].ready), None)

    def _insert(self, cid: Cid, entry: _Entry, now: float) -> None:
        self._entries[cid] = entry
        self._bytes += entry.size
        self._brought.setdefault(entry.waiting.sender, {})[cid] = None
        share = self._shares.setdefault(entry.waiting.author, _Share())
        share.cids[cid] = None
        share.parked += entry.parked
        self._weigh(entry.waiting.author, share, entry.size)
        for need in entry.needs:
            self._by_need.setdefault(need, set()).add(cid)
        heapq.heappush(self._ends, (entry.until, cid))
        self._schedule(cid, entry, now)
        self._tidy()

    def _weigh(self, author: AgentId, share: _Share, more: int) -> None:
        before, share.bytes = share.bytes.bit_length(), share.bytes + more
        after = share.bytes.bit_length()
        if before != after:
            if before:
                del self._by_weight[before][author]
                if not self._by_weight[before]:
                    del self._by_weight[before]
            if after:
                self._by_weight.setdefault(after, {})[author] = None

    def _schedule(self, cid: Cid, entry: _Entry, now: float) -> None:
        tries = entry.waiting.tries
        if not entry.parked and tries < self._limits.fetches:
            entry.fetch_at = now + self._limits.fetch_first_s * 3.0**tries
            heapq.heappush(self._fetch_times.setdefault(entry.waiting.sender, []), (entry.fetch_at, cid))
            self._fetches += 1

    def _make_ready(self, cid: Cid, entry: _Entry) -> None:
        entry.ready = True
        self._ready[cid] = None

    def _remove(self, cid: Cid) -> _Entry:
        entry = self._entries.pop(cid)
        self._bytes -= entry.size
        share = self._shares[entry.waiting.author]
        del share.cids[cid]
        share.parked -= entry.parked
        self._weigh(entry.waiting.author, share, -entry.size)
        if not share.cids:
            del self._shares[entry.waiting.author]
        brought = self._brought[entry.waiting.sender]
        del brought[cid]
        if not brought:
            del self._brought[entry.waiting.sender]
        for need in entry.needs:
            waiters = self._by_need.get(need)
            if waiters is not None:
                waiters.discard(cid)
                if not waiters:
                    del self._by_need[need]
        self._ready.pop(cid, None)
        return entry

    def _tidy(self) -> None:
        """Heaps hold what is long gone; keep them within twice what waits."""
        most = 2 * len(self._entries) + 64
        if len(self._ends) > most:
            self._ends = [(entry.until, cid) for cid, entry in self._entries.items() if not entry.ready]
            heapq.heapify(self._ends)
        if self._fetches > most:
            times: dict[AgentId, list[tuple[float, Cid]]] = {sender: [] for sender in self._fetch_times}
            for cid, entry in self._entries.items():
                if self._fetchable(entry):
                    times.setdefault(entry.waiting.sender, []).append((entry.fetch_at, cid))
            self._fetch_times = {sender: heap for sender, heap in times.items() if heap}
            for heap in self._fetch_times.values():
                heapq.heapify(heap)
            self._fetches = sum(map(len, self._fetch_times.values()))


def opening_need(author: AgentId) -> Need:
    """What a record needs whose author's first two records are missing; no CID looks like it."""
    return b"opening of " + author


def _bytes(record: Record) -> int:
    return len(record.header_bytes) + len(record.payload or b"") + len(record.signature)
