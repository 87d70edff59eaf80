"""The publisher: carries this agent's records to their holders until R of them have each.

Deciding is pure (`plan`): given the holders of each basis and the acknowledgements so far, it says which
record goes to whom in which roles, and which records have reached their level. The driver looks holders up,
sends bundles of about 100 kB with a bounded number in flight, and notes what came back. Nothing is forgotten:
a record stays pending until min(R, storing nodes) holders acknowledged every one of its roles, across
restarts, and becomes pending again when the network grows towards R. Only durable records are read, so
nothing leaves before its fsync.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from chain import canonical
from chain.cid import Cid
from chain.content import content_from_body
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT
from chain.record import Record, decode_payload
from dht.bundle import Item, bundle_value
from dht.errors import NetworkError
from dht.kademlia import Kademlia
from dht.network import MAX_BODY
from dht.placement import Layout, Role, bases_of, needs_payload, roles_of
from dht.record_store import Held, OwnRecords, Placement
from dht.replies import StoreStatus, read_statuses
from validation.named import named_by

BATCH_RECORDS = 512
"""Records planned at a time."""
FRAME_BYTES = 100_000
"""Target size of one store request: large enough to amortise it, small enough to share the stream."""
FRAME_ITEMS = 256
IN_FLIGHT_PER_PEER = 2
RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
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
    """Drives `plan` over the network. One a node; `wake` it after appending."""

    def __init__(
        self,
        own: OwnRecords,
        kademlia: Kademlia,
        layout: Layout,
        replication: int,
        hold_locally: Callable[[Sequence[Held]], Awaitable[None]],
    ) -> None:
        self._own = own
        self._kademlia = kademlia
        self._layout = layout
        self._replication = replication
        self._hold_locally = hold_locally
        self._wake = trio.Event()
        self.refusals: dict[str, int] = {}
        """Own records that a holder judged invalid, counted by rule: a sign of a bug or of a lying holder."""

    def wake(self) -> None:
        """There may be something to publish."""
        self._wake.set()

    @property
    def need(self) -> int:
        """How many holders each role needs now: min(R, storing nodes known)."""
        return min(self._replication, self._kademlia.storing_nodes())

    @property
    def pending(self) -> int:
        """Own records that have not reached `need` holders in every role."""
        return self._own.count_below(self.need) if self.need else self._own.count_below(1)

    async def run(self) -> None:
        """Publish for ever."""
        retry = RETRY_FIRST_S
        while True:
            self._wake = trio.Event()
            progressed = await self.publish_once()
            pending = self.pending
            if progressed and pending:
                retry = RETRY_FIRST_S
                continue
            retry = min(retry * 2, RETRY_MOST_S) if pending else RETRY_FIRST_S
            with trio.move_on_after(retry if pending and self.need else IDLE_S):
                await self._wake.wait()

    async def publish_once(self) -> bool:
        """Go once through all pending records; whether any acknowledgement came."""
        progressed = False
        after = -1
        while True:
            need = self.need
            records = self._own.below(need, after, BATCH_RECORDS) if need else []
            if not records:
                return progressed
            after = records[-1].header.seq
            progressed |= await self._publish(records, need)

    async def _publish(self, records: Sequence[Record], need: int) -> bool:
        acknowledged: dict[Cid, dict[AgentId, int]] = {}
        for row in self._own.placements([record.cid for record in records]):
            roles = acknowledged.setdefault(row.cid, {})
            roles[row.holder] = roles.get(row.holder, 0) | row.roles
        shards = self._shard_bases(records)
        placings: list[Placing] = []
        nearest: dict[bytes, tuple[AgentId, ...]] = {}  # most of a batch shares its author and its shards
        for record in records:
            holders: list[tuple[int, tuple[AgentId, ...]]] = []
            for role, basis in bases_of(record, roles_of(record.header.kind), shards.get(record.cid)):
                if basis not in nearest:
                    found = await self._kademlia.holders(basis, self._replication)
                    nearest[basis] = tuple(contact.agent for contact in found)
                holders.append((role, nearest[basis]))
            placings.append(Placing(record, tuple(holders)))
        decided = plan(placings, acknowledged, need)
        rows: list[Placement] = []
        async with trio.open_nursery() as nursery:
            for agent in sorted(decided.sends):
                nursery.start_soon(self._send_all, agent, decided.sends[agent], shards, rows)
        for row in rows:
            roles = acknowledged.setdefault(row.cid, {})
            roles[row.holder] = roles.get(row.holder, 0) | row.roles
        settled = plan(placings, acknowledged, need).settled
        if rows or settled:
            await self._own.placed(rows, [(cid, need) for cid in settled])
        return bool(rows or settled)

    async def _send_all(
        self,
        agent: AgentId,
        sends: list[tuple[Record, int]],
        shards: Mapping[Cid, bytes],
        rows: list[Placement],
    ) -> None:
        if agent == self._kademlia.agent:
            await self._hold_locally(
                [Held(r, bases_of(r, Role(roles), shards.get(r.cid))) for r, roles in sends]
            )
            rows.extend(Placement(record.cid, roles, agent) for record, roles in sends)
            return
        limiter = trio.CapacityLimiter(IN_FLIGHT_PER_PEER)
        failed = trio.Event()

        async def send(batch: list[tuple[Record, int]]) -> None:
            async with limiter:
                if failed.is_set():
                    return  # one failure is enough to leave this peer alone until the next round
                try:
                    rows.extend(await self._send(agent, batch))
                except NetworkError as error:
                    failed.set()
                    log.info("store at %s failed: %s", agent.hex()[:8], error)

        async with trio.open_nursery() as nursery:
            for batch in _frames(sends):
                nursery.start_soon(send, batch)

    async def _send(self, agent: AgentId, batch: list[tuple[Record, int]]) -> list[Placement]:
        opening = self._own.opening()
        named = sorted({cid for record, _ in batch for cid in named_by(record)})
        inside = {record.cid for record, _ in batch}
        headers = [record for record in self._own.get_many([c for c in named if c not in inside]) if record]
        items = [
            Item(
                record if needs_payload(record.header.kind, Role(roles)) else record.without_payload(), roles
            )
            for record, roles in batch
        ]
        body = canonical.encode(bundle_value([opening] if opening else [], headers, items))
        reply = await self._kademlia.request(agent, "record.store", body)
        statuses = read_statuses(reply, len(batch))
        rows: list[Placement] = []
        for (record, roles), (status, rule) in zip(batch, statuses, strict=True):
            if status is StoreStatus.HELD:
                rows.append(Placement(record.cid, roles, agent))
            elif status is StoreStatus.INVALID:
                self.refusals[rule] = self.refusals.get(rule, 0) + 1
                log.error("%s refuses our record seq %d by rule %s", agent.hex()[:8], record.header.seq, rule)
        return rows

    def _shard_bases(self, records: Sequence[Record]) -> dict[Cid, bytes]:
        pairs = []
        for record in records:
            if record.header.kind in CARRIES_CONTENT and record.payload is not None:
                try:
                    pairs.append((record, content_from_body(decode_payload(record.payload))))
                except ChainError:
                    continue
        keys = self._layout.keys(pairs)
        return {
            record.cid: self._layout.shard_basis(key) for (record, _), key in zip(pairs, keys, strict=True)
        }


def _frames(sends: list[tuple[Record, int]]) -> list[list[tuple[Record, int]]]:
    frames: list[list[tuple[Record, int]]] = []
    size = FRAME_BYTES
    for record, roles in sends:
        # each item brings its own bytes and, at worst, the header that its prev names
        cost = (
            2 * len(record.header_bytes) + 200 + (len(record.payload or b"") if roles & ~Role.AUTHOR else 0)
        )
        if size + cost > FRAME_BYTES or len(frames[-1]) >= FRAME_ITEMS:
            frames.append([])
            size = 0
        frames[-1].append((record, roles))
        size += cost
    return frames


assert FRAME_BYTES < MAX_BODY
