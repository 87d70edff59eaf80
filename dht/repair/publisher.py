"""The publisher: carries this agent's records to their holders until R of them have each.

Deciding is pure (`plan`): given the holders of each basis and the acknowledgements so far, it says which
record goes to whom in which roles, and which records have reached their level. The driver looks holders up,
sends bundles of about 100 kB with a bounded number in flight, and notes what came back. Nothing is forgotten:
a record stays pending until min(R, storing nodes) holders that answer acknowledged every one of its roles,
across restarts, and becomes pending again when the network grows towards R.

Holders answer with receipts (`dht.records.receipts`), which are verified and kept beside the
acknowledgements; one that does not verify voids the whole answer. An acknowledgement without one, from an
older release, counts as a copy and not as a receipt.

When a holder dies after that, the other holders repair (`dht.repair.repairer`), and the author, who may be
offline, does not count the record again: at R nodes it was, and they see to it. Only when nobody is left that
ever acknowledged it in some role does its author, who has it in its chain, place it anew. Only durable
records are read, so nothing leaves before its fsync.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from chain import canonical
from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT
from chain.record import Record
from crdt.operations import content_of
from dht.errors import FrameError, NetworkError
from dht.network import MAX_BODY
from dht.overlay.distance import closest
from dht.overlay.kademlia import Kademlia
from dht.overlay.routing_table import K
from dht.ports import Random, RunBlocking
from dht.records.bundle import MAX_HEADERS, Item, bundle_value
from dht.records.layouts import Layouts, shard_named
from dht.records.methods import FRAME_BYTES, STORE_TIMEOUT_S
from dht.records.placement import Role, bases_of, needs_payload, roles_of
from dht.records.receipts import Kept, KeptBatch, check_receipts
from dht.records.record_store import Held, OwnRecords, Placement
from dht.records.replies import REFUSES, WANTS_RECEIPT, StoreStatus, read_receipted
from dht.repair.circuit import decorrelated
from validation.named import named_by

BATCH_RECORDS = 512
"""Records planned at a time."""
PURGE_COST = 1_000
"""Bytes that an erased record brings in its payload's stead, about: the purge, and the headers it names."""
IN_FLIGHT_PER_PEER = 2
MAX_DETOURS = 100_000
"""Copies owed to holders that were suspects when their records were placed; beyond it, catching up has to
find them."""
TURNED_AWAY_S = 300.0
"""After so long who would not take a record is asked again: it may have room by then."""
UNDECIDED_S = 120.0
"""Who has neither taken a record nor refused it for so long is passed over as well."""
UNDECIDED = frozenset({StoreStatus.PENDING, StoreStatus.INVALID})
MAX_TURNED_AWAY = 10_000
"""Records remembered with who would not take them; beyond it all are offered to everybody again."""
RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
GONE_AFTER_S = 30.0
"""Who has not answered for so long is gone, as far as the author's own records are concerned."""
CONFIRM_RECORDS = 64
"""Records at a time that are sent once more for the sake of their receipts."""
CONFIRM_PAUSE_S = 1.0
MUTE_S = 600.0
"""A holder that acknowledged without a receipt is not asked for one again for so long."""
IDLE_S = 30.0
"""At least this often pending records are looked at again, even when nothing woke the publisher."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class Placing:
    """One record, the roles it needs, and for each role the agents that should hold it, nearest first."""

    record: Record
    holders: tuple[tuple[int, tuple[AgentId, ...]], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to send what, and which records need nothing more."""

    sends: dict[AgentId, list[tuple[Record, int]]]
    settled: list[Cid]


@dataclass(slots=True)
class Got:
    """What holders said about what they were sent."""

    rows: list[Placement] = field(default_factory=list)
    receipts: list[KeptBatch] = field(default_factory=list)


def plan(placings: Sequence[Placing], acknowledged: Mapping[Cid, Mapping[AgentId, int]], need: int) -> Plan:
    """Decide what is still to be sent so that `need` holders have every role of every record.

    Acknowledgements of holders that are no longer among the nearest count: the copy exists.
    """
    sends: dict[AgentId, list[tuple[Record, int]]] = {}
    settled: list[Cid] = []
    for placing in placings:
        have = acknowledged.get(placing.record.cid, {})
        wanted: dict[AgentId, int] = {}
        complete = True
        for role, holders in placing.holders:
            missing = need - sum(1 for roles in have.values() if roles & role)
            if missing <= 0:
                continue
            complete = False
            for agent in holders:
                if missing > 0 and not have.get(agent, 0) & role:
                    wanted[agent] = wanted.get(agent, 0) | role
                    missing -= 1
        if complete:
            settled.append(placing.record.cid)
        for agent in sorted(wanted):
            sends.setdefault(agent, []).append((placing.record, wanted[agent]))
    return Plan(sends, settled)


