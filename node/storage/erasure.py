"""Erasing payloads from a database of records, so that nothing of them is left in its files.

A purge (`crdt.operations.Purge`) erases by the transaction that keeps it: whatever of its records is here
loses its payload, and whatever comes later, from whomever, is kept without one, because the table `purged`
remembers what was purged also when the purge comes first. It remembers besides in which shard a value was
found, as far as this node could tell while it had the vector: the purge has to go there too.

SQL's NULL is not yet oblivion. Every writer runs with `secure_delete`, which writes zeros over what it frees;
`scrub` then empties the write-ahead log, and rewrites a file of up to `MAX_REWRITTEN` bytes whole, because
SQLite leaves copies behind when it moves rows between pages (measured: 1 in 200 of rows that had grown). It
also gives freed pages back to the file system. What the disk beneath keeps of overwritten blocks, and what
backups keep, is out of reach.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from chain.cid import Cid
from chain.kinds import PURGE, PURGEABLE
from chain.record import Record
from crdt.operations import Purge
from crdt.purging import operations
from node.storage.database import Database
from node.storage.stored_record import COLUMNS, from_row

MAX_REWRITTEN: Final = 128 << 20
"""Files up to so many bytes are rewritten by `scrub`: a second or two in which nothing else is written."""
PAGES_AT_ONCE: Final = 2_000
"""Free pages that one step of `shrink` gives back."""
MAX_FREE_SHARE: Final = 8
"""A file of which more than one page in so many is free gives pages back."""

PURGED_TABLE: Final = """
    CREATE TABLE purged (
        cid BLOB PRIMARY KEY,
        purge BLOB NOT NULL,
        author BLOB NOT NULL,
        shard BLOB,
        scrubbed INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE INDEX purged_unscrubbed ON purged (cid) WHERE scrubbed = 0;
    """

ShardOf = Callable[[Record], bytes | None]
"""The basis of the shard that a content record's vector lies in; None for records without one."""


def no_shard(_record: Record) -> bytes | None:
    """`ShardOf` where nothing is known of vectors."""
    return None


def erase(connection: sqlite3.Connection, database: Database, purge: Record, shard_of: ShardOf) -> None:
    """Carry out a valid purge on what is here, and remember it for what may come; idempotent."""
    said = operations({purge.cid: purge}).get(purge.cid) if purge.header.kind == PURGE else None
    for cid in said.records if isinstance(said, Purge) else ():
        row = connection.execute(f"SELECT {COLUMNS} FROM records WHERE cid = ?", (cid,)).fetchone()
        target = None if row is None else from_row(database, row)
        if target is not None and not _may(purge, target):
            continue
        shard = None if target is None or target.payload is None else shard_of(target)
        connection.execute(
            "INSERT INTO purged (cid, purge, author, shard) VALUES (?, ?, ?, ?) ON CONFLICT (cid) DO NOTHING",
            (cid, purge.cid, purge.header.author, shard),
        )
        if target is not None and target.payload is not None:
            connection.execute("UPDATE records SET payload = NULL WHERE cid = ?", (cid,))


def kept_part(connection: sqlite3.Connection, record: Record, shard_of: ShardOf) -> Record:
    """What of a record may be written: without its payload, when its author has purged it."""
    if record.payload is None or record.header.kind not in PURGEABLE:
        return record
    sql = "SELECT author, shard FROM purged WHERE cid = ?"
    row = connection.execute(sql, (record.cid,)).fetchone()
    if row is None or row[0] != record.header.author:
        return record
    if row[1] is None:
        connection.execute("UPDATE purged SET shard = ? WHERE cid = ?", (shard_of(record), record.cid))
    return record.without_payload()


def purges_of(database: Database, cids: Sequence[Cid]) -> dict[Cid, Record]:
    """Those of `cids` that were purged, as far as the purge is here, each with one that did it."""
    sql = (
        f"SELECT purged.cid, {COLUMNS} FROM purged JOIN records ON records.cid = purged.purge "
        "WHERE purged.cid IN ({}) AND records.payload IS NOT NULL"
    )
    return {row[0]: from_row(database, row[1:]) for row in database.rows_in(sql, sorted(set(cids)))}


def purged_shards(database: Database, cids: Sequence[Cid]) -> dict[Cid, bytes]:
    """The bases of the shards in which purged records were found, as far as it was known here."""
    sql = "SELECT cid, shard FROM purged WHERE cid IN ({}) AND shard IS NOT NULL"
    return {row[0]: row[1] for row in database.rows_in(sql, sorted(set(cids)))}


def erase_own(connection: sqlite3.Connection, cids: Sequence[Cid], author: bytes) -> None:
    """Erase payloads that never left this node, so that no purge has to say so."""
    for cid in cids:
        connection.execute("UPDATE records SET payload = NULL WHERE cid = ?", (cid,))
        sql = "INSERT INTO purged (cid, purge, author) VALUES (?1, ?1, ?2) ON CONFLICT (cid) DO NOTHING"
        connection.execute(sql, (cid, author))


def unscrubbed(database: Database) -> int:
    """Purged records of which traces may be left in the files."""
    row = database.row("SELECT count(*) FROM purged WHERE scrubbed = 0")
    return 0 if row is None else int(row[0])


def unscrubbed_purges(database: Database) -> list[Cid]:
    """The purges of which traces may be left in the files, ascending."""
    rows = database.rows("SELECT DISTINCT purge FROM purged WHERE scrubbed = 0 ORDER BY purge")
    return [row[0] for row in rows]


def purged_after(database: Database, cid: Cid, limit: int) -> list[tuple[Cid, Cid]]:
    """Up to `limit` (purged record, purge) with records above `cid`, ascending."""
    return database.rows("SELECT cid, purge FROM purged WHERE cid > ? ORDER BY cid LIMIT ?", (cid, limit))


def scrub(connection: sqlite3.Connection) -> bool:
    """Leave nothing in the file and its log of what is not in the database; outside of a transaction.

    O(size) up to `MAX_REWRITTEN`. False when a reader held up the log: try again.
    """
    if _pragma(connection, "page_count") * _pragma(connection, "page_size") <= MAX_REWRITTEN:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # takes effect by the VACUUM, in older files
        connection.execute("VACUUM")
    return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]


def scrub_purged(connection: sqlite3.Connection) -> bool:
    """`scrub`, and note of what was purged before it that it is gone from the files."""
    purged = connection.execute("SELECT cid FROM purged WHERE scrubbed = 0").fetchall()
    if not scrub(connection):
        return False
    connection.executemany("UPDATE purged SET scrubbed = 1 WHERE cid = ?", purged)
    return True


def shrink(connection: sqlite3.Connection) -> bool:
    """Give some free pages back to the file system when they are many; whether there are more.

    Files of releases before do so once they were rewritten.
    """
    free, pages = _pragma(connection, "freelist_count"), _pragma(connection, "page_count")
    if free * MAX_FREE_SHARE <= pages or _pragma(connection, "auto_vacuum") != 2:
        return False
    connection.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()
    return _pragma(connection, "freelist_count") * MAX_FREE_SHARE > _pragma(connection, "page_count")


def _may(purge: Record, target: Record) -> bool:
    """Held against the header again: validation has said so before, and a payload never comes back."""
    return target.header.author == purge.header.author and target.header.kind in PURGEABLE


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
