"""Retrial: what could not be judged when it came is judged when it can be.

The thin driver of `dht.records.waiting`: it keeps what the record service found pending or parked, listens to
what becomes held here, asks for what is missing (first the sender, then the holders of the author's activity
and of the subject, a few times and few at once), and hands back for judgement what is complete. Who sent a
record that turns out to be invalid answers for it then.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import trio

from chain.cid import Cid, is_record_cid
from chain.identity import AgentId
from chain.kinds import MEMBRANE
from chain.record import Record
from dht.errors import FrameError, NetworkError
from dht.overlay.kademlia import Kademlia
from dht.overlay.reputation import Misdeed
from dht.ports import Clock, RunBlocking
from dht.records.basis import author_basis, subject_basis
from dht.records.bundle import Bundle, Item, Opening, as_header
from dht.records.erased import names, purges_brought
from dht.records.intake import Judged
from dht.records.methods import MAX_FETCH, WAITS, RecordService
from dht.records.record_store import Held
from dht.records.replies import StoreStatus
from dht.records.waiting import Need, Waiting, WaitingLimits, WaitingRoom, opening_need
from validation.named import named_by

JUDGED_AT_ONCE = 64
"""Records that have waited judged in one bundle."""
FETCHED_AT_ONCE = 4
"""Records whose needs are asked for at the same time."""
ASKED = 2
"""Nodes asked for the needs of one record each time."""
PAUSE_S = 0.05
"""Shortest rest between two looks at the clock."""

log = logging.getLogger(f"roseforest.{__name__}")


class Retrial:
    """Keeps the waiting records of one node and tries them again; `keep` and `heard` tell it things."""

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        replication: int,
        clock: Clock,
        run_blocking: RunBlocking,
        limits: WaitingLimits | None = None,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._replication = replication
        self._clock = clock
        self._run_blocking = run_blocking
        self._wake = trio.Event()
        self.room = WaitingRoom(limits)

    async def keep(self, bundle: Bundle, judged: Sequence[Judged], sender: AgentId) -> None:
        """Let wait what of a bundle is pending or parked, with what came along for it."""
        now = self._clock.monotonic()
        waits = [
            (item, one)
            for item, one in zip(bundle.items, judged, strict=True)
            if isinstance(item, Item) and one.status in WAITS
        ]
        named = await self._run_blocking(brought_along, bundle, [item.record for item, _ in waits])
        for (item, one), headers in zip(waits, named, strict=True):
            opening = bundle.openings.get(item.record.header.author)
            # Without what its payload was read as: the room counts the bytes that came.
            kept = replace(item, record=replace(item.record))
            self._put(Waiting(kept, opening, headers, sender, now), one)

    def heard(self, items: Sequence[Held]) -> None:
        """These records are held here now."""
        needs: list[Need] = [item.record.cid for item in items]
        needs.extend(
            opening_need(item.record.header.author)
            for item in items
            if item.record.header.kind == MEMBRANE and item.record.payload is not None
        )
        if any(self.room.wants(need) for need in needs):
            self.room.arrived(needs)
            self._wake.set()

    async def run(self) -> None:
        """Try again what can be, for ever."""
        while True:
            self._wake = trio.Event()
            now, wall_us = self._clock.monotonic(), self._clock.wall_us()
            self.room.pass_time(now, wall_us)
            ready = self.room.take_ready(JUDGED_AT_ONCE)
            if ready:
                await self._judge(ready, {}, {})
                continue
            due = self.room.fetches(now, FETCHED_AT_ONCE)
            if due:
                async with trio.open_nursery() as nursery:
                    for waiting, needs in due:
                        nursery.start_soon(self._fetch, waiting, needs)
                continue
            at = self.room.next_at(now, wall_us)
            with trio.move_on_after(math.inf if at is None else max(PAUSE_S, at - now)):
                await self._wake.wait()

    async def _judge(
        self,
        ready: Sequence[Waiting],
        headers: Mapping[Cid, Record],
        openings: Mapping[AgentId, Opening],
    ) -> None:
        named = dict(headers)
        for header in (header for one in ready for header in one.headers):
            if header.payload is not None or header.cid not in named:  # of a purge the whole is what counts
                named[header.cid] = header
        begun = {one.author: one.opening for one in ready if one.opening is not None} | dict(openings)
        judged = await self._records.admit(Bundle(begun, named, tuple(one.item for one in ready)))
        for waiting, one in zip(ready, judged, strict=True):
            if one.status in WAITS:
                self._put(waiting, one)
            elif one.status is StoreStatus.INVALID:
                log.info("a record from %s that waited breaks %s", waiting.sender.hex()[:8], one.rule)
                self._kademlia.report(waiting.sender, Misdeed.INVALID_RECORD)

    def _put(self, waiting: Waiting, one: Judged) -> None:
        now = self._clock.monotonic()
        if one.status is StoreStatus.PARKED:
            self.room.park(waiting, now)
        elif one.needs is not None:
            self.room.wait(waiting, one.needs, now)
        self._wake.set()

    async def _fetch(self, waiting: Waiting, needs: Sequence[Need]) -> None:
        """Ask for what one record needs, and judge it with what comes; who lacks it all is no help."""
        record = waiting.item.record
        wanted = [need for need in needs if is_record_cid(need)][:MAX_FETCH]
        opening_wanted = opening_need(waiting.author) in needs
        asked = wanted or [cid for cid in (record.header.prev,) if cid is not None]
        for agent in await self._sources(waiting):
            try:
                bundle = await self._records.fetch(agent, asked)
            except NetworkError as error:
                log.debug("%s does not help a record that waits: %s", agent.hex()[:8], error)
                if isinstance(error, FrameError):
                    self._kademlia.report(agent)
                continue
            came = {item.record.cid: item.record for item in bundle.items if isinstance(item, Item)}
            found = {cid: as_header(came[cid]) for cid in wanted if cid in came}
            opening = bundle.openings.get(waiting.author) if opening_wanted else None
            if not found and opening is None:
                continue
            taken = self.room.supplied(record.cid)
            if taken is not None:
                await self._judge(
                    [replace(taken, opening=opening or taken.opening)],
                    found,
                    {} if opening is None else {waiting.author: opening},
                )
            return

    async def _sources(self, waiting: Waiting) -> list[AgentId]:
        """Whom to ask, another kind of node each time."""
        header = waiting.item.record.header
        if waiting.tries == 0:
            return [waiting.sender]
        by_author = waiting.tries % 2 or header.subject is None
        basis = author_basis(header.author) if by_author else subject_basis(header.subject or b"")
        try:
            found = await self._kademlia.holders(basis, self._replication)
        except NetworkError as error:
            log.debug("no holders found for a record that waits: %s", error)
            return []
        return [contact.agent for contact in found if contact.agent != self._kademlia.agent][:ASKED]


def brought_along(bundle: Bundle, records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """For each record what came in its bundle to judge it by; blocking, it reads payloads.

    Headers that it names; of one whose payload is erased a purge that says so, whole, with what that names.
    """
    inside = {item.record.cid: item.record for item in bundle.items if isinstance(item, Item)}
    known = {**inside, **bundle.headers}
    purges = purges_brought(bundle)
    along: list[tuple[Record, ...]] = []
    for record in records:
        bare = () if record.payload is not None else [one for one in purges if names(one, [record])][:1]
        needed = {cid for one in (record, *bare) for cid in named_by(one)} & known.keys()
        along.append((*(known[cid].without_payload() for cid in sorted(needed)), *bare))
    return along
