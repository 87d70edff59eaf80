"""Turns: heavy answers one after the other, the askers taking turns.

Judging a bundle or searching a shard occupies a worker thread, of which there are few; waiting for one in
order of arrival would put everybody behind whoever asks most. So few are let through at a time, fewer of one
peer, and of those who wait that peer is next whose last turn is longest ago (round robin; Nagle, 1985): an
honest question waits for at most one of each other peer, not for all of theirs. How many may wait is the
network's business (`Limits.handlers`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from dht.network import PeerId

PLACES = 8
"""Heavy answers under way at a time; more than there are worker threads, so that none of these idles."""
PER_PEER = 2
"""Of these, for one peer."""


class Turns:
    """At most `places` at a time, at most `per_peer` of one peer."""

    def __init__(self, places: int = PLACES, per_peer: int = PER_PEER) -> None:
        self._places = places
        self._per_peer = per_peer
        self._busy = 0
        self._running: Counter[PeerId] = Counter()
        self._waiting: OrderedDict[PeerId, deque[trio.Event]] = OrderedDict()

    @asynccontextmanager
    async def of(self, peer: PeerId) -> AsyncIterator[None]:
        """Wait for a turn and hold it during the block. Cancelling gives it back."""
        mine = trio.Event()
        self._waiting.setdefault(peer, deque()).append(mine)
        self._admit()
        try:
            await mine.wait()
            yield
        finally:
            if mine.is_set():
                self._busy -= 1
                self._running[peer] -= 1
                if not self._running[peer]:
                    del self._running[peer]
            else:
                self._waiting[peer].remove(mine)
                if not self._waiting[peer]:
                    del self._waiting[peer]
            self._admit()

    def _admit(self) -> None:
        """Let through whoever's turn it is. O(waiting peers)."""
        while self._waiting and self._busy < self._places:
            peer = next((one for one in self._waiting if self._running[one] < self._per_peer), None)
            if peer is None:
                return
            queue = self._waiting[peer]
            queue.popleft().set()
            self._running[peer] += 1
            self._busy += 1
            if queue:
                self._waiting.move_to_end(peer)
            else:
                del self._waiting[peer]
