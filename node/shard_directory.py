"""Which shard each posting of the index lies in: two sorted arrays, twelve bytes a posting and a little room.

A dict from numbers to shards would take over a hundred bytes a posting in Python objects. Numbers are given
in ascending order, so that new ones are written behind the others; what is taken out leaves a hole until
holes are half of the whole.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sharding.tree import Prefix

NOWHERE: Final = -1
GROWTH: Final = 1.25
FIRST_ROOM: Final = 64

Numbers = NDArray[np.int64]
Places = NDArray[np.int32]
"""Shards by their place among the directory's names; `NOWHERE` for none."""


class ShardDirectory:
    """From posting numbers to shards. Not safe for several threads."""

    def __init__(self) -> None:
        self._numbers: Numbers = np.empty(FIRST_ROOM, dtype=np.int64)
        self._places: Places = np.empty(FIRST_ROOM, dtype=np.int32)
        self._used = 0
        self._holes = 0
        self._names: list[Prefix] = []
        self._place_of: dict[Prefix, int] = {}

    def __len__(self) -> int:
        return self._used - self._holes

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._numbers.nbytes + self._places.nbytes

    def shards_of(self, numbers: Numbers) -> list[Prefix | None]:
        """The shard of each number, None for those that are not here; O(n log all)."""
        return [None if place == NOWHERE else self._names[place] for place in self._find(numbers).tolist()]

    def put(self, numbers: Numbers, shard: Prefix) -> None:
        """Let these numbers lie in this shard, each given once.

        O(n) for numbers beyond all others, else O(all).
        """
        place = self._place(shard)
        order = np.sort(numbers)
        if self._used and order[0] <= self._numbers[self._used - 1]:
            at = np.searchsorted(self._numbers[: self._used], order)
            there = (at < self._used) & (self._numbers[np.minimum(at, self._used - 1)] == order)
            self._holes -= int((self._places[at[there]] == NOWHERE).sum())
            self._places[at[there]] = place
            if not there.all():
                numbers_, places = self._numbers[: self._used], self._places[: self._used]
                self._numbers = np.insert(numbers_, at[~there], order[~there])
                self._places = np.insert(places, at[~there], np.int32(place))
                self._used = len(self._numbers)
            return
        end = self._used + len(order)
        if end > len(self._numbers):
            room = max(end, int(self._used * GROWTH))
            self._numbers = np.concatenate(
                (self._numbers[: self._used], np.empty(room - self._used, dtype=np.int64))
            )
            self._places = np.concatenate(
                (self._places[: self._used], np.empty(room - self._used, dtype=np.int32))
            )
        self._numbers[self._used : end] = order
        self._places[self._used : end] = place
        self._used = end

    def take(self, numbers: Numbers) -> None:
        """Let these numbers, which are all here, be nowhere; each given once."""
        at = np.searchsorted(self._numbers[: self._used], numbers)
        self._places[at] = NOWHERE
        self._holes += len(numbers)
        if self._holes > FIRST_ROOM and 2 * self._holes > self._used:
            left = self._places[: self._used] != NOWHERE
            self._numbers, self._places = self._numbers[: self._used][left], self._places[: self._used][left]
            self._used, self._holes = len(self._numbers), 0
            self._rename()

    def _find(self, numbers: Numbers) -> Places:
        if not self._used:
            return np.full(len(numbers), NOWHERE, dtype=np.int32)
        at = np.minimum(np.searchsorted(self._numbers[: self._used], numbers), self._used - 1)
        found = np.where(self._numbers[at] == numbers, self._places[at], NOWHERE)
        return found.astype(np.int32)

    def _place(self, shard: Prefix) -> int:
        place = self._place_of.get(shard)
        if place is None:
            place = self._place_of[shard] = len(self._names)
            self._names.append(shard)
        return place

    def _rename(self) -> None:
        """Forget the names of shards in which nothing lies any more."""
        used, places = np.unique(self._places, return_inverse=True)
        self._places = places.astype(np.int32)
        self._names = [self._names[place] for place in used.tolist()]
        self._place_of = {shard: place for place, shard in enumerate(self._names)}
