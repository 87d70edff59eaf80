"""held.db: the records that this node holds for the network, its own among them where it is a holder.

A record is kept once, under each basis that this node holds it for; the port is
`dht.records.record_store.HeldStore`. Nothing is judged here: who calls `hold` has verified the signature and
validated the record. Both branches of a fork are kept; of several valid signatures of one record the smallest
is kept, so that replicas agree; a signed header is completed when its payload arrives. Per basis a count and
a sum of the CIDs' digests modulo 2**256 are kept up to date, so that two holders can compare what they hold
there in a few bytes, and sums over ranges of bases (`node.storage.range_sums`), so that they can compare
everything.

A basis that this node need not hold any more is dropped as a whole, and only if it still is what was proven
to lie elsewhere; what then becomes of its records is said in `node.storage.letting_go`. Freed pages are used
again by what comes next, or given back to the file system when they are many. What a held purge names is kept
without its payload (`node.storage.erasure`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chain.cid import DIGEST_SIZE, Cid
from chain.identity import AgentId
from chain.kinds import CREATE, GENESIS, MEMBRANE, PURGE
from chain.record import Record
from dht.ports import RunBlocking
from dht.records.basis import BASIS_SIZE, author_basis
from dht.records.placement import Role
from dht.records.record_store import BasisDigest, Chain, Digest, Held, Usage
from dht.repair.move_log import Move
from node.storage import holding, letting_go, move_log
from node.storage.database import Layout, Options, open_database
from node.storage.erasure import (
    PURGED_TABLE,
    ShardOf,
    erase,
    kept_part,
    no_shard,
    purged_shards,
    purges_of,
    scrub_purged,
    shrink,
    unscrubbed,
    unscrubbed_purges,
)
from node.storage.errors import StorageLimit
from node.storage.group_writer import GroupWriter
from node.storage.letting_go import Used
from node.storage.range_sums import SCHEMA, RangeView, build
from node.storage.stored_record import COLUMNS, NAMES, RELATES, from_row, records_in
from validation.subject_rules import MAX_OPERATIONS

WRITER_CACHE_KIB: Final = 16_000
"""A record changes some seven pages all over the file, so a usual batch changes four megabytes."""
MAX_ROLES: Final = (1 << 31) - 1
"""Roles are bits, so that several are one integer."""
MAX_HELD_ITEMS: Final = 4096
"""Items in one call of `hold`."""
MAX_TWINS: Final = 8
"""Records of one place of a chain that are looked at: two prove a fork, unless it is a forgiven one."""
MAX_GAP: Final = 8
RECLAIM_AT: Final = 1_000
"""Records without a basis at which `reclaim` looks for those that nothing names any more."""
RECLAIM_SHARE: Final = 8
"""And only when they are more than one in so many: looking costs a pass over all headers."""

LAYOUT: Final = Layout(
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
        # `bare`: has no basis (any more), and once nothing names it, it may go.
        """
        CREATE INDEX bases_by_cid ON bases (cid);
        ALTER TABLE records ADD COLUMN bare INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX bare_records ON records (id) WHERE bare = 1;
        CREATE TABLE tally (records INTEGER NOT NULL, bare INTEGER NOT NULL);
        INSERT INTO tally (records, bare) SELECT count(*), 0 FROM records;
        """,
        "CREATE INDEX operations_by_subject ON records (subject, cid) WHERE subject != cid;",
        # What each author takes up, kept by triggers because records come, grow and go in many places.
        """
        CREATE INDEX operations_by_author ON records (subject, author, seq, cid) WHERE subject != cid;
        DROP INDEX operations_by_subject;
        CREATE TABLE usage (
            author BLOB PRIMARY KEY,
            records INTEGER NOT NULL,
            bytes INTEGER NOT NULL
        ) WITHOUT ROWID;
        INSERT INTO usage (author, records, bytes)
            SELECT author, count(*), sum(length(header) + ifnull(length(payload), 0)) FROM records GROUP BY 1;
        CREATE TRIGGER usage_added AFTER INSERT ON records BEGIN
            INSERT INTO usage (author, records, bytes)
                VALUES (NEW.author, 1, length(NEW.header) + ifnull(length(NEW.payload), 0))
                ON CONFLICT (author) DO UPDATE
                SET records = records + 1, bytes = bytes + excluded.bytes;
        END;
        CREATE TRIGGER usage_changed AFTER UPDATE OF payload ON records BEGIN
            UPDATE usage SET bytes = bytes + ifnull(length(NEW.payload), 0) - ifnull(length(OLD.payload), 0)
                WHERE author = NEW.author;
        END;
        CREATE TRIGGER usage_gone AFTER DELETE ON records BEGIN
            UPDATE usage SET records = records - 1,
                bytes = bytes - length(OLD.header) - ifnull(length(OLD.payload), 0)
                WHERE author = OLD.author;
            DELETE FROM usage WHERE author = OLD.author AND records = 0;
        END;
        """,
        SCHEMA,
        PURGED_TABLE,
        # Who writes records counts them (`node.storage.holding`), for a whole batch at once.
        "DROP TRIGGER usage_added;",
        move_log.TABLE,
        f"CREATE INDEX relating ON records (subject, cid) WHERE {RELATES};",
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
        self.is_new = not path.exists()
        """Whether the file was made just now."""
        self._database = open_database(path, LAYOUT, options or Options(writer_cache_kib=WRITER_CACHE_KIB))
        build(self._database.writer)
        self._writer = GroupWriter(self._database, run_blocking)
        self._run_blocking = run_blocking
        self.shard_of: ShardOf = no_shard
        """Tells, while a payload is still here, in which shard its record is found."""
        self._fresh: Used | None = None  # while `reclaim` looks: what is used by what was held meanwhile
        self._kept_bare = 0  # what the last look found to be named still: no reason to look again

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
        await self._writer.submit(lambda connection: self._hold(connection, items))

    async def drop(self, basis: bytes, expected: Digest) -> list[tuple[Cid, int]] | None:
        """Hold nothing at a basis any more, if its digest still is `expected`; durable on return.

        Returns each record that lay there with the roles in which it is still held, or None when the basis
        has changed and was left alone. O(records there).
        """
        return await self._writer.submit(
            lambda connection: letting_go.drop(connection, self._database, basis, expected)
        )

    async def expel(self, *, author: AgentId | None = None, subject: Cid | None = None) -> set[bytes]:
        """Hold nothing of an author, or of a subject, any more; returns the bases at which something lay.

        Payloads are erased; headers stay while something names them. O(records), a part at a time.
        """
        bases: set[bytes] = set()
        after = -1
        while True:
            found, after = await self._writer.submit(
                partial(letting_go.expel, author=author, subject=subject, after=after)
            )
            bases |= found
            if after < 0:
                return bases

    async def release(self, basis: bytes, cids: Sequence[Cid]) -> None:
        """Hold these records at this basis no more, if they are there; durable. O(records there)."""
        await self._writer.submit(
            lambda connection: letting_go.release(connection, self._database, basis, cids)
        )

    async def reclaim(self) -> int:
        """Delete the records that lost their last basis and that no held record names; returns how many.

        Does nothing until there are enough of them (`RECLAIM_AT`, `RECLAIM_SHARE`); then O(records held).
        """
        records, bare = self._tally()
        enough = bare >= self._kept_bare + RECLAIM_AT and bare * RECLAIM_SHARE >= records
        if not enough or self._fresh is not None:
            return 0
        fresh = self._fresh = Used()
        try:
            # From its transaction on every `hold` notes what it uses; those before it are on disk, and seen.
            await self._writer.submit(lambda connection: None)
            used = await self._run_blocking(letting_go.in_use, self._database)
            gone = await self._writer.submit(lambda connection: letting_go.reclaim(connection, used, fresh))
        finally:
            self._fresh = None
            self._kept_bare = self._tally()[1]
        while await self._writer.submit(shrink):
            pass
        return gone

    def moves(self) -> dict[bytes, Move]:
        """How far what has to move has moved, by the basis where it lies."""
        return move_log.moves(self._database)

    async def note_move(self, basis: bytes, move: Move) -> None:
        """Note how far; durable on return."""
        await self._writer.submit(lambda connection: move_log.note(connection, basis, move))

    async def forget_moves(self, bases: Collection[bytes]) -> None:
        """What was noted of these is no matter any more; durable on return."""
        await self._writer.submit(lambda connection: move_log.forget(connection, bases))

    async def scrub(self) -> bool:
        """Leave no trace in the files of payloads that were purged; False: not all could be done yet."""
        return await self._writer.alone(scrub_purged)

    @property
    def unscrubbed(self) -> int:
        """Purged records of which traces may be left in the files."""
        return unscrubbed(self._database)

    def unscrubbed_purges(self) -> list[Cid]:
        """The purges of which traces may be left in the files, ascending."""
        return unscrubbed_purges(self._database)

    def purges_of(self, cids: Sequence[Cid]) -> dict[Cid, Record]:
        """Those of `cids` that their authors purged, each with a purge that did it."""
        return purges_of(self._database, cids)

    def purged_shards(self, cids: Sequence[Cid]) -> dict[Cid, bytes]:
        """The bases of the shards in which purged records were found, as far as it was known here."""
        return purged_shards(self._database, cids)

    def get(self, cid: Cid) -> Record | None:
        """The record of this CID, with its payload if that is here."""
        return self.get_many([cid])[0]

    def get_many(self, cids: Sequence[Cid]) -> list[Record | None]:
        """The records with these CIDs, in order, None where there is none."""
        return records_in(self._database, cids)

    def in_chain_order(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those of `cids` that are held, author by author and each one's by seq."""
        rows = self._database.rows_in("SELECT author, seq, cid FROM records WHERE cid IN ({})", list(cids))
        return [row[2] for row in sorted(rows)]

    def about(self, subject: Cid, limit: int, creator: AgentId | None = None) -> list[Record]:
        """What is held of a subject, in whatever role: its create, and up to `limit` operations.

        Ordered as in `operations`; `creator` says who made the subject where its create is not held.
        """
        cids = [subject, *self.operations(subject, 0, limit, creator)]
        return [record for record in self.get_many(cids) if record is not None]

    def operations(self, subject: Cid, skip: int, limit: int, creator: AgentId | None = None) -> list[Cid]:
        """The operations held on a subject, `limit` of them after the first `skip`, in the order of reading.

        Those of its creator come first, then the first of each author, then the second of each, and so on:
        who floods a subject hides nobody's operations but the own. O(operations on the subject).
        """
        sql = (
            "SELECT cid FROM (SELECT cid, author, row_number() OVER (PARTITION BY author ORDER BY seq, cid)"
            " AS turn FROM records INDEXED BY operations_by_author WHERE subject = ?1 AND subject != cid) "
            "ORDER BY author IS NOT coalesce((SELECT author FROM records WHERE cid = ?1), ?4) "
            "OR turn > ?5, turn, cid LIMIT ?2 OFFSET ?3"
        )
        values = (subject, limit, skip, creator, 2 * MAX_OPERATIONS)
        return [row[0] for row in self._database.rows(sql, values)]

    def operations_by(
        self, subject: Cid, author: AgentId, before: tuple[int, Cid] | None, limit: int
    ) -> list[Record]:
        """Up to `limit` operations of an author on a subject, from the highest (seq, CID) down, below
        `before`; O(limit)."""
        below = "" if before is None else "AND (seq, cid) < (?, ?) "
        sql = (
            f"SELECT {COLUMNS} FROM records INDEXED BY operations_by_author WHERE subject = ? "
            f"AND subject != cid AND author = ? {below}ORDER BY seq DESC, cid DESC LIMIT ?"
        )
        values = (subject, author, *(before or ()), limit)
        return [from_row(self._database, row) for row in self._database.rows(sql, values)]

    def relating_to(self, target: Cid, limit: int) -> list[Cid]:
        """Up to `limit` subjects of held records that may relate something to `target`, ascending.

        That something is said of it there once, not that it still holds. O(held records with relations).
        """
        sql = (
            f"SELECT DISTINCT subject FROM records INDEXED BY relating WHERE {RELATES} AND {NAMES} "
            "ORDER BY subject LIMIT ?"
        )
        return [row[0] for row in self._database.rows(sql, (target, limit))]

    def operated_on(self, subjects: Sequence[Cid]) -> set[Cid]:
        """Those of `subjects` of which operations are held."""
        sql = (
            "SELECT DISTINCT subject FROM records INDEXED BY operations_by_author "
            "WHERE subject IN ({}) AND subject != cid"
        )
        return {row[0] for row in self._database.rows_in(sql, sorted(set(subjects)))}

    def subjects_of(self, author: AgentId) -> list[Cid]:
        """The subjects of which records of an author are here, ascending; O(its records)."""
        sql = "SELECT DISTINCT subject FROM records WHERE author = ? ORDER BY subject"
        return [row[0] for row in self._database.rows(sql, (author,))]

    def entries_after(self, entry: Cid, limit: int) -> list[Cid]:
        """Up to `limit` entries above `entry` whose create is held, ascending; O(records up to the last)."""
        sql = "SELECT cid FROM records WHERE cid > ? AND kind = ? ORDER BY cid LIMIT ?"
        return [row[0] for row in self._database.rows(sql, (entry, CREATE, limit))]

    def subjects_after(self, subject: Cid, limit: int) -> list[Cid]:
        """Up to `limit` subjects of which operations are held, above `subject`, ascending."""
        sql = (
            "SELECT DISTINCT subject FROM records INDEXED BY operations_by_author "
            "WHERE subject > ? AND subject != cid ORDER BY subject LIMIT ?"
        )
        return [row[0] for row in self._database.rows(sql, (subject, limit))]

    def in_role(self, cids: Sequence[Cid], role: int) -> set[Cid]:
        """Those of `cids` that are held in this role (a bit), at whatever basis."""
        sql = (
            f"SELECT DISTINCT cid FROM bases INDEXED BY bases_by_cid WHERE cid IN ({{}}) AND roles & {role:d}"
        )
        return {row[0] for row in self._database.rows_in(sql, sorted(set(cids)))}

    def lacking(self, pairs: Sequence[tuple[bytes, Cid]]) -> list[bool]:
        """For each (basis, CID) whether no such record is held there."""
        sql = "SELECT 1 FROM bases WHERE basis = ? AND cid = ?"
        with self._database.reading() as connection:
            return [connection.execute(sql, pair).fetchone() is None for pair in pairs]

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

    def places_of(self, cids: Sequence[Cid]) -> list[list[tuple[int, bytes]]]:
        """For each record the (roles, basis) pairs under which it is held; none when it is not."""
        sql = "SELECT roles, basis FROM bases WHERE cid = ? ORDER BY basis"
        return [[(row[0], row[1]) for row in self._database.rows(sql, (cid,))] for cid in cids]

    def held_at(self, basis: bytes, after: Cid | None, limit: int) -> list[tuple[Cid, int]]:
        """The CIDs of `at_basis`, each with the roles in which it is held there."""
        sql = "SELECT cid, roles FROM bases WHERE basis = ? AND cid > ? ORDER BY cid LIMIT ?"
        return [(row[0], row[1]) for row in self._database.rows(sql, (basis, after or b"", limit))]

    def digest_of(self, basis: bytes) -> Digest:
        """How many records are held at a basis, and their digests' sum mod 2**256; O(log n)."""
        row = self._database.row("SELECT records, total FROM digests WHERE basis = ?", (basis,))
        return (0, bytes(DIGEST_SIZE)) if row is None else (row[0], row[1])

    def bases_after(self, basis: bytes, limit: int) -> list[BasisDigest]:
        """Up to `limit` bases at which something is held, above `basis`, ascending, with roles and digest.

        Not those of this node alone (`KEPT`) or of every node (`NOTICE`).
        """
        sql = (
            "SELECT basis, roles, records, total FROM digests WHERE basis > ? AND roles NOT IN (?, ?) "
            "ORDER BY basis LIMIT ?"
        )
        rows = self._database.rows(sql, (basis, int(Role.KEPT), int(Role.NOTICE), limit))
        return [BasisDigest(row[0], row[1], (row[2], row[3])) for row in rows]

    def chain(self, author: AgentId) -> Chain | None:
        """The activity of an author held at its basis, if all of it is there up to the last; O(log n)."""
        basis = author_basis(author)
        sql = (
            "SELECT seq, cid FROM records INDEXED BY records_by_author WHERE author = ? "
            "ORDER BY seq DESC, cid LIMIT 2"
        )
        last = self._database.rows(sql, (author,))
        if not last or last[0][0] + 1 != self.digest_of(basis)[0]:
            return None
        if (len(last) == 2 and last[0][0] == last[1][0]) or self.lacking([(basis, last[0][1])])[0]:
            return None
        return Chain(basis, author, last[0][0], last[0][1])

    def long_chains(self) -> list[Chain]:
        """The whole activities of many records (`range_sums.MANY`); O(their number)."""
        sql = "SELECT DISTINCT range_parts.basis FROM range_parts JOIN digests USING (basis) WHERE roles & ?"
        found: list[Chain] = []
        for (basis,) in self._database.rows(sql, (int(Role.AUTHOR),)):
            author = self.at_basis(basis, None, 1)[0].header.author
            chain = self.chain(author) if author_basis(author) == basis else None
            if chain is not None:
                found.append(chain)
        return found

    def cid_of_seq(self, author: AgentId, seq: int) -> Cid | None:
        """The one header held of an author at a seq; None where there is none, or a fork."""
        sql = "SELECT cid FROM records INDEXED BY records_by_author WHERE author = ? AND seq = ? LIMIT 2"
        rows = self._database.rows(sql, (author, seq))
        return rows[0][0] if len(rows) == 1 else None

    def chain_cids(self, author: AgentId, after_seq: int, limit: int) -> list[Cid]:
        """The first `limit` headers of an author beyond a seq that are held at its basis, ascending."""
        sql = (
            "SELECT records.cid FROM records INDEXED BY records_by_author "
            "JOIN bases ON bases.cid = records.cid AND bases.basis = ? "
            "WHERE author = ? AND seq > ? ORDER BY seq LIMIT ?"
        )
        values = (author_basis(author), author, after_seq, limit)
        return [row[0] for row in self._database.rows(sql, values)]

    @contextmanager
    def ranges(self) -> Iterator[RangeView]:
        """All that is held at bases, as it is now, to be compared by ranges; not that of this node alone."""
        with self._database.reading() as connection:
            connection.execute("BEGIN")
            try:
                yield RangeView(connection)
            finally:
                connection.execute("ROLLBACK")

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

    def headers_in(self, author: AgentId, cids: Sequence[Cid]) -> list[Record]:
        """The signed headers of these records of an author that are here, in any order."""
        rows = self._database.rows_in(
            "SELECT cid, header, signature, NULL FROM records WHERE cid IN ({})", sorted(set(cids))
        )
        found = [from_row(self._database, row) for row in rows]
        return [record for record in found if record.header.author == author]

    def authors(self) -> list[AgentId]:
        """All of whom something is here, ascending; O(authors)."""
        return [row[0] for row in self._database.rows("SELECT author FROM usage ORDER BY author")]

    def heads_of(self, author: AgentId, limit: int) -> list[Record]:
        """Up to `limit` signed headers of an author's highest seq held here, by CID; O(log n)."""
        sql = (
            "SELECT cid, header, signature, NULL FROM records INDEXED BY records_by_author WHERE author = ?1 "
            "AND seq = (SELECT max(seq) FROM records INDEXED BY records_by_author WHERE author = ?1) "
            "ORDER BY cid LIMIT ?2"
        )
        return [from_row(self._database, row) for row in self._database.rows(sql, (author, limit))]

    def chain_of(self, author: AgentId, from_seq: int, limit: int) -> list[Record]:
        """As `of_author`, the opening with its payloads."""
        sql = (
            "SELECT cid, header, signature, CASE WHEN seq < 3 THEN payload END FROM records "
            "INDEXED BY records_by_author WHERE author = ? AND seq >= ? ORDER BY seq, cid LIMIT ?"
        )
        return [from_row(self._database, row) for row in self._database.rows(sql, (author, from_seq, limit))]

    def twins(self, places: Sequence[tuple[AgentId, int]]) -> list[list[Record]]:
        """Of each (author, seq) with more than one record up to `MAX_TWINS`, by CID; O(places).

        Also of places between two that are asked about and not far from each other: one look serves a run.
        """
        double = (
            "SELECT seq FROM records INDEXED BY records_by_author WHERE author = ? AND seq BETWEEN ? AND ? "
            "GROUP BY seq HAVING count(*) > 1"
        )
        sql = (
            "SELECT cid, header, signature, NULL FROM records INDEXED BY records_by_author "
            "WHERE author = ? AND seq = ? ORDER BY cid LIMIT ?"
        )
        found: list[list[Record]] = []
        for author, first, last in _runs(places):
            for (seq,) in self._database.rows(double, (author, first, last)):
                rows = self._database.rows(sql, (author, seq, MAX_TWINS))
                found.append([from_row(self._database, row) for row in rows])
        return found

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
        """Records held, those among them that only others name; O(1)."""
        records, bare = self._tally()
        return records - bare

    def size_bytes(self) -> int:
        """Bytes of the file's pages."""
        return self._database.size_bytes()

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something; what was freed is used again before the file grows."""
        return self._database.used_bytes()

    def usage_of(self, authors: Sequence[AgentId]) -> dict[AgentId, Usage]:
        """What the records of each of these authors take up; O(authors)."""
        sql = "SELECT author, records, bytes FROM usage WHERE author IN ({})"
        rows = self._database.rows_in(sql, sorted(set(authors)))
        return {row[0]: Usage(row[1], row[2]) for row in rows}

    def largest_authors(self, limit: int) -> list[tuple[AgentId, Usage]]:
        """The authors who take up most, in descending order; O(authors)."""
        sql = "SELECT author, records, bytes FROM usage ORDER BY bytes DESC, author LIMIT ?"
        return [(row[0], Usage(row[1], row[2])) for row in self._database.rows(sql, (limit,))]

    def _hold(self, connection: sqlite3.Connection, items: Sequence[Held]) -> None:
        fresh = self._fresh
        if fresh is not None:
            for item in items:
                fresh.note(item.record)
        kept = [Held(kept_part(connection, item.record, self.shard_of), item.bases) for item in items]
        holding.hold(connection, kept)
        for item in items:
            if item.record.header.kind == PURGE:
                erase(connection, self._database, item.record, self.shard_of)

    def _tally(self) -> tuple[int, int]:
        row = self._database.row("SELECT records, bare FROM tally")
        if row is None:
            raise self._database.corrupt("its tally is missing")
        return int(row[0]), int(row[1])


def _runs(places: Sequence[tuple[AgentId, int]]) -> list[tuple[AgentId, int, int]]:
    """The places as (author, first seq, last seq), those with at most `MAX_GAP` between them together."""
    runs: list[tuple[AgentId, int, int]] = []
    for author, seq in sorted(set(places)):
        if runs and runs[-1][0] == author and seq <= runs[-1][2] + MAX_GAP:
            runs[-1] = (author, runs[-1][1], seq)
        else:
            runs.append((author, seq, seq))
    return runs
