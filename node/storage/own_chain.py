"""chain.db: the source chain of this node's own agent.

Drafts are linked and signed inside the writing transaction, so sequence numbers and predecessors are right
however many tasks append at once, and what `append` returns is on disk. An import key makes an append
idempotent: key and record are kept by the same transaction. The file also counts, per record, the peers known
to hold it, so that what is not yet placed widely enough can be listed at a cost of its own size.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from chain.cid import Cid, to_text
from chain.identity import AGENT_ID_SIZE, AgentId, Identity, peer_id
from chain.record import SALT_SIZE, Record, verify_signature
from chain.source_chain import ChainReport, Draft, Head, head_of, next_record, verify_chain
from dht.ports import Clock, RunBlocking
from node.storage.database import Database, Layout, Options, open_database
from node.storage.errors import ForeignChain, StorageLimit
from node.storage.group_writer import GroupWriter
from node.storage.stored_record import COLUMNS, from_row

MAX_DRAFTS: Final = 1024
"""Drafts in one call of `append`."""
MAX_KEY: Final = 256
"""Bytes of an import key."""
VERIFY_PAGE: Final = 256
"""Records read at a time while the chain is verified."""

_LAYOUT: Final = Layout(
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
        CREATE TABLE placements (
            seq INTEGER NOT NULL REFERENCES records (seq),
            holder BLOB NOT NULL,
            PRIMARY KEY (seq, holder)
        ) WITHOUT ROWID;
        CREATE TABLE copies (
            holders INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            PRIMARY KEY (holders, seq)
        ) WITHOUT ROWID;
        """,
    ),
    recovery="restore it from a backup (a chain cannot be rebuilt, and starting a new one would fork it)",
)

_NEWEST = f"SELECT {COLUMNS} FROM records ORDER BY seq DESC LIMIT 1"
_ADD = "INSERT INTO records (seq, cid, author, header, signature, payload) VALUES (?, ?, ?, ?, ?, ?)"


