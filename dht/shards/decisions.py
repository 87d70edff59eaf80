"""Decisions about shards: which this node believes, keeps and spreads, so that all come to one tree.

A proof is believed when two of the nodes nearest to the shard's basis stand for it: its signers, and those
who serve it, for whoever serves one has believed it. So a newcomer finds out about decisions whose signers
are long gone from those who hold the shard today. What waits for a second voice is kept, bounded.

Spreading is anti-entropy (Demers et al., 1987): every node compares one digest with a random peer every
`COMPARE_S`, and fetches the difference. Who has learned something compares with a few at once, among them
the holders of the prefix, and they fetch it from there. A comparison tells the other our digest too; when it
is new to it, it compares with us in turn. A node that joins compares before it answers questions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import trio

from chain import canonical
from chain.cid import Cid
from chain.identity import AgentId
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.network import MAX_BODY, Network
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from dht.records.layouts import Layouts
from dht.shards.messages import (
    LEFT,
    MAX_PREFIXES,
    MAX_REDIRECTS,
    PAGE,
    PROOFS,
    TREE,
    decode,
    decode_compare,
    decode_counts,
    decode_page,
    decode_prefixes,
    decode_proofs,
    digest_of,
    encode_compare,
    encode_page,
    encode_prefixes,
)
from sharding.errors import ShardStatementError
from sharding.growth import MAX_DECISIONS, Decision, lineage
from sharding.shard_life import SKEW_US, may_have_come
from sharding.shard_statement import Proof, open_proof
from sharding.tree import MAX_DEPTH, Prefix

NEAR = 20
"""Of so many nodes nearest to a shard's basis `VOICES` have to stand for a decision about it."""
VOICES = 2
COMPARE_S = 20.0
"""Seconds between comparisons with a random peer."""
COMPARE_FIRST_S = 2.0
"""After the start; then twice as long each time."""
TICK_S = 0.5
FANOUT = 6
"""Random peers compared with at once when something was learned."""
MORE = 2
"""And so many nodes beyond the R nearest to the prefix and its halves."""
MEET = 3
MEET_S = 10.0
"""A node that joins compares with so many, at most so long."""
COMPARE_MOST_S = 20.0
"""One comparison lasts at most so long: a peer that trickles its answers must not keep us from all others."""
AGAIN_S = 5.0
"""Between two comparisons with one peer that seems to know more, or less."""
MAX_DUE = 64
"""Peers to compare with at once; others meet us at random."""
MAX_HEARD = 4096
MAX_WAITING = 512
"""Proofs that wait for a second voice."""
MAX_WAITING_EACH = 64
"""Of these one peer has brought so many at most: what it made up does not crowd out what others brought."""
MAX_VOICES = 32

T = TypeVar("T")

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class _Waiting:
    proof: Proof
    brought_by: AgentId | None
    voices: set[AgentId] = field(default_factory=set)


class Memory(Protocol):
    """Where proofs outlive the process; both are blocking."""

    def load(self) -> tuple[list[bytes], list[tuple[Prefix, int]]]:
        """The proofs kept, and what was finished (`Layouts.finished`)."""
        ...

    def save(self, proofs: Sequence[bytes], finished: Sequence[tuple[Prefix, int]]) -> None:
        """Keep these in place of what was kept."""
        ...


