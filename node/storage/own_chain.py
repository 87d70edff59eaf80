"""chain.db: the source chain of this node's own agent.

Drafts are linked and signed inside the writing transaction, so sequence numbers and predecessors are right
however many tasks append at once, and what `append` returns is on disk. An import key makes an append
idempotent: key and record are kept by the same transaction. The file also notes who acknowledged holding
each record and the level it was placed for (`node.storage.own_placements`), and what they signed for it
(`node.storage.own_receipts`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import trio

from chain.cid import Cid, to_text
from chain.errors import RecordError
from chain.identity import AGENT_ID_SIZE, AgentId, Identity, peer_id
from chain.kinds import BOXES, CLOSE, CREATE, ENDS, OPENING, PRIVATE, PURGE, ROTATE
from chain.record import SALT_SIZE, Record, verify_signature
from chain.source_chain import (
    ChainReport,
    Draft,
    Head,
    check_link,
    head_of,
    next_record,
    verify_chain,
)
from dht.ports import Clock, Random, RunBlocking
from dht.records.receipts import KeptBatch, SignedFor
from dht.records.record_store import Placement
from node.storage import own_placements, own_receipts
from node.storage.database import Layout, Options, open_database
from node.storage.erasure import (
    PURGED_TABLE,
    ShardOf,
    erase,
    erase_own,
    kept_part,
    no_shard,
    purged_after,
    purged_shards,
    purges_of,
    scrub_purged,
    unscrubbed,
    unscrubbed_purges,
)
from node.storage.errors import ForeignChain, ReadOnly, StorageLimit
from node.storage.group_writer import GroupWriter
from node.storage.own_receipts import KeptReceipt
from node.storage.stored_record import COLUMNS, NAMES, RELATES, from_row, records_in

MAX_DRAFTS: Final = 4096
"""Drafts in one call of `append`."""
MAX_KEY: Final = 256
"""Bytes of an import key."""
MAX_LEVEL: Final = 256
"""The highest level of placement: a network's R stays below it."""
VERIFY_PAGE: Final = 256
"""Records read at a time while the chain is verified."""

LAYOUT: Final = Layout(
    application_id=0x52466331,  # "RFc1"
    migrations=(
        """
        CREATE TABLE records (
            seq INTEGER PRIMARY KEY,
            cid BLOB NOT NULL UNIQUE,
            author BLOB NOT NULL,
            header BLOB NOT NULL,
            signature BLOB NOT NULL,
            payload BLOB,
            UNIQUE (author, seq)
        );
        CREATE TABLE import_keys (key BLOB PRIMARY KEY, cid BLOB NOT NULL) WITHOUT ROWID;
        """
        + own_placements.TABLES,
        # Chains of the release before hold no operations: it had no command that makes one.
        """
        CREATE TABLE operations (
            subject BLOB NOT NULL,
            seq INTEGER NOT NULL REFERENCES records (seq),
            PRIMARY KEY (subject, seq)
        ) WITHOUT ROWID;
        """,
        own_receipts.MIGRATION,
        PURGED_TABLE,
        "CREATE TABLE privates (seq INTEGER PRIMARY KEY REFERENCES records (seq));",
        f"CREATE INDEX relating ON records (seq) WHERE {RELATES};",
    ),
    recovery="restore it from a backup (a chain cannot be rebuilt, and starting a new one would fork it)",
)

_ENDED = {
    CLOSE: "this chain is closed for ever: found a new agent with roseforest init in another --home",
    ROTATE: "this chain has ended: its agent goes on under the key that roseforest key rotate made",
}
_NEWEST = f"SELECT {COLUMNS} FROM records ORDER BY seq DESC LIMIT 1"
_OPERATION = "INSERT INTO operations (subject, seq) VALUES (?, ?)"
_ADD = "INSERT INTO records (seq, cid, author, header, signature, payload) VALUES (?, ?, ?, ?, ?, ?)"


FaultOf = Callable[[Record, Sequence[Record]], str | None]
T = TypeVar("T")
Script: TypeAlias = Callable[[], Generator[Draft, Record, T]]
"""Begins anew what drafts one record after another, each on top of those before, which it is sent back."""


