"""Migration: what lies at the shards of an earlier atlas is brought to those of the newest, and then dropped.

Each holder of a former shard goes through what lies there, a batch of entries at a time, and sees to it that
the holders of their present shards have all that is known here of them (`dht.repair.offers`); then it rests
for as long as that took. The nearest holder begins, the others follow a while later, and find little left to
do. What lies there stays, and is served, until the present holders have twice been found to lack nothing of
it, `CONFIRM_S` apart, and have then proven a random sample (`dht.records.proofs`): a query that asks both
places is over by then. `is_due` decides; `dht.records.layouts` says from when on.

The other half is the asker's: a former shard at which those nearest to it say that nothing lies is not asked
any more. Nothing of this is written down: a node that was away, or is new, finds out in the same way what is
left: its own former shards by looking, those of others by asking. But how far a node has gone through a
former shard is kept over its restarts (`dht.repair.move_log`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import trio

from chain.cid import Cid, record_cid_of_digest
from chain.identity import AgentId
from chain.record import Record
from dht.errors import FrameError, NetworkError
from dht.overlay.kademlia import Kademlia
from dht.ports import Random, RunBlocking
from dht.records.layouts import ASK_S, SPREAD_S, Layouts
from dht.records.methods import MAX_DIGESTS, RecordService
from dht.records.placement import Role, needs_payload
from dht.records.proofs import Proofs
from dht.records.record_store import Digest, HeldStore
from dht.repair.move_log import Move, MoveLog
from dht.repair.offers import Offers
from dht.repair.transfers import Transfers
from dht.shards.messages import MAX_PREFIXES
from sharding.tree import Prefix

BATCH = 100
"""Records whose entries are brought to their new shards together."""
TURN_S = 20.0
"""The next holder of a former shard begins so much later: by then most lies where it belongs."""
CONFIRM_S = 60.0
"""So long everything must have been at its new place before the old one goes: no query lasts longer."""
LOOK_S = 10.0
"""From one look at what is left to the next."""
SAMPLE = 32
"""Records of a former shard that their new holders have to prove, a random run of them."""
MORE = 2
"""Nodes beyond the R nearest that are asked, too, whether something is left at a former shard."""

MAX_ASKED = min(MAX_DIGESTS, MAX_PREFIXES)
"""Former shards asked about in one request."""

log = logging.getLogger(f"roseforest.{__name__}")

OnDropped = Callable[[bytes, Sequence[tuple[Cid, int]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Moved:
    """That all of a former shard, as it was then, was found at its new places, and since when."""

    digest: Digest
    since: float


def may_begin(age_s: float, rank: int) -> bool:
    """Whether the holder that `rank` others are nearer than moves what it has; seconds since the epoch."""
    return age_s >= SPREAD_S + TURN_S * rank


def is_due(moved: Moved | None, digest: Digest, age_s: float, now: float) -> bool:
    """Whether a former shard with this digest may be dropped, if all of it is found elsewhere once more."""
    return moved is not None and moved.digest == digest and now - moved.since >= CONFIRM_S and age_s >= ASK_S


def is_over(counts: Sequence[int | None], age_s: float) -> bool:
    """Whether a former shard at which the nearest nodes hold so many need not be asked any more.

    None: one of them does not know yet that it is a former shard.
    """
    return bool(counts) and age_s >= ASK_S and all(count == 0 for count in counts)


class Migration:
    """Drives the moves of one node. `age_s`: seconds since the newest atlas was published.

    `left` asks a holder what lies with it at former shards of the tree (`dht.shards.decisions`).
    `on_dropped` is told of a basis that went, and each record there with the roles that it still has here.
    """

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        proofs: Proofs,
        transfers: Transfers,
        offers: Offers,
        store: HeldStore,
        log_of_moves: MoveLog,
        layouts: Layouts,
        age_s: Callable[[], float],
        left: Callable[[AgentId, Sequence[Prefix]], Awaitable[list[int | None]]],
        replication: int,
        on_dropped: OnDropped,
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._proofs = proofs
        self._transfers = transfers
        self._offers = offers
        self._store = store
        self._layouts = layouts
        self._age_s = age_s
        self._left = left
        self._replication = replication
        self._on_dropped = on_dropped
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._moved: dict[Prefix, Moved] = {}
        self._log = log_of_moves
        self._begun = log_of_moves.moves()
        self._asking = trio.Lock()
        self.left = 0
        """Former shards of which something lies here, as last seen."""
        self.brought = 0
        """Entries of former shards brought to where they belong so far, or found there."""
        self.dropped = 0
        """Former shards dropped so far."""

    async def run(self) -> None:
        """Move for ever; waits while there is but one atlas."""
        while True:
            seen = self._layouts.version
            if len(self._layouts.places.generations) == 1 and not self._layouts.growth.decisions:
                await self._layouts.wait_changed(seen)
            await self.look()
            await self.finished(self._layouts.former_shards())
            with trio.move_on_after(LOOK_S * self._rng.uniform(0.8, 1.2)):
                await self._layouts.wait_changed(seen)

    async def look(self) -> None:
        """Go once through all former shards of which something lies here."""
        left = await self._run_blocking(self._layouts.left_behind)
        self.left = len(left)
        self._moved = {shard: moved for shard, moved in self._moved.items() if shard in left}
        await self._forget(self._begun.keys() - {shard.basis() for shard in left})
        for shard in left:
            near = await self._kademlia.holders(shard.basis(), self._replication)
            agents = [contact.agent for contact in near]
            me = self._kademlia.agent
            rank = agents.index(me) if me in agents else len(agents)
            if may_begin(self._layouts.age_s(shard, self._age_s()), rank):
                await self._look_at(shard)

    async def finished(self, shards: Sequence[Prefix]) -> set[Prefix]:
        """Those of these former shards at which nothing is left; they are not asked any more."""
        shards = [one for one in shards if self._layouts.age_s(one, self._age_s()) >= ASK_S]
        if not shards:
            return set()
        async with self._asking:
            asked: dict[AgentId, list[Prefix]] = {}
            heard: dict[Prefix, list[int | None]] = {shard: [] for shard in shards}
            silent: set[Prefix] = set()
            for shard in shards:
                for contact in await self._kademlia.holders(shard.basis(), self._replication + MORE):
                    if contact.agent == self._kademlia.agent:
                        heard[shard].append(self._store.digest_of(shard.basis())[0])
                    else:
                        asked.setdefault(contact.agent, []).append(shard)

            async def ask(agent: AgentId) -> None:
                for start in range(0, len(asked[agent]), MAX_ASKED):
                    part = asked[agent][start : start + MAX_ASKED]
                    try:
                        counts = await self._counts(agent, part)
                    except NetworkError as error:
                        self._failed(agent, error)
                        silent.update(part)
                        continue
                    for shard, count in zip(part, counts, strict=True):
                        heard[shard].append(count)

            async with trio.open_nursery() as nursery:
                for agent in sorted(asked):
                    nursery.start_soon(ask, agent)
            over = {
                shard
                for shard in shards
                if shard not in silent and is_over(heard[shard], self._layouts.age_s(shard, self._age_s()))
            }
            if over:
                self._layouts.finish(over)
            return over

    async def _counts(self, agent: AgentId, shards: Sequence[Prefix]) -> list[int | None]:
        """What lies with a holder at these; None where it has not heard that they are former shards."""
        generation = self._layouts.current.generation
        earlier = [one for one in shards if one.generation != generation]
        ours = [one for one in shards if one.generation == generation]
        counts: dict[Prefix, int | None] = {}
        if earlier:
            with self._transfers.asking(agent):
                digests = await self._records.digests(agent, [one.basis() for one in earlier])
            counts.update((one, count) for one, (count, _) in zip(earlier, digests, strict=True))
        if ours:
            with self._transfers.asking(agent):
                counts.update(zip(ours, await self._left(agent, ours), strict=True))
        return [counts[one] for one in shards]

    async def _look_at(self, shard: Prefix) -> None:
        basis, now = shard.basis(), trio.current_time()
        digest = self._store.digest_of(basis)
        known = self._moved.get(shard)
        due = is_due(known, digest, self._layouts.age_s(shard, self._age_s()), now)
        if known is not None and known.digest == digest and not due:
            return
        if not await self._bring(basis, digest):
            self._moved.pop(shard, None)
        elif not due:
            self._moved[shard] = Moved(digest, trio.current_time())
        elif await self._proven(basis) and await self._drop(basis, digest):
            del self._moved[shard]
            log.info("what lay at the former shard %s is where it belongs now", shard.text())

    async def _bring(self, basis: bytes, digest: Digest) -> bool:
        """Bring what lies at a former shard to its new places; whether all of it is there.

        What was brought before a restart is not brought again.
        """
        reached = True
        seen: set[Cid] = set()
        begun = self._begun.get(basis)
        for cids in self._pages(basis, begun.upto if begun is not None and begun.digest == digest else None):
            began = trio.current_time()
            found = await self._run_blocking(self._store.get_many, cids)
            entries = sorted({one.subject for one in found if one is not None} - seen)
            seen.update(entries)
            if entries and await self._offers.bring(entries):
                reached = False
            if reached:
                self._begun[basis] = Move(digest, cids[-1])
                await self._log.note_move(basis, self._begun[basis])
            self.brought += len(entries)
            await self._transfers.rest(began, 0)
        if reached:
            await self._forget({basis})  # the next look goes through all of it
        return reached

    async def _forget(self, bases: Collection[bytes]) -> None:
        gone = [basis for basis in bases if basis in self._begun]
        if gone:
            await self._log.forget_moves(gone)
            for basis in gone:
                del self._begun[basis]

    async def _proven(self, basis: bytes) -> bool:
        """Whether the new holders of a random run of what lies at a former shard prove that they hold it."""
        point = record_cid_of_digest(self._rng.randbytes(32))
        rows = self._store.held_at(basis, point, SAMPLE) or self._store.held_at(basis, None, SAMPLE)
        found = await self._run_blocking(self._store.get_many, [cid for cid, _ in rows])
        sample = {one.cid: one for one in found if one is not None}
        places = await self._offers.places_of(sorted({one.subject for one in sample.values()}))
        wanted: dict[AgentId, dict[Cid, bool]] = {}
        spread: list[tuple[bytes, list[Cid], list[AgentId]]] = []
        for (role, at), by_entry in places.places.items():
            cids = [cid for some in by_entry.values() for cid in some if cid in sample]
            if role == Role.SHARD and cids:
                near = await self._kademlia.holders(at, self._replication + MORE)
                spread.append((at, cids, [contact.agent for contact in near]))
                for agent in spread[-1][2]:
                    wanted.setdefault(agent, {}).update((cid, _whole(sample[cid])) for cid in cids)
        wanted.pop(self._kademlia.agent, None)
        proven: dict[AgentId, frozenset[Cid]] = {}
        for agent in sorted(wanted):
            try:
                with self._transfers.asking(agent):
                    proven[agent] = await self._proofs.prove(agent, wanted[agent])
            except NetworkError as error:
                self._failed(agent, error)
        for at, cids, agents in spread:
            need = min(self._replication, len(agents))
            lacks = self._store.lacking([(at, cid) for cid in cids])
            for cid, absent in zip(cids, lacks, strict=True):
                mine = self._kademlia.agent in agents and not absent
                if sum(cid in proven.get(agent, ()) for agent in agents) + mine < need:
                    return False
        return True

    async def _drop(self, basis: bytes, digest: Digest) -> bool:
        """Drop a former shard if it still is what was verified; whether it went.

        What lies nowhere else here must not have been proven to somebody a moment ago.
        """
        cids = [cid for page in self._pages(basis) for cid in page]
        places = await self._run_blocking(self._store.places_of, cids)
        last = [cid for cid, at in zip(cids, places, strict=True) if len(at) == 1]
        if not self._proofs.vouchers.let_go(last, trio.current_time()):
            return False
        # What is not held any more must not be found any more either: both or neither.
        with trio.CancelScope(shield=True):
            try:
                left = await self._store.drop(basis, digest)
                if left is not None:
                    await self._on_dropped(basis, left)
                    self.dropped += 1
            finally:
                self._proofs.vouchers.gone(last)
        return left is not None

    def _pages(self, basis: bytes, after: Cid | None = None) -> Iterator[list[Cid]]:
        while page := self._store.cids_at(basis, after, BATCH):
            yield page
            after = page[-1]

    def _failed(self, agent: AgentId, error: NetworkError) -> None:
        if isinstance(error, FrameError):
            self._kademlia.report(agent)
        log.info("moving to the new shards, %s: %s", agent.hex()[:8], error)


def _whole(record: Record) -> bool:
    return record.payload is not None and needs_payload(record.header.kind, Role.SHARD)