class Publisher:
    """Drives `plan` over the network. One a node; `wake` it after appending.

    While a holder is suspected, the next nearest stands in for it, so that a dead node holds nothing up. If
    it comes back it is owed what it missed, and the debt counts as pending: a holder that answers queries as
    complete must not lack what was published meanwhile (hinted handoff; DeCandia et al., Dynamo, 2007).
    """

    def __init__(
        self,
        own: OwnRecords,
        kademlia: Kademlia,
        layouts: Layouts,
        network: Cid,
        replication: int,
        hold_locally: Callable[[Sequence[Held]], Awaitable[None]],
        records_of: Callable[[Sequence[Cid]], list[Record | None]],
        run_blocking: RunBlocking,
        rng: Random,
    ) -> None:
        """`records_of` finds own and held records: what is published may name those of others."""
        self._own = own
        self._records_of = records_of
        self._kademlia = kademlia
        self._layouts = layouts
        self._network = network
        self._replication = replication
        self._hold_locally = hold_locally
        self._run_blocking = run_blocking
        self._rng = rng.choice
        self._wake = trio.Event()
        self._went_through = trio.Event()
        self._detours: dict[AgentId, dict[Cid, int]] = {}
        self._silent: dict[AgentId, float] = {}
        self._gone: frozenset[AgentId] = frozenset()
        self._turned_away: dict[Cid, set[AgentId]] = {}
        self._turned_away_since = 0.0
        self._undecided: dict[tuple[Cid, AgentId], float] = {}
        self._mute: dict[AgentId, float] = {}
        self._confirmed_to = -1
        self.on_stale: Callable[[AgentId], None] = lambda agent: None
        """Told of a holder that may know of other shards than we do."""
        self.refused = 0
        """Own records that a holder judged invalid, each time: a sign of a bug or of a lying holder."""
        self.waits = True
        """Whether something waits for a holder, or is owed to one, since the last pass."""
        self.unsigned = 0
        """Acknowledgements that came without a receipt."""
        self.next_receipts = trio.Event()
        """Set, and replaced by another one, when receipts were kept."""

    def wake(self) -> None:
        """There may be something to publish."""
        self._wake.set()

    @property
    def need(self) -> int:
        """How many holders each role needs now: min(R, storing nodes known)."""
        return min(self._replication, self._kademlia.storing_nodes())

    @property
    def pending(self) -> int:
        """Own records that lack holders in some role, and copies owed to holders that are back."""
        owed = sum(len(self._detours[agent]) for agent in self._returned())
        return self._own.count_below(max(1, self.need)) + owed

    @property
    def unconfirmed(self) -> int:
        """Own records that fewer than min(R, storing nodes) holders have signed for in full."""
        return self._own.count_unconfirmed(self.need)

    async def drained(self) -> None:
        """Wait until nothing is pending."""
        while self.pending:
            self._went_through = trio.Event()
            await self._went_through.wait()

    async def run(self) -> None:
        """Publish for ever."""
        retry_s = 0.0
        while True:
            self._wake = trio.Event()
            progressed = await self.publish_once()
            self._went_through.set()
            pending = self.pending
            self.waits = pending > 0 or bool(self._detours)
            if progressed and pending:
                retry_s = 0.0
                continue
            draw = self._rng.random()
            retry_s = decorrelated(retry_s, draw, RETRY_FIRST_S, RETRY_MOST_S) if pending else 0.0
            pause = retry_s if pending and self.need else IDLE_S
            if not pending and await self.confirm_some():
                pause = CONFIRM_PAUSE_S
            with trio.move_on_after(pause):
                await self._wake.wait()

    async def publish_once(self) -> bool:
        """Go once through all pending records; whether any acknowledgement came."""
        await self._mourn()
        progressed = await self._pay_detours()
        if self._turned_away and trio.current_time() - self._turned_away_since >= TURNED_AWAY_S:
            self._turned_away.clear()
        after = -1
        while True:
            need = self.need
            records = self._own.below(need, after, BATCH_RECORDS) if need else []
            if not records:
                return progressed
            after = records[-1].header.seq
            progressed |= await self._publish(records, need)

    async def place_more(self, cid: Cid, besides: Container[AgentId], count: int) -> None:
        """Have `count` nodes besides these hold an own record at its subject, the nearest ones first.

        They need not: those beyond the R nearest let it go again after a while.
        """
        (record,) = self._own.get_many([cid])
        if record is None:
            return
        role = roles_of(record.header.kind) & (Role.SUBJECT | Role.AUTHOR)
        role = Role.SUBJECT if role & Role.SUBJECT else role
        (_, basis), *_ = bases_of(record, role, None)
        near = [contact.agent for contact in await self._kademlia.holders(basis, K)]
        more = [agent for agent in near if agent not in besides and agent != self._kademlia.agent][:count]
        got = Got()
        async with trio.open_nursery() as nursery:
            for agent in more:
                nursery.start_soon(self._send_all, agent, [(record, int(role))], {}, got)
        if got.rows:
            await self._note(got, [])

    async def confirm_some(self) -> bool:
        """Have holders sign for some records that they acknowledged without; whether any did.

        They did so in an older release, of theirs or of ours. What is sent is what they hold already.
        """
        records = self._own.unconfirmed(self.need, self._confirmed_to, CONFIRM_RECORDS)
        self._confirmed_to = records[-1].header.seq if records else -1
        now = trio.current_time()
        self._mute = {agent: until for agent, until in self._mute.items() if until > now}
        cids = [record.cid for record in records]
        signed = {(one.cid, one.holder) for cid in cids for one in self._own.signed_for(cid)}
        by_cid = {record.cid: record for record in records}
        sends: dict[AgentId, list[tuple[Record, int]]] = {}
        for row in self._own.placements(cids):
            silent = row.holder in self._mute or self._kademlia.is_suspect(row.holder)
            if not silent and (row.cid, row.holder) not in signed:
                sends.setdefault(row.holder, []).append((by_cid[row.cid], row.roles))
        got = Got()
        shards = await self._run_blocking(self.shard_bases, records)
        async with trio.open_nursery() as nursery:
            for agent in sorted(sends):
                nursery.start_soon(self._send_all, agent, sends[agent], shards, got)
        answered = {batch.holder for batch in got.receipts}
        self._mute.update((agent, now + MUTE_S) for agent in sends if agent not in answered)
        if got.rows:
            await self._note(got, [])
        return bool(got.receipts)

    async def _mourn(self) -> None:
        """Place again what only holders that are gone have acknowledged."""
        now = trio.current_time()
        self._silent = {agent: self._silent.get(agent, now) for agent in self._kademlia.suspects()}
        gone = frozenset(agent for agent, since in self._silent.items() if now - since >= GONE_AFTER_S)
        if gone - self._gone:
            count = await self._own.reopen(gone)
            if count:
                log.warning("everybody who held %d of our records is gone; they are placed again", count)
        self._gone = gone

    async def _publish(self, records: Sequence[Record], need: int) -> bool:
        copies: dict[Cid, dict[AgentId, int]] = {}
        _add_copies(copies, self._own.placements([record.cid for record in records]))
        shards = await self._run_blocking(self.shard_bases, records)
        placings: list[Placing] = []
        nearest: dict[bytes, tuple[AgentId, ...]] = {}  # most of a batch shares its author and its shards
        suspects: dict[bytes, list[AgentId]] = {}
        owed: dict[AgentId, dict[Cid, int]] = {}
        turned_away = max((len(self._turned_away.get(record.cid, ())) for record in records), default=0)
        for record in records:
            holders: list[tuple[int, tuple[AgentId, ...]]] = []
            for role, basis in bases_of(record, roles_of(record.header.kind), shards.get(record.cid)):
                if basis not in nearest:
                    count = min(K, self._replication + turned_away)
                    found = await self._kademlia.holders(basis, count)
                    nearest[basis] = tuple(contact.agent for contact in found)
                    suspects[basis] = self._suspects_at(basis)
                for agent in suspects[basis]:
                    owed.setdefault(agent, {}).setdefault(record.cid, 0)
                    owed[agent][record.cid] |= role
                away = self._turned_away.get(record.cid, ())
                willing = [agent for agent in nearest[basis] if agent not in away]
                holders.append((role, tuple(willing[: self._replication])))
            placings.append(Placing(record, tuple(holders)))
        decided = plan(placings, self._at_hand(copies), need)
        got = Got()
        async with trio.open_nursery() as nursery:
            for agent in sorted(decided.sends):
                nursery.start_soon(self._send_all, agent, decided.sends[agent], shards, got)
        _add_copies(copies, got.rows)
        settled = plan(placings, self._at_hand(copies), need).settled
        self._note_detours(owed, set(settled), copies)
        for cid in settled:
            self._turned_away.pop(cid, None)
        if got.rows or settled:
            await self._note(got, [(cid, need) for cid in settled])
        return bool(got.rows or settled)

    async def _note(self, got: Got, settled: Sequence[tuple[Cid, int]]) -> None:
        await self._own.placed(got.rows, settled, got.receipts)
        if got.receipts:
            self.next_receipts.set()
            self.next_receipts = trio.Event()

    def _at_hand(self, copies: Mapping[Cid, Mapping[AgentId, int]]) -> dict[Cid, dict[AgentId, int]]:
        """The copies at nodes that answer: one that cannot be had counts again when its holder is back."""
        return {
            cid: {agent: roles for agent, roles in by.items() if not self._kademlia.is_suspect(agent)}
            for cid, by in copies.items()
        }

    def _suspects_at(self, basis: bytes) -> list[AgentId]:
        """The known nodes that would be among the nearest if they were not suspected."""
        known = [*self._kademlia.contacts(), self._kademlia.self_contact()]
        storing = [contact for contact in known if contact.stores]
        ideal = closest(basis, storing, lambda contact: contact.position, self._replication)
        return [contact.agent for contact in ideal if self._kademlia.is_suspect(contact.agent)]

    def _note_detours(
        self,
        owed: Mapping[AgentId, Mapping[Cid, int]],
        settled: Container[Cid],
        acknowledged: Mapping[Cid, Mapping[AgentId, int]],
    ) -> None:
        room = MAX_DETOURS - sum(map(len, self._detours.values()))
        for agent in sorted(owed):
            for cid, roles in owed[agent].items():
                missing = roles & ~acknowledged.get(cid, {}).get(agent, 0)
                if cid in settled and missing and room > 0:
                    self._detours.setdefault(agent, {})[cid] = missing
                    room -= 1

    def _returned(self) -> list[AgentId]:
        """Holders that are owed copies and answer again; who left, or stores nothing now, is owed nothing."""
        for agent in list(self._detours):
            contact = self._kademlia.contact(agent)
            if contact is None or not contact.stores or not self._kademlia.is_member(agent):
                del self._detours[agent]
        return sorted(agent for agent in self._detours if not self._kademlia.is_suspect(agent))

    async def _pay_detours(self) -> bool:
        got = Got()
        for agent in self._returned():
            debt = self._detours.get(agent)
            if debt is None:
                continue  # it went while another one was paid
            cids = list(debt)[:BATCH_RECORDS]
            records = [record for record in self._own.get_many(cids) if record is not None]
            start = len(got.rows)
            shards = await self._run_blocking(self.shard_bases, records)
            await self._send_all(agent, [(record, debt[record.cid]) for record in records], shards, got)
            for row in got.rows[start:]:
                debt.pop(row.cid, None)
            if not debt:
                self._detours.pop(agent, None)
        if got.rows:
            await self._note(got, [])
        return bool(got.rows)

    async def _send_all(
        self,
        agent: AgentId,
        sends: list[tuple[Record, int]],
        shards: Mapping[Cid, bytes],
        got: Got,
    ) -> None:
        if agent == self._kademlia.agent:
            parts = [(_part(record, roles), roles) for record, roles in sends]
            await self._hold_locally([Held(r, bases_of(r, roles, shards.get(r.cid))) for r, roles in parts])
            got.rows.extend(Placement(record.cid, roles, agent) for record, roles in sends)
            kept = tuple(Kept(r.cid, 0, roles, r.payload is not None) for r, roles in parts)
            got.receipts.append(KeptBatch(agent, b"", b"", kept))
            return
        limiter = trio.CapacityLimiter(IN_FLIGHT_PER_PEER)
        failed = trio.Event()

        async def send(batch: list[tuple[Record, int]]) -> None:
            async with limiter:
                if failed.is_set():
                    return  # one failure is enough to leave this peer alone until the next round
                try:
                    await self.send(agent, batch, shards, got)
                except NetworkError as error:
                    failed.set()
                    if isinstance(error, FrameError):
                        self._kademlia.report(agent)  # when it goes on, the next nearest node takes its place
                    log.info("store at %s failed: %s", agent.hex()[:8], error)

        async with trio.open_nursery() as nursery:
            for batch in _frames(sends):
                nursery.start_soon(send, batch)

    async def send(
        self, agent: AgentId, batch: list[tuple[Record, int]], shards: Mapping[Cid, bytes], got: Got
    ) -> None:
        """Have one holder store own records in these roles, in one request if it takes them; `got` takes what
        it says.

        Everything that an author publishes passes here. Raises `NetworkError`.
        """
        opening = self._own.opening()
        erased = self._own.purges_of([r.cid for r, _ in batch if r.payload is None]).values()
        purges = {purge.cid: purge for purge in erased}
        named = {cid for one in (*(r for r, _ in batch), *purges.values()) for cid in named_by(one)}
        named -= {record.cid for record, _ in batch} | purges.keys()
        found = [record.without_payload() for record in self._records_of(sorted(named)) if record]
        headers = [*found, *purges.values()]
        parts = [(_part(record, roles), roles) for record, roles in batch]
        items = [
            Item(
                record,
                roles | WANTS_RECEIPT,
                shard_named(shards.get(record.cid)) if roles & Role.SHARD else (),
            )
            for record, roles in parts
        ]
        body = canonical.encode(bundle_value([opening] if opening else [], headers, items))
        if len(batch) > 1 and (len(body) > MAX_BODY or len(headers) > MAX_HEADERS):
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                await self.send(agent, half, shards, got)
            return
        reply = await self._kademlia.request(agent, "record.store", body, most=STORE_TIMEOUT_S)
        statuses, statement = read_receipted(reply, len(batch))
        if any(status is StoreStatus.PENDING for status, _ in statuses):
            self.on_stale(agent)
        held = [
            Placement(record.cid, roles, agent)
            for (record, roles), (status, _) in zip(batch, statuses, strict=True)
            if status is StoreStatus.HELD
        ]
        if statement is not None:
            sent = [(record, roles, shards.get(record.cid)) for record, roles in parts]
            got.receipts.append(
                await self._run_blocking(check_receipts, statement, agent, self._network, sent, statuses)
            )
        else:
            self.unsigned += len(held)
        got.rows.extend(held)
        for (record, _), (status, _) in zip(batch, statuses, strict=True):
            if status in REFUSES or self._is_stubborn(record.cid, agent, status):
                if not self._turned_away:
                    self._turned_away_since = trio.current_time()
                self._turned_away.setdefault(record.cid, set()).add(agent)
        if len(self._turned_away) > MAX_TURNED_AWAY:
            self._turned_away.clear()
        refused = [rule for status, rule in statuses if status is StoreStatus.INVALID]
        if refused:
            # One line a reply, and no count by rule: the names are the holder's, who may invent them.
            self.refused += len(refused)
            log.error("%s refuses %d of our records, first by %r", agent.hex()[:8], len(refused), refused[0])

    def _is_stubborn(self, cid: Cid, agent: AgentId, status: StoreStatus) -> bool:
        """Whether a holder has been undecided about a record for too long."""
        if status not in UNDECIDED:
            self._undecided.pop((cid, agent), None)
            return False
        if len(self._undecided) >= MAX_TURNED_AWAY:
            self._undecided.clear()
        now = trio.current_time()
        return now - self._undecided.setdefault((cid, agent), now) >= UNDECIDED_S

    def shard_bases(self, records: Sequence[Record]) -> dict[Cid, bytes]:
        """The bases of the shards in which content records lie; blocking."""
        pairs = []
        for record in records:
            if record.header.kind in CARRIES_CONTENT and record.payload is not None:
                try:
                    pairs.append((record, content_of(record)))
                except ChainError:
                    continue
        layout = self._layouts.writes
        return {
            record.cid: layout.shard_basis(key)
            for (record, _), key in zip(pairs, layout.keys(pairs), strict=True)
        }


def _add_copies(copies: dict[Cid, dict[AgentId, int]], rows: Sequence[Placement]) -> None:
    for row in rows:
        roles = copies.setdefault(row.cid, {})
        roles[row.holder] = roles.get(row.holder, 0) | row.roles


def _part(record: Record, roles: int) -> Record:
    """What a holder in these roles gets: activity is kept as headers."""
    return record if needs_payload(record.header.kind, roles) else record.without_payload()


def _payload_cost(record: Record) -> int:
    return PURGE_COST if record.payload is None else len(record.payload)


def _frames(sends: list[tuple[Record, int]]) -> list[list[tuple[Record, int]]]:
    frames: list[list[tuple[Record, int]]] = []
    size = FRAME_BYTES
    for record, roles in sends:
        # each item brings its own bytes and, at worst, the header that its prev names
        cost = 2 * len(record.header_bytes) + 200 + (_payload_cost(record) if roles & ~Role.AUTHOR else 0)
        if size + cost > FRAME_BYTES:
            frames.append([])
            size = 0
        frames[-1].append((record, roles))
        size += cost
    return frames


assert FRAME_BYTES < MAX_BODY