def _no_fault(_record: Record, _before: Sequence[Record]) -> str | None:
    return None


class OwnChain:
    """The agent's chain on disk. Reads are plain calls, from any thread; writes need `run` to be running.

    `epoch` is the epoch under which the next records are signed, at first that of the newest record unless a
    later one than epoch 0 is given; set it when a new one is adopted. While
    `frozen` says why, nothing is appended: the chain may have gone on elsewhere. `ready` is waited for before
    an append looks at that. The rest of the file is written as ever.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        network: Cid,
        epoch: Cid,
        clock: Clock,
        random: Random,
        run_blocking: RunBlocking,
        options: Options | None = None,
    ) -> None:
        """Open or create the file, and check that its newest record is this identity's.

        Raises `ForeignChain` for another key or network, and what `open_database` raises.
        """
        self.epoch = epoch
        self.frozen: str | None = None
        self.ready: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint_if_cancelled
        self.shard_of: ShardOf = no_shard
        """Tells, while a payload is still here, in which shard its record is found."""
        self.fault_of: FaultOf = _no_fault
        """What rule the next record would break, if any: such a record is not signed away.

        It is also given those before it in the same write, which nobody can read yet.
        """
        self._identity = identity
        self._network = network
        self._clock = clock
        self._random_bytes = random.random_bytes
        self._tail: Head | None = None  # the head inside the transaction under way; only the writer uses it
        self._length = 0  # the chain's length when that transaction began
        self._end: str | None = None  # the kind of the last record, if it ends the chain; likewise
        self._database = open_database(path, LAYOUT, options or Options())
        try:
            self._check_newest()
        except BaseException:
            self._database.close()
            raise
        self._writer = GroupWriter(self._database, run_blocking, self._load_tail, self._add_levels)

    @property
    def read_only(self) -> str | None:
        """Why no record can be appended, or None."""
        return self._writer.read_only

    @property
    def ended(self) -> str | None:
        """Why nothing will ever follow in this chain, or None: it is closed, or goes on under another key."""
        newest = self.newest()
        kind = None if newest is None else newest.header.kind
        return None if kind not in ENDS else _ENDED[kind]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `aclose`; see `GroupWriter.run`."""
        await self._writer.run(task_status=task_status)

    def close(self) -> None:
        """Write what is queued and close the file; not waited for, see `GroupWriter.close`."""
        self._writer.close()

    async def aclose(self) -> None:
        """`close`, and wait until it is done."""
        await self._writer.aclose()

    async def append(self, drafts: Sequence[Draft], keys: Sequence[bytes | None]) -> list[tuple[Cid, bool]]:
        """Append drafts in order, all or none; durable on return.

        For each draft the record's CID and True, or, when its key was used before, the earlier record's CID
        and False. `keys` has one entry a draft. Cancellation: see `GroupWriter.submit`.

        Raises `ReadOnly` while `frozen` and after the chain's end, `StorageLimit` above `MAX_DRAFTS` or
        `MAX_KEY`, `chain.errors.ChainError` for a draft over a limit, and what `GroupWriter.submit` raises.
        """
        await self._unfrozen()
        if len(drafts) > MAX_DRAFTS:
            raise StorageLimit(
                f"{len(drafts)} drafts in one append, the limit is {MAX_DRAFTS}; append in parts"
            )
        for key in keys:
            if key is not None and len(key) > MAX_KEY:
                raise StorageLimit(
                    f"an import key has {len(key)} bytes, the limit is {MAX_KEY}; use a hash of it"
                )
        return await self._writer.submit(lambda connection: self._append(connection, drafts, keys))

    async def write(self, script: Script[T]) -> tuple[list[Record], T]:
        """Append all that `script` drafts, or nothing when it raises; the records, and what it returns.

        One transaction and one sync, whatever their number: a crash leaves all or nothing. The script runs in
        the writer's thread, maybe twice, and other writers wait for it; what it raises is raised here. The
        records are durable on return. Cancellation: see `GroupWriter.submit`.

        Raises what `append` raises for the same drafts.
        """
        await self._unfrozen()
        return await self._writer.submit(lambda connection: self._write(connection, script))

    async def extend(self, records: Sequence[Record]) -> None:
        """Take back records of this chain that follow its head, all or none; durable on return.

        Those with a payload are placed anew, whoever may have them; those without are kept as headers. Their
        payloads were checked when they were decoded. Raises `ChainBrokenError` for one that does not follow,
        `StorageLimit` above `MAX_DRAFTS`, and what `GroupWriter.submit` raises.
        """
        if len(records) > MAX_DRAFTS:
            raise StorageLimit(f"{len(records)} records in one extend, the limit is {MAX_DRAFTS}")
        await self._writer.submit(lambda connection: self._extend(connection, records))

    async def placed(
        self,
        rows: Sequence[Placement],
        settled: Sequence[tuple[Cid, int]],
        receipts: Sequence[KeptBatch] = (),
    ) -> None:
        """Note acknowledgements, receipts, and the levels that records have reached; durable, idempotent.

        Roles of one holder add up; a level never falls. CIDs of other chains are passed over.
        """
        for row in rows:
            if len(row.holder) != AGENT_ID_SIZE:
                raise StorageLimit(f"a holder's key has {len(row.holder)} bytes, expected {AGENT_ID_SIZE}")
        for _, level in settled:
            if not 0 <= level <= MAX_LEVEL:
                raise StorageLimit(f"level {level} is outside 0 to {MAX_LEVEL}")
        await self._writer.submit(lambda connection: own_placements.note(connection, rows, settled, receipts))

    async def reopen(self, gone: Collection[AgentId]) -> int:
        """Put records at level 0 that, in some role, nobody but `gone` acknowledged; returns how many.

        O(acknowledgements) when there are any of theirs.
        """
        return await self._writer.submit(
            lambda connection: own_placements.reopen(connection, frozenset(gone))
        )

    async def void(self, holder: AgentId, cids: Sequence[Cid] | None) -> int:
        """Forget what a holder acknowledged and signed for these records (None: all), and place them anew.

        Returns how many records that were. O(records of that holder); for all, O(chain).
        """
        return await self._writer.submit(lambda connection: own_placements.void(connection, holder, cids))

    def receipts(self, cid: Cid) -> list[KeptReceipt]:
        """Everybody's receipts for a record of this chain, by holder ascending."""
        return own_receipts.receipts_for(self._database, cid)

    def unconfirmed(self, need: int, after_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records after `after_seq` that fewer than `need` have signed for in full."""
        seqs = own_receipts.unconfirmed(self._database, need, after_seq, limit)
        sql = f"SELECT {COLUMNS} FROM records WHERE seq IN ({{}}) ORDER BY seq"
        return [from_row(self._database, row) for row in self._database.rows_in(sql, seqs)]

    def signed_for(self, cid: Cid) -> list[SignedFor]:
        """All receipts for a record, also this node's own holding."""
        return own_receipts.signed_for(self._database, cid)

    def signed_from(self, seq: int, limit: int) -> list[SignedFor]:
        """Up to `limit` receipts of others for the records from `seq` on, in order."""
        return own_receipts.signed_from(self._database, seq, limit)

    def count_unconfirmed(self, need: int) -> int:
        """Records for which fewer than `need` holders have signed in full; O(answer)."""
        return own_receipts.count_unconfirmed(self._database, need)

    async def scrub(self) -> bool:
        """Leave no trace in the files of payloads that were purged; False: not all could be done yet."""
        return await self._writer.alone(scrub_purged)

    @property
    def unscrubbed(self) -> int:
        """Purged records of which traces may be left in the files."""
        return unscrubbed(self._database)

    async def erase_private(self, cids: Sequence[Cid]) -> None:
        """Erase the payloads of private records, which nobody else has; durable on return."""
        author = self._identity.agent
        await self._writer.submit(lambda connection: erase_own(connection, cids, author))

    def privates(self, after_seq: int, limit: int) -> list[Record]:
        """Up to `limit` private records after `after_seq` (-1: all), in order."""
        sql = f"SELECT {COLUMNS} FROM privates JOIN records USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?"
        return [from_row(self._database, row) for row in self._database.rows(sql, (after_seq, limit))]

    def shown_to_others(self, cids: Sequence[Cid]) -> list[Record | None]:
        """As `get_many`, but of private records the headers alone: what peers may be sent."""
        return [
            one.without_payload() if one is not None and one.header.kind == PRIVATE else one
            for one in self.get_many(cids)
        ]

    def unscrubbed_purges(self) -> list[Cid]:
        """The purges of which traces may be left in the files, ascending."""
        return unscrubbed_purges(self._database)

    def purges_of(self, cids: Sequence[Cid]) -> dict[Cid, Record]:
        """Those of `cids` that this agent purged, each with a purge that did it."""
        return purges_of(self._database, cids)

    def purged_shards(self, cids: Sequence[Cid]) -> dict[Cid, bytes]:
        """The bases of the shards in which purged records were found, as far as it was known here."""
        return purged_shards(self._database, cids)

    def purged_after(self, cid: Cid, limit: int) -> list[tuple[Cid, Cid]]:
        """Up to `limit` (purged record, purge) with records above `cid`, ascending."""
        return purged_after(self._database, cid, limit)

    def head(self) -> Head | None:
        """The head of the chain, None when it is empty."""
        row = self._database.row(_NEWEST)
        return None if row is None else head_of(from_row(self._database, row))

    def get(self, cid: Cid) -> Record | None:
        """The record of this CID, if it is of this chain."""
        return self._record("cid = ?", cid)

    def get_many(self, cids: Sequence[Cid]) -> list[Record | None]:
        """The records of this chain with these CIDs, in order, None where there is none."""
        return records_in(self._database, cids)

    def about(self, subject: Cid) -> list[Record]:
        """This agent's records about a subject: the one that created it, if it is own, and all operations."""
        sql = (
            f"SELECT {COLUMNS} FROM records WHERE cid = ?1 "
            "OR seq IN (SELECT seq FROM operations WHERE subject = ?1) ORDER BY seq"
        )
        return [from_row(self._database, row) for row in self._database.rows(sql, (subject,))]

    def relating_to(self, target: Cid, limit: int) -> list[Cid]:
        """Up to `limit` subjects of own records that may relate something to `target`, ascending.

        That something is said of it there once, not that it still holds. O(own records with relations).
        """
        rows = self._database.rows(f"SELECT {COLUMNS} FROM records WHERE {RELATES} AND {NAMES}", (target,))
        return sorted({from_row(self._database, row).subject for row in rows})[:limit]

    def operated_on(self, subjects: Sequence[Cid]) -> set[Cid]:
        """Those of `subjects` on which this agent has made operations."""
        sql = "SELECT DISTINCT subject FROM operations WHERE subject IN ({})"
        return {row[0] for row in self._database.rows_in(sql, sorted(set(subjects)))}

    def subjects_after(self, subject: Cid, limit: int) -> list[Cid]:
        """Up to `limit` subjects on which this agent has made operations, above `subject`, ascending."""
        sql = "SELECT DISTINCT subject FROM operations WHERE subject > ? ORDER BY subject LIMIT ?"
        return [row[0] for row in self._database.rows(sql, (subject, limit))]

    def entries_after(self, entry: Cid, limit: int) -> list[Cid]:
        """Up to `limit` entries above `entry` that this agent created, ascending; O(own records)."""
        found: list[Cid] = []
        while len(found) < limit:
            sql = f"SELECT {COLUMNS} FROM records WHERE cid > ? ORDER BY cid LIMIT ?"
            rows = self._database.rows(sql, (entry, VERIFY_PAGE))
            page = [from_row(self._database, row) for row in rows]
            found += [record.cid for record in page if record.header.kind == CREATE]
            if len(page) < VERIFY_PAGE:
                break
            entry = page[-1].cid
        return found[:limit]

    def have(self, cids: Sequence[Cid]) -> set[Cid]:
        """Those of `cids` that are of this chain."""
        sql = "SELECT cid FROM records WHERE cid IN ({})"
        return {row[0] for row in self._database.rows_in(sql, sorted(set(cids)))}

    def opening(self) -> tuple[Record, Record] | None:
        """The genesis and membrane records, once they are written."""
        first = self.read(0, 2)
        return (first[0], first[1]) if len(first) == 2 else None

    def at(self, seq: int) -> Record | None:
        """The record at this place of the chain."""
        return self._record("seq = ?", seq)

    def newest(self) -> Record | None:
        """The record at the head of the chain."""
        row = self._database.row(_NEWEST)
        return None if row is None else from_row(self._database, row)

    def without_payload(self, limit: int) -> list[Record]:
        """Up to `limit` records of which only the header is here, in order; O(chain)."""
        sql = f"SELECT {COLUMNS} FROM records WHERE payload IS NULL ORDER BY seq LIMIT ?"
        return [from_row(self._database, row) for row in self._database.rows(sql, (limit,))]

    def read(self, from_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records from `from_seq` on, in order."""
        sql = f"SELECT {COLUMNS} FROM records WHERE seq >= ? ORDER BY seq LIMIT ?"
        return [from_row(self._database, row) for row in self._database.rows(sql, (from_seq, limit))]

    def headers(self, from_seq: int, limit: int) -> list[Record]:
        """As `read`, without payloads but for the opening's: what others may see of the chain."""
        return [
            one if one.header.kind in OPENING else one.without_payload() for one in self.read(from_seq, limit)
        ]

    def cids(self, from_seq: int, limit: int) -> list[Cid]:
        """The CIDs of `read`."""
        sql = "SELECT cid FROM records WHERE seq >= ? ORDER BY seq LIMIT ?"
        return [row[0] for row in self._database.rows(sql, (from_seq, limit))]

    def count(self) -> int:
        """The chain's length; O(log n)."""
        row = self._database.row("SELECT max(seq) FROM records")
        return 0 if row is None or row[0] is None else int(row[0]) + 1

    def verify(self) -> ChainReport:
        """Verify the whole chain, streaming; O(n), about 0.1 ms a record, so call it in a worker thread.

        Raises `ChainBrokenError` naming the first seq that is wrong, or `DatabaseCorrupt` for a row that
        cannot be read.
        """
        return verify_chain(self._all(), self._network)

    def placements(self, cids: Sequence[Cid]) -> list[Placement]:
        """All acknowledgements for these records, by record and holder ascending."""
        return own_placements.placements(self._database, cids)

    def count_below(self, level: int) -> int:
        """How many records have not reached `level`; O(answer) over an index."""
        return own_placements.count_below(self._database, level)

    def unplaced(self, cids: Sequence[Cid]) -> set[Cid]:
        """Those of these own records that were not placed yet, or not at all of their holders."""
        return own_placements.unplaced(self._database, cids)

    def below(self, level: int, after_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records after `after_seq` (-1: all) that have not reached `level`, in order.

        O(level · limit).
        """
        return own_placements.below(self._database, level, after_seq, limit)

    def _record(self, condition: str, value: bytes | int) -> Record | None:
        row = self._database.row(f"SELECT {COLUMNS} FROM records WHERE {condition}", (value,))
        return None if row is None else from_row(self._database, row)

    def _all(self) -> Iterator[Record]:
        seq = 0
        while page := self.read(seq, VERIFY_PAGE):
            yield from page
            seq += len(page)  # a gap in the rows shows as a record at the wrong place

    def _check_newest(self) -> None:
        row = self._database.row(_NEWEST)
        if row is None:
            return
        record = from_row(self._database, row)
        author = record.header.author
        if author != self._identity.agent:
            raise ForeignChain(
                f"{self._database.path} is the chain of {peer_id(author)}, but this node's key is "
                f"{peer_id(self._identity.agent)}; put the matching key and chain together in one home folder"
            )
        if record.header.network != self._network:
            raise ForeignChain(
                f"{self._database.path} belongs to network {to_text(record.header.network)}, this node to "
                f"{to_text(self._network)}; use another home folder for another network"
            )
        if self.epoch == self._network:
            self.epoch = record.header.epoch  # a chain never goes back to an earlier epoch
        if not verify_signature(record):
            raise self._database.corrupt(
                f"the signature of the newest record (seq {record.header.seq}) does not verify"
            )

    def _load_tail(self, connection: sqlite3.Connection) -> None:
        row = connection.execute(_NEWEST).fetchone()
        record = None if row is None else from_row(self._database, row)
        self._tail = None if record is None else head_of(record)
        self._end = _end_of(record)
        self._length = 0 if self._tail is None else self._tail.seq + 1

    def _add_levels(self, connection: sqlite3.Connection) -> None:
        """Level 0 for the batch's new records, in one statement."""
        own_placements.begin(connection, self._length)
        own_receipts.add_unconfirmed(connection, self._length)

    def _append(
        self, connection: sqlite3.Connection, drafts: Sequence[Draft], keys: Sequence[bytes | None]
    ) -> list[tuple[Cid, bool]]:
        self._check_frozen()  # it was not yet when this was queued
        tail, end = self._tail, self._end
        done: list[tuple[Cid, bool]] = []
        for draft, key in zip(drafts, keys, strict=True):
            if key is not None:
                earlier = connection.execute("SELECT cid FROM import_keys WHERE key = ?", (key,)).fetchone()
                if earlier is not None:
                    done.append((earlier[0], False))
                    continue
            record = self._sign(connection, draft, (), tail, end)
            tail, end = head_of(record), _end_of(record)
            if key is not None:
                connection.execute("INSERT INTO import_keys (key, cid) VALUES (?, ?)", (key, record.cid))
            done.append((record.cid, True))
        self._tail, self._end = (
            tail,
            end,
        )  # last, so that an append that fails halfway leaves the others' head alone
        return done

    def _write(self, connection: sqlite3.Connection, script: Script[T]) -> tuple[list[Record], T]:
        self._check_frozen()
        tail, end = self._tail, self._end
        records: list[Record] = []
        steps = script()
        try:
            draft = next(steps)
            while True:
                if len(records) == MAX_DRAFTS:
                    raise StorageLimit(f"over {MAX_DRAFTS} records in one write; write less at once")
                records.append(self._sign(connection, draft, records, tail, end))
                tail, end = head_of(records[-1]), _end_of(records[-1])
                draft = steps.send(records[-1])
        except StopIteration as stop:
            self._tail, self._end = tail, end  # last, as in `_append`
            told: T = stop.value
            return records, told
        finally:
            steps.close()

    def _sign(
        self,
        connection: sqlite3.Connection,
        draft: Draft,
        before: Sequence[Record],
        tail: Head | None,
        end: str | None,
    ) -> Record:
        """The next record after `tail`, signed and in the transaction."""
        if end is not None:
            raise ReadOnly(self._database.path, _ENDED[end])
        salt = self._random_bytes(SALT_SIZE)
        now_us = self._clock.wall_us()
        record = next_record(self._identity, self._network, self.epoch, tail, draft, now_us, salt)
        fault = self.fault_of(record, before)
        if fault is not None:
            raise RecordError(f"this {draft.kind} is not signed, as everybody would refuse it: {fault}")
        self._insert(connection, record)
        return record

    async def _unfrozen(self) -> None:
        await self.ready()
        self._check_frozen()

    def _check_frozen(self) -> None:
        if self.frozen is not None:
            raise ReadOnly(self._database.path, self.frozen)

    def _extend(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        row = connection.execute(_NEWEST).fetchone()
        previous = None if row is None else from_row(self._database, row)
        for record in records:
            if record.header.author != self._identity.agent:
                raise ForeignChain(f"record {to_text(record.cid)} is of another chain")
            check_link(previous, record, self._network)
            self._insert(connection, record)
            previous = record
        if previous is not None:
            self._tail = head_of(previous)
            self._end = _end_of(previous)

    def _insert(self, connection: sqlite3.Connection, record: Record) -> None:
        record = kept_part(connection, record, self.shard_of)
        header = record.header
        row = (header.seq, record.cid, header.author, record.header_bytes, record.signature, record.payload)
        connection.execute(_ADD, row)
        if header.subject is not None:
            connection.execute(_OPERATION, (header.subject, header.seq))
        if header.kind == PURGE:
            erase(connection, self._database, record, self.shard_of)
        if header.kind in BOXES:
            connection.execute("INSERT INTO privates (seq) VALUES (?)", (header.seq,))


def _end_of(record: Record | None) -> str | None:
    return record.header.kind if record is not None and record.header.kind in ENDS else None
