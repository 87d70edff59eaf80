"""Opening a SQLite file so that it can be trusted, and reading from it.

A database comes into being whole or not at all: it is built under another name, synced, and renamed. After
that the file is only ever opened, never recreated: garbage, a truncated or empty file, another program's
database, or a write-ahead log without its database are refused, byte for byte as they were found. Files run
in WAL mode (https://sqlite.org/wal.html); with `synchronous=FULL` every commit syncs the log before it
becomes visible to anyone.

Reads may be made from the event loop and from worker threads alike: each borrows a connection that nobody
else uses meanwhile, sees the last commit, and never waits for the writer.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from node.storage.errors import (
    DatabaseCorrupt,
    DatabaseUnavailable,
    DiskFull,
    SchemaTooNew,
    StorageClosed,
    StorageError,
)

MAX_IDLE_READERS: Final = 4
"""Read connections kept open between reads; more are opened while more threads read, and closed after."""
MAX_CHECKED_BYTES: Final = 256 * 1024 * 1024
"""Files up to this size get SQLite's quick check when opened; of larger ones only the header is read."""
BUSY_SECONDS: Final = 5.0
"""How long a statement waits for another process's lock."""
LOG_PAGES: Final = 4000
"""Pages in the write-ahead log at which it is copied into the database: the fewer copies, the fewer syncs."""
MAX_LOG_BYTES: Final = 64 * 1024 * 1024
"""The write-ahead log is cut back to this size after a checkpoint."""
MAX_BOUND: Final = 500
"""Values in one `IN (…)` list."""

Row = tuple[Any, ...]
Synchronous = Literal["FULL", "NORMAL", "OFF"]

_PRIMARY_CODE = 0xFF
_UNWRITABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNAVAILABLE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a kind of database looks like.

    `migrations[i]` is the SQL that takes schema version i to i + 1, each statement ended by `;`; an empty
    file is version 0. `recovery` ends the message about a damaged file.
    """

    application_id: int
    migrations: tuple[str, ...]
    recovery: str

    @property
    def version(self) -> int:
        """The newest schema version."""
        return len(self.migrations)


@dataclass(frozen=True, slots=True)
class Options:
    """How a database is run. Anything but FULL loses acknowledged writes when the power fails."""

    synchronous: Synchronous = "FULL"
    max_page_count: int | None = None
    """The size in pages at which the file counts as full; None for SQLite's own limit."""
    writer_cache_kib: int = 2_000
    """Pages that the writer keeps in memory: with fewer than a transaction changes, some go out twice."""


class Database:
    """An open database: one connection to write with, and borrowed ones to read with.

    `writer` belongs to one `GroupWriter`, which uses it from one thread at a time.
    """

    def __init__(self, path: Path, layout: Layout, writer: sqlite3.Connection) -> None:
        self.path = path
        self.layout = layout
        self.writer = writer
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Borrow a read connection; SQLite's errors leave as `StorageError`.

        Raises `StorageClosed` after `close`.
        """
        with self._lock:
            if self._closed:
                raise StorageClosed(f"{self.path} is closed")
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = _connect(self.path)
                connection.execute("PRAGMA query_only=ON")
            yield connection
        except sqlite3.Error as error:
            ours = translated(error, self.path, self.layout)
            if ours is None:
                raise
            raise ours from error
        finally:
            if connection is not None:
                self._give_back(connection)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, from one snapshot."""
        with self.reading() as connection:
            return connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, or None."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def rows_in(self, sql: str, values: Sequence[Any]) -> list[Row]:
        """The rows of a query whose `{}` is an `IN` list, asked for `MAX_BOUND` values at a time."""
        with self.reading() as connection:
            return select_in(connection, sql, values)

    def corrupt(self, detail: str) -> DatabaseCorrupt:
        """The error that says this file is damaged."""
        return DatabaseCorrupt(self.path, detail, self.layout.recovery)

    def size_bytes(self) -> int:
        """Bytes of the database's pages, without the write-ahead log."""
        return self._bytes()[0]

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something; the rest of `size_bytes` is used again by what comes."""
        size, free = self._bytes()
        return size - free

    def _bytes(self) -> tuple[int, int]:
        with self.reading() as connection:
            size, pages, free = (
                _pragma(connection, name) for name in ("page_size", "page_count", "freelist_count")
            )
        return pages * size, free * size

    def close(self) -> None:
        """Close every connection; one that is reading is closed when its read ends. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self.writer.close()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < MAX_IDLE_READERS:
                self._idle.append(connection)
                return
        connection.close()


