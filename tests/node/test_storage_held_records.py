"""Held records: idempotent, complete themselves, keep forks, and equal a model across restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid, digest
from chain.identity import Identity
from chain.kinds import TAG
from chain.record import Record
from chain.source_chain import Draft, head_of
from dht.ports import ThreadedBlocking
from dht.records.record_store import Held, Usage
from node.storage.database import Options
from node.storage.errors import DiskFull, ReadOnly, StorageLimit
from node.storage.held_records import MAX_HELD_ITEMS, HeldRecords
from tests.node.storage_fixtures import ALICE, BOB, OPENING, UNSYNCED, authored, entry, inline

BASES = [bytes([number]) * 32 for number in range(4)]


def _pool() -> list[Record]:
    """Two chains, the first of them forked after its third record."""
    first = authored(ALICE, [*OPENING, entry("one"), entry("two")])
    fork = authored(ALICE, [entry("other one"), entry("other two")], head_of(first[2]))
    return [*first, *fork, *authored(BOB, [*OPENING, entry("three")])]


POOL = _pool()


def open_held(path: Path) -> HeldRecords:
    return HeldRecords(path, inline, UNSYNCED)


class Model:
    """What must be held, from what `hold` was given."""

    def __init__(self) -> None:
        self.records: dict[Cid, Record] = {}
        self.bases: dict[bytes, dict[Cid, int]] = {}

    def hold(self, items: Sequence[Held]) -> None:
        """Merge items, whatever their order."""
        for item in items:
            new = item.record
            old = self.records.get(new.cid, new)
            payload = old.payload if old.payload is not None else new.payload
            merged = replace(old, payload=payload, signature=min(old.signature, new.signature))
            self.records[new.cid] = merged
            for roles, basis in item.bases:
                at = self.bases.setdefault(basis, {})
                at[new.cid] = at.get(new.cid, 0) | roles

    def check(self, held: HeldRecords) -> None:
        """Hold the store against the model."""
        everything = [record.cid for record in POOL]
        assert held.get_many(everything) == [self.records.get(cid) for cid in everything]
        assert held.has(everything) == frozenset(self.records)
        assert held.count() == len(self.records)
        for basis in BASES:
            cids = sorted(self.bases.get(basis, {}))
            total = sum(int.from_bytes(digest(cid), "big") for cid in cids) % (1 << 256)
            assert held.digest_of(basis) == (len(cids), total.to_bytes(32, "big"))
            assert held.cids_at(basis, None, 100) == cids
            assert held.at_basis(basis, None, 100) == [self.records[cid] for cid in cids]
            assert held.held_at(basis, None, 100) == sorted(self.bases.get(basis, {}).items())
            for place, cid in enumerate(cids):
                assert held.cids_at(basis, cid, 2) == cids[place + 1 : place + 3]
                assert [r.cid for r in held.at_basis(basis, cid, 2)] == cids[place + 1 : place + 3]
        pages = [held.bases_after(b"", 2)]
        while pages[-1]:
            pages.append(held.bases_after(pages[-1][-1].basis, 2))
        assert [one.basis for page in pages for one in page] == [b for b in BASES if self.bases.get(b)]
        assert all(one.digest == held.digest_of(one.basis) for page in pages for one in page)
        for role in (1, 2, 4):
            expected = [b for b in BASES if any(roles & role for roles in self.bases.get(b, {}).values())]
            assert held.bases(role) == expected
        for author in (ALICE.agent, BOB.agent):
            own = [record for record in self.records.values() if record.header.author == author]
            own.sort(key=lambda record: (record.header.seq, record.cid))
            assert held.of_author(author) == [record.without_payload() for record in own]
            assert (
                held.of_author(author, 3, 1)
                == [record.without_payload() for record in own if record.header.seq >= 3][:1]
            )
            first = [r for r in own if r.header.seq < 2 and r.payload is not None]
            assert held.opening(author) == (tuple(first) if len(first) == 2 else None)
            records = [record for record in self.records.values() if record.header.author == author]
            total = sum(len(record.header_bytes) + len(record.payload or b"") for record in records)
            usage = {author: Usage(len(records), total)} if records else {}
            assert held.usage_of([author]) == usage


def _item(place: int, whole: bool, signature: int, bases: list[tuple[int, bytes]]) -> Held:
    record = POOL[place] if whole else POOL[place].without_payload()
    # `hold` takes the caller's word that signatures are valid, so any bytes stand for another valid one.
    signatures = [record.signature, bytes(64), b"\xff" * 64]
    return Held(replace(record, signature=signatures[signature]), tuple(bases))


ITEM = st.builds(
    _item,
    st.integers(0, len(POOL) - 1),
    st.booleans(),
    st.integers(0, 2),
    st.lists(st.tuples(st.sampled_from([1, 2, 4, 6]), st.sampled_from(BASES)), max_size=3),
)


@given(sessions=st.lists(st.lists(st.lists(ITEM, max_size=5), max_size=4), max_size=3))
@settings(max_examples=40, deadline=None)
def test_any_sequence_of_holds_and_restarts_equals_the_model(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[list[list[Held]]]
) -> None:
    path = tmp_path_factory.mktemp("model") / "held.db"
    model = Model()

    async def session(calls: list[list[Held]]) -> None:
        held = open_held(path)
        model.check(held)
        async with trio.open_nursery() as nursery:
            await nursery.start(held.run)
            async with trio.open_nursery() as callers:
                for items in calls:
                    callers.start_soon(held.hold, items)
                    model.hold(items)
            model.check(held)
            await held.aclose()

    for calls in sessions:
        trio.run(session, calls)
    held = open_held(path)
    model.check(held)
    held.close()


async def test_both_branches_of_a_fork_are_kept(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        held = open_held(tmp_path / "held.db")
        await nursery.start(held.run)
        await held.hold([Held(record, ()) for record in POOL])
        seqs = [record.header.seq for record in held.of_author(ALICE.agent)]
        assert seqs == [0, 1, 2, 3, 3, 4, 4]
        await held.aclose()


async def test_an_opening_is_two_linked_records_even_of_a_forked_author(tmp_path: Path) -> None:
    genesis, membrane, _ = authored(ALICE, list(OPENING))
    others = [authored(ALICE, [replace(OPENING[0], body={"number": n}), OPENING[1]]) for n in range(6)]
    async with trio.open_nursery() as nursery:
        held = open_held(tmp_path / "held.db")
        await nursery.start(held.run)
        await held.hold([Held(membrane, ()), *(Held(other[0], ()) for other in others)])
        assert held.opening(ALICE.agent) is None
        await held.hold([Held(genesis.without_payload(), ())])
        assert held.opening(ALICE.agent) is None
        await held.hold([Held(genesis, ())])
        assert held.opening(ALICE.agent) == (genesis, membrane)
        await held.hold([Held(other[1], ()) for other in others])
        smallest = min([(genesis, membrane), *map(tuple, others)], key=lambda pair: pair[1].cid)
        assert held.opening(ALICE.agent) == smallest
        assert held.opening(BOB.agent) is None
        await held.aclose()


async def test_malformed_bases_and_too_many_items_are_refused(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        held = open_held(tmp_path / "held.db")
        await nursery.start(held.run)
        for bases in ([(1, b"short")], [(0, BASES[0])], [(-1, BASES[0])], [(1 << 31, BASES[0])]):
            with pytest.raises(StorageLimit, match="basis"):
                await held.hold([Held(POOL[0], tuple(bases))])
        with pytest.raises(StorageLimit, match="in parts"):
            await held.hold([Held(POOL[0], ())] * (MAX_HELD_ITEMS + 1))
        assert held.count() == 0
        await held.aclose()


async def test_a_full_disk_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "held.db"
    records = authored(ALICE, [entry(f"{number} " + "x" * 700) for number in range(120)])
    acknowledged: list[Cid] = []
    async with trio.open_nursery() as nursery:
        held = HeldRecords(path, ThreadedBlocking(1), Options(max_page_count=40))
        await nursery.start(held.run)
        for record in records:
            try:
                await held.hold([Held(record, ((1, digest(record.cid)),))])
                acknowledged.append(record.cid)
            except (DiskFull, ReadOnly):
                assert held.read_only
        assert 0 < len(acknowledged) < len(records)
        assert held.count() == len(acknowledged)
        await held.aclose()
    async with trio.open_nursery() as nursery:
        held = HeldRecords(path, ThreadedBlocking(1))
        await nursery.start(held.run)
        assert held.has(acknowledged) == frozenset(acknowledged)
        await held.hold([Held(record, ((1, digest(record.cid)),)) for record in records])
        assert held.count() == len(records)
        assert held.size_bytes() > 40 * 4096
        await held.aclose()


async def test_a_flood_of_operations_hides_nobody_elses(tmp_path: Path) -> None:
    """The creator's come first, then each author's first, second, …; pages of them make the whole."""
    create = authored(ALICE, [*OPENING, entry("one")])[3]

    def operations(who: Identity, count: int) -> list[Record]:
        tags = [Draft(TAG, {"tag": f"t{n}"}, subject=create.cid, subject_seq=n) for n in range(count)]
        return authored(who, [*OPENING, *tags])[3:]

    carol = Identity.from_seed(b"C" * 32)
    creators, flood, few = operations(ALICE, 3), operations(BOB, 40), operations(carol, 2)
    rest = sorted([*flood[:2], *few], key=lambda r: (r.header.seq, r.cid)) + flood[2:]
    expected = [record.cid for record in (*creators, *rest)]
    async with trio.open_nursery() as nursery:
        held = open_held(tmp_path / "held.db")
        await nursery.start(held.run)
        await held.hold([Held(record, ()) for record in (*flood, *few, *creators)])
        assert held.operations(create.cid, 0, 100, ALICE.agent) == expected
        assert held.operations(create.cid, 0, 100) != expected, "who the creator is has to be known"
        await held.hold([Held(create, ())])
        assert held.operations(create.cid, 0, 100) == expected
        assert [c for skip in range(0, 45, 9) for c in held.operations(create.cid, skip, 9)] == expected
        assert [record.cid for record in held.about(create.cid, 5)] == [create.cid, *expected[:5]]
        found: list[Record] = []
        before: tuple[int, Cid] | None = None
        while page := held.operations_by(create.cid, BOB.agent, before, 9):
            assert len(page) <= 9
            found += page
            before = page[-1].header.seq, page[-1].cid
        assert found == list(reversed(flood)), "one author's, the newest first"
        assert held.operations_by(flood[0].cid, BOB.agent, None, 9) == []
        await held.aclose()


@given(sessions=st.lists(st.lists(ITEM, max_size=8), max_size=3), whose=st.sampled_from([ALICE, BOB]))
@settings(max_examples=25, deadline=None)
def test_what_is_expelled_leaves_the_digests_of_the_rest(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[list[Held]], whose: Identity
) -> None:
    folder = tmp_path_factory.mktemp("expel")

    async def session() -> None:
        async with trio.open_nursery() as nursery:
            expelled, never = open_held(folder / "a.db"), open_held(folder / "b.db")
            for held in (expelled, never):
                await nursery.start(held.run)
            for items in sessions:
                await expelled.hold(items)
                await never.hold([one for one in items if one.record.header.author != whose.agent])
            lay = {
                b
                for i in sessions
                for one in i
                if one.record.header.author == whose.agent
                for _, b in one.bases
            }
            assert await expelled.expel(author=whose.agent) == lay
            for basis in BASES:
                assert expelled.digest_of(basis) == never.digest_of(basis)
                assert expelled.cids_at(basis, None, 99) == never.cids_at(basis, None, 99)
            for record in expelled.of_author(whose.agent, 3):
                found = expelled.get(record.cid)
                assert found is not None
                assert found.payload is None
            assert await expelled.expel(author=whose.agent) == set()
            await expelled.aclose()
            await never.aclose()

    trio.run(session)


@given(items=st.lists(ITEM, max_size=16), gone=st.sets(st.sampled_from(POOL)), at=st.sampled_from(BASES))
@settings(max_examples=25, deadline=None)
def test_what_is_released_leaves_the_rest_and_two_of_one_place_are_found(
    tmp_path_factory: pytest.TempPathFactory, items: list[Held], gone: set[Record], at: bytes
) -> None:
    folder = tmp_path_factory.mktemp("release")
    cids = {record.cid for record in gone}

    async def session() -> None:
        async with trio.open_nursery() as nursery:
            released, never = open_held(folder / "a.db"), open_held(folder / "b.db")
            for held in (released, never):
                await nursery.start(held.run)
            await released.hold(items)
            await released.release(at, sorted(cids))
            left = [
                replace(one, bases=tuple(b for b in one.bases if b[1] != at))
                if one.record.cid in cids
                else one
                for one in items
            ]
            await never.hold(left)
            for basis in BASES:
                assert released.digest_of(basis) == never.digest_of(basis)
                assert released.cids_at(basis, None, 99) == never.cids_at(basis, None, 99)
            held_records = {item.record.cid: item.record for item in items}.values()
            places = sorted({(one.header.author, one.header.seq) for one in held_records})
            by_place = [
                sorted(one.cid for one in held_records if (one.header.author, one.header.seq) == place)
                for place in places
            ]
            found = [[one.cid for one in twins] for twins in released.twins(places)]
            assert found == [cids for cids in by_place if len(cids) > 1]
            await released.aclose()
            await never.aclose()

    trio.run(session)