class OwnChain:
    """The agent's chain on disk. Reads are plain calls, from any thread; writes need `run` to be running.

    `epoch` is the epoch under which the next records are signed; set it when a new one is adopted.
    """

    def __init__(
        self,
        database: Database,
        identity: Identity,
        network: Cid,
        epoch: Cid,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        run_blocking: RunBlocking,
    ) -> None:
        self.epoch = epoch
        self._database = database
        self._identity = identity
        self._network = network
        self._clock = clock
        self._random_bytes = random_bytes
        self._writer = GroupWriter(database, run_blocking, self._load_tail)
        self._tail: Head | None = (
            None  # the head inside the transaction under way; only the writer touches it
        )

    @classmethod
    def open(
        cls,
        path: Path,
        identity: Identity,
        network: Cid,
        epoch: Cid,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        run_blocking: RunBlocking,
        options: Options | None = None,
    ) -> OwnChain:
        """Open or create the file, and check that its newest record is this identity's.

        Raises `ForeignChain` for another key or network, and what `open_database` raises.
        """
        database = open_database(path, _LAYOUT, options or Options())
        chain = cls(database, identity, network, epoch, clock, random_bytes, run_blocking)
        try:
            chain._check_newest()
        except BaseException:
            database.close()
            raise
        return chain

    @property
    def read_only(self) -> str | None:
        """Why no record can be appended, or None."""
        return self._writer.read_only

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `aclose`; see `GroupWriter.run`."""
        await self._writer.run(task_status=task_status)

    async def aclose(self) -> None:
        """Write what is queued and close the file. Idempotent."""
        await self._writer.aclose()

    async def append(self, drafts: Sequence[Draft], keys: Sequence[bytes | None]) -> list[tuple[Cid, bool]]:
        """Append drafts in order, all or none; durable on return.

        For each draft the record's CID and True, or, when its key was used before, the earlier record's CID
        and False. `keys` has one entry a draft. Cancellation: see `GroupWriter.submit`.

        Raises `StorageLimit` above `MAX_DRAFTS` or `MAX_KEY`, `chain.errors.ChainError` for a draft over a
        limit, and what `GroupWriter.submit` raises.
        """
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

    async def placed(self, rows: Sequence[tuple[Cid, AgentId]]) -> None:
        """Note that holders have confirmed records; durable, idempotent. CIDs of other chains are skipped."""
        for _, holder in rows:
            if len(holder) != AGENT_ID_SIZE:
                raise StorageLimit(f"a holder's key has {len(holder)} bytes, expected {AGENT_ID_SIZE}")
        await self._writer.submit(lambda connection: _place(connection, rows))

    def head(self) -> Head | None:
        """The head of the chain, None when it is empty."""
        row = self._database.row(_NEWEST)
        return None if row is None else head_of(from_row(self._database, row))

    def get(self, cid: Cid) -> Record | None:
        """The record of this CID, if it is of this chain."""
        return self._record("cid = ?", cid)

    def at(self, seq: int) -> Record | None:
        """The record at this place of the chain."""
        return self._record("seq = ?", seq)

    def read(self, from_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records from `from_seq` on, in order."""
        sql = f"SELECT {COLUMNS} FROM records WHERE seq >= ? ORDER BY seq LIMIT ?"
        return [from_row(self._database, row) for row in self._database.rows(sql, (from_seq, limit))]

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

    def placements(self, cid: Cid) -> list[AgentId]:
        """The holders that have confirmed a record, ascending."""
        sql = "SELECT holder FROM placements JOIN records USING (seq) WHERE records.cid = ? ORDER BY holder"
        return [row[0] for row in self._database.rows(sql, (cid,))]

    def count_below(self, target: int) -> int:
        """How many records have fewer than `target` holders; O(answer) over an index."""
        row = self._database.row("SELECT count(*) FROM copies WHERE holders < ?", (target,))
        return 0 if row is None else int(row[0])

    def below(self, target: int, after_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records with fewer than `target` holders, after `after_seq` (-1: all), in order.

        O(target · limit).
        """
        per_count = "SELECT seq FROM copies WHERE holders = ? AND seq > ? ORDER BY seq LIMIT ?"
        sql = f"SELECT {COLUMNS} FROM records WHERE seq IN ({{}}) ORDER BY seq"
        found: list[int] = []
        for holders in range(target):
            found += [row[0] for row in self._database.rows(per_count, (holders, after_seq, limit))]
        # A record may move from one count to the next between two of these reads, hence the set.
        chosen = sorted(set(found))[:limit]
        return [from_row(self._database, row) for row in self._database.rows_in(sql, chosen)]

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
        if not verify_signature(record):
            raise self._database.corrupt(
                f"the signature of the newest record (seq {record.header.seq}) does not verify"
            )

    def _load_tail(self, connection: sqlite3.Connection) -> None:
        row = connection.execute(_NEWEST).fetchone()
        self._tail = None if row is None else head_of(from_row(self._database, row))

    def _append(
        self, connection: sqlite3.Connection, drafts: Sequence[Draft], keys: Sequence[bytes | None]
    ) -> list[tuple[Cid, bool]]:
        tail = self._tail
        done: list[tuple[Cid, bool]] = []
        for draft, key in zip(drafts, keys, strict=True):
            if key is not None:
                earlier = connection.execute("SELECT cid FROM import_keys WHERE key = ?", (key,)).fetchone()
                if earlier is not None:
                    done.append((earlier[0], False))
                    continue
            salt = self._random_bytes(SALT_SIZE)
            now_us = self._clock.wall_us()
            record = next_record(self._identity, self._network, self.epoch, tail, draft, now_us, salt)
            tail = head_of(record)
            author = record.header.author
            row = (tail.seq, record.cid, author, record.header_bytes, record.signature, record.payload)
            connection.execute(_ADD, row)
            connection.execute("INSERT INTO copies (holders, seq) VALUES (0, ?)", (tail.seq,))
            if key is not None:
                connection.execute("INSERT INTO import_keys (key, cid) VALUES (?, ?)", (key, record.cid))
            done.append((record.cid, True))
        self._tail = tail  # last, so that an append that fails halfway leaves the others' head alone
        return done


def _place(connection: sqlite3.Connection, rows: Sequence[tuple[Cid, AgentId]]) -> None:
    for cid, holder in rows:
        found = connection.execute("SELECT seq FROM records WHERE cid = ?", (cid,)).fetchone()
        if found is None:
            continue
        key = (found[0], holder)
        if connection.execute("INSERT OR IGNORE INTO placements (seq, holder) VALUES (?, ?)", key).rowcount:
            counted = connection.execute("SELECT count(*) FROM placements WHERE seq = ?", found).fetchone()
            moved = (counted[0], counted[0] - 1, found[0])
            connection.execute("UPDATE copies SET holders = ? WHERE holders = ? AND seq = ?", moved)
