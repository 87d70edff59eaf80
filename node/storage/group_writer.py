"""One writer per database, with group commit: many waiting writes share one transaction and one fsync.

Whoever wants to write submits a function of the connection and waits. One task takes all that is queued,
runs it in a single transaction in a worker thread, commits (with `synchronous=FULL`: syncs), and only then
lets the waiters go; meanwhile the next batch gathers (Gawlick and Kinkade, "Varieties of concurrency control
in IMS/VS Fast Path", 1985). So an acknowledgement always comes after the sync that covers it, and many
writers pay for little more than one.

A failing function costs only itself. That needs no savepoint as long as it failed before it wrote anything;
if it did write, the transaction is rolled back and the batch is run again with a savepoint around each. When
the disk is full or failing the whole batch is rolled back and the writer turns read-only until the process is
restarted: after a failed fsync nobody can know what reached the disk.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import outcome
import trio

from dht.ports import RunBlocking
from node.storage.database import Database, translated
from node.storage.errors import (
    DatabaseCorrupt,
    DiskFull,
    ReadOnly,
    StorageClosed,
    StorageError,
)

MAX_BATCH: Final = 256
"""Submitted functions in one transaction."""
MAX_QUEUED: Final = 1024
"""Functions waiting for a transaction; further submitters wait for room."""

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_Result = outcome.Value[Any] | outcome.Error


class _Waiting:
    __slots__ = ("alone", "task", "work")

    def __init__(self, work: Work[Any], task: trio.lowlevel.Task, alone: bool) -> None:
        self.work = work
        self.task: trio.lowlevel.Task | None = task
        self.alone = alone


class _NeedsSavepoints(Exception):
    """A function failed after it had written: its part can only be undone with a savepoint."""


class GroupWriter:
    """The only writer of `database`.

    `on_begin` is called with the connection at the start of every transaction, also of a repeated one: the
    place to load what the functions build upon. `on_commit` is called at its end, just before the commit: the
    place for writes that are cheaper for a whole batch than for each function.
    """

    def __init__(
        self,
        database: Database,
        run_blocking: RunBlocking,
        on_begin: Work[None] | None = None,
        on_commit: Work[None] | None = None,
    ) -> None:
        self.read_only: str | None = None
        """Why no write is accepted any more, or None."""
        self.batches = 0
        """Transactions run so far."""
        self._database = database
        self._run_blocking = run_blocking
        self._on_begin = on_begin
        self._on_commit = on_commit
        self._queue: deque[_Waiting] = deque()
        self._room = trio.lowlevel.ParkingLot()
        self._arrival = trio.lowlevel.ParkingLot()
        self._running = False
        self._closing = False
        self._ended = trio.Event()

    async def submit(self, work: Work[T]) -> T:
        """Run `work` in the next transaction and return its result once that is durable.

        `work` runs in a worker thread, must use only the connection it is given, and may be run twice, of
        which the second run counts. What it raises is raised here and undoes its own writes alone.

        Cancelled before its transaction has begun, `work` never runs; after that it may still be kept,
        without anybody being told.

        Raises `DiskFull` or `DatabaseCorrupt` when the transaction could not be kept, `ReadOnly` from then
        on, `DatabaseUnavailable` when another process holds the file's lock, `StorageClosed` after `close`.
        """
        return await self._enqueue(work, alone=False)

    async def alone(self, work: Work[T]) -> T:
        """Run `work` when its turn comes outside of any transaction, as a rewriting of the file needs it.

        As `submit`, but what goes wrong with it, a full disk included, concerns the caller only.
        """
        return await self._enqueue(work, alone=True)

    async def _enqueue(self, work: Work[T], alone: bool) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        while len(self._queue) >= MAX_QUEUED and not self._closing and self.read_only is None:
            await self._room.park()
        if self._closing:
            raise StorageClosed(f"{self._database.path} is closed")
        if self.read_only is not None:
            raise ReadOnly(self._database.path, self.read_only)
        waiting = _Waiting(work, trio.lowlevel.current_task(), alone)
        self._queue.append(waiting)
        self._arrival.unpark()

        def abandon(_raise_cancel: object) -> trio.lowlevel.Abort:
            waiting.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abandon)
        return result

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `close` or cancellation, then close the database; call once.

        Cancelled, it still finishes the transaction under way; what is queued behind it gets `StorageClosed`.
        """
        if self._ended.is_set():
            raise StorageClosed(f"{self._database.path} is closed")
        self._running = True
        task_status.started()
        try:
            while True:
                if self._queue:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    await self._serve()
                elif self._closing:
                    return
                else:
                    await self._arrival.park()
        finally:
            self._running = False
            self.close()

    def close(self) -> None:
        """Accept nothing more and close the database, after the batches that are queued. Idempotent.

        While `run` is running it is what closes the database: when the queue is empty, or when it is
        cancelled and the transaction under way has ended.
        """
        self._closing = True
        self._arrival.unpark()
        self._room.unpark_all()
        if not self._running:
            self._fail_queued(
                lambda: StorageClosed(f"{self._database.path} was closed before this was written")
            )
            self._database.close()
            self._ended.set()

    async def aclose(self) -> None:
        """`close`, and wait until it is done."""
        self.close()
        await self._ended.wait()

    async def _serve(self) -> None:
        taken = [self._queue.popleft()]
        while not taken[0].alone and self._queue and not self._queue[0].alone and len(taken) < MAX_BATCH:
            taken.append(self._queue.popleft())
        self._room.unpark(count=len(taken))
        batch = [waiting for waiting in taken if waiting.task is not None]
        if not batch:
            await trio.lowlevel.checkpoint()
            return
        if batch[0].alone:
            await self._serve_alone(batch[0])
            return
        try:
            results = await self._run_blocking(self._transact, [waiting.work for waiting in batch])
        except (sqlite3.Error, DatabaseCorrupt) as error:
            if not self._fail(batch, error):
                raise
            return
        except BaseException:
            self._interrupt(batch)
            raise
        for waiting, result in zip(batch, results, strict=True):
            _release(waiting, result)

    async def _serve_alone(self, waiting: _Waiting) -> None:
        try:
            result: _Result = outcome.Value(await self._run_blocking(waiting.work, self._database.writer))
        except sqlite3.Error as error:
            known = self._storage_error(error)
            if known is None:
                self._interrupt([waiting])
                raise
            known.__cause__ = error
            result = outcome.Error(known)
        except BaseException:
            self._interrupt([waiting])
            raise
        _release(waiting, result)

    def _fail(self, batch: list[_Waiting], cause: sqlite3.Error | DatabaseCorrupt) -> bool:
        """Tell every waiter that nothing was kept; False when `cause` is a mistake of ours."""
        error = self._storage_error(cause)
        if error is None:
            self._interrupt(batch)
            return False
        if isinstance(error, DiskFull | DatabaseCorrupt):
            reason = str(error)
            self.read_only = reason
            self._room.unpark_all()
            self._fail_queued(lambda: ReadOnly(self._database.path, reason))
        for waiting in batch:
            # Each waiter gets an error of its own: one raised in several tasks gathers all their tracebacks.
            own = self._storage_error(cause)
            assert own is not None
            own.__cause__ = cause
            _release(waiting, outcome.Error(own))
        return True

    def _storage_error(self, cause: Exception) -> StorageError | None:
        """A new error that says what `cause` means for the whole database; None if it only means itself."""
        if isinstance(cause, DatabaseCorrupt):
            return self._database.corrupt(cause.detail)
        if isinstance(cause, sqlite3.Error):
            return translated(cause, self._database.path, self._database.layout)
        return None

    def _interrupt(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            _release(waiting, outcome.Error(StorageClosed(f"writing {self._database.path} was interrupted")))

    def _fail_queued(self, error: Callable[[], StorageError]) -> None:
        while self._queue:
            _release(self._queue.popleft(), outcome.Error(error()))

    def _transact(self, works: Sequence[Work[Any]]) -> list[_Result]:
        try:
            results = self._attempt(works, savepoints=False)
        except _NeedsSavepoints:
            results = self._attempt(works, savepoints=True)
        self.batches += 1
        return results

    def _attempt(self, works: Sequence[Work[Any]], savepoints: bool) -> list[_Result]:
        connection = self._database.writer
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._on_begin is not None:
                self._on_begin(connection)
            one = self._guarded if savepoints else self._optimistic
            results = [one(connection, work) for work in works]
            if self._on_commit is not None:
                self._on_commit(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    def _optimistic(self, connection: sqlite3.Connection, work: Work[Any]) -> _Result:
        before = connection.total_changes
        try:
            return outcome.Value(work(connection))
        except Exception as error:
            if self._storage_error(error) is not None:
                raise
            if connection.total_changes != before:
                raise _NeedsSavepoints from error
            return outcome.Error(error)

    def _guarded(self, connection: sqlite3.Connection, work: Work[Any]) -> _Result:
        connection.execute("SAVEPOINT work")
        try:
            result: _Result = outcome.Value(work(connection))
        except Exception as error:
            if self._storage_error(error) is not None:
                raise
            connection.execute("ROLLBACK TO work")
            result = outcome.Error(error)
        connection.execute("RELEASE work")
        return result


def _release(waiting: _Waiting, result: _Result) -> None:
    task, waiting.task = waiting.task, None
    if task is not None:
        trio.lowlevel.reschedule(task, result)
