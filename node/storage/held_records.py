"""held.db: the records that this node holds for the network, its own among them where it is a holder.

A record is kept once, under each basis that this node holds it for; the port is `dht.record_store.HeldStore`.
Nothing is judged here: who calls `hold` has verified the signature and validated the record. Both branches of
a fork are kept; of several valid signatures of one record the smallest is kept, so that replicas agree; a
signed header is completed when its payload arrives. Per basis a count and a sum of the CIDs' digests modulo
2**256 are kept up to date, so that two holders can compare what they hold in a few bytes (the fingerprint of
range-based set reconciliation, A. Meyer, 2023). Records are never deleted in this schema version.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from chain.cid import DIGEST_SIZE, Cid, digest
from chain.identity import AgentId
from chain.kinds import GENESIS, MEMBRANE
from chain.record import Record
from dht.basis import BASIS_SIZE
from dht.ports import RunBlocking
from dht.record_store import Held
from node.storage.database import Layout, Options, open_database
from node.storage.errors import StorageLimit
from node.storage.group_writer import GroupWriter
from node.storage.stored_record import COLUMNS, from_row, records_in

MAX_ROLES: Final = (1 << 31) - 1
"""Roles are bits, so that several are one integer."""
MAX_HELD_ITEMS: Final = 4096
"""Items in one call of `hold`."""

_MODULUS = 1 << (8 * DIGEST_SIZE)

_LAYOUT: Final = Layout(
    application_id=0x52466831,  # "RFh1"
    migrations=(
        """
        CREATE TABLE records (
            id INTEGER PRIMARY KEY,
            cid BLOB NOT NULL UNIQUE,
            author BLOB NOT NULL,
            seq INTEGER NOT NULL,
            subject BLOB NOT NULL,
            kind TEXT NOT NULL,
            header BLOB NOT NULL,
            signature BLOB NOT NULL,
            payload BLOB
        );
        CREATE INDEX records_by_author ON records (author, seq, cid);
        CREATE TABLE bases (
            basis BLOB NOT NULL,
            cid BLOB NOT NULL,
            roles INTEGER NOT NULL,
            PRIMARY KEY (basis, cid)
        ) WITHOUT ROWID;
        CREATE TABLE digests (
            basis BLOB PRIMARY KEY,
            roles INTEGER NOT NULL,
            records INTEGER NOT NULL,
            total BLOB NOT NULL
        ) WITHOUT ROWID;
        """,
    ),
    recovery=(
        "restore it from a backup, or move it away and restart: "
        "the node then fetches what it should hold from the other holders"
    ),
)


class HeldRecords:
    """The records held. Reads are plain calls, from any thread; writes need `run` to be running."""

    def __init__(self, path: Path, run_blocking: RunBlocking, options: Options | None = None) -> None:
        """Open or create the file; raises what `open_database` raises."""
        self._database = open_database(path, _LAYOUT, options or Options())
        self._writer = GroupWriter(self._database, run_blocking)

    @property
    def read_only(self) -> str | None:
        """Why nothing more can be held, or None."""
        return self._writer.read_only

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `aclose`; see `GroupWriter.run`."""
        await self._writer.run(task_status=task_status)

    def close(self) -> None:
        """Write what is queued and close the file; not waited for, see `GroupWriter.close`."""
        self._writer.close()

    async def aclose(self) -> None:
        """`close`, and wait until it is done."""
        await self._writer.aclose()

    async def hold(self, items: Sequence[Held]) -> None:
        """Keep records under their bases, all or none; durable on return, idempotent.

        The records' signatures and payloads must have been checked. Cancellation: see `GroupWriter.submit`.
        Raises `StorageLimit` for a malformed basis or role or too many items, and what `submit` raises.
        """
        if len(items) > MAX_HELD_ITEMS:
            raise StorageLimit(
                f"{len(items)} records in one hold, the limit is {MAX_HELD_ITEMS}; hold them in parts"
            )
        for item in items:
            for roles, basis in item.bases:
                if len(basis) != BASIS_SIZE or not 0 < roles <= MAX_ROLES:
                    raise StorageLimit(
                        f"basis {basis.hex():.72}, roles {roles}: expected {BASIS_SIZE} bytes, ≤ {MAX_ROLES}"
                    )
        await self._writer.submit(lambda connection: _hold(connection, items))

    def get(self, cid: Cid) -> Record | None:
        """The record of this CID, with its payload if that is here."""
        return self.get_many([cid])[0]

    def get_many(self, cids: Sequence[Cid]) -> list[Record | None]:
        """The records with these CIDs, in order, None where there is none."""
        return records_in(self._database, cids)

    def has(self, cids: Sequence[Cid]) -> frozenset[Cid]:
        """Those of `cids` that are held, with or without payload."""
        rows = self._database.rows_in("SELECT cid FROM records WHERE cid IN ({})", sorted(set(cids)))
        return frozenset(row[0] for row in rows)

    def at_basis(self, basis: bytes, after: Cid | None, limit: int) -> list[Record]:
        """Up to `limit` records held at a basis in any role, by CID, after the CID `after`."""
        sql = (
            f"SELECT {COLUMNS} FROM bases JOIN records USING (cid) "
            "WHERE bases.basis = ? AND bases.cid > ? ORDER BY bases.cid LIMIT ?"
        )
        return [
            from_row(self._database, row) for row in self._database.rows(sql, (basis, after or b"", limit))
        ]

    def cids_at(self, basis: bytes, after: Cid | None, limit: int) -> list[Cid]:
        """The CIDs of `at_basis`."""
        sql = "SELECT cid FROM bases WHERE basis = ? AND cid > ? ORDER BY cid LIMIT ?"
        return [row[0] for row in self._database.rows(sql, (basis, after or b"", limit))]

    def digest_of(self, basis: bytes) -> tuple[int, bytes]:
        """How many records are held at a basis, and their digests' sum mod 2**256; O(log n)."""
        row = self._database.row("SELECT records, total FROM digests WHERE basis = ?", (basis,))
        return (0, bytes(DIGEST_SIZE)) if row is None else (row[0], row[1])

    def bases(self, role: int) -> list[bytes]:
        """Every basis at which something is held in this role (a bit), ascending; O(number of bases)."""
        rows = self._database.rows("SELECT basis FROM digests WHERE roles & ? ORDER BY basis", (role,))
        return [row[0] for row in rows]

    def of_author(self, author: AgentId, from_seq: int = 0, limit: int = MAX_HELD_ITEMS) -> list[Record]:
        """Up to `limit` signed headers of an author from `from_seq` on, forks included, by (seq, CID)."""
        sql = (
            "SELECT cid, header, signature, NULL FROM records INDEXED BY records_by_author "
            "WHERE author = ? AND seq >= ? ORDER BY seq, cid LIMIT ?"
        )
        return [from_row(self._database, row) for row in self._database.rows(sql, (author, from_seq, limit))]

    def opening(self, author: AgentId) -> tuple[Record, Record] | None:
        """An author's genesis and membrane records, both with payload, if they are here.

        Of a forked author's the membrane with the smallest CID that follows a genesis which is here.
        """
        sql = (
            f"SELECT {COLUMNS} FROM records INDEXED BY records_by_author "
            "WHERE author = ? AND seq = ? AND kind = ? AND payload IS NOT NULL ORDER BY cid"
        )
        for row in self._database.rows(sql, (author, 1, MEMBRANE)):
            membrane = from_row(self._database, row)
            for first in self._database.rows(sql, (author, 0, GENESIS)):
                if first[0] == membrane.header.prev:
                    return from_row(self._database, first), membrane
        return None

    def count(self) -> int:
        """Records held; O(log n), because ids are given in sequence and records are never deleted."""
        row = self._database.row("SELECT max(id) FROM records")
        return 0 if row is None or row[0] is None else int(row[0])

    def size_bytes(self) -> int:
        """Bytes of the file's pages."""
        return self._database.size_bytes()


