"""The local vector index: int8 codes by shard in FAISS, searched exactly, behind four verbs.

Shards are what queries name, what moves between nodes and what is dropped, so each has an index of its own
(`node.shard_vectors`); asking eight shards scans only those. The order is decided by the exact integer score
that the asker will check: two holders of the same postings give the same answer. Of FAISS's kinds this one is
the smallest, exact, and the fastest that is (docs/sharding.md has the figures). There is no file: codes stand
in derived.db, from where a start reads them in one sweep (`Holder.open`). So a crash loses nothing, a stop
has nothing to write, and no second copy can be behind, or hold what was erased.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from chain.vector import Codes, cosine_ppm, squared_norm
from node.shard_directory import ShardDirectory
from node.shard_vectors import ShardVectors, nearest
from sharding.tree import MAX_DEPTH, Prefix

SLACK = 16
"""Candidates beyond k, so that the caller can break ties at the end."""


@dataclass(frozen=True, slots=True)
class IndexedPosting:
    """What the index holds: the posting's number, its shard and its int8 codes as bytes."""

    number: int
    shard: Prefix
    codes: bytes


class LocalIndex:
    """Vectors of `dim` int8 codes by shard.

    Safe to call from several threads: a lock lets one call in at a time, because FAISS may move an index's
    memory while it grows.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._shards: dict[Prefix, ShardVectors] = {}
        self._directory = ShardDirectory()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._directory)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, room for further vectors included."""
        with self._lock:
            return self._directory.nbytes + sum(shard.nbytes for shard in self._shards.values())

    def add(self, postings: Sequence[IndexedPosting]) -> None:
        """Add postings; a number that is there already is left as it is."""
        with self._lock:
            self._add(postings)

    def _add(self, postings: Iterable[IndexedPosting]) -> None:
        new = {posting.number: posting for posting in postings}
        numbers = np.fromiter(new, dtype=np.int64, count=len(new))
        grouped: dict[Prefix, list[IndexedPosting]] = {}
        for posting, there in zip(new.values(), self._directory.shards_of(numbers), strict=True):
            if there is None:
                grouped.setdefault(posting.shard, []).append(posting)
        for shard, group in grouped.items():
            codes = np.frombuffer(b"".join(one.codes for one in group), dtype=np.int8)
            numbers = np.array([one.number for one in group], dtype=np.int64)
            self._vectors(shard).add(codes.reshape(-1, self.dim), numbers)
            self._directory.put(numbers, shard)

    def fill(self, leaves: Sequence[Prefix], rows: Sequence[tuple[int, bytes, bytes]]) -> None:
        """Add vectors of which none is here, each with number, shard key and codes, to a tree's `leaves`.

        As `add`, at a third of its cost: for a start.
        """
        numbers = np.array([number for number, _, _ in rows], dtype=np.int64)
        heads = np.frombuffer(b"".join(key[:8] for _, key, _ in rows), dtype=">u8") >> (64 - MAX_DEPTH)
        starts = np.array([leaf.start for leaf in leaves], dtype=np.uint64)
        place = np.searchsorted(starts, heads.astype(np.uint64), side="right") - 1
        order = np.argsort(place, kind="stable")
        codes = np.frombuffer(b"".join(one for _, _, one in rows), dtype=np.int8).reshape(-1, self.dim)
        there, begins = np.unique(place[order], return_index=True)
        with self._lock:
            for at, part in zip(there.tolist(), np.split(order, begins[1:]), strict=True):
                shard = leaves[at]
                self._vectors(shard).add(codes[part], numbers[part])
                self._directory.put(numbers[part], shard)

    def _vectors(self, shard: Prefix) -> ShardVectors:
        if shard not in self._shards:
            self._shards[shard] = ShardVectors(self.dim)
        return self._shards[shard]

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove postings; numbers that are not there are passed over."""
        with self._lock:
            self._remove(numbers)

    def _remove(self, numbers: Iterable[int]) -> None:
        wanted = np.unique(np.fromiter(numbers, dtype=np.int64))
        grouped: dict[Prefix, list[int]] = {}
        for number, shard in zip(wanted.tolist(), self._directory.shards_of(wanted), strict=True):
            if shard is not None:
                grouped.setdefault(shard, []).append(number)
        for shard, group in grouped.items():
            gone: NDArray[np.int64] = np.array(group, dtype=np.int64)
            self._directory.take(gone)
            self._shards[shard].remove(gone)
            if not len(self._shards[shard]):
                del self._shards[shard]

    def move(self, postings: Sequence[IndexedPosting]) -> None:
        """Put postings that are here into other shards; those that are not here are passed over."""
        with self._lock:
            numbers = np.array([one.number for one in postings], dtype=np.int64)
            shards = self._directory.shards_of(numbers)
            there = {
                one.number: one
                for one, shard in zip(postings, shards, strict=True)
                if shard not in (None, one.shard)
            }
            self._remove(there)
            self._add(there.values())

    def shards(self) -> tuple[Prefix, ...]:
        """All shards of which there are postings, in order."""
        with self._lock:
            return tuple(sorted(self._shards))

    def search(self, shards: Sequence[Prefix], query: Codes, k: int) -> list[tuple[int, int]]:
        """The best (posting number, score in ppm) of these shards, highest score first, ties by number.

        At most `k` + `SLACK` in all, which leaves the caller room to break ties at the end by CID; fewer only
        when the shards hold fewer. O(postings in the shards).
        """
        with self._lock:
            asked = [self._shards[shard] for shard in dict.fromkeys(shards) if shard in self._shards]
            near = nearest(asked, query, k + SLACK)
        own = squared_norm(query)
        found = [(one.number, cosine_ppm(one.dot, own * one.norm)) for one in near]
        found.sort(key=lambda pair: (-pair[1], pair[0]))
        return found

    def size(self, shard: Prefix) -> int:
        """Postings in a shard."""
        there = self._shards.get(shard)
        return 0 if there is None else len(there)
