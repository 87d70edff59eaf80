"""The local vector index: FAISS, one flat index for each shard, behind four verbs.

Shards are what queries name, what moves between nodes and what is dropped, so each has an index of its own;
asking eight shards scans only those. FAISS proposes by floating-point inner product, and the order is then
decided by the exact integer score that the asker will check, ties by CID: two holders of the same postings
give the same answer. An index is derived state: `save` keeps it with a stamp of the postings it was made of,
and `load` refuses it when the stamp differs.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chain.vector import Codes, score_ppm
from sharding.tree import Prefix

STAMP_FILE = "stamp.json"
SLACK = 16
"""Candidates beyond k that FAISS proposes, so that float rounding cannot drop a true top-k entry."""


@dataclass(frozen=True, slots=True)
class IndexedPosting:
    """What the index holds: the posting's number (FAISS id), its shard and its int8 codes as bytes."""

    number: int
    shard: Prefix
    codes: bytes


class LocalIndex:
    """FAISS indexes by shard for vectors of `dim` int8 codes.

    Safe to call from several threads: a lock lets one call in at a time, because FAISS may move an index's
    memory while it grows.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._shards: dict[Prefix, Any] = {}
        self._codes: dict[int, bytes] = {}
        self._shard_of: dict[int, Prefix] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, postings: Sequence[IndexedPosting]) -> None:
        """Add postings; a number that is there already is left as it is."""
        with self._lock:
            self._add(postings)

    def _add(self, postings: Sequence[IndexedPosting]) -> None:
        grouped: dict[Prefix, list[IndexedPosting]] = {}
        for posting in postings:
            if posting.number not in self._codes:
                grouped.setdefault(posting.shard, []).append(posting)
                self._codes[posting.number] = posting.codes
                self._shard_of[posting.number] = posting.shard
        for shard, group in grouped.items():
            numbers = np.array([posting.number for posting in group], dtype=np.int64)
            self._faiss(shard).add_with_ids(_unit(b"".join(p.codes for p in group), self.dim), numbers)

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove postings; numbers that are not there are passed over."""
        with self._lock:
            self._remove(numbers)

    def _remove(self, numbers: Sequence[int]) -> None:
        grouped: dict[Prefix, list[int]] = {}
        for number in numbers:
            if self._codes.pop(number, None) is not None:
                grouped.setdefault(self._shard_of.pop(number), []).append(number)
        for shard, group in grouped.items():
            self._shards[shard].remove_ids(np.array(group, dtype=np.int64))

    def move(self, postings: Sequence[IndexedPosting]) -> None:
        """Put postings that are here into other shards; those that are not here are passed over."""
        with self._lock:
            there = [one for one in postings if self._shard_of.get(one.number, one.shard) != one.shard]
            self._remove([one.number for one in there])
            self._add(there)

    def shards(self) -> tuple[Prefix, ...]:
        """All shards of which there are postings, in order."""
        with self._lock:
            return tuple(sorted(self._shards))

    def search(self, shards: Sequence[Prefix], query: Codes, k: int) -> list[tuple[int, int]]:
        """The best (posting number, score in ppm) of these shards, highest score first, ties by number.

        At most `k` + `SLACK` in all, which leaves the caller room to break ties at the end by CID; fewer only
        when the shards hold fewer. O(postings in the shards).
        """
        wanted = _unit(query.tobytes(), self.dim)
        depth = k + SLACK
        proposed: list[tuple[float, int]] = []
        with self._lock:
            for shard in shards:
                index = self._shards.get(shard)
                if index is not None and index.ntotal:
                    near, numbers = index.search(wanted, min(depth, index.ntotal))
                    proposed.extend(zip(near[0].tolist(), numbers[0].tolist(), strict=True))
            best = [(number, self._codes[number]) for _, number in heapq.nlargest(depth, proposed)]
        found = [(number, score_ppm(query, np.frombuffer(codes, dtype=np.int8))) for number, codes in best]
        found.sort(key=lambda pair: (-pair[1], pair[0]))
        return found

    def size(self, shard: Prefix) -> int:
        """Postings in a shard."""
        index = self._shards.get(shard)
        return 0 if index is None else int(index.ntotal)

    @staticmethod
    def discard(folder: Path) -> None:
        """Delete a saved index with all its vectors."""
        for file in (
            folder / STAMP_FILE,
            folder / "codes.npy",
            *folder.glob("*.faiss"),
            *folder.glob("*.tmp"),
        ):
            file.unlink(missing_ok=True)

    def save(self, folder: Path, stamp: str) -> None:
        """Write the index beside its stamp, atomically: the stamp file comes last."""
        import faiss

        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            self.discard(folder)  # also files of shards that have become empty
            shards = [shard for shard in sorted(self._shards) if self._shards[shard].ntotal]
            for place, shard in enumerate(shards):
                faiss.write_index(self._shards[shard], str(folder / f"{place}.faiss"))
            numbers = sorted(self._codes)
            codes = np.frombuffer(b"".join(self._codes[n] for n in numbers), dtype=np.int8).reshape(
                -1, self.dim
            )
            with open(folder / "codes.npy.tmp", "wb") as out:
                np.save(out, codes, allow_pickle=False)
            os.replace(folder / "codes.npy.tmp", folder / "codes.npy")
            about = {
                "dim": self.dim,
                "stamp": stamp,
                "shards": [[shard.length, shard.bits, shard.generation] for shard in shards],
                "numbers": numbers,
                "places": [shards.index(self._shard_of[number]) for number in numbers],
            }
            partial = folder / f"{STAMP_FILE}.tmp"
            partial.write_text(json.dumps(about))
            os.replace(partial, folder / STAMP_FILE)

    @staticmethod
    def forget(folder: Path) -> None:
        """Make a saved index invalid."""
        (folder / STAMP_FILE).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path, dim: int, stamp: str) -> LocalIndex | None:
        """Read a saved index, or None when it is absent, damaged or made of other postings."""
        import faiss

        try:
            about = json.loads((folder / STAMP_FILE).read_text())
            if about["stamp"] != stamp or about["dim"] != dim:
                return None
            index = cls(dim)
            shards = [Prefix(bits, length, *generation) for length, bits, *generation in about["shards"]]
            for place, shard in enumerate(shards):
                index._shards[shard] = faiss.read_index(str(folder / f"{place}.faiss"))
            codes = np.load(folder / "codes.npy", allow_pickle=False)
            for number, place, row in zip(about["numbers"], about["places"], codes, strict=True):
                index._codes[number] = row.tobytes()
                index._shard_of[number] = shards[place]
        except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
            return None  # derived state: the caller rebuilds it from the postings
        return index

    def _faiss(self, shard: Prefix) -> Any:
        index = self._shards.get(shard)
        if index is None:
            import faiss

            faiss.omp_set_num_threads(1)
            index = faiss.IndexIDMap2(faiss.IndexFlatIP(self.dim))
            self._shards[shard] = index
        return index


def _unit(codes: bytes, dim: int) -> NDArray[np.float32]:
    """Unit float32 rows of shape (n, dim) from concatenated int8 codes."""
    rows = np.frombuffer(codes, dtype=np.int8).reshape(-1, dim).astype(np.float32)
    norms: NDArray[np.float32] = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / norms, dtype=np.float32)
