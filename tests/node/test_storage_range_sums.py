"""Sums over ranges of what is held: those of adding everything up, whatever came or went or was there."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.record import Record
from chain.source_chain import head_of
from dht.negentropy.range_messages import END, ID_SIZE, LAST_PREFIX, START, Bound, bound_at, bound_between
from dht.negentropy.reconciliation import Reconciliation, id_of, mask_of, prefix_of
from dht.records.basis import author_basis
from dht.records.placement import Role
from dht.records.record_store import Chain, Held
from node.storage.held_records import HeldRecords
from node.storage.range_sums import MANY
from tests.dht.range_sets import EVERYTHING, ItemSet, exchange
from tests.node.storage_fixtures import ALICE, OPENING, UNSYNCED, authored, entry, inline

POOL = authored(ALICE, [*OPENING, *(entry(f"entry {n}") for n in range(MANY + 60))])
BASES = [
    bytes(32),
    bytes(8) + b"\1" * 24,  # shares its 64 bits with the one before
    *(random.Random(n).randbytes(32) for n in range(5)),
    b"\xff" * 8 + bytes(24),
    b"\xff" * 32,
]
KEPT = b"\x33" * 32


def with_held(path: Path, work: Callable[[HeldRecords], object]) -> None:
    async def main() -> None:
        held = HeldRecords(path, inline, UNSYNCED)
        async with trio.open_nursery() as nursery:
            await nursery.start(held.run)
            done = work(held)
            if hasattr(done, "__await__"):
                await done
            await held.aclose()

    trio.run(main)


def items_of(held: HeldRecords) -> ItemSet:
    return ItemSet(
        (prefix_of(one.basis), id_of(cid, mask_of(one.basis)))
        for one in held.bases_after(b"", 1_000)
        for cid in held.cids_at(one.basis, None, 10_000)
    )


def check(held: HeldRecords, seed: int) -> None:
    """Hold the store against the sum of its parts, at bounds of all kinds."""
    rng = random.Random(seed)
    model = items_of(held)
    bounds: list[Bound] = [START, END, (LAST_PREFIX, b""), (1 << 63, b"\x80")]
    for _ in range(12):
        bounds.append((rng.getrandbits(64) - 2 & LAST_PREFIX, b""))
        if model.all:
            prefix, one = rng.choice(model.all)
            bounds.append((prefix, one[: rng.randrange(ID_SIZE + 1)].rstrip(b"\0")))
    with held.ranges() as view:
        for bound in bounds:
            assert view.below(bound).count == model.below(bound).count
            assert (view.below(bound).total - model.below(bound).total) % (1 << 256) == 0
        for _ in range(8):
            lower, upper = sorted(rng.sample(bounds, 2))
            limit = rng.choice([1, 5, 10_000])
            assert view.items(lower, upper, limit) == model.items(lower, upper, limit)
        for place in {rng.randrange(1, len(model.all)) for _ in range(8) if len(model.all) > 1}:
            assert view.pair(place) == model.pair(place)
            assert view.below(bound_between(*model.pair(place))).count == place
            assert view.below(bound_at(model.all[place])).count == place


STEP = st.one_of(
    st.tuples(st.just("hold"), st.sampled_from(BASES), st.integers(0, 500), st.integers(1, 40)),
    st.tuples(st.just("hold"), st.sampled_from(BASES), st.just(0), st.just(len(POOL))),
    st.tuples(st.just("drop"), st.sampled_from(BASES), st.just(0), st.just(0)),
    st.tuples(st.just("expel"), st.just(b""), st.integers(3, 200), st.integers(1, 9)),
)


@given(steps=st.lists(STEP, max_size=7), seed=st.integers(0, 1_000))
@settings(max_examples=25, deadline=None)
def test_after_anything_held_and_dropped_the_sums_are_those_of_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes, int, int]], seed: int
) -> None:
    async def work(held: HeldRecords) -> None:
        for what, basis, first, count in steps:
            if what == "drop":
                await held.drop(basis, held.digest_of(basis))
            elif what == "expel":
                for one in POOL[first : first + count]:
                    await held.expel(subject=one.cid)
            else:
                roles = int(Role.SHARD)
                await held.hold([Held(one, ((roles, basis),)) for one in POOL[first : first + count]])
                await held.hold([Held(POOL[first], ((int(Role.KEPT), KEPT),))])
        check(held, seed)

    with_held(tmp_path_factory.mktemp("sums") / "held.db", work)


def test_a_database_from_before_gets_its_sums_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "held.db"

    async def fill(held: HeldRecords) -> None:
        for number, basis in enumerate(BASES):
            there = POOL[: len(POOL) if number == 2 else 20 * number + 1]
            await held.hold([Held(one, ((int(Role.SUBJECT), basis),)) for one in there])
        await held.hold([Held(POOL[0], ((int(Role.KEPT), KEPT),))])

    with_held(path, fill)
    with sqlite3.connect(path) as connection:
        for table in ("range_sums", "range_parts", "range_state"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE digests SET ids = NULL")
    connection.close()
    with_held(path, lambda held: check(held, 1))


def test_two_holders_find_their_differences(tmp_path: Path) -> None:
    async def fill(held: HeldRecords) -> None:
        everything = [Held(one, tuple((int(Role.SUBJECT), basis) for basis in BASES)) for one in POOL]
        await held.hold(everything[:-1])

    async def compare(held: HeldRecords) -> None:
        await held.hold([Held(POOL[-1], ((int(Role.SHARD), BASES[2]),))])
        theirs = ItemSet(set(items_of(held).all) - {items_of(held).all[7]})
        asking = Reconciliation(EVERYTHING)
        mine = items_of(held)
        with held.ranges() as view:
            messages = exchange(view, theirs, asking)  # type: ignore[arg-type]
        assert asking.have == [mine.all[7]]
        assert asking.need == []
        assert sum(map(len, messages)) < 6_000

    with_held(tmp_path / "held.db", fill)
    with_held(tmp_path / "held.db", compare)


def test_a_whole_chain_is_one_line_and_one_with_a_gap_or_a_fork_is_none(tmp_path: Path) -> None:
    basis = author_basis(ALICE.agent)

    def there(records: Sequence[Record]) -> list[Held]:
        return [Held(one.without_payload(), ((int(Role.AUTHOR), basis),)) for one in records]

    async def work(held: HeldRecords) -> None:
        assert held.chain(ALICE.agent) is None
        await held.hold(there(POOL[:5]))
        assert held.chain(ALICE.agent) == Chain(basis, ALICE.agent, 4, POOL[4].cid)
        assert held.long_chains() == []
        await held.hold(there(POOL[6 : MANY + 3]))
        assert held.chain(ALICE.agent) is None
        await held.hold(there(POOL[5:6]))
        assert held.long_chains() == [Chain(basis, ALICE.agent, MANY + 2, POOL[MANY + 2].cid)]
        assert held.chain_cids(ALICE.agent, MANY, 9) == [POOL[MANY + 1].cid, POOL[MANY + 2].cid]
        assert held.cid_of_seq(ALICE.agent, 7) == POOL[7].cid
        await held.hold([Held(POOL[MANY + 3])])  # only named
        assert held.chain(ALICE.agent) is None
        await held.hold(there(POOL[MANY + 3 : MANY + 4]))
        fork = authored(ALICE, [entry("other")], head_of(POOL[MANY + 2]))
        await held.hold(there(fork))
        assert held.chain(ALICE.agent) is None
        assert held.cid_of_seq(ALICE.agent, MANY + 3) is None

    with_held(tmp_path / "held.db", work)
