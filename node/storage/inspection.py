"""Looking at the databases of a home folder without changing them, while its daemon runs or not.

SQLite's own integrity check says whether a file is sound; reading records says whether what lies in it is
what its authors signed. Nothing is migrated, repaired or written: the doctor reports, the owner decides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from chain.record import Record, verify_signature
from node.storage import derived_state, held_records, learning_memory, own_chain
from node.storage.database import Database, Layout, translated
from node.storage.stored_record import COLUMNS, from_row

FINDINGS: Final = 10
"""Faults of one file that are listed; the first says enough."""
PAGE: Final = 500

CHAIN: Final = own_chain.LAYOUT
HELD: Final = held_records.LAYOUT
DERIVED: Final = derived_state.LAYOUT
LEARNING: Final = learning_memory.LAYOUT


@dataclass(frozen=True, slots=True)
class Soundness:
    """What a file looks like: its schema version, the newest one known here, its bytes, and what is wrong."""

    version: int
    newest: int
    size: int
    faults: tuple[str, ...]


def soundness(path: Path, layout: Layout) -> Soundness:
    """Check a database file by SQLite's integrity check; O(size), blocking. Raises `StorageError`."""
    with _translating(path, layout), closing(_connect(path)) as connection:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        found = int(connection.execute("PRAGMA application_id").fetchone()[0])
        rows = connection.execute(f"PRAGMA integrity_check({FINDINGS})").fetchall()
    faults = tuple(str(row[0]) for row in rows if row[0] != "ok")
    if found != layout.application_id:
        faults = (f"it is another kind of database (application id {found:#x})", *faults)
    return Soundness(version, layout.version, path.stat().st_size, faults)


def records_of(path: Path, layout: Layout, order: str) -> Iterator[Record]:
    """All records of a chain (`order` "seq") or of what is held (`order` "id"), in that order; blocking.

    Raises `DatabaseCorrupt` for a row that is not what was stored.
    """
    with _translating(path, layout), closing(Database(path, layout, _connect(path))) as database:
        after = -1
        sql = f"SELECT {order}, {COLUMNS} FROM records WHERE {order} > ? ORDER BY {order} LIMIT ?"
        while rows := database.rows(sql, (after, PAGE)):
            after = rows[-1][0]
            for row in rows:
                yield from_row(database, row[1:])


def vectors_in(path: Path, limit: int) -> list[bytes]:
    """The int8 codes of at most `limit` postings of derived.db, spread evenly over them; blocking."""
    with _translating(path, DERIVED), closing(Database(path, DERIVED, _connect(path))) as database:
        (count,) = database.rows("SELECT count(*) FROM postings")[0]
        step = max(1, -(-count // limit))
        return [row[0] for row in database.rows("SELECT codes FROM postings WHERE number % ? = 0", (step,))]


def forged(records: Iterator[Record]) -> Iterator[Record]:
    """Those that their authors did not sign."""
    return (record for record in records if not verify_signature(record))


@contextmanager
def _translating(path: Path, layout: Layout) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        ours = translated(error, path, layout)
        if ours is None:
            raise
        raise ours from error


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
