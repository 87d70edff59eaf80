"""What leaves held.db: records taken from a basis, their payloads, and in the end their headers.

A record that lost its last basis loses its payload at once, and is marked; its header stays as long as a
held record may name it. To find out which those are takes a pass over all headers (`in_use`), beside which
writing goes on: what is held meanwhile is noted as `Used`, too. The counterpart of `node.storage.holding`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import GENESIS, MEMBRANE, OPENING, PURGE
from chain.record import Record
from dht.records.placement import Role, needs_payload
from dht.records.record_store import Digest
from node.storage import range_sums
from node.storage.database import Database
from node.storage.range_sums import Change
from node.storage.stored_record import COLUMNS, from_row
from validation.named import named_by

PAGE: Final = 1_000
"""Records read at a time by what goes through all of them."""


@dataclass(slots=True)
class Used:
    """What records keep from being reclaimed: themselves, what they name, and their authors' openings."""

    cids: set[Cid] = field(default_factory=set)
    authors: set[AgentId] = field(default_factory=set)

    def note(self, record: Record) -> None:
        self.cids.update((record.cid, *named_by(record)))
        self.authors.add(record.header.author)


def drop(
    connection: sqlite3.Connection, database: Database, basis: bytes, expected: Digest
) -> list[tuple[Cid, int]] | None:
    """Take everything from a basis whose digest still is `expected`, else None: see `HeldRecords.drop`."""
    now = connection.execute("SELECT records, total FROM digests WHERE basis = ?", (basis,)).fetchone()
    if now != expected:
        return None
    cids = [row[0] for row in connection.execute("SELECT cid FROM bases WHERE basis = ?", (basis,))]
    connection.execute("DELETE FROM bases WHERE basis = ?", (basis,))
    range_sums.removed(connection, basis)
    return _left_of(connection, database, cids)


def release(connection: sqlite3.Connection, database: Database, basis: bytes, cids: Sequence[Cid]) -> None:
    """Take these records, as far as they are there, from a basis. O(records there)."""
    rows = connection.execute("SELECT cid, roles FROM bases WHERE basis = ?", (basis,)).fetchall()
    gone = sorted({row[0] for row in rows} & set(cids))
    if not gone:
        return
    connection.executemany("DELETE FROM bases WHERE basis = ? AND cid = ?", [(basis, cid) for cid in gone])
    range_sums.removed(connection, basis)
    left = Change()
    for cid, roles in rows:
        if cid not in gone:
            left.roles |= roles
            left.cids.append(cid)
    if left.cids:
        range_sums.added(connection, {basis: left})
    _left_of(connection, database, gone)


def expel(
    connection: sqlite3.Connection, *, author: AgentId | None, subject: Cid | None, after: int
) -> tuple[set[bytes], int]:
    """A part of what is held of an author, or of a subject, goes: the bases where it lay, and after which row
    it goes on; -1 when it is done."""
    column, value = ("author", author) if subject is None else ("subject", subject)
    sql = f"SELECT id, cid, kind FROM records WHERE {column} = ? AND id > ? ORDER BY id LIMIT ?"
    rows = connection.execute(sql, (value, after, PAGE)).fetchall()
    gone: dict[bytes, list[Cid]] = {}
    for _, cid, kind in rows:
        for (basis,) in connection.execute("SELECT basis FROM bases WHERE cid = ?", (cid,)).fetchall():
            gone.setdefault(basis, []).append(cid)
        connection.execute("DELETE FROM bases WHERE cid = ?", (cid,))
        if kind not in OPENING:  # openings are needed to judge what others named of this author
            connection.execute("UPDATE records SET payload = NULL WHERE cid = ?", (cid,))
        _let_go(connection, cid)
    range_sums.withdrawn(connection, gone)
    return set(gone), rows[-1][0] if len(rows) == PAGE else -1


def in_use(database: Database) -> Used:
    """What the records that have a basis use; O(records), blocking."""
    sql = (
        f"SELECT id, {COLUMNS} FROM records WHERE id > ? AND bare = 0 "
        "AND EXISTS (SELECT 1 FROM bases WHERE bases.cid = records.cid) ORDER BY id LIMIT ?"
    )
    used = Used()
    after = -1
    while rows := database.rows(sql, (after, PAGE)):
        after = rows[-1][0]
        for row in rows:
            used.note(from_row(database, row[1:]))
    return used


def reclaim(connection: sqlite3.Connection, used: Used, fresh: Used) -> int:
    """Delete what has no basis and is neither `used` nor used by what has come since (`fresh`); returns how
    many records that were."""
    cids, authors = used.cids | fresh.cids, used.authors | fresh.authors
    # A purge proves that the records without payload which it erased are right, for as long as they are here.
    sql = (
        "SELECT id, cid, author, kind FROM records WHERE bare = 1 AND cid NOT IN "
        "(SELECT purge FROM purged JOIN records AS erased ON erased.cid = purged.cid WHERE erased.bare = 0)"
    )
    rows = connection.execute(sql).fetchall()
    gone = [
        (row[0],)
        for row in rows
        if row[1] not in cids and not (row[3] in (GENESIS, MEMBRANE) and row[2] in authors)
    ]
    connection.executemany("DELETE FROM records WHERE id = ?", gone)
    connection.execute("UPDATE tally SET records = records - ?1, bare = bare - ?1", (len(gone),))
    return len(gone)


def _left_of(
    connection: sqlite3.Connection, database: Database, cids: Sequence[Cid]
) -> list[tuple[Cid, int]]:
    """The roles in which these records, which lost a basis, are held still; payloads of no use go."""
    left: list[tuple[Cid, int]] = []
    for cid in cids:
        roles = 0
        for row in connection.execute("SELECT roles FROM bases WHERE cid = ?", (cid,)):
            roles |= row[0]
        left.append((cid, roles))
        found = connection.execute(f"SELECT {COLUMNS} FROM records WHERE cid = ?", (cid,)).fetchone()
        record = from_row(database, found)
        if not needs_payload(record.header.kind, Role(roles)) and record.header.kind != PURGE:
            connection.execute("UPDATE records SET payload = NULL WHERE cid = ?", (cid,))
        if not roles:
            sql = "SELECT cid FROM records WHERE author = ? AND seq < 3"
            opening = connection.execute(sql, (record.header.author,)).fetchall()
            for one in {cid, *named_by(record), *(row[0] for row in opening)}:
                _let_go(connection, one)
    return left


def _let_go(connection: sqlite3.Connection, cid: Cid) -> None:
    """Mark a record without a basis as one that may be reclaimed."""
    cursor = connection.execute(
        "UPDATE records SET bare = 1 WHERE cid = ?1 AND bare = 0 "
        "AND NOT EXISTS (SELECT 1 FROM bases WHERE cid = ?1)",
        (cid,),
    )
    if cursor.rowcount:
        connection.execute("UPDATE tally SET bare = bare + 1")
