"""Who divides a shard, and who joins two: the nearest of its holders proposes, another one signs as well.

A holder counts what lies at the shards that it holds completely and looks from time to time whether one has
outgrown its size, or two are too thin (`sharding.shard_life`). The nearest of R proposes when that has been
so for `HOLD_S`, the next ones later, in case it does not. Whoever is asked to sign counts for itself, and
signs only what it would nearly propose, never two decisions against each other of one version. While an atlas
is being replaced nothing is decided.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from chain.cid import Cid
from chain.identity import AgentId, Identity
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from dht.records.layouts import Layouts
from dht.records.methods import RecordService
from dht.shards.decisions import MORE, Decisions
from dht.shards.messages import SIGN, decode, encode_decision, read_decision
from sharding.errors import ShardStatementError
from sharding.growth import MAX_TIME_US, Decision
from sharding.shard_life import Wanted, divisible, may_change, next_version, signs, wanted
from sharding.shard_statement import open_decision, proof_of, sign_decision
from sharding.tree import Prefix

LOOK_S = 15.0
HOLD_S = 30.0
"""So long a shard has to have been too full, or two too thin, before the nearest proposes; the next ones wait
as much longer each."""
MAX_SIGNED = 1024
"""Decisions signed that are remembered; each matters until it is known to all."""

log = logging.getLogger(f"roseforest.{__name__}")


class Proposer:
    """Proposes and signs for one node.

    `count`: how many postings a search finds here under a prefix; `heads`: the 48-bit heads of their keys.
    Both block. `target` is B; 0: this node neither proposes nor signs.
    """

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        decisions: Decisions,
        layouts: Layouts,
        identity: Identity,
        network_id: Cid,
        replication: int,
        target: int,
        count: Callable[[Prefix], int],
        heads: Callable[[Prefix], Sequence[int]],
        is_complete: Callable[[Prefix], bool],
        clock: Clock,
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._decisions = decisions
        self._layouts = layouts
        self._identity = identity
        self._network_id = network_id
        self._replication = replication
        self._target = target
        self._count = count
        self._heads = heads
        self._is_complete = is_complete
        self._clock = clock
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._since: dict[Wanted, float] = {}
        self._signed: dict[Prefix, Decision] = {}
        self.proposed = 0
        """Decisions that came about by this node's proposal."""
        network.register(SIGN, kademlia.members_only(self._serve_sign))

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await trio.sleep(LOOK_S * self._rng.uniform(0.8, 1.2))
            await self.look()

    async def look(self) -> None:
        """Propose what it is time for."""
        if not self._target or self._layouts.places.former:
            self._since.clear()
            return
        now_us, now = self._clock.wall_us(), trio.current_time()
        whole = [leaf for leaf in self._layouts.current.tree.leaves if self._is_complete(leaf)]
        counts = await self._run_blocking(self._counts, whole)
        await self._count_siblings(counts, now_us)
        changes = wanted(
            self._layouts.current.tree,
            self._layouts.growth,
            self._least,
            counts,
            self._target,
            now_us,
        )
        self._since = {one: self._since.get(one, now) for one in changes}
        for one in changes:
            near = [
                c.agent for c in await self._kademlia.holders(one.prefix.basis(), self._replication + MORE)
            ]
            me = self._kademlia.agent
            if me not in near[: self._replication]:
                continue
            if now - self._since[one] >= HOLD_S * (1 + near.index(me)):
                if one.divided and not divisible(
                    await self._run_blocking(self._heads, one.prefix), one.prefix
                ):
                    continue
                await self._propose(one, near)

    @property
    def _least(self) -> int:
        return self._layouts.birth.tree.leaves[0].length

    def _counts(self, leaves: Sequence[Prefix]) -> dict[Prefix, int]:
        return {leaf: self._count(leaf) for leaf in leaves}

    async def _count_siblings(self, counts: dict[Prefix, int], now_us: int) -> None:
        """Ask about the other halves of those that are so thin that the two may become one."""
        tree, growth = self._layouts.current.tree, self._layouts.growth
        for leaf in [one for one, count in counts.items() if 2 * count < self._target]:
            if leaf.length <= self._least or leaf.sibling() in counts:
                continue
            if not may_change(tree, growth, self._least, leaf.parent(), False, now_us):
                continue
            found = await self._ask_count(leaf.sibling())
            if found is not None:
                counts[leaf.sibling()] = found

    async def _ask_count(self, shard: Prefix, proposer: AgentId | None = None) -> int | None:
        """The most records that another holder of a shard has there, no fewer than its postings.

        None where nobody says. Who proposes a change is not asked, unless nobody else holds anything: or else
        it could have any number signed, all alone, by those who are near and no holders.
        """
        not_asked = {self._kademlia.agent}
        if proposer is not None and self._replication > 1:
            not_asked.add(proposer)
        counts: list[int] = []
        for contact in await self._kademlia.holders(shard.basis(), self._replication):
            if contact.agent not in not_asked:
                try:
                    ((count, _),) = await self._records.digests(contact.agent, [shard.basis()])
                    counts.append(count)
                except NetworkError as error:
                    self._failed(contact.agent, error)
        return max(counts, default=None)

    async def _propose(self, change: Wanted, near: Sequence[AgentId]) -> None:
        decision = Decision(
            change.prefix,
            next_version(self._layouts.growth, change.prefix),
            change.divided,
            self._clock.wall_us(),
        )
        if not self._may_sign(decision):
            return
        mine = sign_decision(self._identity, self._network_id, decision).data
        for agent in near:
            if agent == self._kademlia.agent:
                continue
            try:
                theirs = await self._kademlia.request(agent, SIGN, encode_decision(decision))
                proof = await self._run_blocking(self._proof, decision, mine, theirs, agent)
            except NetworkError as error:
                self._failed(agent, error)
                continue
            if await self._decisions.take([proof], None):
                self.proposed += 1
                log.info("shard %s %s", change.prefix.text(), "divides" if change.divided else "is one again")
                return

    def _proof(self, decision: Decision, mine: bytes, theirs: bytes, agent: AgentId) -> bytes:
        try:
            author, network, said = open_decision(theirs)
            if (author, network, said) != (agent, self._network_id, decision):
                raise FrameError("it signs something else than it was asked to")
            return proof_of((mine, theirs)).data
        except ShardStatementError as error:
            raise FrameError(str(error)) from error

    def _may_sign(self, decision: Decision) -> bool:
        """Whether nothing against this was signed here; it is remembered from now on."""
        last = self._signed.get(decision.prefix)
        against = last is not None and last.version >= decision.version and last.divided != decision.divided
        if against:
            return False
        self._signed.pop(decision.prefix, None)
        self._signed[decision.prefix] = decision
        while len(self._signed) > MAX_SIGNED:
            del self._signed[next(iter(self._signed))]
        return True

    async def _serve_sign(self, sender: AgentId, body: bytes) -> bytes:
        try:
            decision = read_decision(decode(body))
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        why = await self._why_not(decision, sender)
        if why is None and not self._may_sign(decision):
            why = "the contrary was signed"
        if why is not None:
            raise RequestRefused(RefusalCode.FORBIDDEN, f"not signed: {why}")
        return sign_decision(self._identity, self._network_id, decision).data

    async def _why_not(self, decision: Decision, sender: AgentId) -> str | None:
        prefix = decision.prefix
        if not self._target:
            return "this node takes no part in that"
        if self._layouts.places.former:
            return "an atlas is being replaced"
        if prefix.generation != self._layouts.current.generation or decision.at_us >= MAX_TIME_US:
            return "no such shard"
        near = await self._kademlia.holders(prefix.basis(), self._replication + MORE)
        if not {sender, self._kademlia.agent} <= {one.agent for one in near}:
            return "its holders are others"
        if decision.version > next_version(self._layouts.growth, prefix):
            self._decisions.stale(sender)
        counts: list[int] = []
        for one in (prefix,) if decision.divided else prefix.children():
            if self._is_complete(one):
                found: int | None = await self._run_blocking(self._count, one)
            else:
                found = await self._ask_count(one, sender)
            if found is None:
                return "its size is not known here"
            counts.append(found)
        return signs(
            self._layouts.current.tree,
            self._layouts.growth,
            self._least,
            decision,
            tuple(counts),
            self._target,
            self._clock.wall_us(),
        )

    def _failed(self, agent: AgentId, error: NetworkError) -> None:
        if isinstance(error, FrameError):
            self._kademlia.report(agent)
        log.info("about shards, %s: %s", agent.hex()[:8], error)
