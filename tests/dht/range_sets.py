"""Sets of items in memory, to compare by ranges, and an exchange between two of them without a network."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from hashlib import sha256
from itertools import accumulate

from dht.negentropy.range_messages import END, START, Bound, Item
from dht.negentropy.reconciliation import Reconciliation, Total, answer

EVERYTHING = ((START, END),)


class ItemSet:
    """`dht.negentropy.reconciliation.RangeStore` over a sorted list."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.all = sorted(items)
        self._sums = [0, *accumulate(int.from_bytes(one, "little") for _, one in self.all)]

    def below(self, bound: Bound) -> Total:
        place = bisect_left(self.all, bound)
        return Total(place, self._sums[place])

    def pair(self, place: int) -> tuple[Item, Item]:
        return self.all[place - 1], self.all[place]

    def items(self, lower: Bound, upper: Bound, limit: int) -> list[Item]:
        first, end = bisect_left(self.all, lower), bisect_left(self.all, upper)
        return self.all[first : min(end, first + limit)]


def item(prefix: int, seed: int) -> Item:
    """An item whose id follows from a number."""
    return (prefix, sha256(f"item {seed}".encode()).digest())


def exchange(mine: ItemSet, theirs: ItemSet, asking: Reconciliation) -> list[bytes]:
    """Ask until there is nothing more to ask; all messages, both ways, in order."""
    messages: list[bytes] = []
    while (message := asking.next_message(mine)) is not None:
        messages += [message, answer(theirs, message)]
        asking.receive(mine, messages[-1])
    return messages
