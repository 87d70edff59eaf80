"""Offers: whoever knows an entry sees to it that its operations reach all who have to show it.

The author of an operation, and every holder of its entry, work out where each of the entry's records has to
lie (the entry's own basis, and by `dht.records.placement.beside` the shards of the values that are shown or
overwritten), ask the holders there which of them they lack, and send those. So a posting ends, a tag changes
and a new value is found moments after the operation; and when the author dies, or was cut off, after it
reached only one holder of the entry, that holder goes on for it. What could not be done is tried again, and
all of it is asked again when nodes come and go: a posting is at most `STALE_S` behind the operations that a
live holder of its entry has. A purge goes besides to all who have written about the entry, for they keep what
they built on; who was away then hears of it from the holders when it comes to offer what they have erased.
(Whoever has an update hands it on; Demers et al., Epidemic Algorithms, 1987.)
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from chain.cid import Cid
from chain.content import Content
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT, PURGE
from chain.record import Record
from crdt.purging import operations, purged_by
from crdt.standing import CLEAR, Standing
from dht.errors import FrameError, NetworkError, RequestRefused
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.basis import subject_basis
from dht.records.bundle import MAX_SHARDS, Item
from dht.records.layouts import Layouts, is_other, shards_for
from dht.records.methods import HAS_ERASED, LACKS, MAX_LACKS, RecordService
from dht.records.placement import Layout, Role, beside
from dht.records.record_store import Held, HeldStore
from dht.records.replies import REFUSES, StoreStatus
from dht.repair.circuit import decorrelated
from dht.repair.transfers import Transfers

STALE_S = 60.0
"""How far a posting may be behind, once its holder and a holder of its entry can reach each other."""
SOON_S = 1.0
"""A holder waits so long for the author, who most often does all of it."""
RETRY_FIRST_S = 2.0
RETRY_MOST_S = 20.0
"""Well below `STALE_S`: suspicion of a node that is back takes its time as well."""
REFUSED_S = 300.0
"""What a holder refuses (its owner blocks it, or it has no room) is offered to it again after so long."""
SETTLE_S = 2.0
"""After a change of membership: changes come in bursts."""
RESCAN_S = 10.0
"""From one look through all changed entries to the next, at least."""
BATCH = 200
"""Entries looked at together."""
MAX_TOLD_AT_ONCE = 16
"""Purges brought to one author at a time; it hears of the rest by the next look."""
MAX_REFUSING = 8
"""Holders without room that are passed over when entries are brought to their shards."""
MAX_DUE = 100_000
"""Entries that wait for their turn; beyond it they wait for the next look through all of them."""

log = logging.getLogger(f"roseforest.{__name__}")

Place = tuple[int, bytes]
"""A role and a basis."""


@dataclass(slots=True)
class Plan:
    """Where the records of some entries have to lie: for each place the records, by entry."""

    records: dict[Cid, Record] = field(default_factory=dict)
    places: dict[Place, dict[Cid, list[Cid]]] = field(default_factory=dict)

    def add(self, place: Place, entry: Cid, cid: Cid) -> None:
        """`cid`, a record of `entry`, has to lie at `place`."""
        self.places.setdefault(place, {}).setdefault(entry, []).append(cid)


def plan(
    entries: Mapping[Cid, Mapping[Cid, Record]],
    layouts: Sequence[Layout],
    standing: Standing = CLEAR,
    purged: Mapping[Cid, bytes] | None = None,
) -> Plan:
    """Where the records of these entries have to lie by each of these layouts. Pure.

    Those without payload cannot be offered, unless their authors purged them: `purged` are the bases of the
    shards that such lay in, where they are known.
    """
    made = Plan()
    said = {entry: operations(records) for entry, records in entries.items()}
    contents = [
        (records[cid], value)
        for entry, records in entries.items()
        for cid, value in said[entry].items()
        if isinstance(value, Content)
    ]
    placed: dict[Cid, set[bytes]] = {}
    for number, layout in enumerate(layouts):
        keys = layout.keys(contents)
        shards = {
            record.cid: layout.shard_basis(key) for (record, _), key in zip(contents, keys, strict=True)
        }
        for entry, records in entries.items():
            erased = purged_by(records, said[entry])
            own = {cid: shards[cid] for cid in said[entry] if cid in shards}
            lay = {cid: (purged or {})[cid] for cid in erased if cid in (purged or {})}
            own |= {cid: basis for cid, basis in lay.items() if shards_for(basis, layout)}
            at_shards = beside(records, said[entry], own, standing)
            for cid in sorted(records):
                if records[cid].payload is None and cid not in erased:
                    continue
                made.records[cid] = records[cid]
                if not number:
                    made.add((int(Role.SUBJECT), subject_basis(entry)), entry, cid)
                # Where something purged lay nobody can tell any more when its shard has been divided.
                bases = {one for basis in at_shards.get(cid, ()) for one in shards_for(basis, layout)}
                before = placed.setdefault(cid, set())
                for basis in sorted(bases - before)[:MAX_SHARDS]:
                    made.add((int(Role.SHARD), basis), entry, cid)
                before |= bases
    return made


class Offers:
    """Drives `plan` over the network. `about` gives what is known here of an entry.

    `changed` lists in pages the entries of which operations are here, `own` those on which this agent made
    some.
    """

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        transfers: Transfers,
        store: HeldStore,
        about: Callable[[Cid], Mapping[Cid, Record]],
        changed: Callable[[], Iterator[list[Cid]]],
        own: Callable[[Sequence[Cid]], set[Cid]],
        purged_shards: Callable[[Sequence[Cid]], Mapping[Cid, bytes]],
        read_again: Callable[[Cid], Awaitable[object]],
        layouts: Layouts,
        replication: int,
        run_blocking: RunBlocking,
        rng: random.Random,
        standing: Callable[[], Standing] = lambda: CLEAR,
    ) -> None:
        self._standing = standing
        self._kademlia = kademlia
        self._records = records
        self._transfers = transfers
        self._store = store
        self._about = about
        self._changed = changed
        self._own = own
        self._purged_shards = purged_shards
        self._read_again = read_again
        self._told: set[tuple[Cid, AgentId]] = set()
        self._layouts = layouts
        self._replication = replication
        self._run_blocking = run_blocking
        self._rng = rng
        self._due: dict[Cid, float] = {}
        """When each entry is to be looked at, in seconds of trio's clock."""
        self._paused_s: dict[Cid, float] = {}
        """How long each entry waited before it was looked at last, of those that not all could be told of."""
        self._mine: set[Cid] = set()
        self._wake = trio.Event()
        self._looked = trio.Event()
        self.offered = 0
        """Records sent to holders that lacked them, so far."""

    @property
    def pending(self) -> int:
        """Entries that this agent changed and of which not all has reached everybody who shows them."""
        return len(self._mine)

    async def drained(self) -> None:
        """Return once all that this agent changed has reached everybody who shows it."""
        while self._mine:
            await self._looked.wait()

    def wrote(self, entry: Cid) -> None:
        """This agent has changed `entry`: it is offered at once."""
        self._mine.add(entry)
        self._schedule(entry, 0.0)

    def heard(self, entries: Iterable[Cid]) -> None:
        """Operations on these entries came in; they are offered to those whom they did not reach."""
        for entry in entries:
            self._schedule(entry, SOON_S)

    async def run(self) -> None:
        """Offer for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._rescan)
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                due = sorted(entry for entry, at in self._due.items() if at <= now)[:BATCH]
                if due:
                    await self.offer(due)
                    continue
                with trio.CancelScope(deadline=min(self._due.values(), default=float("inf"))):
                    await self._wake.wait()

    async def offer(self, entries: Sequence[Cid]) -> None:
        """Look at these entries once; what is not everywhere afterwards is looked at again."""
        for entry in entries:
            self._due.pop(entry, None)  # whoever is there again afterwards has changed meanwhile
        made = await self._run_blocking(self._plan, entries, self._layouts.written())
        holders: dict[Place, tuple[AgentId, ...]] = {}
        for place in made.places:
            found = await self._kademlia.holders(place[1], self._replication)
            holders[place] = tuple(contact.agent for contact in found)
        me = self._kademlia.agent
        mine = {
            entry
            for (role, _), at in made.places.items()
            if role == Role.SUBJECT and me in holders[role, _]
            for entry in at
        }
        mine |= self._own(entries)
        wanted: dict[AgentId, dict[Place, dict[Cid, list[Cid]]]] = {}
        unreached: set[Cid] = set()
        refused: set[Cid] = set()
        stale: set[Cid] = set()
        for place, at in made.places.items():
            chosen = {entry: cids for entry, cids in at.items() if entry in mine}
            if chosen and not holders[place]:
                unreached |= chosen.keys()
            for agent in holders[place] if chosen else ():
                wanted.setdefault(agent, {})[place] = chosen
        async with trio.open_nursery() as nursery:
            for agent in sorted(wanted):
                nursery.start_soon(self._with, agent, wanted[agent], made.records, unreached, refused, stale)
            for agent, purges in self._to_tell(made, mine).items():
                nursery.start_soon(self._tell, agent, purges)
        for entry in sorted(stale):
            await self._read_again(entry)
        draw = self._rng.random()  # one for all: what failed together goes together
        for entry in entries:
            if entry in self._due:
                continue
            if entry in unreached:
                last_s = self._paused_s.get(entry, 0.0)
                pause_s = self._paused_s[entry] = decorrelated(last_s, draw, RETRY_FIRST_S, RETRY_MOST_S)
                self._schedule(entry, pause_s)
            else:
                self._paused_s.pop(entry, None)
                self._mine.discard(entry)
                if entry in refused:
                    self._schedule(entry, REFUSED_S * self._rng.uniform(0.8, 1.2))
        self._looked.set()
        self._looked = trio.Event()

    async def bring(self, entries: Sequence[Cid]) -> set[Cid]:
        """Have the holders of these entries' shards, as they are placed now, hold all that is known here.

        Where one has no room, or does not want it, the next nearest is to. Returns the entries of which not
        all shards are known to have R copies.
        """
        made = await self._run_blocking(self._plan, entries, (self._layouts.writes,))
        places = {place: at for place, at in made.places.items() if place[0] == Role.SHARD}
        refusing: set[AgentId] = set()
        while True:
            known = len(refusing)
            unreached: set[Cid] = set()
            wanted: dict[AgentId, dict[Place, dict[Cid, list[Cid]]]] = {}
            for place, at in places.items():
                near = await self._kademlia.holders(place[1], self._replication + len(refusing))
                willing = [contact.agent for contact in near if contact.agent not in refusing]
                if len(willing) < min(self._replication, len(near)) or not near:
                    unreached |= at.keys()
                for agent in willing[: self._replication]:
                    wanted.setdefault(agent, {})[place] = at
            async with trio.open_nursery() as nursery:
                for agent in sorted(wanted):
                    nursery.start_soon(
                        self._with, agent, wanted[agent], made.records, unreached, set(), set(), refusing
                    )
            if len(refusing) == known or len(refusing) >= MAX_REFUSING:
                return unreached

    async def places_of(self, entries: Sequence[Cid]) -> Plan:
        """Where what is known here of these entries lies, as it is placed now."""
        return await self._run_blocking(self._plan, entries, (self._layouts.writes,))

    def _plan(self, entries: Sequence[Cid], layouts: Sequence[Layout]) -> Plan:
        about = {entry: self._about(entry) for entry in entries}
        bare = [
            cid
            for records in about.values()
            for cid, record in records.items()
            if record.payload is None and record.header.kind in CARRIES_CONTENT
        ]
        return plan(about, layouts, self._standing(), self._purged_shards(bare) if bare else {})

    async def _with(
        self,
        agent: AgentId,
        places: Mapping[Place, Mapping[Cid, Sequence[Cid]]],
        records: Mapping[Cid, Record],
        unreached: set[Cid],
        refused: set[Cid],
        stale: set[Cid],
        refusing: set[AgentId] | None = None,
    ) -> None:
        """Bring one holder what it lacks; entries of which it still lacks something are `unreached`.

        Or `refused`: it will not take that, which keeps nothing pending, and it is one of the `refusing`.
        Those are `stale` of which it has erased something that is still here.
        """
        try:
            lacking = await self._lacking(agent, places, records, stale)
        except NetworkError as error:
            self._failed(agent, error)
            unreached.update(entry for at in places.values() for entry in at)
            return
        items: dict[Cid, list[Place]] = {}
        entry_of: dict[Cid, Cid] = {}
        former: dict[Cid, list[bytes]] = {}
        for place, entry, cid in lacking:
            entry_of[cid] = entry
            if place[0] == Role.SHARD and is_other(place[1], self._layouts.writes):
                former.setdefault(cid, []).append(place[1])
            else:
                items.setdefault(cid, []).append(place)
        if agent != self._kademlia.agent and not await self._offer_former(agent, former, records):
            unreached.update(entry_of[cid] for cid in former)
        if not items:
            return
        ordered = sorted(items, key=lambda cid: (records[cid].header.lamport, cid))
        if agent == self._kademlia.agent:
            held = [Held(records[cid], tuple(sorted(items[cid]))) for cid in ordered]
            await self._records.hold(held)
            self.offered += len(held)
            return
        left = [
            Item(
                records[cid],
                sum({role for role, _ in items[cid]}),
                tuple(sorted(basis for role, basis in items[cid] if role == Role.SHARD)),
            )
            for cid in ordered
        ]
        try:
            while left:
                statuses = await self._store_at(agent, left)
                for item, status in zip(left, statuses, strict=False):
                    if status is StoreStatus.HELD:
                        self.offered += 1
                    elif status in REFUSES:
                        refused.add(entry_of[item.record.cid])
                        if refusing is not None:
                            refusing.add(agent)
                    else:
                        unreached.add(entry_of[item.record.cid])
                left = left[len(statuses) :]
        except NetworkError as error:
            self._failed(agent, error)
            unreached.update(entry_of[item.record.cid] for item in left)

    async def _offer_former(
        self, agent: AgentId, places: Mapping[Cid, Sequence[bytes]], records: Mapping[Cid, Record]
    ) -> bool:
        """Bring a holder what it lacks at former shards; whether it was told.

        One that has emptied them takes nothing there.
        """
        ordered = sorted(places, key=lambda cid: (records[cid].header.lamport, cid))
        shards = {cid: tuple(sorted(places[cid])[:MAX_SHARDS]) for cid in ordered}
        left = [Item(records[cid], int(Role.SHARD), shards[cid]) for cid in ordered]
        try:
            while left:
                statuses = await self._store_at(agent, left)
                self.offered += sum(status is StoreStatus.HELD for status in statuses)
                left = left[len(statuses) :]
        except NetworkError as error:
            self._failed(agent, error)
            return False
        return True

    async def _lacking(
        self,
        agent: AgentId,
        places: Mapping[Place, Mapping[Cid, Sequence[Cid]]],
        records: Mapping[Cid, Record],
        stale: set[Cid],
    ) -> list[tuple[Place, Cid, Cid]]:
        """(place, entry, record) of what a holder lacks; raises `NetworkError`."""
        asked = [
            (place, entry, cid)
            for place in sorted(places)
            for entry in sorted(places[place])
            for cid in places[place][entry]
        ]
        lacking: list[tuple[Place, Cid, Cid]] = []
        for start in range(0, len(asked), MAX_LACKS):
            part = asked[start : start + MAX_LACKS]
            pairs = [(place[1], cid) for place, _, cid in part]
            if agent == self._kademlia.agent:
                answers = await self._run_blocking(self._store.lacking, pairs)
            else:
                with self._transfers.asking(agent):
                    states = await self._records.states(agent, pairs)
                stale.update(
                    entry
                    for (_, entry, cid), state in zip(part, states, strict=True)
                    if state == HAS_ERASED and records[cid].payload is not None
                )
                answers = [state == LACKS for state in states]
            lacking.extend(one for one, lacks in zip(part, answers, strict=True) if lacks)
        return lacking

    def _to_tell(self, made: Plan, mine: Container[Cid]) -> dict[AgentId, list[Record]]:
        """Whom to bring which purges: all who wrote about the same entry, each once."""
        authors: dict[Cid, set[AgentId]] = {}
        for record in made.records.values():
            authors.setdefault(record.subject, set()).add(record.header.author)
        wanted: dict[AgentId, list[Record]] = {}
        for purge in made.records.values():
            if purge.header.kind == PURGE and purge.subject in mine:
                for agent in authors[purge.subject] - {self._kademlia.agent, purge.header.author}:
                    usable = self._kademlia.contact(agent) is not None and not self._kademlia.is_suspect(
                        agent
                    )
                    if usable and (purge.cid, agent) not in self._told:
                        wanted.setdefault(agent, []).append(purge)
        return wanted

    async def _tell(self, agent: AgentId, purges: Sequence[Record]) -> None:
        try:
            await self._store_at(agent, [Item(purge, 0) for purge in purges[:MAX_TOLD_AT_ONCE]])
        except NetworkError as error:
            self._failed(agent, error)
            if not isinstance(error, RequestRefused):
                return
        if len(self._told) > MAX_DUE:
            self._told.clear()
        self._told.update((purge.cid, agent) for purge in purges[:MAX_TOLD_AT_ONCE])

    async def _store_at(self, agent: AgentId, items: Sequence[Item]) -> list[StoreStatus]:
        """Have a holder store the first of `items`, as many as fit one message; a status for each of them."""
        with self._transfers.asking(agent):
            statuses, size = await self._records.store(agent, items)
        self._transfers.spent(size)
        return statuses

    def _failed(self, agent: AgentId, error: NetworkError) -> None:
        if isinstance(error, FrameError):
            self._kademlia.report(agent)
        log.info("offering to %s failed: %s", agent.hex()[:8], error)

    async def _rescan(self) -> None:
        """Look through all changed entries at the start, and when nodes came or went."""
        while True:
            seen, layouts = self._kademlia.placement, self._layouts.version
            pages = self._changed()
            while page := await self._run_blocking(next, pages, None):
                self._mine |= await self._run_blocking(self._own, page)
                self.heard(page)
                await trio.lowlevel.checkpoint()
            with trio.move_on_after(RESCAN_S):
                await trio.sleep_forever()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_first, self._kademlia.wait_moved, seen, nursery.cancel_scope)
                nursery.start_soon(_first, self._layouts.wait_changed, layouts, nursery.cancel_scope)
            await trio.sleep(SETTLE_S)

    def _schedule(self, entry: Cid, after_s: float) -> None:
        if entry in self._due or len(self._due) < MAX_DUE:
            self._due[entry] = trio.current_time() + after_s
            self._wake.set()


async def _first(wait: Callable[[int], Awaitable[int]], seen: int, scope: trio.CancelScope) -> None:
    await wait(seen)
    scope.cancel()
