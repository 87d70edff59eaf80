"""learning.db: what a node remembers of learning tasks besides their records.

Which tasks it follows and whether it wants to take part, and the updates that it has promised: the salt of a
commit is nowhere else, and without it the promise could not be kept after a restart. And which outcome of a
round it signed last, so that it does not sign another one just after a restart; in gossip what it combined
last, which no record names yet. Writes are durable when
they return. Implements `federated.ports.Memory`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import trio

from chain import canonical
from chain.cid import Cid
from chain.errors import ChainError
from dht.ports import RunBlocking
from federated.actions import Offer
from node.storage.database import Layout, Options, open_database
from node.storage.group_writer import GroupWriter

MAX_OFFER: Final = 8192
"""Bytes of one offer: `MAX_METRICS` metrics with long names fit."""

LAYOUT: Final = Layout(
    application_id=0x5246666C,  # "RFfl"
    migrations=(
        """
        CREATE TABLE tasks (task BLOB PRIMARY KEY, wanted INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE offers (
            task BLOB NOT NULL,
            previous BLOB NOT NULL,
            offer BLOB NOT NULL,
            PRIMARY KEY (task, previous)
        ) WITHOUT ROWID;
        """,
        """
        CREATE TABLE locks (
            task BLOB PRIMARY KEY,
            previous BLOB NOT NULL,
            digest BLOB NOT NULL,
            until_us INTEGER NOT NULL
        ) WITHOUT ROWID;
        """,
        "CREATE TABLE mixed (task BLOB PRIMARY KEY, mixed BLOB NOT NULL) WITHOUT ROWID;",
    ),
    recovery="move it away and restart: the node then follows no task until you join again",
)


class LearningMemory:
    """The file. Reads are plain calls, from any thread; writes need `run` to be running."""

    def __init__(self, path: Path, run_blocking: RunBlocking, options: Options | None = None) -> None:
        """Open or create the file; raises what `open_database` raises."""
        self._database = open_database(path, LAYOUT, options or Options())
        self._writer = GroupWriter(self._database, run_blocking)

    @property
    def read_only(self) -> str | None:
        """Why nothing more can be remembered, or None."""
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

    def tasks(self) -> list[tuple[Cid, bool]]:
        """The tasks followed, ascending, and whether the node wants to take part in each."""
        rows = self._database.rows("SELECT task, wanted FROM tasks ORDER BY task")
        return [(row[0], bool(row[1])) for row in rows]

    async def follow(self, task: Cid, wanted: bool) -> None:
        """Follow a task from now on."""
        sql = "INSERT INTO tasks VALUES (?, ?) ON CONFLICT (task) DO UPDATE SET wanted = excluded.wanted"

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(sql, (task, int(wanted)))

        await self._writer.submit(write)

    def offer(self, task: Cid, previous: bytes) -> Offer | None:
        """The update handed in for the round that builds on `previous`."""
        sql = "SELECT offer FROM offers WHERE task = ? AND previous = ?"
        row = self._database.row(sql, (task, previous))
        if row is None:
            return None
        try:
            blob, size, examples, metrics, salt = canonical.decode(row[0], MAX_OFFER)
        except (ChainError, ValueError, TypeError) as error:
            raise self._database.corrupt(f"an update handed in cannot be read: {error}") from error
        return Offer(blob, size, examples, metrics, salt)

    def lock(self, task: Cid, previous: bytes) -> tuple[bytes, int] | None:
        """The outcome signed last in the round that builds on `previous`, and until when (µs) it stands."""
        row = self._database.row(
            "SELECT digest, until_us FROM locks WHERE task = ? AND previous = ?", (task, previous)
        )
        return None if row is None else (row[0], row[1])

    async def keep_lock(self, task: Cid, previous: bytes, digest: bytes, until_us: int) -> None:
        """Remember an outcome that is about to be signed, in place of the task's one before."""
        await self._writer.submit(
            lambda connection: (
                connection.execute(
                    "REPLACE INTO locks VALUES (?, ?, ?, ?)", (task, previous, digest, until_us)
                ).rowcount
            )
        )

    async def keep_offer(self, task: Cid, previous: bytes, offer: Offer) -> None:
        """Remember an update, in place of those of the task's earlier rounds."""
        data = canonical.encode([offer.blob, offer.size, offer.examples, offer.metrics, offer.salt])

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM offers WHERE task = ?", (task,))
            connection.execute("INSERT INTO offers VALUES (?, ?, ?)", (task, previous, data))

        await self._writer.submit(write)

    def mixed(self, task: Cid) -> bytes | None:
        """What was combined last in a task of the topology gossip."""
        row = self._database.row("SELECT mixed FROM mixed WHERE task = ?", (task,))
        return None if row is None else row[0]

    async def keep_mixed(self, task: Cid, data: bytes) -> None:
        """Remember what was combined, in place of what was before."""
        await self._writer.submit(
            lambda connection: connection.execute("REPLACE INTO mixed VALUES (?, ?)", (task, data)).rowcount
        )
