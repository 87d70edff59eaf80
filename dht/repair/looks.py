"""A look: bring every basis held here to its R nearest nodes, as things are, and drop what others hold.

First it compares with the other holders by ranges, where much is to be compared (`dht.repair.range_looks`).
Then it goes through all bases held, a page at a time: it finds out who the nearest nodes are, asks those of
whom it does not know it yet for the digests of many bases in one request, where those differ what they lack,
and does what `dht.repair.decision` decides. Bases at which nothing has changed since they were found in order
cost no message. Between two requests it rests, so that queries go first. When to look is the matter of
`dht.repair.repairer`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from chain.cid import Cid, record_cid_of_digest
from chain.identity import AgentId
from chain.kinds import PURGEABLE
from chain.record import Record
from dht.errors import FrameError, NetworkError, RequestRefused, RequestTimeout
from dht.overlay.kademlia import Kademlia
from dht.overlay.routing_table import K
from dht.ports import Random, RunBlocking
from dht.records.bundle import MAX_SHARDS, Item
from dht.records.layouts import Layouts
from dht.records.methods import HAS_ERASED, LACKS, MAX_DIGESTS, MAX_LACKS, RecordService
from dht.records.placement import Role, needs_payload
from dht.records.proofs import CYCLE_S, MAX_PROOFS, VOUCHED_S, Proofs
from dht.records.record_store import BasisDigest, Digest, HeldStore
from dht.records.replies import StoreStatus
from dht.repair.comparison import Comparisons
from dht.repair.decision import DROP_AFTER_S, Decision, Situation, decide, holders_of
from dht.repair.frontiers import Frontiers
from dht.repair.patience import Patience
from dht.repair.range_looks import RangeLooks
from dht.repair.transfers import Transfers

PAGE = 512
"""Bases looked at together; what is asked, listed and sent about them is done before the next page."""
NEAR = 2
"""Nodes beyond the holders that are asked too: they may have been holders, and then it is their turn too."""
AT_ONCE = 4
"""Requests of the repairer under way at a time."""
READ_AT_ONCE = 256
"""Records read from disk at a time to be sent."""
LIST_PAGE = 4096
BREATHE_EVERY = 32
"""Bases of which the holders are found out before the event loop gets its turn."""
SAMPLE = 32
"""Records of one basis that a holder has to prove: a random run of those there."""
DROP_AT_ONCE = 64
"""Bases proven together: few enough that they are dropped while those who have proven them keep them."""
MAX_STALE = 100
"""Records read again at a time because others say that their authors have purged them."""

log = logging.getLogger(f"roseforest.{__name__}")

OnDropped = Callable[[bytes, Sequence[tuple[Cid, int]]], Awaitable[None]]


@dataclass(slots=True)
class _Track:
    """What is remembered of one basis held from look to look."""

    digest: Digest
    look: int
    since: float
    holders: tuple[AgentId, ...] = ()
    placement: int = -1
    steady: int = -1
    waited: int = 0
    short: int = 0
    settled: bool = False
    rests_until: float = 0.0
    """All holders have it, so it will be dropped, but not before."""
    more: dict[AgentId, Digest] = field(default_factory=dict)
    """Digests of nodes that hold all that is held here and something else."""


@dataclass(slots=True)
class _Due:
    """A basis that is being looked at, and what was heard about it."""

    basis: bytes
    track: _Track
    near: tuple[AgentId, ...]
    said: dict[AgentId, Digest] = field(default_factory=dict)
    missing: dict[AgentId, frozenset[Cid] | None] = field(default_factory=dict)
    """What a holder lacks; None: everything."""
    covers: set[AgentId] = field(default_factory=set)


@dataclass(slots=True)
class _Wanted:
    """In what roles a holder lacks a record, and at which shards: for operations its bytes do not say it."""

    roles: int = 0
    shards: set[bytes] = field(default_factory=set)


class Looks:
    """Drives `dht.repair.decision.decide` over the network, one look after the other.

    `on_dropped` is told of a basis that went, and each record there with the roles that it still has here.
    `read_again` reads an entry of which another holder has erased what is still here.
    """

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        proofs: Proofs,
        transfers: Transfers,
        comparisons: Comparisons,
        frontiers: Frontiers,
        store: HeldStore,
        replication: int,
        layouts: Layouts,
        on_dropped: OnDropped,
        read_again: Callable[[Cid], Awaitable[object]],
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._proofs = proofs
        self._transfers = transfers
        self._store = store
        self._replication = replication
        self._layouts = layouts
        self._on_dropped = on_dropped
        self._read_again = read_again
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._ranges = RangeLooks(comparisons, frontiers, store, run_blocking)
        self._placed: tuple[int, int, bool] | None = None
        self._tracks: dict[bytes, _Track] = {}
        self._looking = trio.Lock()
        self._slots = trio.Semaphore(AT_ONCE)
        self._patience = Patience()
        self.leaving = False
        """This node counts itself out: what it holds is brought to those who hold it without it."""
        self.refusing: set[AgentId] = set()
        """Who refused what a leaving node brought; the next nearest takes its place."""
        self.count = 0
        """Times that it went through all that is held."""
        self.sent = 0
        """Records sent to holders that lacked them, so far."""
        self.dropped = 0
        """Bases dropped so far."""
        self.repairing = 0
        """Bases of which copies are being sent now."""

    @property
    def short(self) -> int:
        """Bases held here that have fewer copies at their R nearest nodes than they should, as last seen."""
        return sum(track.short > 0 for track in self._tracks.values())

    def distrust(self, agent: AgentId) -> None:
        """Nothing that this holder should have is taken for settled. O(bases)."""
        for basis, track in self._tracks.items():
            if agent in track.holders:
                track.settled, track.rests_until = False, 0.0
                track.more.pop(agent, None)
                self._ranges.note_restless(basis)

    async def look(self, everything: bool, *, alone: bool = False) -> None:
        """Go once through all bases held. `everything`: also those that were found in order.

        Then who refused something, or had no room, is asked again, too.

        `alone`: send only what no other node is known to hold.
        """
        async with self._looking:
            self.count += 1
            self._patience.begin(everything)
            dropped = self.dropped
            await self._compare_ranges(everything)
            after = b""
            while page := self._store.bases_after(after, PAGE):
                after = page[-1].basis
                await trio.lowlevel.checkpoint()
                await self._page(page, everything, alone)
            gone = [basis for basis, track in self._tracks.items() if track.look != self.count]
            for basis in gone:
                del self._tracks[basis]
            if self.dropped != dropped:
                log.info("dropped %d bases that R nearer nodes hold", self.dropped - dropped)
                await self._store.reclaim()

    async def _compare_ranges(self, everything: bool) -> None:
        """Find out by ranges what the other holders lack, where that is worth it."""
        placed = (self._kademlia.placement, len(self.refusing), self.leaving)
        if self._placed != placed:
            self._placed = placed
            storing = {contact.agent: contact.position for contact in self._kademlia.storing(steady=True)}
            gone = self.refusing | ({self._kademlia.agent} if self.leaving else set())
            left = {agent: position for agent, position in storing.items() if agent not in gone}
            self._ranges.place(left, self._replication)
        asked = await self._ranges.begin(self._kademlia.agent, everything)
        if self.count == 1 and not self.leaving:
            return  # nothing is sent at the first look: what lies here may be about to change

        async def compare(agent: AgentId) -> None:
            async with self._slots:
                await self._ranges.compare(agent, asked[agent], everything)

        async with trio.open_nursery() as nursery:
            for agent in sorted(asked):
                nursery.start_soon(self._with, agent, "comparing", partial(compare, agent))

    # One page.

    async def _page(self, page: Sequence[BasisDigest], everything: bool, alone: bool) -> None:
        due: list[_Due] = []
        for place, entry in enumerate(page):
            if place % BREATHE_EVERY == 0:
                await trio.lowlevel.checkpoint()
            one = await self._track(entry, everything)
            if one is not None:
                due.append(one)
        self._use_ranges(due)
        await self._ask_digests(due)
        await self._compare(due)
        decided = [(one, decide(self._situation(one))) for one in due]
        sends: dict[AgentId, dict[Cid, _Wanted]] = {}
        sending = 0
        for one, decision in decided:
            self._note(one.track, decision)
            if not decision.settled:
                self._ranges.note_restless(one.basis)
            if decision.send and not (alone and one.covers):
                sending += 1
                for agent in decision.send:
                    self._add_missing(one, agent, sends.setdefault(agent, {}))
        self.repairing = sending
        try:
            async with trio.open_nursery() as nursery:
                for agent in sorted(sends):
                    nursery.start_soon(self._push, agent, sends[agent])
        finally:
            self.repairing = 0
        unproven = [(one, decision.prove) for one, decision in decided if decision.prove]
        for start in range(0, len(unproven), DROP_AT_ONCE):
            await self._drop_proven(unproven[start : start + DROP_AT_ONCE])

    async def _track(self, entry: BasisDigest, everything: bool) -> _Due | None:
        """Note what lies at a basis now; None when nothing is to be asked about it."""
        now, placement, leaving = trio.current_time(), self._kademlia.placement, self.leaving
        track = self._tracks.get(entry.basis)
        if track is None:
            track = self._tracks[entry.basis] = _Track(entry.digest, self.count, now)
        elif track.digest != entry.digest:
            track.digest, track.steady, track.settled, track.rests_until = entry.digest, -1, False, 0.0
            track.more.clear()
        track.look = self.count
        track.steady += 1
        if self._layouts.is_former(entry.basis):
            track.short = 0
            return None  # `dht.repair.migration` brings what lies there to where it belongs now
        resting = track.settled or now < track.rests_until
        if resting and track.placement == placement and not everything:
            return None
        if track.steady == 0 and not leaving:
            self._ranges.note_restless(entry.basis)
            return None
        near = await self._near(entry.basis, now)
        holders = near[: self._replication]
        track.placement = placement
        if track.holders != holders:
            track.holders, track.since, track.waited, track.settled = holders, now, 0, False
            track.rests_until = 0.0
            track.more = {agent: digest for agent, digest in track.more.items() if agent in near}
        if (track.settled or now < track.rests_until) and not everything:
            return None
        return _Due(entry.basis, track, near)

    async def _near(self, basis: bytes, now: float) -> tuple[AgentId, ...]:
        """The R nearest to a basis and `NEAR` more, and one more for each that may have to be passed over."""
        sure = self._replication + self.leaving
        over = 0
        while True:
            count = min(sure + NEAR + over, K)
            holders = await self._kademlia.holders(basis, count, steady=min(sure + over, count))
            found = [one.agent for one in holders]
            passed = sum(agent in self.refusing or self._may_refuse(agent, now) for agent in found)
            if passed <= over or count == K or len(found) < count:
                return tuple(agent for agent in found if agent not in self.refusing)
            over = passed

    def _situation(self, one: _Due) -> Situation:
        me, track = self._kademlia.agent, one.track
        now = trio.current_time()
        beyond = me not in track.holders
        beyond_s = now - track.since if beyond else 0.0
        return Situation(
            me=me,
            replication=self._replication,
            near=one.near,
            covers=frozenset(one.covers),
            lacks=frozenset(one.missing),
            steady=track.steady,
            waited=track.waited,
            beyond_s=beyond_s,
            vouched=beyond_s >= DROP_AFTER_S
            and self._proofs.vouchers.promised([cid for cid, _ in self._held_at(one.basis)], now),
            leaving=self.leaving,
            full=frozenset(agent for agent in one.missing if self._refuses(agent, one, now)),
        )

    def _refuses(self, agent: AgentId, one: _Due, now: float) -> bool:
        """Whether it has no room, or has refused everything that it lacks there."""
        if self._is_full(agent, now):
            return True
        if not self._patience.has_refused_some(agent):
            return False
        missing = one.missing[agent] or {cid for cid, _ in self._held_at(one.basis)}
        return self._patience.has_refused(agent, missing)

    def _may_refuse(self, agent: AgentId, now: float) -> bool:
        return self._is_full(agent, now) or self._patience.has_refused_some(agent)

    def _is_full(self, agent: AgentId, now: float) -> bool:
        contact = self._kademlia.contact(agent)
        return self._patience.is_full(agent, now) or (contact is not None and contact.full)

    @staticmethod
    def _note(track: _Track, decision: Decision) -> None:
        track.settled, track.short = decision.settled, decision.short
        track.waited = track.waited + 1 if decision.short else 0
        track.rests_until = track.since + DROP_AFTER_S if decision == Decision() else 0.0

    # Asking.

    def _use_ranges(self, due: Sequence[_Due]) -> None:
        """Take what the comparison by ranges has told of bases that have not changed since."""
        for one in due:
            for agent in one.near if one.track.steady > 0 else ():
                lacking = self._ranges.lacks(agent, one.basis)
                if lacking:
                    one.missing[agent] = lacking
                elif lacking is not None:
                    one.covers.add(agent)

    def _worth_asking(self, one: _Due) -> list[AgentId]:
        """Whose digest at a basis may change what is decided, and is not known.

        That of a node beyond the holders does only if one of these may lack something: it might be its turn
        before it is ours, or it has to stand in.
        """
        me, near, now = self._kademlia.agent, one.near, trio.current_time()
        holders = [agent for agent in near[: self._replication] if agent != me]
        others = holders
        stand_in = any(self._may_refuse(agent, now) for agent in holders)
        beyond = me not in near[: self._replication]
        if self.leaving or stand_in or (beyond and not one.covers.issuperset(holders)):
            others = [agent for agent in near if agent != me]
        return [agent for agent in others if agent not in one.covers and agent not in one.missing]

    async def _ask_digests(self, due: Sequence[_Due]) -> None:
        asked: dict[AgentId, list[_Due]] = {}
        for one in due:
            for agent in self._worth_asking(one):
                asked.setdefault(agent, []).append(one)

        async def ask(agent: AgentId) -> None:
            for start in range(0, len(asked[agent]), MAX_DIGESTS):
                part = asked[agent][start : start + MAX_DIGESTS]
                async with self._slots:
                    began = trio.current_time()
                    with self._transfers.asking(agent):
                        digests = await self._records.digests(agent, [one.basis for one in part])
                    await self._took(agent, began, 80 * len(part))
                for one, digest in zip(part, digests, strict=True):
                    one.said[agent] = digest
                    if digest == one.track.digest:
                        one.covers.add(agent)

        async with trio.open_nursery() as nursery:
            for agent in sorted(asked):
                nursery.start_soon(self._with, agent, "comparing", partial(ask, agent))

    async def _compare(self, due: Sequence[_Due]) -> None:
        """Find out what holders lack whose digests differ from ours, and then who stands in for the full."""
        stale: set[Cid] = set()
        while differing := self._differing(due):
            await self._ask_states(differing, stale)
        found = await self._run_blocking(self._store.get_many, sorted(stale))
        for subject in sorted({one.subject for one in found if one is not None and one.payload is not None}):
            await self._read_again(subject)

    def _differing(self, due: Sequence[_Due]) -> dict[AgentId, list[tuple[_Due, Digest]]]:
        """What holders have to be asked, each about bases with the digests that they said there, each once.

        What a digest says by itself is noted.
        """
        now = trio.current_time()
        differing: dict[AgentId, list[tuple[_Due, Digest]]] = {}
        for one in due:
            seen: set[AgentId] = set()
            while new := [agent for agent in self._holders(one, now) if agent not in seen]:
                seen.update(new)
                for agent in new:
                    said = one.said.pop(agent, None)
                    if said is None or agent in one.covers:
                        continue
                    if said[0] == 0:
                        one.missing[agent] = None
                    elif one.track.more.get(agent) == said:
                        one.covers.add(agent)
                    else:
                        differing.setdefault(agent, []).append((one, said))
        return differing

    def _holders(self, one: _Due, now: float) -> tuple[AgentId, ...]:
        """Who should hold a basis, by what is known so far of who has no room for it."""
        full = frozenset(agent for agent in one.missing if self._refuses(agent, one, now))
        return holders_of(
            Situation(
                self._kademlia.agent,
                self._replication,
                one.near,
                lacks=frozenset(one.missing),
                leaving=self.leaving,
                full=full,
            )
        )

    async def _ask_states(
        self, differing: Mapping[AgentId, Sequence[tuple[_Due, Digest]]], stale: set[Cid]
    ) -> None:
        async def ask(agent: AgentId) -> None:
            pairs = [(one, cid) for one, _ in differing[agent] for cid, _ in self._held_at(one.basis)]
            lacking: dict[bytes, set[Cid]] = {one.basis: set() for one, _ in differing[agent]}
            for start in range(0, len(pairs), MAX_LACKS):
                part = pairs[start : start + MAX_LACKS]
                async with self._slots:
                    began = trio.current_time()
                    with self._transfers.asking(agent):
                        answers = await self._records.states(agent, [(one.basis, cid) for one, cid in part])
                    await self._took(agent, began, 70 * len(part))
                for (one, cid), state in zip(part, answers, strict=True):
                    if state == LACKS:
                        lacking[one.basis].add(cid)
                    elif state == HAS_ERASED and len(stale) < MAX_STALE:
                        stale.add(cid)
                if self._patience.is_slow(agent):
                    return
            for one, said in differing[agent]:
                if lacking[one.basis]:
                    one.missing[agent] = frozenset(lacking[one.basis])
                elif self._store.digest_of(one.basis) == one.track.digest:
                    one.covers.add(agent)
                    one.track.more[agent] = said

        async with trio.open_nursery() as nursery:
            for agent in sorted(differing):
                nursery.start_soon(self._with, agent, "comparing", partial(ask, agent))

    async def _with(self, agent: AgentId, doing: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do something with one peer; that it fails is its own matter, and the others go on."""
        if self._patience.is_slow(agent):
            return
        began = trio.current_time()
        try:
            await work()
        except NetworkError as error:
            if isinstance(error, RequestTimeout):
                self._patience.kept_waiting(agent, trio.current_time() - began)
            log.info("%s with %s stopped: %s", doing, agent.hex()[:8], error)
            if isinstance(error, FrameError):
                self._kademlia.report(agent)
            if self.leaving and isinstance(error, RequestRefused):
                self.refusing.add(agent)  # it is leaving too, or full: the next nearest takes its place

    # Sending.

    def _add_missing(self, one: _Due, agent: AgentId, wanted: dict[Cid, _Wanted]) -> None:
        missing = one.missing[agent]
        for cid, roles in self._held_at(one.basis):
            if missing is None or cid in missing:
                lack = wanted.setdefault(cid, _Wanted())
                lack.roles |= roles
                if roles & Role.SHARD:
                    lack.shards.add(one.basis)

    async def _push(self, agent: AgentId, wanted: Mapping[Cid, _Wanted]) -> None:
        async def push() -> None:
            # One after the other of a chain, each is what the next one names: nothing need be sent for it.
            cids = await self._run_blocking(self._store.in_chain_order, sorted(wanted))
            for start in range(0, len(cids), READ_AT_ONCE):
                part = cids[start : start + READ_AT_ONCE]
                found = await self._run_blocking(self._store.get_many, part)
                there = [record for record in found if record is not None]
                erased = self._erased(there)
                parts = (_item(record, wanted[record.cid], erased) for record in there)
                items = [item for item in parts if item is not None]
                while items:
                    async with self._slots:
                        began = trio.current_time()
                        with self._transfers.asking(agent):
                            statuses, size = await self._records.store(agent, items)
                        await self._took(agent, began, size)
                    self.sent += sum(status is StoreStatus.HELD for status in statuses)
                    self._patience.note(agent, items, statuses, trio.current_time())
                    items = items[len(statuses) :]
                    if self._patience.is_slow(agent):
                        return

        await self._with(agent, "repairing", push)

    async def _took(self, agent: AgentId, began: float, size: int) -> None:
        """A request to `agent` has been answered: note how slow that was, and rest."""
        self._patience.answered(agent, trio.current_time() - began, size)
        await self._transfers.rest(began, size)

    # Dropping.

    async def _drop_proven(self, candidates: Sequence[tuple[_Due, tuple[AgentId, ...]]]) -> None:
        asked_at = trio.current_time()
        samples = {one.basis: self._sample(one.basis) for one, _ in candidates}
        asked: dict[AgentId, dict[Cid, bool]] = {}
        for one, agents in candidates:
            for agent in agents:
                asked.setdefault(agent, {}).update(samples[one.basis])
        proven: dict[AgentId, set[Cid]] = {agent: set() for agent in asked}

        async def ask(agent: AgentId) -> None:
            cids = sorted(asked[agent])
            for start in range(0, len(cids), MAX_PROOFS):
                part = {cid: asked[agent][cid] for cid in cids[start : start + MAX_PROOFS]}
                async with self._slots:
                    began = trio.current_time()
                    with self._transfers.asking(agent):
                        proven[agent] |= await self._proofs.prove(agent, part)
                    await self._transfers.rest(began, 80 * len(part))

        async with trio.open_nursery() as nursery:
            for agent in sorted(asked):
                nursery.start_soon(self._with, agent, "proving", partial(ask, agent))
        for one, agents in candidates:
            sure = frozenset(agent for agent in agents if samples[one.basis].keys() <= proven[agent])
            now = trio.current_time()
            fresh = self._kademlia.placement == one.track.placement and now - asked_at < VOUCHED_S / 2
            if fresh and decide(replace(self._situation(one), proven=sure)).drop:
                await self._drop(one)
            elif not sure.issuperset(agents):
                # Who proved a record too often lately proves it only in its next cycle. Asked every minute,
                # every holder of every record would be elsewhere in its cycle, and never all would prove.
                one.track.rests_until = now + CYCLE_S * self._rng.uniform(1.0, 2.0)

    def _sample(self, basis: bytes) -> dict[Cid, bool]:
        """A random run of the records at a basis, and whether each must be proven with its payload."""
        point = record_cid_of_digest(self._rng.randbytes(32))
        rows = self._store.held_at(basis, point, SAMPLE)
        rows += self._store.held_at(basis, None, SAMPLE - len(rows)) if len(rows) < SAMPLE else []
        roles = dict(rows)
        found = [record for record in self._store.get_many(sorted(roles)) if record is not None]
        erased = self._erased(found)
        return {
            r.cid: needs_payload(r.header.kind, Role(roles[r.cid])) and r.cid not in erased for r in found
        }

    def _erased(self, records: Sequence[Record]) -> Container[Cid]:
        """Those whose payload their authors have purged: of them the header is all there is to hold."""
        bare = [one.cid for one in records if one.payload is None and one.header.kind in PURGEABLE]
        return self._store.purges_of(bare) if bare else ()

    async def _drop(self, one: _Due) -> None:
        cids = [cid for cid, _ in self._held_at(one.basis)]
        if not self._proofs.vouchers.let_go(cids, trio.current_time()):
            return
        # What is not held any more must not be found any more either: both or neither.
        with trio.CancelScope(shield=True):
            try:
                left = await self._store.drop(one.basis, one.track.digest)
                if left is not None:
                    await self._on_dropped(one.basis, left)
                    self.dropped += 1
                    self._tracks.pop(one.basis, None)
            finally:
                self._proofs.vouchers.gone(cids)

    def _held_at(self, basis: bytes) -> Iterable[tuple[Cid, int]]:
        after: Cid | None = None
        while page := self._store.held_at(basis, after, LIST_PAGE):
            yield from page
            after = page[-1][0]


def _item(record: Record, wanted: _Wanted, erased: Container[Cid]) -> Item | None:
    """What a holder in these roles gets; None for a record whose payload just went with another basis."""
    whole = needs_payload(record.header.kind, Role(wanted.roles))
    if whole and record.payload is None and record.cid not in erased:
        return None
    shards = tuple(sorted(wanted.shards))[:MAX_SHARDS]
    return Item(record if whole else record.without_payload(), wanted.roles, shards)
