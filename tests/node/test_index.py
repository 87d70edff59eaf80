"""The local index: whatever was added, moved and removed, it answers as comparing all in integers would."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chain.vector import Codes, score_ppm
from node.index import SLACK, IndexedPosting, LocalIndex
from node.shard_directory import ShardDirectory
from sharding.tree import Prefix, ShardTree

DIM = 16
SHARDS = [Prefix(bits=bits, length=2) for bits in range(4)]

Model = dict[int, IndexedPosting]


def posting(number: int, shard: Prefix, row: NDArray[np.int8]) -> IndexedPosting:
    return IndexedPosting(number, shard, row.tobytes())


def drawn(rng: np.random.Generator, count: int, dim: int = DIM) -> NDArray[np.int8]:
    """Codes of very different norms, none of them zero, some of them equal."""
    rows = rng.integers(-127, 128, size=(count, dim)) * rng.choice([0, 0, 1], size=(count, dim))
    rows[np.arange(count), rng.integers(dim, size=count)] = 127
    rows[::7] = rows[0]
    return rows.astype(np.int8)


def brute(items: Model, shards: list[Prefix], query: Codes, k: int) -> list[tuple[int, int]]:
    scored = [
        (one.number, score_ppm(query, np.frombuffer(one.codes, dtype=np.int8)))
        for one in items.values()
        if one.shard in shards
    ]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]


def check(index: LocalIndex, items: Model, shards: list[Prefix], query: Codes, k: int) -> None:
    found = index.search(shards, query, k)
    assert found == brute(items, shards, query, k + SLACK)
    assert len(index) == len(items)
    assert index.shards() == tuple(sorted({one.shard for one in items.values()}))
    for shard in SHARDS:
        assert index.size(shard) == sum(one.shard == shard for one in items.values())


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "again", "remove", "move", "absent"]),
        st.integers(1, 90),
        st.sampled_from(SHARDS),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(steps, st.integers(0, 10_000), st.lists(st.sampled_from(SHARDS), unique=True), st.integers(1, 30))
def test_any_sequence_of_changes_equals_a_dict_searched_exhaustively(
    sequence: list[tuple[str, int, Prefix]], seed: int, shards: list[Prefix], k: int
) -> None:
    rng = np.random.default_rng(seed)
    index, items = LocalIndex(DIM), Model()
    for verb, count, shard in sequence:
        some = [items[number] for number in rng.permutation(list(items))[:count].tolist()]
        if verb == "add":
            first = max(items, default=0) + int(rng.integers(1, 4))
            new = [
                posting(first + n, SHARDS[int(rng.integers(4))], row)
                for n, row in enumerate(drawn(rng, count))
            ]
            index.add([new[place] for place in rng.permutation(count)])
            items |= {one.number: one for one in new}
        elif verb == "again":
            index.add([posting(one.number, shard, drawn(rng, 1)[0]) for one in some])
        elif verb == "move":
            moved = [IndexedPosting(one.number, shard, one.codes) for one in some]
            index.move(moved)
            items |= {one.number: one for one in moved}
        elif verb == "remove":
            index.remove([one.number for one in some] * 2)
            for one in some:
                del items[one.number]
        else:
            index.remove([10**6, -5])
            index.move([posting(10**6, shard, drawn(rng, 1)[0])])
        check(index, items, shards, drawn(rng, 1)[0], k)
    check(index, items, SHARDS, drawn(rng, 1)[0], k)


@pytest.mark.parametrize("dim", [1, 3, 1024, 1500, 4096])
@pytest.mark.parametrize("largest", [2, 127])
def test_products_beyond_what_a_float_holds_are_exact(dim: int, largest: int) -> None:
    rng = np.random.default_rng(dim + largest)
    rows = rng.integers(-largest, largest + 1, size=(150, dim), dtype=np.int64)
    rows[: 150 // 2] = np.where(rng.random((75, dim)) < 0.02, rows[:75], rows[0])  # a crowd around one
    rows[:, 0] = largest
    index, items = LocalIndex(dim), Model()
    for number, row in enumerate(rows.astype(np.int8)):
        items[number] = posting(number, SHARDS[number % 2], row)
    index.add(list(items.values()))
    for query in (rows[0], -rows[0], rows[-1]):
        check(index, items, SHARDS, query.astype(np.int8), 5)
        check(index, items, SHARDS[:1], query.astype(np.int8), 5)


def test_a_hit_of_small_norm_is_found_behind_many_of_larger_products() -> None:
    # A thousand long vectors have larger products with the question than the short ones that point at it.
    rng = np.random.default_rng(3)
    long = rng.integers(60, 128, size=(1_000, DIM)).astype(np.int8)
    short = np.zeros((5, DIM), dtype=np.int8)
    short[:, :2] = [[3, 1], [2, 1], [5, 2], [7, 3], [9, 4]]
    query = np.zeros(DIM, dtype=np.int8)
    query[:2] = [20, 9]
    index = LocalIndex(DIM)
    items = {n: posting(n, SHARDS[0], row) for n, row in enumerate(np.concatenate((long, short)))}
    index.add(list(items.values()))
    check(index, items, SHARDS[:1], query, 1)
    assert {number for number, _ in index.search(SHARDS, query, 1)[:5]} == set(range(1_000, 1_005))


@settings(max_examples=20)
@given(st.integers(1, 200), st.integers(0, 1_000))
def test_filled_by_keys_or_added_one_by_one_it_is_the_same(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = ShardTree.of((*SHARDS[:3], *SHARDS[3].children()))
    rows = [(n, rng.bytes(32), row.tobytes()) for n, row in enumerate(drawn(rng, count))]
    filled, added = LocalIndex(DIM), LocalIndex(DIM)
    for begin in range(0, count, 70):
        filled.fill(tree.leaves, rows[begin : begin + 70])
    added.add([IndexedPosting(number, tree.leaf_of(key), codes) for number, key, codes in rows])
    assert filled.shards() == added.shards()
    query = drawn(rng, 1)[0]
    for leaf in tree.leaves:
        assert filled.search([leaf], query, 5) == added.search([leaf], query, 5)
    filled.remove(range(0, count, 2))
    assert len(filled) == count // 2


def test_what_went_gives_its_memory_back() -> None:
    rng = np.random.default_rng(4)
    index = LocalIndex(DIM)
    index.add([posting(n, SHARDS[n % 2], row) for n, row in enumerate(drawn(rng, 8_000))])
    full = index.nbytes
    assert full <= 8_000 * (DIM + 8 + 4 + 8 + 4) * 1.25 + 4_096
    index.remove(range(7_990))
    assert index.nbytes < full / 100 + 4_096
    index.remove(range(8_000))
    assert (len(index), index.shards()) == (0, ())


def test_searches_go_on_while_others_change_the_index() -> None:
    rng = np.random.default_rng(5)
    rows = drawn(rng, 600)
    kept = {n: posting(n, SHARDS[0], rows[n]) for n in range(300)}
    index = LocalIndex(DIM)
    index.add(list(kept.values()))
    expected = brute(kept, SHARDS[:1], rows[5], 20 + SLACK)
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            found = index.search(SHARDS[:1], rows[5], 20)
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        index.add([posting(n, SHARDS[1], rows[n]) for n in range(300, 600)])
        index.remove(range(300, 600))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 200), unique=True, min_size=1)), max_size=25)
)
def test_a_directory_is_a_dict(sequence: list[tuple[bool, list[int]]]) -> None:
    directory, model = ShardDirectory(), dict[int, Prefix]()
    for place, (put, numbers) in enumerate(sequence):
        shard = SHARDS[place % 4]
        if put:
            directory.put(np.array(numbers, dtype=np.int64), shard)
            model |= dict.fromkeys(numbers, shard)
        else:
            there = [number for number in numbers if number in model]
            directory.take(np.array(there, dtype=np.int64))
            for number in there:
                del model[number]
        asked = np.arange(-2, 203)
        assert directory.shards_of(asked) == [model.get(number) for number in asked.tolist()]
        assert len(directory) == len(model)
    assert directory.nbytes <= 12 * max(64, 3 * max(len(model), 64))
