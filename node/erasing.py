"""Erasing: the verb `purge`, and the task that leaves nothing of purged payloads in this node's files.

A purge is durable and in force here when `purge` returns: the transaction that kept it took the payloads out
of the chain, the held copy goes next, postings follow. What remains are bytes in freed pages, in write-ahead
logs and in the saved index. The scrubber removes those within moments, some purges together, again at the
next start if a crash came between, and before the node closes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from chain.cid import Cid, to_text
from chain.kinds import CREATE, PURGE, PURGEABLE
from chain.record import Record
from dht.ports import RunBlocking
from dht.records.record_store import Held
from node.errors import InvalidInput
from node.models import Changed, Purge
from node.storage.derived_state import DerivedState
from node.storage.errors import StorageError
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain

SETTLE_S: Final = 0.5
"""Purges come several at a time; the files are rewritten once for them."""
PAUSE_SHARE: Final = 10
"""A rewriting is followed by a pause so many times as long, for the sake of everybody else who writes."""
RETRY_S: Final = 2.0
"""When a reader held up the log."""
PAGE: Final = 500

Change = Callable[[Cid, Purge], Awaitable[Changed]]

log = logging.getLogger(f"roseforest.{__name__}")


class Erasing:
    """Purging of one node.

    `change` writes to an entry, `refresh` derives entries anew.
    """

    def __init__(
        self,
        own: OwnChain,
        held: HeldRecords,
        derived: DerivedState,
        change: Change,
        refresh: Callable[[Sequence[Cid]], Awaitable[None]],
        run_blocking: RunBlocking,
    ) -> None:
        self._own = own
        self._held = held
        self._derived = derived
        self._change = change
        self._refresh = refresh
        self._run_blocking = run_blocking
        self._wake = trio.Event()
        self.scrubs = 0
        """Times that the files were rewritten."""

    @property
    def pending(self) -> int:
        """Purged records of which traces may be left in the files here."""
        return self._own.unscrubbed + self._held.unscrubbed

    async def purge(self, cid: Cid) -> Changed:
        """Purge all that this agent said in an entry, or one own record.

        Raises `InvalidInput` for a record that says nothing in words, and what `Editor.change` raises.
        """
        record = self._own.get(cid)
        if record is None or record.header.kind == CREATE:
            return await self._change(cid, Purge())
        if record.header.kind not in PURGEABLE:
            raise InvalidInput(
                f"{to_text(cid)} is a {record.header.kind}, which says nothing that could be purged"
            )
        return await self._change(record.subject, Purge((cid,)))

    async def carry_out(self, purge: Record) -> None:
        """Let an own purge, durable in the chain, erase what is held here besides."""
        await self._held.hold([Held(purge)])
        self.wake()

    async def catch_up(self) -> None:
        """Carry out own purges that a crash kept from the held records; O(own purges)."""
        after = b""
        while page := self._own.purged_after(after, PAGE):
            after = page[-1][0]
            missing = sorted({purge for _, purge in page} - self._held.has([purge for _, purge in page]))
            found = [
                record
                for record in self._own.get_many(missing)
                if record is not None and record.header.kind == PURGE
            ]
            if found:
                await self._held.hold([Held(record) for record in found])

    def wake(self) -> None:
        """Something was purged."""
        self._wake.set()

    async def run(self) -> None:
        """Scrub for ever."""
        while True:
            if self.pending:
                await trio.sleep(SETTLE_S)
                began = trio.current_time()
                done = await self.scrub()
                await trio.sleep(PAUSE_SHARE * (trio.current_time() - began) if done else RETRY_S)
                continue
            self._wake = trio.Event()
            if not self.pending:
                await self._wake.wait()

    def _entries(self) -> list[Cid]:
        """The entries of which something was purged whose traces may be left."""
        own = self._own.get_many(self._own.unscrubbed_purges())
        held = self._held.get_many(self._held.unscrubbed_purges())
        return sorted({one.subject for one in (*own, *held) if one is not None})

    async def scrub(self) -> bool:
        """Rewrite what may hold traces; whether all of it could be done."""
        if not self.pending:
            return True
        try:
            # What is derived may be behind.
            await self._refresh(await self._run_blocking(self._entries))
            # The postings first: while they are not clean, the records do not count as clean.
            done = await self._derived.scrub()
            for store in (self._held, self._own):
                if store.unscrubbed:
                    done = await store.scrub() and done
        except (StorageError, OSError) as error:
            log.warning("traces of purged records may still be in this node's files: %s", error)
            return False
        self.scrubs += 1
        return done
