"""The holder's postings: exhaustive answers in one order, whatever came first, and made again alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid, digest
from chain.content import Content
from chain.kinds import CREATE
from chain.record import Record
from chain.source_chain import Draft
from chain.vector import Codes, codes_from_bytes, score_ppm
from dht.records.layouts import Layouts
from dht.records.placement import Layout, Role
from dht.records.record_store import Held
from node.entry_records import EntryRecords
from node.holder import Holder
from node.query.filters import Filters
from node.storage.derived_state import DerivedState
from node.storage.held_records import HeldRecords
from sharding.tree import Prefix, ShardTree
from sim.virtual_clock import inline_blocking
from tests.dht.authors import Author
from tests.dht.people import MANIFEST, NOW_US
from tests.node.storage_fixtures import UNSYNCED, open_chain

DIM = 4
LAYOUT = Layout(None, ShardTree.fixed(2))
LEAVES = LAYOUT.tree.leaves
TAGS = ("a", "b", "c")

codes = (
    st.lists(st.integers(-2, 2), min_size=DIM, max_size=DIM)
    .filter(any)
    .map(lambda row: np.array(row, dtype=np.int8))
)
"""Few directions, so that ties abound."""
entries = st.lists(
    st.tuples(codes, st.lists(st.sampled_from(TAGS), unique=True).map(lambda tags: tuple(sorted(tags)))),
    max_size=80,
)


def authored(given_: list[tuple[Codes, tuple[str, ...]]]) -> list[Record]:
    author = Author(1, MANIFEST, NOW_US)
    return [
        author.create(f"entry {number}", row.tobytes(), tags) for number, (row, tags) in enumerate(given_)
    ]


def brute(
    records: list[Record],
    contents: list[tuple[Codes, tuple[str, ...]]],
    shards: list[Prefix],
    query: Codes,
    k: int,
    tags: list[str],
) -> list[tuple[Cid, int]]:
    scored = [
        (record.cid, score_ppm(query, row))
        for record, (row, has) in zip(records, contents, strict=True)
        if set(tags) <= set(has) and LAYOUT.tree.leaf_of(digest(record.cid)) in shards
    ]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]


def found(
    holder: Holder, shards: list[Prefix], query: Codes, k: int, tags: list[str]
) -> list[tuple[Cid, int]]:
    return [(posting.record, score) for posting, score in holder.search(shards, query, k, tags)]


def with_holder(folder: Path, scenario: Callable[[Holder], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            derived = DerivedState(folder / "derived.db", inline_blocking, UNSYNCED)
            await nursery.start(derived.run)
            held = HeldRecords(folder / "held.db", inline_blocking, UNSYNCED)
            records = EntryRecords(open_chain(folder / "chain.db"), held)
            holder = Holder(derived, records, Layouts(LAYOUT), DIM, inline_blocking)
            await holder.open()
            await scenario(holder)
            derived.close()

    trio.run(main)


@settings(max_examples=40)
@given(
    entries,
    st.lists(st.sampled_from(LEAVES), unique=True).map(sorted),
    codes,
    st.integers(1, 30),
    st.lists(st.sampled_from([*TAGS, "absent"]), unique=True, max_size=2),
    st.randoms(use_true_random=False),
)
def test_a_search_is_exhaustive_and_in_one_order_whatever_came_first(
    contents: list[tuple[Codes, tuple[str, ...]]],
    shards: list[Prefix],
    query: Codes,
    k: int,
    tags: list[str],
    rng: object,
) -> None:
    records = authored(contents)
    shuffled = list(records)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]

    async def scenario(holder: Holder) -> None:
        await holder.add(shuffled[: len(shuffled) // 2])
        await holder.add(shuffled)
        assert len(holder) == len(records)
        assert found(holder, shards, query, k, tags) == brute(records, contents, shards, query, k, tags)

    with TemporaryDirectory() as folder:
        with_holder(Path(folder), scenario)


def many(count: int) -> list[tuple[Codes, tuple[str, ...]]]:
    """One direction for all, and a rare tag for the last."""
    row = np.array([1, 2, 3, 127], dtype=np.int8)
    return [(row, ("a",) if n < count - 2 else ("a", "rare")) for n in range(count)]


def test_a_rare_tag_is_found_beneath_any_number_of_equals(tmp_path: Path) -> None:
    contents = many(1_500)
    records = authored(contents)

    async def scenario(holder: Holder) -> None:
        await holder.add(records)
        for k in (1, 2, 5, 100):
            for tags in (["rare"], ["a"], [], ["absent"]):
                assert found(holder, list(LEAVES), contents[0][0], k, tags) == brute(
                    records, contents, list(LEAVES), contents[0][0], k, tags
                )

    with_holder(tmp_path, scenario)


def test_one_of_two_thousand_that_passes_a_filter_is_found_beneath_all_others(tmp_path: Path) -> None:
    author, query = Author(1, MANIFEST, NOW_US), np.array([1, 2, 3, 127], dtype=np.int8)
    near = query.tobytes()
    crowd = [Content(f"crowd {n}", near, domain="many", confidence=n) for n in range(2_000)]
    rare = Content("rare", (-query).tobytes(), ("t",), "few", 999_999)
    said = [*crowd[:700], rare, *crowd[700:]]
    records = [author.append(Draft(CREATE, one.to_body()), NOW_US + n) for n, one in enumerate(said)]
    (wanted,) = [record for record in records if record.body()["text"] == "rare"]

    async def scenario(holder: Holder) -> None:
        await holder.add(records)
        at = wanted.header.hlc
        for filters in (
            Filters(domains=("few",)),
            Filters(confidence=2_000),
            Filters(since=at, until=at + 1),
            Filters((author.agent,), ("few",), 1, at),
        ):
            for tags in ((), ("t",)):
                found = holder.search(LEAVES, query, 10, tags, filters)
                assert [(one.record, score) for one, score in found] == [(wanted.cid, -1_000_000)]
        last = holder.search(LEAVES, query, 100, (), Filters(confidence=1_905))
        assert sorted(posting.confidence or 0 for posting, _ in last) == [*range(1_905, 2_000), 999_999]
        assert holder.search(LEAVES, query, 10, (), Filters(authors=(bytes(32),))) == []

    with_holder(tmp_path, scenario)


def test_a_rebuild_and_a_restart_find_what_was_found_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    contents: list[tuple[Codes, tuple[str, ...]]] = [
        (rng.integers(1, 127, DIM, dtype=np.int8), (TAGS[n % 3],)) for n in range(300)
    ]
    records = authored(contents)
    query = contents[7][0]
    answers: list[list[tuple[Cid, int]]] = []

    async def add(holder: Holder) -> None:
        for start in range(0, len(records), 37):
            await holder.add(records[start : start + 37])
        answers.append(found(holder, list(LEAVES), query, 50, ["b"]))

    async def again(holder: Holder) -> None:
        assert len(holder) == len(records)
        answers.append(found(holder, list(LEAVES), query, 50, ["b"]))

    async def rebuild(holder: Holder) -> None:
        assert await holder.rebuild(reversed(records)) == len(records)
        answers.append(found(holder, list(LEAVES), query, 50, ["b"]))

    with_holder(tmp_path, add)
    with_holder(tmp_path, again)
    with_holder(tmp_path, again)
    with_holder(tmp_path, rebuild)
    with_holder(tmp_path, again)
    assert len(answers[0]) == 50
    assert all(answer == answers[0] for answer in answers)


def test_only_content_held_in_the_shard_role_gets_a_posting(tmp_path: Path) -> None:
    author = Author(1, MANIFEST, NOW_US)
    codes_ = bytes([1, 2, 3, 127])
    whole, header, elsewhere = (author.create(text, codes_) for text in ("whole", "header", "elsewhere"))
    basis = bytes(32)
    own = LAYOUT.shard_basis(digest(whole.cid))
    beside = author.create("beside", codes_)
    items = [
        Held(whole, ((int(Role.SUBJECT), basis), (int(Role.SHARD), own))),
        Held(beside, ((int(Role.SHARD), bytes(32)),)),
        Held(header.without_payload(), ((int(Role.SHARD), basis),)),
        Held(elsewhere, ((int(Role.SUBJECT), basis),)),
        Held(author.records[2], ((int(Role.SHARD), basis),)),
        Held(elsewhere),
    ]

    async def scenario(holder: Holder) -> None:
        await holder.on_held(items)
        hits = found(holder, list(LEAVES), codes_from_bytes(codes_, DIM), 10, [])
        assert hits == [(whole.cid, 1_000_000)]

    with_holder(tmp_path, scenario)
