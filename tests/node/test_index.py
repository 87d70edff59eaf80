"""The local index: exact scores in one order, removal, and saved files that are refused when stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.vector import score_ppm
from node.index import IndexedPosting, LocalIndex
from sharding.tree import Prefix

DIM = 16
SHARDS = [Prefix(bits=bits, length=2) for bits in range(4)]


def postings(count: int, seed: int) -> list[IndexedPosting]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, size=(count, DIM), dtype=np.int8)
    codes[:, 0] = 127  # never the zero vector
    return [
        IndexedPosting(number + 1, SHARDS[int(rng.integers(4))], row.tobytes())
        for number, row in enumerate(codes)
    ]


def brute(
    items: list[IndexedPosting], shards: list[Prefix], query: np.ndarray, k: int
) -> list[tuple[int, int]]:  # type: ignore[type-arg]
    scored = [
        (item.number, score_ppm(query, np.frombuffer(item.codes, dtype=np.int8)))
        for item in items
        if item.shard in shards
    ]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]


@settings(max_examples=25)
@given(
    st.integers(0, 300),
    st.integers(0, 1000),
    st.lists(st.sampled_from(SHARDS), unique=True),
    st.integers(1, 20),
)
def test_search_equals_brute_force_in_integers(count: int, seed: int, shards: list[Prefix], k: int) -> None:
    items = postings(count, seed)
    index = LocalIndex(DIM)
    index.add(items)
    query = np.random.default_rng(seed + 1).integers(1, 128, size=DIM, dtype=np.int8)
    assert index.search(shards, query, k)[:k] == brute(items, shards, query, k)


@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(0, 1000), st.data())
def test_removed_postings_are_gone_and_others_stay(count: int, seed: int, data: st.DataObject) -> None:
    items = postings(count, seed)
    gone = set(data.draw(st.lists(st.integers(1, count), unique=True)))
    index = LocalIndex(DIM)
    index.add(items)
    index.add(items)  # again: nothing changes
    index.remove(sorted(gone))
    index.remove(sorted(gone))
    left = [item for item in items if item.number not in gone]
    query = np.full(DIM, 5, dtype=np.int8)
    assert len(index) == len(left)
    assert index.search(SHARDS, query, count)[:count] == brute(left, SHARDS, query, count)


def test_a_saved_index_is_loaded_only_for_its_own_postings(tmp_path: Path) -> None:
    items = postings(120, 7)
    index = LocalIndex(DIM)
    index.add(items)
    index.save(tmp_path / "index", "120/120")
    loaded = LocalIndex.load(tmp_path / "index", DIM, "120/120")
    assert loaded is not None
    query = np.full(DIM, 3, dtype=np.int8)
    assert loaded.search(SHARDS, query, 10) == index.search(SHARDS, query, 10)
    loaded.add(postings(121, 8)[-1:])
    loaded.remove([1])
    assert len(loaded) == 120
    assert LocalIndex.load(tmp_path / "index", DIM, "121/121") is None
    assert LocalIndex.load(tmp_path / "index", DIM + 1, "120/120") is None
    assert LocalIndex.load(tmp_path / "nothing", DIM, "120/120") is None


def test_a_damaged_index_file_is_not_loaded(tmp_path: Path) -> None:
    index = LocalIndex(DIM)
    index.add(postings(50, 3))
    for name in ("stamp.json", "codes.npy", "0.faiss"):
        index.save(tmp_path, "s")
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
        assert LocalIndex.load(tmp_path, DIM, "s") is None
