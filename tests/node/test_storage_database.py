"""A database is created whole, opened only if sound, and never overwritten."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import raw_cid
from dht.ports import system_random
from node.storage.database import Layout, Options, open_database
from node.storage.derived_state import DerivedState
from node.storage.errors import (
    DatabaseCorrupt,
    DatabaseUnavailable,
    ForeignChain,
    SchemaTooNew,
    StorageClosed,
)
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain
from tests.node.storage_fixtures import ALICE, BOB, OPENING, UNSYNCED, CountingClock, inline, open_chain

LAYOUT = Layout(0x1234, ("CREATE TABLE things (name TEXT PRIMARY KEY)",), "restore the test")
NEXT = Layout(0x1234, (*LAYOUT.migrations, "ALTER TABLE things ADD COLUMN size INTEGER"), "restore the test")


def _filled(path: Path, rows: int = 2_000) -> bytes:
    database = open_database(path, LAYOUT, UNSYNCED)
    database.writer.executemany("INSERT INTO things VALUES (?)", [(f"thing {n}",) for n in range(rows)])
    database.close()
    return path.read_bytes()


def test_a_new_database_is_whole_private_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_database(path, LAYOUT, Options()).close()
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_writer_waits_for_the_disk_and_keeps_references(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db", LAYOUT, Options())
    settings_ = {
        name: database.writer.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert settings_ == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()


def test_an_interrupted_creation_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "a.db.new").write_bytes(b"half a database")
    (tmp_path / "a.db.new-journal").write_bytes(b"half a journal")
    open_database(tmp_path / "a.db", LAYOUT, Options()).close()
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


@given(content=st.one_of(st.binary(max_size=5_000), st.just(b"SQLite format 3\0"), st.just(b"\0" * 4096)))
@settings(max_examples=60, deadline=None)
def test_garbage_is_refused_and_left_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "a.db"
    path.write_bytes(content)
    with pytest.raises(DatabaseCorrupt, match="restore the test"):
        open_database(path, LAYOUT, Options())
    assert path.read_bytes() == content


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused_and_left_as_it_is(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.db"
    whole = _filled(path)
    part = whole[: int(len(whole) * share)]
    path.write_bytes(part)
    for _ in range(2):  # the first refusal must not have repaired anything
        with pytest.raises(DatabaseCorrupt):
            open_database(path, LAYOUT, Options())
    assert path.read_bytes() == part


@pytest.mark.parametrize("damage", [lambda b: b[:20_000], lambda b: b[:20_480] + b"\xff" * 4096 + b[24_576:]])
def test_a_damaged_file_with_a_log_is_refused_and_both_are_left_as_they_are(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    live = tmp_path / "live.db"
    _filled(live)
    database = open_database(live, LAYOUT, UNSYNCED)
    database.writer.execute("INSERT INTO things VALUES ('rose')")
    path, log = tmp_path / "a.db", tmp_path / "a.db-wal"
    part, logged = damage(live.read_bytes()), Path(f"{live}-wal").read_bytes()
    database.close()
    path.write_bytes(part)
    log.write_bytes(logged)
    assert logged
    with pytest.raises(DatabaseCorrupt):
        open_database(path, LAYOUT, Options())
    assert (path.read_bytes(), log.read_bytes()) == (part, logged)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_damaged_page_is_refused(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.db"
    content = bytearray(_filled(path))
    source = random.Random(seed)
    page = source.randrange(len(content) // 4096) * 4096
    content[page : page + 512] = source.randbytes(512)
    path.write_bytes(content)
    with pytest.raises(DatabaseCorrupt):
        open_database(path, LAYOUT, Options())
    assert path.read_bytes() == bytes(content)


def test_a_folder_and_another_programs_database_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(DatabaseCorrupt, match="regular file"):
        open_database(tmp_path / "folder.db", LAYOUT, Options())
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    before = other.read_bytes()
    with pytest.raises(DatabaseCorrupt, match="another kind of database"):
        open_database(other, LAYOUT, Options())
    assert other.read_bytes() == before


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="check the folder"):
        open_database(tmp_path / "nowhere" / "a.db", LAYOUT, Options())


def test_an_older_schema_is_migrated_and_a_newer_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    _filled(path, 3)
    upgraded = open_database(path, NEXT, UNSYNCED)
    assert upgraded.rows("SELECT name, size FROM things ORDER BY name LIMIT 1") == [("thing 0", None)]
    upgraded.close()
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match="newer roseforest"):
        open_database(path, LAYOUT, UNSYNCED)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    _filled(path, 3)
    broken = Layout(
        0x1234, (*LAYOUT.migrations, "DELETE FROM things; DELETE FROM absent"), "restore the test"
    )
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        open_database(path, broken, UNSYNCED)
    database = open_database(path, LAYOUT, UNSYNCED)
    assert database.row("SELECT count(*) FROM things") == (3,)
    database.close()


def test_reads_see_commits_only_and_work_from_any_thread(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db", LAYOUT, UNSYNCED)
    writer = database.writer
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO things VALUES ('rose')")
    assert database.rows("SELECT name FROM things") == []
    writer.execute("COMMIT")
    seen: list[object] = []
    threads = [Thread(target=lambda: seen.append(database.rows("SELECT name FROM things"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[("rose",)]] * 8
    with database.reading() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM things")
    database.close()


def _open_handles(folder: Path) -> int:
    own = Path("/proc/self/fd")
    return sum(1 for link in own.iterdir() if str(link.resolve()).startswith(str(folder.resolve())))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts handles through /proc")
def test_closing_leaves_no_handle_even_of_reads_under_way(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db", LAYOUT, UNSYNCED)
    with database.reading() as one, database.reading() as two:
        assert one is not two
        database.close()
        database.close()
        assert one.execute("SELECT count(*) FROM things").fetchone() == (0,)
    assert _open_handles(tmp_path) == 0
    with pytest.raises(StorageClosed):
        database.rows("SELECT 1")
    path = tmp_path / "b.db"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(DatabaseCorrupt):
        open_database(path, LAYOUT, Options())
    assert _open_handles(tmp_path) == 0


@pytest.mark.parametrize(
    "open_store",
    [
        open_chain,
        lambda path: HeldRecords(path, inline, UNSYNCED),
        lambda path: DerivedState(path, inline, UNSYNCED),
    ],
)
def test_every_store_refuses_what_is_not_its_own(
    tmp_path: Path, open_store: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.db"
    _filled(path)
    before = path.read_bytes()
    with pytest.raises(DatabaseCorrupt):
        open_store(path)
    assert path.read_bytes() == before


def test_only_derived_state_is_ever_recreated(tmp_path: Path) -> None:
    path = tmp_path / "derived.db"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(DatabaseCorrupt, match="index rebuild"):
        DerivedState(path, inline)
    fresh = DerivedState.rebuild(path, inline)
    assert fresh.count() == 0
    fresh.close()


async def test_a_chain_of_another_key_or_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    chain = open_chain(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(chain.run)
        await chain.append(OPENING, [None] * 3)
        chain.close()
    before = path.read_bytes()
    with pytest.raises(ForeignChain, match="put the matching key and chain together"):
        open_chain(path, identity=BOB)
    elsewhere = raw_cid(b"another network")
    with pytest.raises(ForeignChain, match="another home folder"):
        OwnChain(path, ALICE, elsewhere, elsewhere, CountingClock(), system_random(), inline)
    assert path.read_bytes() == before


def test_a_size_is_that_of_the_file(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db", LAYOUT, UNSYNCED)
    assert database.size_bytes() == (tmp_path / "a.db").stat().st_size
    database.close()
