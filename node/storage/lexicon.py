"""The lexicon: of each posting its counted terms, and an index from terms to postings, both in derived.db.

`words` holds the counted terms of a posting's text (`sharding.terms`), which decide its score by words.
`lexicon` is an FTS5 table that says which postings have a term: contentless and without positions, as the
words are in `words` (30,000 glosses: 1.2 MB; a posting takes 6 us to write, where a plain table of terms and
numbers takes 4.4 MB and 62 us). What it is given as text are the terms' ids in hexadecimal. Where SQLite has
no FTS5, all words of the shards asked are gone through instead: the same answers, only slower.

Both change in the transaction that changes the posting. FTS5 marks what is deleted and keeps it until parts
are merged; newer versions have an option that overwrites at once, older ones are made to merge everything
before the file is rewritten (`merge`): so nothing of a purged text is left in either table.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from sharding.terms import ID_BYTES, Counted

TABLE: Final = "CREATE TABLE words (number INTEGER PRIMARY KEY, terms BLOB NOT NULL);"
SECURE_DELETE_SINCE: Final = (3, 42, 0)
"""The version of SQLite from which on FTS5 overwrites what is deleted."""
REFILL_BATCH: Final = 500

log = logging.getLogger(f"roseforest.{__name__}")


def prepare(connection: sqlite3.Connection, wanted: bool = True) -> bool:
    """Have the index of terms ready, filled from `words`; whether there is one. At the start, by the writer.

    False where SQLite has no FTS5, or none is `wanted`. O(words) when it has to be made.
    """
    sql = "SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'"
    has_fts5 = bool(connection.execute(sql).fetchone()[0])
    if not has_fts5 or not wanted:
        if not has_fts5:
            log.warning("SQLite %s has no FTS5: searching by words is slower", sqlite3.sqlite_version)
        connection.execute(
            "UPDATE stamp SET stale = 1"
        )  # what changes now is missing in an index made before
        return False
    found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'lexicon'").fetchone()
    if found[0] and not connection.execute("SELECT stale FROM stamp").fetchone()[0]:
        return True
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DROP TABLE IF EXISTS lexicon")
    connection.execute(
        "CREATE VIRTUAL TABLE lexicon USING fts5"
        "(terms, content='', detail=none, columnsize=0, tokenize='ascii')"
    )
    if sqlite3.sqlite_version_info >= SECURE_DELETE_SINCE:
        connection.execute("INSERT INTO lexicon (lexicon, rank) VALUES ('secure-delete', 1)")
    after = 0
    sql = "SELECT number, terms FROM words WHERE number > ? ORDER BY number LIMIT ?"
    while rows := connection.execute(sql, (after, REFILL_BATCH)).fetchall():
        _index(connection, rows)
        after = rows[-1][0]
    connection.execute("UPDATE stamp SET stale = 0")
    connection.execute("COMMIT")
    return True


def put(connection: sqlite3.Connection, words: Sequence[tuple[int, bytes]], indexed: bool) -> None:
    """Keep the encoded terms of new postings, by number."""
    connection.executemany("INSERT INTO words (number, terms) VALUES (?, ?)", words)
    if indexed:
        _index(connection, words)


def remove(connection: sqlite3.Connection, numbers: Iterable[int], indexed: bool) -> None:
    """Forget the terms of these postings."""
    for number in numbers:
        row = connection.execute("SELECT terms FROM words WHERE number = ?", (number,)).fetchone()
        if row is not None and indexed:
            sql = "INSERT INTO lexicon (lexicon, rowid, terms) VALUES ('delete', ?, ?)"
            connection.execute(sql, (number, _as_text(row[0])))
        connection.execute("DELETE FROM words WHERE number = ?", (number,))


def clear(connection: sqlite3.Connection, indexed: bool) -> None:
    """Forget everything."""
    connection.execute("DELETE FROM words")
    if indexed:
        connection.execute("INSERT INTO lexicon (lexicon) VALUES ('delete-all')")


def merge(connection: sqlite3.Connection, indexed: bool) -> None:
    """Make one part of all parts of the index, which leaves out what was deleted. O(index)."""
    if indexed:
        connection.execute("INSERT INTO lexicon (lexicon) VALUES ('optimize')")


def token(term: int) -> str:
    """A term as it stands in the index: its id in eight hexadecimal digits."""
    return f"{term:08x}"


def _index(connection: sqlite3.Connection, words: Sequence[tuple[int, bytes]]) -> None:
    rows = [(number, _as_text(terms)) for number, terms in words]
    connection.executemany("INSERT INTO lexicon (rowid, terms) VALUES (?, ?)", rows)


def _as_text(terms: bytes) -> str:
    return Counted.decode(terms).ids.astype(">u4").tobytes().hex(" ", ID_BYTES)
