"""Who acknowledged holding which record of the own chain, in chain.db, and how far each record is placed.

A record's level is the number of holders that it was placed for; it begins at 0 and is the key of a table, so
that what is still to be placed is listed at a cost of its own size (`dht.records.record_store.OwnRecords`).
What holders signed for is kept beside it (`node.storage.own_receipts`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from dht.records.receipts import KeptBatch
from dht.records.record_store import Placement
from node.storage import own_receipts
from node.storage.database import Database, select_in
from node.storage.stored_record import COLUMNS, from_row

TABLES: Final = """
    CREATE TABLE placements (
        seq INTEGER NOT NULL REFERENCES records (seq),
        holder BLOB NOT NULL,
        roles INTEGER NOT NULL,
        PRIMARY KEY (seq, holder)
    ) WITHOUT ROWID;
    CREATE TABLE levels (
        level INTEGER NOT NULL,
        seq INTEGER NOT NULL REFERENCES records (seq),
        PRIMARY KEY (level, seq)
    ) WITHOUT ROWID;
"""


def begin(connection: sqlite3.Connection, from_seq: int) -> None:
    """Level 0 for the records from `from_seq` on that have a payload, in one statement."""
    connection.execute(
        "INSERT INTO levels (level, seq) SELECT 0, seq FROM records WHERE seq >= ? AND payload IS NOT NULL",
        (from_seq,),
    )


def note(
    connection: sqlite3.Connection,
    rows: Sequence[Placement],
    settled: Sequence[tuple[Cid, int]],
    receipts: Sequence[KeptBatch],
) -> None:
    """Note acknowledgements, receipts, and the levels that records have reached; idempotent."""
    cids = {row.cid for row in rows} | {cid for cid, _ in settled}
    cids |= {row.cid for batch in receipts for row in batch.rows}
    found = select_in(connection, "SELECT cid, seq FROM records WHERE cid IN ({})", sorted(cids))
    seqs: dict[Cid, int] = dict(found)
    own_receipts.keep_batches(connection, receipts, seqs)
    placed = [(seqs[row.cid], row.holder, row.roles) for row in rows if row.cid in seqs]
    connection.executemany(
        "INSERT INTO placements (seq, holder, roles) VALUES (?, ?, ?) "
        "ON CONFLICT (seq, holder) DO UPDATE SET roles = roles | excluded.roles",
        placed,
    )
    reached: dict[int, int] = {}
    for cid, level in settled:
        if cid in seqs:
            reached[seqs[cid]] = max(level, reached.get(seqs[cid], level))
    # A record has one level; which, only asking for each tells without going through all that are pending.
    connection.executemany(
        "UPDATE levels SET level = ? WHERE level = ? AND seq = ?",
        [(reached[seq], lower, seq) for seq in sorted(reached) for lower in range(reached[seq])],
    )


def reopen(connection: sqlite3.Connection, gone: frozenset[AgentId]) -> int:
    """Put records at level 0 that, in some role, nobody but `gone` acknowledged; returns how many."""
    all_roles: dict[int, int] = {}
    living: dict[int, int] = {}
    sql = "SELECT seq, holder, roles FROM placements WHERE seq IN (SELECT seq FROM levels WHERE level > 0)"
    for seq, holder, roles in connection.execute(sql):
        all_roles[seq] = all_roles.get(seq, 0) | roles
        living[seq] = living.get(seq, 0) | (0 if holder in gone else roles)
    lost = [seq for seq, roles in all_roles.items() if living[seq] != roles]
    levels = [row[0] for row in connection.execute("SELECT DISTINCT level FROM levels WHERE level > 0")]
    for level in levels:
        connection.executemany(
            "UPDATE levels SET level = 0 WHERE level = ? AND seq = ?", [(level, seq) for seq in lost]
        )
    return len(lost)


def void(connection: sqlite3.Connection, holder: AgentId, cids: Sequence[Cid] | None) -> int:
    """Forget what a holder acknowledged and signed for these records (None: all), and place them anew;
    returns how many records that were."""
    if cids is None:
        rows = connection.execute("SELECT seq FROM placements WHERE holder = ?", (holder,)).fetchall()
    else:
        one = "SELECT seq FROM records WHERE cid = ?"
        rows = [row for cid in cids for row in connection.execute(one, (cid,))]
    return own_receipts.void(connection, holder, [row[0] for row in rows])


def placements(database: Database, cids: Sequence[Cid]) -> list[Placement]:
    """All acknowledgements for these records, by record and holder ascending."""
    sql = (
        "SELECT records.cid, roles, holder FROM records JOIN placements USING (seq) WHERE records.cid IN ({})"
    )
    found = [Placement(*row) for row in database.rows_in(sql, sorted(set(cids)))]
    return sorted(found, key=lambda placement: (placement.cid, placement.holder))


def count_below(database: Database, level: int) -> int:
    """How many records have not reached `level`; O(answer) over an index."""
    row = database.row("SELECT count(*) FROM levels WHERE level < ?", (level,))
    return 0 if row is None else int(row[0])


def unplaced(database: Database, cids: Sequence[Cid]) -> set[Cid]:
    """Those of these own records that were not placed yet, or not at all of their holders."""
    sql = "SELECT cid FROM records JOIN levels USING (seq) WHERE level = 0 AND cid IN ({})"
    return {row[0] for row in database.rows_in(sql, sorted(set(cids)))}


def below(database: Database, level: int, after_seq: int, limit: int) -> list[Record]:
    """Up to `limit` records after `after_seq` (-1: all) that have not reached `level`; O(level · limit)."""
    at_level = "SELECT seq FROM levels WHERE level = ? AND seq > ? ORDER BY seq LIMIT ?"
    sql = f"SELECT {COLUMNS} FROM records WHERE seq IN ({{}}) ORDER BY seq"
    found: list[int] = []
    for lower in range(level):
        found += [row[0] for row in database.rows(at_level, (lower, after_seq, limit))]
    # A record may move from one level to another between two of these reads, hence the set.
    chosen = sorted(set(found))[:limit]
    return [from_row(database, row) for row in database.rows_in(sql, chosen)]
