"""Dropping a basis: what was proven elsewhere goes, what others name stays, and a file of schema 1 opens."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.kinds import PURGE
from chain.record import Record
from chain.source_chain import Draft, head_of
from crdt.operations import purge_body
from dht.records.basis import author_basis, subject_basis
from dht.records.placement import Role
from dht.records.record_store import Held
from node.storage import held_records, letting_go
from node.storage.database import open_database
from node.storage.held_records import RECLAIM_AT, HeldRecords
from tests.node.storage_fixtures import ALICE, BOB, OPENING, UNSYNCED, authored, entry, inline

POOL = [
    *authored(ALICE, [*OPENING, *(entry(str(n)) for n in range(3))]),
    *authored(BOB, [*OPENING, entry("b")]),
]
SHARD = b"\x07" * 32


def placed(record: Record, roles: Role) -> Held:
    bases = {
        Role.SUBJECT: subject_basis(record.subject),
        Role.AUTHOR: author_basis(record.header.author),
        Role.SHARD: SHARD,
    }
    return Held(record, tuple((int(role), basis) for role, basis in bases.items() if roles & role))


def in_store(path: Path, work: Callable[[HeldRecords], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        held = HeldRecords(path, inline, UNSYNCED)
        async with trio.open_nursery() as nursery:
            await nursery.start(held.run)
            await work(held)
            await held.aclose()

    trio.run(main)


STEP = st.one_of(
    st.builds(
        lambda place, roles: ("hold", place, Role(roles)), st.integers(0, len(POOL) - 1), st.integers(1, 7)
    ),
    st.tuples(
        st.just("drop"),
        st.integers(0, len(POOL) - 1),
        st.sampled_from([Role.SUBJECT, Role.AUTHOR, Role.SHARD]),
    ),
)


@given(st.lists(STEP, max_size=20))
@settings(max_examples=25, deadline=None)
def test_a_dropped_basis_is_empty_and_every_other_one_is_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, Role]]
) -> None:
    async def work(held: HeldRecords) -> None:
        model: dict[bytes, dict[bytes, int]] = {}
        for step, place, roles in steps:
            item = placed(POOL[place], roles)
            if step == "hold":
                await held.hold([item])
                for role, basis in item.bases:
                    at = model.setdefault(basis, {})
                    at[POOL[place].cid] = at.get(POOL[place].cid, 0) | role
            else:
                ((_, basis),) = item.bases
                gone = await held.drop(basis, held.digest_of(basis))
                there = model.pop(basis, {})
                rest = {
                    cid: sum({role for at in model.values() for role in [at.get(cid, 0)]}) for cid in there
                }
                assert dict(gone or []) == rest
            for basis, at in model.items():
                assert held.held_at(basis, None, 100) == sorted(at.items())
                assert held.digest_of(basis)[0] == len(at)
            assert {one.basis for one in held.bases_after(b"", 100)} == set(model)
            needed = {cid for at in model.values() for cid, roles in at.items() if roles & ~Role.AUTHOR}
            assert all(found is not None and found.payload for found in held.get_many(sorted(needed)))

    in_store(tmp_path_factory.mktemp("drop") / "held.db", work)


def test_a_basis_that_has_changed_since_is_left_alone(tmp_path: Path) -> None:
    async def work(held: HeldRecords) -> None:
        await held.hold([placed(POOL[3], Role.SHARD)])
        before = held.digest_of(SHARD)
        await held.hold([placed(POOL[4], Role.SHARD)])
        assert await held.drop(SHARD, before) is None
        assert held.digest_of(SHARD)[0] == 2
        assert await held.drop(b"\x09" * 32, before) is None

    in_store(tmp_path / "held.db", work)


def test_a_payload_goes_with_the_last_role_that_needs_it(tmp_path: Path) -> None:
    async def work(held: HeldRecords) -> None:
        record = POOL[3]
        await held.hold([placed(record, Role.SHARD | Role.SUBJECT | Role.AUTHOR)])
        assert await held.drop(SHARD, held.digest_of(SHARD)) == [(record.cid, Role.SUBJECT | Role.AUTHOR)]
        assert held.get(record.cid) == record
        subject = subject_basis(record.subject)
        assert await held.drop(subject, held.digest_of(subject)) == [(record.cid, Role.AUTHOR)]
        assert held.get(record.cid) == record.without_payload()
        await held.hold([placed(record, Role.SHARD)])
        assert held.get(record.cid) == record, "a payload that comes again completes the record"

    in_store(tmp_path / "held.db", work)


def test_what_nothing_names_is_reclaimed_and_the_rest_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_records, "RECLAIM_AT", 1)
    genesis, membrane, profile, first, second, third = POOL[:6]
    path = tmp_path / "held.db"

    async def fill(held: HeldRecords) -> None:
        await held.hold([Held(genesis), Held(membrane), Held(profile.without_payload())])
        await held.hold(
            [placed(first, Role.SUBJECT), placed(second, Role.SUBJECT), placed(third, Role.SHARD)]
        )
        assert await held.reclaim() == 0
        for record in (first, second):
            basis = subject_basis(record.subject)
            assert await held.drop(basis, held.digest_of(basis)) == [(record.cid, 0)]
        assert held.count() < 6
        # `third` names `second`, and its author's opening has to be served with it.
        assert await held.reclaim() == 2
        assert held.get(first.cid) is None
        assert held.get(profile.cid) is None
        assert held.get(second.cid) == second.without_payload()
        assert held.opening(ALICE.agent) == (genesis, membrane)

    async def empty(held: HeldRecords) -> None:
        await held.drop(SHARD, held.digest_of(SHARD))
        await held.reclaim()
        assert held.count() == 0
        assert held.get_many([record.cid for record in POOL]) == [None] * len(POOL)

    in_store(path, fill)
    in_store(path, empty)


def test_what_comes_while_reclaiming_keeps_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_records, "RECLAIM_AT", 1)

    async def work(held: HeldRecords) -> None:
        await held.hold([placed(POOL[3], Role.SHARD)])
        await held.drop(SHARD, held.digest_of(SHARD))

        async def late(fn: Callable[..., object], *args: object) -> object:
            found = fn(*args)
            if fn is letting_go.in_use:
                await held.hold([placed(POOL[4], Role.SHARD)])  # it names the record that is to go
            return found

        monkeypatch.setattr(held, "_run_blocking", late)
        assert await held.reclaim() == 0
        assert held.get(POOL[3].cid) == POOL[3].without_payload()

    in_store(tmp_path / "held.db", work)


def test_what_was_on_its_way_to_disk_when_reclaiming_began_keeps_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_records, "RECLAIM_AT", 1)

    async def work(held: HeldRecords) -> None:
        await held.hold([placed(POOL[3], Role.SHARD)])
        await held.drop(SHARD, held.digest_of(SHARD))
        disk = trio.Event()

        async def slow(fn: Callable[..., object], *args: object) -> object:
            await disk.wait()
            return fn(*args)

        monkeypatch.setattr(held._writer, "_run_blocking", slow)
        reclaimed: list[int] = []

        async def reclaim() -> None:
            reclaimed.append(await held.reclaim())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.hold, [placed(POOL[4], Role.SHARD)])  # it names the record that is to go
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(reclaim)
            await trio.testing.wait_all_tasks_blocked()
            disk.set()
        assert reclaimed == [0]
        assert held.get(POOL[3].cid) == POOL[3].without_payload()

    in_store(tmp_path / "held.db", work)


def test_a_file_of_the_first_schema_opens_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "held.db"
    first = replace(held_records.LAYOUT, migrations=held_records.LAYOUT.migrations[:1])
    open_database(path, first, UNSYNCED).close()
    record = POOL[3]
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO records (cid, author, seq, subject, kind, header, signature, payload)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.cid,
                record.header.author,
                record.header.seq,
                record.subject,
                record.header.kind,
                record.header_bytes,
                record.signature,
                record.payload,
            ),
        )
        connection.execute("INSERT INTO bases VALUES (?, ?, 4)", (SHARD, record.cid))
        connection.execute("INSERT INTO digests VALUES (?, 4, 1, ?)", (SHARD, record.cid[-32:]))
    connection.close()

    async def work(held: HeldRecords) -> None:
        assert held.count() == 1
        assert held.get(record.cid) == record
        assert held.digest_of(SHARD) == (1, record.cid[-32:])
        await held.hold([placed(POOL[4], Role.SHARD)])
        assert held.count() == 2
        assert await held.drop(SHARD, held.digest_of(SHARD)) == [
            (r.cid, 0) for r in sorted(POOL[3:5], key=lambda r: r.cid)
        ]
        assert held.count() == 0

    in_store(path, work)


def test_the_file_gives_back_what_was_dropped_and_what_was_purged(tmp_path: Path) -> None:
    """Not only free pages: the file is smaller, as who looks at the disk sees it."""
    path = tmp_path / "held.db"
    many, text = RECLAIM_AT + 200, "x" * 3_000
    drafts = [*OPENING, *(entry(text + str(n)) for n in range(many))]
    records = authored(ALICE, drafts)
    large = authored(BOB, [*OPENING, entry("y" * 1_000_000)])
    erased = large[-1].cid
    purge = Draft(PURGE, purge_body([erased]), subject=erased, subject_seq=1, deps=())
    purge = replace(purge, subject_prev=erased, deps_lamport=large[-1].header.lamport)
    (purging,) = authored(BOB, [purge], head_of(large[-1]))

    async def fill(held: HeldRecords) -> None:
        await held.hold([placed(record, Role.SHARD) for record in records[3:]])
        await held.hold([placed(record, Role.SUBJECT) for record in large])

    async def drop(held: HeldRecords) -> None:
        assert await held.drop(SHARD, held.digest_of(SHARD)) is not None
        assert await held.reclaim() == many

    async def erase(held: HeldRecords) -> None:
        await held.hold([placed(purging, Role.SUBJECT)])
        assert await held.scrub()
        found = held.get(erased)
        assert found is not None
        assert found.payload is None

    sizes = []
    for work in (fill, drop, erase):
        in_store(path, work)
        sizes.append(path.stat().st_size)
    full, dropped, purged = sizes
    assert full > many * len(text) + 1_000_000
    assert 1_000_000 < dropped < full / 3
    assert purged < 200_000