class Decisions:
    """What one node knows about the shards of its network. `held` counts what lies here at a basis."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        layouts: Layouts,
        network_id: Cid,
        founded_us: int,
        replication: int,
        memory: Memory,
        held: Callable[[bytes], int],
        clock: Clock,
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        self._kademlia = kademlia
        self._layouts = layouts
        self._network_id = network_id
        self._founded_us = founded_us
        self._replication = replication
        self._memory = memory
        self._held = held
        self._clock = clock
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._proofs: dict[Prefix, Proof] = {}
        self._digest = digest_of(layouts.growth)
        self._waiting: dict[bytes, _Waiting] = {}
        self._news: list[Prefix] = []
        self._due: dict[AgentId, None] = {}
        self._compared: dict[AgentId, float] = {}
        self._heard: dict[AgentId, bytes] = {}
        self._saved: object = None
        self.on_changed: Callable[[], None] = lambda: None
        """Told when the tree is another one."""
        self.learned = 0
        """Decisions believed since the start."""
        network.register(TREE, kademlia.members_only(self._serve_tree))
        network.register(PROOFS, kademlia.members_only(self._serve_proofs))
        network.register(LEFT, kademlia.members_only(self._serve_left))

    @property
    def waiting(self) -> int:
        """Proofs for which nobody near stands yet."""
        return len(self._waiting)

    async def load(self) -> None:
        """Go on with what was known before the last stop."""
        kept, finished = await self._run_blocking(self._memory.load)
        for data in kept:
            try:
                proof = open_proof(data)
            except ShardStatementError as error:
                log.warning("a decision that was kept is passed over: %s", error)
                continue
            if proof.network == self._network_id and self._may_have_come(proof.decision):
                self._proofs[proof.decision.prefix] = proof
        self._grow()
        former = self._layouts.growth.former(self._layouts.birth.tree)
        self._layouts.finish(one for one, since in finished if former.get(one) == since)
        self._saved = self._state()

    async def take(self, proofs: Iterable[bytes], source: AgentId | None) -> bool:
        """Believe, or keep waiting, what these prove; whether anything was believed that was not before.

        `source` served them, or None where they were made here. Who serves something else is reported.
        """
        known = {one.data for one in self._proofs.values()}
        new = [data for data in proofs if data not in known]
        if not new:
            return False
        opened, bad = await self._run_blocking(_opened, new)
        bad += sum(one.network != self._network_id for one in opened)
        if bad and source is not None:
            self._kademlia.report(source)
        believed = False
        for proof in opened:
            ours = proof.network == self._network_id and self._matters(proof.decision)
            if ours and await self._stands(proof, source):
                # Looking up who is near takes time, and others may have brought more meanwhile.
                believed |= self._believe(proof)
        if believed:
            self._grow()
            self.on_changed()
        return believed

    def _believe(self, proof: Proof) -> bool:
        prefix = proof.decision.prefix
        known = self._proofs.get(prefix)
        if not proof.decision.beats(None if known is None else known.decision):
            return False
        self._proofs[prefix] = proof
        self._news.append(prefix)
        self.learned += 1
        return True

    def proofs_about(self, shards: Iterable[Prefix]) -> list[bytes]:
        """The proofs that these, asked for, are no shards any more; at most `MAX_REDIRECTS`."""
        tree = self._layouts.current.tree
        found: dict[Prefix, bytes] = {}
        if self._proofs:
            for shard in shards:
                if shard not in tree:
                    for one in lineage(shard):
                        proof = self._proofs.get(one)
                        if proof is not None and proof.decision.divided == (one == shard):
                            found[one] = proof.data
        return [found[one] for one in sorted(found)][:MAX_REDIRECTS]

    def stale(self, agent: AgentId) -> None:
        """Somebody's tree does not seem to be ours: compare with it soon."""
        if len(self._due) < MAX_DUE:
            self._due[agent] = None

    async def left(self, agent: AgentId, shards: Sequence[Prefix]) -> list[int | None]:
        """How much lies with a holder at these former shards; None: it has not heard that they are such.

        Raises `NetworkError`.
        """
        counts: list[int | None] = []
        for start in range(0, len(shards), MAX_PREFIXES):
            part = shards[start : start + MAX_PREFIXES]
            if agent == self._kademlia.agent:
                counts += self._left_here(part)
                continue
            reply = await self._kademlia.request(agent, LEFT, encode_prefixes(part))
            counts += decode_counts(reply, len(part))
        if None in counts:
            self.stale(agent)
        return counts

    # -- with others --

    async def run(self) -> None:
        """Compare and spread, for ever."""
        pause, waited = COMPARE_FIRST_S, 0.0
        while True:
            tick = TICK_S * self._rng.uniform(0.8, 1.2)
            await trio.sleep(tick)
            waited += tick
            agents = list(self._due)
            self._due.clear()
            if self._news:
                agents += await self._to_tell()
            if waited >= pause:
                waited, pause = 0.0, min(2 * pause, COMPARE_S)
                agents += self._some(1) + await self._who_may_confirm()
            now = trio.current_time()
            agents = [one for one in dict.fromkeys(agents) if one != self._kademlia.agent]
            async with trio.open_nursery() as nursery:
                for agent in agents:
                    if now >= self._compared.get(agent, -AGAIN_S) + AGAIN_S:
                        nursery.start_soon(self.compare, agent)
                    elif len(self._due) < MAX_DUE:
                        self._due[agent] = None
            await self._save()

    async def meet(self) -> None:
        """Compare with a few peers, so that what this node asks and answers is by the tree that all know."""
        with trio.move_on_after(MEET_S):
            for agent in self._some(MEET):
                await self.compare(agent)

    async def compare(self, agent: AgentId) -> None:
        """Fetch from one peer what it has believed and this node has not."""
        if len(self._compared) > MAX_HEARD:
            self._compared.clear()
        self._compared[agent] = trio.current_time()
        try:
            with trio.move_on_after(COMPARE_MOST_S):
                await self._compare(agent)
        except NetworkError as error:
            log.info("comparing shards with %s failed: %s", agent.hex()[:8], error)
            if isinstance(error, FrameError):
                self._kademlia.report(agent)

    async def _compare(self, agent: AgentId) -> None:
        after: Prefix | None = None
        for _ in range(MAX_DECISIONS // PAGE + 1):
            reply = await self._kademlia.request(agent, TREE, encode_compare(self._digest, after))
            digest, decisions = decode_page(reply)
            self._note(agent, digest)
            wanted = [one.prefix for one in decisions if self._matters(one)]
            for start in range(0, len(wanted), MAX_PREFIXES):
                part = wanted[start : start + MAX_PREFIXES]
                body = await self._kademlia.request(agent, PROOFS, encode_prefixes(part))
                await self.take(decode_proofs(decode(body, MAX_BODY), len(part)), agent)
            if len(decisions) < PAGE:
                return
            after = decisions[-1].prefix

    def _some(self, count: int) -> list[AgentId]:
        agents = [
            contact.agent
            for contact in self._kademlia.contacts()
            if not self._kademlia.is_suspect(contact.agent)
        ]
        return self._rng.sample(agents, min(count, len(agents)))

    async def _to_tell(self) -> list[AgentId]:
        news, self._news = self._news[:MAX_PREFIXES], self._news[MAX_PREFIXES:]
        agents = self._some(FANOUT)
        for prefix in news:
            for one in (prefix, *prefix.children()) if prefix.length < MAX_DEPTH else (prefix,):
                near = await self._kademlia.holders(one.basis(), self._replication + MORE)
                agents += [contact.agent for contact in near]
        for agent in agents:
            self._compared.pop(agent, None)
        return agents

    async def _who_may_confirm(self) -> list[AgentId]:
        """Some of those who would have to stand for what waits longest."""
        for one in list(self._waiting.values())[:1]:
            near = await self._kademlia.holders(one.proof.decision.prefix.basis(), NEAR)
            return self._rng.sample([contact.agent for contact in near], min(VOICES, len(near)))
        return []

    def _note(self, agent: AgentId, digest: bytes) -> bool:
        """What a peer knows; whether that is neither ours nor what it was last."""
        if len(self._heard) > MAX_HEARD:
            self._heard.clear()
        before, self._heard[agent] = self._heard.get(agent), digest
        return digest not in (before, self._digest)

    # -- what is believed --

    def _matters(self, decision: Decision) -> bool:
        """Whether this could change the tree, if it is believed."""
        growth, prefix = self._layouts.growth, decision.prefix
        return (
            decision.beats(growth.decisions.get(prefix))
            and prefix.generation in self._layouts.places.generations
            and prefix.length >= self._layouts.birth.tree.leaves[0].length
            and decision.at_us <= self._clock.wall_us() + SKEW_US
            and self._may_have_come(decision)
            and growth.has_room(prefix)
        )

    def _may_have_come(self, decision: Decision) -> bool:
        return may_have_come(decision, self._founded_us, self._layouts.birth.tree.leaves[0].length)

    async def _stands(self, proof: Proof, source: AgentId | None) -> bool:
        waiting = self._wait_for(proof, source)
        if waiting is None:
            return False
        near = await self._kademlia.holders(proof.decision.prefix.basis(), NEAR)
        nearest = {contact.agent for contact in near}
        if len(nearest & {*proof.signers, *waiting.voices}) < VOICES:
            return False
        self._waiting.pop(proof.data, None)
        return True

    def _wait_for(self, proof: Proof, source: AgentId | None) -> _Waiting | None:
        """The place where a proof waits for its voices; None where who brings it has brought too many."""
        waiting = self._waiting.get(proof.data)
        if waiting is None:
            theirs = sum(one.brought_by == source for one in self._waiting.values())
            if source is not None and theirs >= MAX_WAITING_EACH:
                return None
            waiting = self._waiting[proof.data] = _Waiting(proof, source)
            while len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
        if source is not None and len(waiting.voices) < MAX_VOICES:
            waiting.voices.add(source)
        return waiting

    def _grow(self) -> None:
        growth = self._layouts.growth.told(one.decision for one in self._proofs.values())
        for prefix in self._proofs.keys() - growth.decisions.keys():  # narrower ones than there is room for
            del self._proofs[prefix]
        if growth is not self._layouts.growth:
            self._layouts.grow(growth)
            self._digest = digest_of(growth)
            log.info(
                "%d shards by %d decisions", len(self._layouts.current.tree.leaves), len(growth.decisions)
            )

    def _state(self) -> object:
        return self._digest, self._layouts.finished

    async def _save(self) -> None:
        state = self._state()
        if state != self._saved:
            proofs = [self._proofs[one].data for one in sorted(self._proofs)]
            await self._run_blocking(self._memory.save, proofs, sorted(self._layouts.finished.items()))
            self._saved = state

    # -- what others ask --

    async def _serve_tree(self, sender: AgentId, body: bytes) -> bytes:
        digest, after = _read(decode_compare, body)
        if self._note(sender, digest):
            self.stale(sender)
        if digest == self._digest:
            return encode_page(self._digest, [])
        decisions = self._layouts.growth.decisions
        chosen = [one for one in sorted(decisions) if after is None or after < one][:PAGE]
        return encode_page(self._digest, [decisions[one] for one in chosen])

    async def _serve_proofs(self, sender: AgentId, body: bytes) -> bytes:
        prefixes = _read(decode_prefixes, body)
        return canonical.encode([self._proofs[one].data for one in prefixes if one in self._proofs])

    async def _serve_left(self, sender: AgentId, body: bytes) -> bytes:
        counts = self._left_here(_read(decode_prefixes, body))
        if None in counts:
            self.stale(sender)
        return canonical.encode(counts)

    def _left_here(self, shards: Collection[Prefix]) -> list[int | None]:
        former = self._layouts.growth.former(self._layouts.birth.tree)
        return [self._held(one.basis()) if one in former else None for one in shards]


def _read(reader: Callable[[bytes], T], body: bytes) -> T:
    try:
        return reader(body)
    except FrameError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error


def _opened(proofs: Sequence[bytes]) -> tuple[list[Proof], int]:
    """The proofs that verify, the shortest prefix first, and how many do not; blocking."""
    good: list[Proof] = []
    for data in proofs:
        try:
            good.append(open_proof(data))
        except ShardStatementError as error:
            log.warning("a decision about a shard is refused: %s", error)
    return sorted(good, key=lambda one: one.decision.prefix.length), len(proofs) - len(good)
