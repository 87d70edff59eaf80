"""Room: how much of its disk a node gives to the network, and how much of that to any one author.

A holder may refuse what is valid. It is *full* when its store has reached its quota, or its disk is nearly
used up; then it takes no new bases, and its address record says so, but it goes on taking what belongs to a
basis that it holds already, out of a reserve, so that its replicas do not fall behind at once. Beyond the
reserve it refuses everything. No author may take up more than a share of the store: identities are cheap, so
this stops accidents and lazy floods, and makes a determined one pay per identity (docs/security.md). What is
here already, this node's own records and the openings of chains are never refused for an author's sake. A
purge of something that is here is never refused at all: it makes room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chain.identity import AgentId
from chain.kinds import OPENING
from chain.record import Record
from crdt.operations import Purge
from dht.records.record_store import Held, HeldStore
from dht.records.replies import StoreStatus
from validation.named import operation_of

RESERVE_SHARE = 10
"""One part in so many of the quota is kept for bases that are held already."""
AGAIN_SHARE = 20
"""A full store takes new bases again when it is one part in so many below its quota: no flapping."""
MAX_SHORT = 4096
"""Bases remembered for which something was refused; beyond it every basis counts as one of them."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes of disk: of all that is held, and of the headers and payloads of one author. None: no limit."""

    store: int | None = None
    author: int | None = None
    least_free: int = 0
    """Bytes that stay free on the disk."""


NO_QUOTA = Quota()
LOOK_EVERY_S = 30.0
"""So often a node looks at its disk although it holds nothing new: others fill disks, and clear them."""


class Room:
    """Decides what there is room for. `free_bytes` says what is left on the disk.

    `refusals` blocks and is called off the event loop; so does `look`, for the time of one small read.
    """

    def __init__(
        self, own: AgentId, store: HeldStore, quota: Quota, free_bytes: Callable[[], int | None]
    ) -> None:
        self._own = own
        self._store = store
        self._quota = quota
        self._free_bytes = free_bytes
        self._short: set[bytes] = set()
        self._all_short = False
        self.full = False
        """Whether new bases are refused; as of the last look."""
        self.refused_full = 0
        self.refused_quota = 0

    def look(self) -> bool:
        """Look at the disk again; returns whether `full` has changed."""
        was = self.full
        self.full = self._is_full(self._store.used_bytes(), was)
        return self.full != was

    def refusals(self, items: Sequence[Held]) -> list[StoreStatus | None]:
        """For each item why it is refused, or None: then there is room for it and for those before it.

        Bundles that are judged at the same time do not see each other: what is under way can exceed a limit.
        """
        usage = {a: u.bytes for a, u in self._store.usage_of([i.record.header.author for i in items]).items()}
        here = self._store.get_many([item.record.cid for item in items])
        used = self._store.used_bytes()
        outcomes: list[StoreStatus | None] = []
        for item, known in zip(items, here, strict=True):
            cost = _cost(item.record) - (0 if known is None else _cost(known))
            author = item.record.header.author
            status: StoreStatus | None = None
            if self._makes_room(item.record):
                cost = 0
            if cost > 0 and self._is_full(used + cost, self.full) and not self._in_reserve(item, used + cost):
                status = StoreStatus.FULL
                self.refused_full += 1
                self._note_short(item)
            elif cost > 0 and self._over_share(item.record, usage.get(author, 0) + cost):
                status = StoreStatus.QUOTA
                self.refused_quota += 1
            else:
                usage[author] = usage.get(author, 0) + max(0, cost)
                used += max(0, cost)
            outcomes.append(status)
        return outcomes

    def is_short(self, basis: bytes) -> bool:
        """Whether something that belongs to this basis was refused: others may have more."""
        return self._all_short or basis in self._short

    def forget_short(self) -> set[bytes] | None:
        """There is room again: returns the bases that are short, None for maybe all, and forgets them."""
        short = None if self._all_short else self._short
        self._short, self._all_short = set(), False
        return short

    def _is_full(self, used: int, was: bool) -> bool:
        free = self._free_bytes() if self._quota.least_free else None
        if free is not None and free < self._quota.least_free:
            return True
        if self._quota.store is None:
            return False
        return used > self._quota.store - (self._quota.store // AGAIN_SHARE if was else 0)

    def _in_reserve(self, item: Held, used: int) -> bool:
        most = self._quota.store
        free = self._free_bytes() if self._quota.least_free else None
        if most is not None and used > most + most // RESERVE_SHARE:
            return False
        if free is not None and free < self._quota.least_free // 2:
            return False
        return all(self._store.digest_of(basis)[0] > 0 for _, basis in item.bases)

    def _over_share(self, record: Record, taken: int) -> bool:
        most = self._quota.author
        exempt = record.header.author == self._own or record.header.kind in OPENING
        return most is not None and not exempt and taken > most

    def _makes_room(self, record: Record) -> bool:
        said = operation_of(record)
        if not isinstance(said, Purge):
            return False
        found = self._store.get_many(said.records)
        return any(one is not None and one.payload is not None for one in found)

    def _note_short(self, item: Held) -> None:
        self._short.update(basis for _, basis in item.bases)
        if len(self._short) > MAX_SHORT:
            self._short, self._all_short = set(), True


def _cost(record: Record) -> int:
    return len(record.header_bytes) + len(record.payload or b"")
