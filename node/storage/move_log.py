"""The table of `dht.repair.move_log`, in the file of the records that move."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Final

from dht.repair.move_log import MAX_MOVES, Move
from node.storage.database import Database

TABLE: Final = """
    CREATE TABLE moves (
        basis BLOB PRIMARY KEY,
        records INTEGER NOT NULL,
        total BLOB NOT NULL,
        upto BLOB NOT NULL
    ) WITHOUT ROWID;
    """


def moves(database: Database) -> dict[bytes, Move]:
    """All lines by basis."""
    rows = database.rows("SELECT basis, records, total, upto FROM moves")
    return {basis: Move((records, total), upto) for basis, records, total, upto in rows}


def note(connection: sqlite3.Connection, basis: bytes, move: Move) -> None:
    """Write a line."""
    connection.execute(
        "INSERT OR REPLACE INTO moves (basis, records, total, upto) VALUES (?, ?, ?, ?)",
        (basis, *move.digest, move.upto),
    )
    connection.execute(
        "DELETE FROM moves WHERE basis IN (SELECT basis FROM moves ORDER BY basis DESC LIMIT -1 OFFSET ?)",
        (MAX_MOVES,),
    )


def forget(connection: sqlite3.Connection, bases: Collection[bytes]) -> None:
    """Forget lines."""
    connection.executemany("DELETE FROM moves WHERE basis = ?", [(basis,) for basis in bases])
