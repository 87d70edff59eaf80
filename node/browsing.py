"""Listing what this node has: its own entries and those that it holds for others, the latest to come first.

A network without a centre has no list of all it knows: who wants an answer from all of it asks by meaning
(`node.query`). What can be listed is what is here, and a look at it costs a bounded part of the postings and
a bounded number of entries folded, whatever is looked for. What is the owner's alone has no postings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from chain.cid import Cid
from chain.kinds import CARRIES_CONTENT
from chain.record import Record
from dht.ports import RunBlocking
from node.models import EntryView
from node.query.filters import Filters
from node.storage.derived_state import DerivedState

PAGE: Final = 2_048
"""Postings looked at in one go."""
MAX_LOOKED_AT: Final = 65_536
MAX_FOLDED: Final = 1_000
"""Entries that are put together from their records to see whether they are wanted."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries, the latest to come first; `whole`: there are no others here that are wanted."""

    entries: tuple[EntryView, ...]
    whole: bool


class Browsing:
    """Lists from postings; `find` gives records that are here, `local` an entry as those fold."""

    def __init__(
        self,
        derived: DerivedState,
        find: Callable[[Sequence[Cid]], list[Record | None]],
        local: Callable[[Cid], EntryView | None],
        run_blocking: RunBlocking,
    ) -> None:
        self._find = find
        self._derived = derived
        self._local = local
        self._run_blocking = run_blocking

    async def entry_of(self, record: Cid) -> Cid | None:
        """The entry that a record is about, if the record is here; None too for what is about no entry."""
        (found,) = await self._run_blocking(self._find, [record])
        about = found is not None and found.header.kind in CARRIES_CONTENT
        return found.subject if found is not None and about else None

    async def latest(
        self, tags: Sequence[str], filters: Filters, wanted: Callable[[EntryView], bool], limit: int
    ) -> Listing:
        """At most `limit` entries whose content passes `filters`, bears `tags`, and that are `wanted`.

        Raises what the storage raises.
        """
        found: list[EntryView] = []
        seen: set[Cid] = set()
        below: int | None = None
        for _ in range(0, MAX_LOOKED_AT, PAGE):
            entries, below = await self._run_blocking(
                partial(self._derived.latest, below, PAGE, tags, *filters.condition())
            )
            for entry in entries:
                if entry in seen:
                    continue
                if len(found) == limit or len(seen) == MAX_FOLDED:
                    return Listing(tuple(found), False)
                seen.add(entry)
                view = await self._run_blocking(self._local, entry)
                if view is not None and wanted(view):
                    found.append(view)
            if not below:
                return Listing(tuple(found), True)
        return Listing(tuple(found), False)
