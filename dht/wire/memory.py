"""Memory: one pool of bytes for all peers, and who has to give way when it is empty.

Partial frames, requests being answered, frames waiting to be written and unread stream data are taken from
the pool under the peer's name. Refusing whoever comes last would let a few peers that fill the pool shut out
everybody else; so the peer that holds most goes (as Linux's OOM killer and Redis's client eviction choose),
and only a peer that would itself hold most is refused. Pure: dropping a peer is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

from dht.network import PeerId


class Budget:
    """A pool of `size` bytes. `drop` is told which peer goes; what it held comes back piece by piece.

    What a dropped peer still holds no longer counts against the others, so the pool may be overdrawn by as
    much until its tasks have ended.
    """

    def __init__(self, size: int, drop: Callable[[PeerId], None] | None = None) -> None:
        self.size = size
        self.drop = drop
        self._held: dict[PeerId, int] = {}
        self._leaving: dict[PeerId, int] = {}
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes held now, also by those that are being dropped."""
        return self._used + sum(self._leaving.values())

    def take(self, peer: PeerId, count: int) -> bool:
        """Reserve `count` bytes for `peer`; False, reserving nothing, when there is no room for it.

        O(1); O(peers) when the pool is empty.
        """
        if count <= 0:
            self.give(peer, -count)
            return True
        if peer in self._leaving:
            return False
        while self._used + count > self.size:
            if not self._make_room(self._held.get(peer, 0) + count):
                return False
        self._held[peer] = self._held.get(peer, 0) + count
        self._used += count
        return True

    def give(self, peer: PeerId, count: int) -> None:
        """Give back `count` bytes that `peer` held."""
        if not count:
            return
        book = self._leaving if peer in self._leaving else self._held
        left = book[peer] - count
        if left:
            book[peer] = left
        else:
            del book[peer]
        if book is self._held:
            self._used -= count

    def _make_room(self, wanted: int) -> bool:
        """Drop the peer that holds most, unless that is the one that wants to hold `wanted`."""
        largest = max(self._held, key=lambda peer: (self._held[peer], peer), default=None)
        if largest is None or self.drop is None or self._held[largest] <= wanted:
            return False
        held = self._leaving[largest] = self._held.pop(largest)
        self._used -= held
        self.drop(largest)
        return True