def select_in(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[Row]:
    """The rows of a query whose `{}` is an `IN` list, asked for `MAX_BOUND` values at a time."""
    found: list[Row] = []
    for start in range(0, len(values), MAX_BOUND):
        part = values[start : start + MAX_BOUND]
        found += connection.execute(sql.format(",".join("?" * len(part))), part).fetchall()
    return found


def open_database(path: Path, layout: Layout, options: Options) -> Database:
    """Open `path`, creating it if nothing of it exists; O(size) up to `MAX_CHECKED_BYTES`.

    Raises:
        DatabaseCorrupt: the file is not a sound database of this kind; it is unchanged.
        SchemaTooNew: a newer release wrote it.
        DatabaseUnavailable: it cannot be opened or is locked.
        DiskFull: there is no room to create it.
    """
    try:
        if not path.exists():
            _create(path, layout, synced=options.synchronous != "OFF")
        found = _check(path, layout)
        writer = _connect(path)
        try:
            _configure(writer, options)
            for version in range(found, layout.version):
                _migrate(writer, layout, version)
        except BaseException:
            writer.close()
            raise
    except sqlite3.Error as error:
        ours = translated(error, path, layout)
        if ours is None:
            raise
        raise ours from error
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot open {path}: {error.strerror}; check the folder and its permissions"
        ) from error
    return Database(path, layout, writer)


def remove_database(path: Path) -> None:
    """Delete a database and its log, for derived state that is to be rebuilt. It must not be open."""
    for file in (path, *_companions(path)):
        file.unlink(missing_ok=True)
    _sync(path.parent, os.O_RDONLY)


def translated(error: sqlite3.Error, path: Path, layout: Layout) -> StorageError | None:
    """SQLite's error as one of ours, or None when it tells of a mistake in our own SQL."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code in _DAMAGED:
        return DatabaseCorrupt(path, str(error), layout.recovery)
    if code in _UNWRITABLE:
        return DiskFull(path, str(error))
    if code in _UNAVAILABLE:
        return DatabaseUnavailable(f"cannot use {path}: {error}; is another process using it?")
    return None


def _create(path: Path, layout: Layout, synced: bool) -> None:
    orphans = [file.name for file in _companions(path) if file.exists()]
    if orphans:
        raise DatabaseCorrupt(
            path, f"{orphans[0]} is there but the database it belongs to is missing", layout.recovery
        )
    draft = path.with_name(path.name + ".new")
    for leftover in (draft, *_companions(draft)):
        leftover.unlink(
            missing_ok=True
        )  # of a creation that was interrupted; nothing was ever acknowledged in it
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(_connect(draft)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute(f"PRAGMA application_id={layout.application_id}")
        for version in range(layout.version):
            _migrate(connection, layout, version)
        connection.execute("PRAGMA journal_mode=WAL")
    if synced:
        _sync(draft, os.O_RDWR)
    os.rename(draft, path)
    if synced:
        _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    """Make a file's content, or the names in a folder, durable."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check(path: Path, layout: Layout) -> int:
    """The schema version of a sound file. Reads only, so that a damaged file stays as it is."""

    def refuse(detail: str) -> DatabaseCorrupt:
        return DatabaseCorrupt(path, detail, layout.recovery)

    if not path.is_file():
        raise refuse("it is not a regular file")
    if path.stat().st_size == 0:
        raise refuse("the file is empty")
    with closing(_connect(path, "ro")) as connection:
        found_id = _pragma(connection, "application_id")
        if found_id != layout.application_id:
            raise refuse(
                f"application id {found_id:#x} is not {layout.application_id:#x}: another kind of database"
            )
        version = _pragma(connection, "user_version")
        if version > layout.version:
            raise SchemaTooNew(path, version, layout.version)
        if version < 1:
            raise refuse(f"schema version {version} was never released")
        if path.stat().st_size <= MAX_CHECKED_BYTES:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchall()
            if verdict != [("ok",)]:
                raise refuse(str(verdict[0][0]) if verdict else "the quick check gives no answer")
    return version


def _configure(connection: sqlite3.Connection, options: Options) -> None:
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise sqlite3.OperationalError(
            f"the file system does not support write-ahead logs (journal mode {mode})"
        )
    connection.execute(f"PRAGMA synchronous={options.synchronous}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")  # whatever the library was built with: see `erasure`
    connection.execute(f"PRAGMA cache_size=-{options.writer_cache_kib}")
    connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit={MAX_LOG_BYTES}")
    if options.max_page_count is not None:
        connection.execute(f"PRAGMA max_page_count={options.max_page_count}")


def _migrate(connection: sqlite3.Connection, layout: Layout, version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(layout.migrations[version]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={version + 1}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit between them."""
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if statement.strip(" \n;") and sqlite3.complete_statement(statement):  # not inside a trigger's body
            yield statement
            statement = ""


def _connect(path: Path, mode: Literal["ro", "rw"] = "rw") -> sqlite3.Connection:
    # `mode` never creates, so a file that vanishes meanwhile is an error and not a new, empty chain.
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _companions(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))