def _hold(connection: sqlite3.Connection, items: Sequence[Held]) -> None:
    added: dict[bytes, tuple[int, int, int]] = {}
    for item in items:
        cid = item.record.cid
        _keep(connection, item.record)
        for roles, basis in item.bases:
            key = (basis, cid)
            here = connection.execute("SELECT roles FROM bases WHERE basis = ? AND cid = ?", key).fetchone()
            if here is not None and here[0] & roles == roles:
                continue
            connection.execute(
                "INSERT INTO bases (basis, cid, roles) VALUES (?, ?, ?) "
                "ON CONFLICT (basis, cid) DO UPDATE SET roles = roles | excluded.roles",
                (basis, cid, roles),
            )
            all_roles, records, total = added.get(basis, (0, 0, 0))
            if here is None:
                records, total = records + 1, total + int.from_bytes(digest(cid), "big")
            added[basis] = (all_roles | roles, records, total)
    for basis in sorted(added):
        roles, records, total = added[basis]
        before = connection.execute(
            "SELECT roles, records, total FROM digests WHERE basis = ?", (basis,)
        ).fetchone()
        if before is not None:
            roles, records, total = (
                roles | before[0],
                records + before[1],
                total + int.from_bytes(before[2], "big"),
            )
        values = (basis, roles, records, (total % _MODULUS).to_bytes(DIGEST_SIZE, "big"))
        connection.execute("REPLACE INTO digests (basis, roles, records, total) VALUES (?, ?, ?, ?)", values)


def _keep(connection: sqlite3.Connection, record: Record) -> None:
    cid, header = record.cid, record.header
    sql = "SELECT signature, payload IS NOT NULL FROM records WHERE cid = ?"
    before = connection.execute(sql, (cid,)).fetchone()
    if before is None:
        connection.execute(
            "INSERT INTO records (cid, author, seq, subject, kind, header, signature, payload)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                cid,
                header.author,
                header.seq,
                record.subject,
                header.kind,
                record.header_bytes,
                record.signature,
                record.payload,
            ),
        )
        return
    if record.signature < before[0]:
        connection.execute("UPDATE records SET signature = ? WHERE cid = ?", (record.signature, cid))
    if record.payload is not None and not before[1]:
        connection.execute("UPDATE records SET payload = ? WHERE cid = ?", (record.payload, cid))
