"""Reading the graph around an entry: the waiting side of `node.graph.exploration`.

A level's entries are read at once, a few at a time, each from its holders like any other entry. The time is
bounded as a whole; what was not read by then is shown as such.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from chain.cid import Cid
from dht.ports import RunBlocking
from node.errors import NotFound
from node.graph.exploration import Exploration, Graph, Seen, seen_of
from node.models import EntryView

WALK_S: Final = 20.0
"""Seconds that a walk may take, besides the first entry."""
READ_AT_ONCE: Final = 8
"""Entries that are being read at a time."""
MAX_RELATING: Final = 32
"""Entries that may relate to one entry, of those that are held here, that are looked at."""

Read = Callable[[Cid], Awaitable[EntryView | None]]
"""How an entry is read: `Node.get`."""
RelatingTo = Callable[[Cid, int], Sequence[Cid]]
"""Entries here that a record relates to this target, ascending, at most so many; see `EntryRecords`."""


async def explore(
    start: Cid,
    depth: int,
    limit: int,
    direction: str,
    read: Read,
    relating_to: RelatingTo,
    run_blocking: RunBlocking,
) -> Graph:
    """The graph of at most `limit` entries up to `depth` relations from `start`.

    Raises `NotFound` when nobody shows the start, and what `read` raises.
    """
    exploration = Exploration(start, depth, limit, direction)
    view = await read(start)
    if view is None:
        raise NotFound("no such entry is known here or to its holders")
    found: dict[Cid, Seen | None] = {start: seen_of(view)}

    def relating(targets: Sequence[Cid]) -> dict[Cid, Sequence[Cid]]:
        return {target: relating_to(target, MAX_RELATING + 1) for target in targets}

    with trio.move_on_after(WALK_S):
        while exploration.wave:
            await _read_all([cid for cid in exploration.wave if cid not in found], read, found)
            asked = exploration.take(found)
            candidates = await run_blocking(relating, asked)
            more = any(len(ones) > MAX_RELATING for ones in candidates.values())
            exploration.follow({cid: ones[:MAX_RELATING] for cid, ones in candidates.items()}, more)
    if exploration.wave:
        exploration.give_up(found)
    return exploration.graph()


async def _read_all(wanted: Sequence[Cid], read: Read, found: dict[Cid, Seen | None]) -> None:
    room = trio.Semaphore(READ_AT_ONCE)

    async def one(cid: Cid) -> None:
        async with room:
            try:
                view = await read(cid)
                found[cid] = None if view is None else seen_of(view)
            except NotFound:  # blocked here
                found[cid] = None

    async with trio.open_nursery() as nursery:
        for cid in wanted:
            nursery.start_soon(one, cid)
