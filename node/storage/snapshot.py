"""A copy of a database as it is at one moment, taken while another process may be writing it.

`VACUUM INTO` reads one snapshot, does not hold up the writer of a file in WAL mode, and writes live rows
only: what was erased and still lies in free pages does not go into the copy.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from node.storage.database import BUSY_SECONDS, Layout, translated

_ANY = Layout(application_id=0, migrations=(), recovery="restore it from a backup")


def take_snapshot(source: Path, target: Path) -> None:
    """Write a whole, checked copy of `source` to `target`, which must not exist; O(size), blocking.

    Raises `DatabaseCorrupt`, `DatabaseUnavailable` or `DiskFull`.
    """
    try:
        with closing(_open(source)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
        with closing(_open(target)) as copy:
            verdict = copy.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != ("ok",):
                raise sqlite3.DatabaseError(f"its copy is not sound: {verdict[0]}")
    except sqlite3.Error as error:
        ours = translated(error, source, _ANY)
        if ours is None:
            raise
        raise ours from error


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
