"""Which entries are in conflict, as far as this node knows, and what one conflict is about.

An entry that this agent has changed is asked of its holders, because the other side of its conflict may be
there alone; of all others what lies here is folded. So the list of an agent's own conflicts is complete up to
holders that do not answer, and the rest is what this node happens to hold for the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from chain.cid import Cid
from chain.record import Record
from crdt.conflicts import Conflict, conflicts_of
from crdt.standing import Standing
from dht.ports import RunBlocking
from node.entry_reader import Found, view_of
from node.models import EntryView

MAX_PAGE = 100
"""Entries in conflict that a page has."""
MAX_SCANNED = 500
"""Entries with operations that are looked at for a page."""
MAX_ASKED = 32
"""Entries among them that are asked of their holders."""


@dataclass(frozen=True, slots=True)
class Disputed:
    """An entry in conflict, and what about."""

    entry: EntryView
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class DisputedPage:
    """Entries in conflict by id; `next` is the id to go on after, None at the end."""

    entries: tuple[Disputed, ...]
    next: Cid | None


class Reader(Protocol):
    """Where entries are read from over the network: `node.entry_reader.EntryReader`."""

    async def find(self, entry: Cid) -> Found:
        """All that can be found of an entry."""
        ...


class Local(Protocol):
    """What is here: `node.entry_records.EntryRecords`."""

    def about(self, entry: Cid) -> Mapping[Cid, Record]:
        """The entry's records."""
        ...

    def subjects_after(self, subject: Cid, limit: int) -> list[tuple[Cid, bool]]:
        """The next subjects of which operations are here, and whether this agent made any of them."""
        ...


class Conflicts:
    """The conflicts that this node can tell of."""

    def __init__(
        self,
        reader: Reader,
        local: Local,
        standing: Callable[[], Standing],
        run_blocking: RunBlocking,
    ) -> None:
        self._reader = reader
        self._local = local
        self._standing = standing
        self._run_blocking = run_blocking

    async def of(self, entry: Cid) -> Disputed | None:
        """What one entry's conflicts are, asked of its holders; None when nobody knows the entry."""
        found = await self._reader.find(entry)
        return await self._run_blocking(self._disputed, entry, found.about(entry))

    async def page(self, after: Cid | None, limit: int) -> DisputedPage:
        """Up to `limit` entries in conflict with ids above `after`; it may have fewer and yet a `next`."""
        scanned = asked = 0
        found: list[Disputed] = []
        last = b"" if after is None else after
        while subjects := await self._run_blocking(self._local.subjects_after, last, MAX_SCANNED - scanned):
            for subject, own in subjects:
                if own and asked == MAX_ASKED:
                    return DisputedPage(tuple(found), last)
                asked += own
                one = await self.of(subject) if own else await self._run_blocking(self._here, subject)
                if one is not None and one.conflicts:
                    found.append(one)
                last = subject
                scanned += 1
                if len(found) == min(limit, MAX_PAGE) or scanned == MAX_SCANNED:
                    return DisputedPage(tuple(found), last)
        return DisputedPage(tuple(found), None)

    def _here(self, entry: Cid) -> Disputed | None:
        return self._disputed(entry, list(self._local.about(entry).values()))

    def _disputed(self, entry: Cid, records: list[Record]) -> Disputed | None:
        standing = self._standing()
        view = view_of(entry, records, standing)
        return None if view is None else Disputed(view, conflicts_of(records, standing))
