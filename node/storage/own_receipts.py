"""The receipts for this agent's records, in the file of its chain.

A holder signs many records at once, so its statement and the hashes of all it signed are kept once a batch
(32 bytes a record) and a receipt is a row that points into them; whoever wants it alone gets its path worked
out. How many holders have signed for a record in full is kept up to date, so that those short of receipts are
counted at the cost of their number. These functions run inside the writer's transaction, or on a reader.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.merkle import HASH_SIZE
from dht.records.receipts import KeptBatch, SignedFor
from node.storage.database import Database, select_in

MIGRATION: Final = """
CREATE TABLE receipt_batches (
    id INTEGER PRIMARY KEY,
    holder BLOB NOT NULL,
    statement BLOB NOT NULL,
    leaves BLOB NOT NULL
);
CREATE TABLE receipts (
    seq INTEGER NOT NULL REFERENCES records (seq),
    holder BLOB NOT NULL,
    roles INTEGER NOT NULL,
    whole INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (seq, holder, roles)
) WITHOUT ROWID;
CREATE TABLE confirmed (
    holders INTEGER NOT NULL,
    seq INTEGER NOT NULL REFERENCES records (seq),
    PRIMARY KEY (holders, seq)
) WITHOUT ROWID;
INSERT INTO confirmed (holders, seq) SELECT 0, seq FROM records;
"""
NO_BATCH: Final = 0
"""In place of a batch: this node's own holding, for which it needs no signature."""


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt for an own record: who signed for which roles, and what proves it."""

    holder: AgentId
    roles: int
    whole: bool
    place: int
    statement: bytes
    leaves: tuple[bytes, ...]


def add_unconfirmed(connection: sqlite3.Connection, from_seq: int) -> None:
    """Note the chain's new records, those that are published, as signed for by nobody."""
    connection.execute(
        "INSERT INTO confirmed (holders, seq) SELECT 0, seq FROM records WHERE seq >= ? "
        "AND payload IS NOT NULL",
        (from_seq,),
    )


def keep_batches(
    connection: sqlite3.Connection, batches: Sequence[KeptBatch], seqs: Mapping[Cid, int]
) -> None:
    """Keep batches; a holder's earlier receipt for the same roles of a record gives way.

    `seqs` are the places of the records that are of this chain; receipts for others are passed over.
    """
    signed = sorted({seqs[row.cid] for batch in batches for row in batch.rows if row.cid in seqs})
    before = _counts(connection, signed)
    for batch in batches:
        number = NO_BATCH
        if batch.statement:
            cursor = connection.execute(
                "INSERT INTO receipt_batches (holder, statement, leaves) VALUES (?, ?, ?)",
                (batch.holder, batch.statement, batch.leaves),
            )
            assert cursor.lastrowid is not None
            number = cursor.lastrowid
        connection.executemany(
            "REPLACE INTO receipts (seq, holder, roles, whole, batch, place) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (seqs[row.cid], batch.holder, row.roles, int(row.whole), number, row.place)
                for row in batch.rows
                if row.cid in seqs
            ],
        )
    _recount(connection, before)


def void(connection: sqlite3.Connection, holder: AgentId, seqs: Iterable[int]) -> int:
    """Forget what a holder signed for these records and that it acknowledged them, and place them again.

    Returns for how many records there was anything.
    """
    voided = 0
    for seq in seqs:
        before = _counts(connection, [seq])
        signed = connection.execute("DELETE FROM receipts WHERE seq = ? AND holder = ?", (seq, holder))
        placed = connection.execute("DELETE FROM placements WHERE seq = ? AND holder = ?", (seq, holder))
        if signed.rowcount or placed.rowcount:
            voided += 1
            _recount(connection, before)
            for (level,) in connection.execute(
                "SELECT DISTINCT level FROM levels WHERE level > 0"
            ).fetchall():
                connection.execute("UPDATE levels SET level = 0 WHERE level = ? AND seq = ?", (level, seq))
    return voided


def receipts_for(database: Database, cid: Cid) -> list[KeptReceipt]:
    """Everybody's receipts for an own record, this node's own holding left out; by holder ascending."""
    sql = (
        "SELECT receipts.holder, roles, whole, place, statement, leaves FROM records "
        "JOIN receipts USING (seq) JOIN receipt_batches ON receipt_batches.id = receipts.batch "
        "WHERE records.cid = ? ORDER BY receipts.holder, roles"
    )
    return [
        KeptReceipt(row[0], row[1], bool(row[2]), row[3], row[4], _hashes(row[5]))
        for row in database.rows(sql, (cid,))
    ]


def signed_for(database: Database, cid: Cid) -> list[SignedFor]:
    """All receipts for a record, also this node's own holding."""
    sql = "SELECT cid, holder, roles, whole FROM records JOIN receipts USING (seq) WHERE cid = ?"
    return [SignedFor(row[0], row[1], row[2], bool(row[3])) for row in database.rows(sql, (cid,))]


def unconfirmed(database: Database, need: int, after_seq: int, limit: int) -> list[int]:
    """The places of up to `limit` records after `after_seq` for which fewer than `need` stand, ascending."""
    sql = "SELECT seq FROM confirmed WHERE holders = ? AND seq > ? ORDER BY seq LIMIT ?"
    found = [row[0] for holders in range(need) for row in database.rows(sql, (holders, after_seq, limit))]
    return sorted(found)[:limit]


def signed_from(database: Database, seq: int, limit: int) -> list[SignedFor]:
    """Up to `limit` receipts of others for the records from `seq` on, in order."""
    sql = (
        "SELECT records.cid, holder, roles, whole FROM receipts JOIN records USING (seq) "
        "WHERE receipts.seq >= ? AND batch != 0 ORDER BY receipts.seq, holder, roles LIMIT ?"
    )
    return [SignedFor(row[0], row[1], row[2], bool(row[3])) for row in database.rows(sql, (seq, limit))]


def count_unconfirmed(database: Database, need: int) -> int:
    """Records for which fewer than `need` holders stand in full; O(answer). Not those purged or private."""
    sql = (
        "SELECT count(*) FROM confirmed JOIN records USING (seq) "
        "WHERE holders < ? AND records.cid NOT IN (SELECT cid FROM purged) "
        "AND seq NOT IN (SELECT seq FROM privates)"
    )
    row = database.row(sql, (need,))
    return 0 if row is None else int(row[0])


def _counts(connection: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, int]:
    """For how many holders a full receipt of each of these records stands."""
    sql = "SELECT seq, count(DISTINCT holder) FROM receipts WHERE seq IN ({}) AND whole = 1 GROUP BY seq"
    found: dict[int, int] = dict(select_in(connection, sql, seqs))
    return {seq: found.get(seq, 0) for seq in seqs}


def _recount(connection: sqlite3.Connection, before: Mapping[int, int]) -> None:
    now = _counts(connection, list(before))
    connection.executemany(
        "UPDATE confirmed SET holders = ? WHERE holders = ? AND seq = ?",
        [(now[seq], before[seq], seq) for seq in before if now[seq] != before[seq]],
    )


def _hashes(leaves: bytes) -> tuple[bytes, ...]:
    return tuple(leaves[start : start + HASH_SIZE] for start in range(0, len(leaves), HASH_SIZE))
