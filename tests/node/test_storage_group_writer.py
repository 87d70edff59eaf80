"""One transaction for many waiting writes: atomic for each, durable before anyone is told, bounded."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.ports import RunBlocking, ThreadedBlocking
from node.storage.database import Database, Layout, Options, open_database
from node.storage.errors import DiskFull, ReadOnly, StorageClosed
from node.storage.group_writer import MAX_BATCH, MAX_QUEUED, GroupWriter
from tests.node.storage_fixtures import UNSYNCED, inline

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LAYOUT = Layout(0x77, ("CREATE TABLE things (name INTEGER PRIMARY KEY, blob BLOB)",), "restore the test")


class Boom(Exception):
    """What a failing function raises."""


def add(*names: int, fail: bool = False) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        for name in names:
            connection.execute("INSERT INTO things (name) VALUES (?)", (name,))
        if fail:
            raise Boom(names)
        return len(names)

    return work


def names(database: Database) -> list[int]:
    return [row[0] for row in database.rows("SELECT name FROM things ORDER BY name")]


@asynccontextmanager
async def serving(
    path: Path, options: Options = UNSYNCED, run_blocking: RunBlocking = inline
) -> AsyncIterator[tuple[GroupWriter, Database]]:
    database = open_database(path, LAYOUT, options)
    writer = GroupWriter(database, run_blocking)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        try:
            yield writer, database
        finally:
            with trio.CancelScope(shield=True):
                await writer.aclose()


class Gate:
    """`RunBlocking` that holds each call until it is let through, and counts."""

    def __init__(self) -> None:
        self.waiting = trio.Event()
        self.open = trio.Event()
        self.calls = 0

    async def __call__(self, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        self.calls += 1
        self.waiting.set()
        with trio.CancelScope(shield=True):
            await self.open.wait()
        return fn(*args)


@given(
    plan=st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=4), st.booleans()), min_size=1, max_size=20)
)
@settings(max_examples=80, deadline=None)
def test_each_write_is_all_or_nothing_whatever_its_neighbours_do(
    tmp_path_factory: pytest.TempPathFactory, plan: Sequence[tuple[list[int], bool]]
) -> None:
    """Writes of one batch, some raising after they wrote, some breaking a constraint halfway."""
    folder = tmp_path_factory.mktemp("batch")

    async def main() -> None:
        outcomes: dict[int, bool] = {}
        async with serving(folder / "a.db") as (writer, database):

            async def submit(place: int, wanted: list[int], fail: bool) -> None:
                try:
                    assert await writer.submit(add(*wanted, fail=fail)) == len(wanted)
                    outcomes[place] = True
                except (Boom, sqlite3.IntegrityError):
                    outcomes[place] = False

            async with trio.open_nursery() as nursery:
                for place, (wanted, fail) in enumerate(plan):
                    nursery.start_soon(submit, place, wanted, fail)
            stored = names(database)
        kept = [plan[place][0] for place in sorted(outcomes) if outcomes[place]]
        assert len(outcomes) == len(plan)
        assert stored == sorted(name for wanted in kept for name in wanted)
        for place, (_, fail) in enumerate(plan):
            assert not (fail and outcomes[place])
        repeated = [name for wanted, _ in plan for name in wanted]
        for place, (wanted, fail) in enumerate(plan):
            if not fail and all(repeated.count(name) == 1 for name in wanted):
                assert outcomes[place], "a write failed that nothing stood against"

    trio.run(main)


async def test_waiting_writes_share_a_transaction_and_order_is_kept(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(tmp_path / "a.db", run_blocking=gate) as (writer, database):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.submit, add(0))
            await gate.waiting.wait()
            for name in range(1, 100):
                nursery.start_soon(writer.submit, add(name))
            await trio.testing.wait_all_tasks_blocked()
            assert names(database) == []
            gate.open.set()
        assert names(database) == list(range(100))
        assert (gate.calls, writer.batches) == (2, 2)


async def test_nothing_is_acknowledged_or_visible_before_the_commit(tmp_path: Path) -> None:
    """The commit is a blocking call that has not returned: no waiter may run meanwhile."""
    gate = Gate()
    acknowledged: list[int] = []
    async with serving(tmp_path / "a.db", run_blocking=gate) as (writer, database):

        async def submit(name: int) -> None:
            await writer.submit(add(name))
            assert name in names(database)
            acknowledged.append(name)

        async with trio.open_nursery() as nursery:
            for name in range(10):
                nursery.start_soon(submit, name)
            await gate.waiting.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert acknowledged == []
            gate.open.set()
        assert sorted(acknowledged) == list(range(10))


async def test_batches_and_queue_are_bounded(tmp_path: Path) -> None:
    gate = Gate()
    total = MAX_QUEUED + MAX_BATCH + 50
    async with serving(tmp_path / "a.db", run_blocking=gate) as (writer, database):
        async with trio.open_nursery() as nursery:
            for name in range(total):
                nursery.start_soon(writer.submit, add(name))
            await trio.testing.wait_all_tasks_blocked()
            assert len(writer._queue) == MAX_QUEUED
            gate.open.set()
        assert names(database) == list(range(total))
        assert writer.batches >= total / MAX_BATCH


async def test_a_write_cancelled_before_its_transaction_never_runs(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(tmp_path / "a.db", run_blocking=gate) as (writer, database):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.submit, add(0))
            await gate.waiting.wait()
            with trio.CancelScope() as late:
                nursery.start_soon(writer.submit, add(1))
                async with trio.open_nursery() as doomed:
                    doomed.start_soon(writer.submit, add(2))
                    await trio.testing.wait_all_tasks_blocked()
                    late.cancel()
            gate.open.set()
        assert names(database) == [0, 1]


async def test_a_write_cancelled_in_its_transaction_is_kept(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(tmp_path / "a.db", run_blocking=gate) as (writer, database):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.submit, add(0))
            await gate.waiting.wait()
            nursery.cancel_scope.cancel()
        gate.open.set()
        await writer.submit(add(1))
        assert names(database) == [0, 1]


async def test_closing_writes_what_is_queued_and_then_refuses(tmp_path: Path) -> None:
    gate = Gate()
    path = tmp_path / "a.db"
    async with serving(path, run_blocking=gate) as (writer, _), trio.open_nursery() as nursery:
        for name in range(3):
            nursery.start_soon(writer.submit, add(name))
        await gate.waiting.wait()
        nursery.start_soon(writer.submit, add(3))
        await trio.testing.wait_all_tasks_blocked()
        writer.close()
        with pytest.raises(StorageClosed):
            await writer.submit(add(9))
        gate.open.set()
    database = open_database(path, LAYOUT, UNSYNCED)
    assert names(database) == [0, 1, 2, 3]
    database.close()
    assert os.listdir(tmp_path) == ["a.db"]


async def test_cancelling_the_writer_ends_its_transaction_and_tells_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    gate = Gate()
    writer = GroupWriter(open_database(path, LAYOUT, UNSYNCED), gate)
    told: list[str] = []

    async def submit(name: int) -> None:
        try:
            await writer.submit(add(name))
            told.append(f"{name} kept")
        except StorageClosed:
            told.append(f"{name} refused")

    async with trio.open_nursery() as nursery, trio.open_nursery() as running:
        await running.start(writer.run)
        nursery.start_soon(submit, 0)
        await gate.waiting.wait()
        nursery.start_soon(submit, 1)
        await trio.testing.wait_all_tasks_blocked()
        running.cancel_scope.cancel()
        gate.open.set()
    assert sorted(told) == ["0 kept", "1 refused"]
    database = open_database(path, LAYOUT, UNSYNCED)
    assert names(database) == [0]
    database.close()


async def test_a_writer_that_never_ran_can_be_closed(tmp_path: Path) -> None:
    writer = GroupWriter(open_database(tmp_path / "a.db", LAYOUT, UNSYNCED), inline)
    await writer.aclose()
    await writer.aclose()
    with pytest.raises(StorageClosed):
        await writer.submit(add(1))
    with pytest.raises(StorageClosed):
        await writer.run()


@pytest.mark.parametrize("threads", [False, True])
async def test_a_full_disk_keeps_what_was_acknowledged_and_nothing_else(
    tmp_path: Path, threads: bool
) -> None:
    path = tmp_path / "a.db"
    acknowledged: list[int] = []
    refusals: list[DiskFull | ReadOnly] = []
    run_blocking: RunBlocking = ThreadedBlocking(1) if threads else inline
    async with serving(path, Options(max_page_count=60), run_blocking) as (writer, database):

        async def fill(first: int) -> None:
            for name in range(first, first + 40):

                def work(connection: sqlite3.Connection, name: int = name) -> None:
                    connection.execute("INSERT INTO things VALUES (?, zeroblob(1000))", (name,))

                try:
                    await writer.submit(work)
                    acknowledged.append(name)
                except (DiskFull, ReadOnly) as error:
                    refusals.append(error)

        async with trio.open_nursery() as nursery:
            for first in range(0, 320, 40):
                nursery.start_soon(fill, first)
        assert writer.read_only is not None
        assert "full" in writer.read_only
        with pytest.raises(ReadOnly, match="full"):
            await writer.submit(add(1_000))
        assert 0 < len(acknowledged) < 320
        assert {type(error) for error in refusals} == {DiskFull, ReadOnly}
        assert all(str(path) in str(error) for error in refusals)
        assert len(acknowledged) + len(refusals) == 320
        assert names(database) == sorted(acknowledged)
    database = open_database(path, LAYOUT, UNSYNCED)
    assert names(database) == sorted(acknowledged)
    database.close()
    async with serving(path) as (writer, _):
        assert await writer.submit(add(5_000)) == 1


def _handles_of(path: Path) -> list[int]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [int(link.name) for link in links if str(link.resolve()).startswith(str(path.resolve()))]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds handles through /proc")
async def test_a_disk_that_fails_while_syncing_is_treated_as_full(tmp_path: Path) -> None:
    """An I/O error, made by closing the database's files under the writer."""
    path = tmp_path / "a.db"
    async with serving(path) as (writer, _):
        await writer.submit(add(1))
        handles = _handles_of(path)
        null = os.open("/dev/full", os.O_RDWR)
        saved = {handle: os.dup(handle) for handle in handles}
        try:
            for handle in handles:
                os.dup2(null, handle)
            with pytest.raises(DiskFull):
                await writer.submit(add(2))
            assert writer.read_only
        finally:
            for handle, copy in saved.items():
                os.dup2(copy, handle)
                os.close(copy)
            os.close(null)
    database = open_database(path, LAYOUT, UNSYNCED)
    assert names(database) == [1]
    database.close()


async def test_an_error_reaches_each_waiter_as_its_own(tmp_path: Path) -> None:
    caught: list[BaseException] = []
    async with serving(tmp_path / "a.db", Options(max_page_count=3)) as (writer, _):

        def big(connection: sqlite3.Connection) -> Any:
            return connection.execute("INSERT INTO things (blob) VALUES (zeroblob(50000))")

        async def submit() -> None:
            with pytest.raises(DiskFull) as raised:
                await writer.submit(big)
            caught.append(raised.value)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(submit)
    assert len({id(error) for error in caught}) == 4
