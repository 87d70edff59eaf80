"""derived.db: what can be computed again from the records, kept so that a start need not compute it.

Postings: for each content record, where its vector lies in the space (its shard key), its codes, and what a
search filters and shows first. The vector index is loaded from here and the shards served are ranges of keys.
Because everything can be rebuilt, commits need not wait for the disk (`synchronous=NORMAL`: after a power cut
the newest may be missing, the file is sound), and this is the one file that may be recreated: `rebuild`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from chain import canonical
from chain.cid import Cid
from chain.content import MAX_TAG, MAX_TAGS
from chain.errors import EncodingError
from chain.identity import AgentId
from dht.ports import RunBlocking
from node.storage.database import Database, Layout, Options, Row, open_database, remove_database
from node.storage.errors import StorageLimit
from node.storage.group_writer import GroupWriter

KEY_SIZE: Final = 32
"""Bytes of a shard key, big-endian, so that the order of bytes is the order along the curve."""
MAX_POSTINGS: Final = 4096
"""Postings in one call of `put` or `remove`."""

_MAX_TAG_BYTES = 8 + MAX_TAGS * (MAX_TAG + 5)

_LAYOUT: Final = Layout(
    application_id=0x52466431,  # "RFd1"
    migrations=(
        """
        CREATE TABLE postings (
            shard_key BLOB NOT NULL,
            record BLOB NOT NULL UNIQUE,
            entry BLOB NOT NULL,
            author BLOB NOT NULL,
            hlc INTEGER NOT NULL,
            codes BLOB NOT NULL,
            tags BLOB NOT NULL,
            PRIMARY KEY (shard_key, record)
        ) WITHOUT ROWID;
        """,
    ),
    recovery="it only holds what can be computed again: stop the node and run `roseforest index rebuild`",
)
_COLUMNS = "shard_key, entry, record, codes, tags, author, hlc"


@dataclass(frozen=True, slots=True)
class Posting:
    """One content value in the space. `key` has 32 bytes, `codes` are int8 codes, `hlc` is in µs."""

    key: bytes
    entry: Cid
    record: Cid
    codes: bytes
    tags: tuple[str, ...]
    author: AgentId
    hlc: int


class DerivedState:
    """The derived database. Reads are plain calls, from any thread; writes need `run` to be running."""

    def __init__(self, database: Database, run_blocking: RunBlocking) -> None:
        self._database = database
        self._writer = GroupWriter(database, run_blocking)

    @classmethod
    def open(cls, path: Path, run_blocking: RunBlocking, options: Options | None = None) -> DerivedState:
        """Open or create the file; raises what `open_database` raises."""
        return cls(open_database(path, _LAYOUT, options or Options(synchronous="NORMAL")), run_blocking)

    @classmethod
    def rebuild(cls, path: Path, run_blocking: RunBlocking, options: Options | None = None) -> DerivedState:
        """Throw the file away, whatever is in it, and open an empty one for the caller to fill."""
        remove_database(path)
        return cls.open(path, run_blocking, options)

    @property
    def read_only(self) -> str | None:
        """Why nothing more can be written, or None."""
        return self._writer.read_only

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `aclose`; see `GroupWriter.run`."""
        await self._writer.run(task_status=task_status)

    async def aclose(self) -> None:
        """Write what is queued and close the file. Idempotent."""
        await self._writer.aclose()

    async def put(self, postings: Sequence[Posting]) -> None:
        """Add postings; one of the same content record is replaced.

        Raises `StorageLimit` for a key that has not 32 bytes or too many postings.
        """
        _check_size(postings)
        for posting in postings:
            if len(posting.key) != KEY_SIZE:
                raise StorageLimit(f"a shard key has {len(posting.key)} bytes, expected {KEY_SIZE}")
        rows = [
            (p.key, p.entry, p.record, p.codes, canonical.encode(p.tags), p.author, p.hlc) for p in postings
        ]
        await self._writer.submit(lambda connection: _put(connection, rows))

    async def remove(self, records: Sequence[Cid]) -> None:
        """Remove the postings of these content records; those that have none are skipped."""
        _check_size(records)
        rows = [(record,) for record in records]
        await self._writer.submit(lambda connection: _remove(connection, rows))

    async def clear(self) -> None:
        """Remove everything."""
        await self._writer.submit(_clear)

    def in_range(self, low_key: bytes, high_key: bytes) -> list[Posting]:
        """Postings with low_key ≤ key ≤ high_key, both of 32 bytes, in order of (key, record); O(answer)."""
        sql = f"SELECT {_COLUMNS} FROM postings WHERE shard_key BETWEEN ? AND ? ORDER BY shard_key, record"
        return [self._posting(row) for row in self._database.rows(sql, (low_key, high_key))]

    def all(self, batch: int) -> Iterator[list[Posting]]:
        """All postings in order of (key, record), in lists of up to `batch`, each a snapshot of its own."""
        after_last = "(shard_key, record) > (?, ?)"
        sql = f"SELECT {_COLUMNS} FROM postings WHERE {after_last} ORDER BY shard_key, record LIMIT ?"
        after = (b"", b"")
        while page := [self._posting(row) for row in self._database.rows(sql, (*after, batch))]:
            yield page
            after = (page[-1].key, page[-1].record)

    def count(self) -> int:
        """Postings kept; O(n), some milliseconds for 100,000."""
        row = self._database.row("SELECT count(*) FROM postings")
        return 0 if row is None else int(row[0])

    def _posting(self, row: Row) -> Posting:
        key, entry, record, codes, tags, author, hlc = row
        try:
            return Posting(
                key, entry, record, codes, tuple(canonical.decode(tags, _MAX_TAG_BYTES)), author, hlc
            )
        except (EncodingError, TypeError) as error:
            raise self._database.corrupt(
                f"the posting of record {record!r:.80} cannot be read: {error}"
            ) from error


def _check_size(items: Sequence[object]) -> None:
    if len(items) > MAX_POSTINGS:
        raise StorageLimit(
            f"{len(items)} postings in one call, the limit is {MAX_POSTINGS}; write them in parts"
        )


def _put(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    connection.executemany(f"REPLACE INTO postings ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _remove(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    connection.executemany("DELETE FROM postings WHERE record = ?", rows)


def _clear(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM postings")
