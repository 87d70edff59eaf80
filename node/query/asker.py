"""The asker's side of a query: choose shards, ask one wave of holders, verify, merge, and say what it cost.

`node.query.choosing` names the shards, Kademlia their holders, and `node.query.wave` decides whom to ask. All
requests of a wave run at once under one deadline; a holder that is slow by its own history is hedged by the
next replica. What comes back is checked by `node.query.verifying` and settled by `node.query.gathering`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.vector import Codes
from dht.errors import FrameError, NetworkError
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, RunBlocking
from dht.records.layouts import Layouts
from node.models import Answer, Cost, Hit
from node.query.choosing import ShardChoice
from node.query.freshness import Freshened, Freshness
from node.query.gathering import Gathered
from node.query.search_protocol import (
    METHOD,
    SearchRequest,
    decode_reply,
)
from node.query.steps import Steps
from node.query.verifying import Verifier
from node.query.wave import Ask, Wave
from sharding.tree import Prefix

DEFAULT_DEADLINE_MS = 3_000
HEDGE_FACTOR = 3.0
"""A holder is hedged after this many times its usual latency, within the bounds below."""
HEDGE_LEAST_S = 0.15
HEDGE_MOST_S = 0.6
LEAST_HITS = 10
"""Hits that the likeliest shards have to bring before the others are left unasked."""
LATE_S = 60.0
"""A holder that had to be hedged is asked last for so long, or until it answers in time: it costs one hedge,
not one in every query. By then the upkeep has found out whether it is alive."""
EXTRA_HOLDERS = 2
"""Holders looked up beyond R, for when the first ones are new, slow or gone."""

log = logging.getLogger(f"roseforest.{__name__}")


class Asker:
    """Answers this node's queries over the network."""

    def __init__(
        self,
        kademlia: Kademlia,
        choice: ShardChoice,
        verifier: Verifier,
        unplaced: Callable[[Sequence[Cid]], set[Cid]],
        freshness: Freshness,
        is_complete: Callable[[Prefix], bool],
        layouts: Layouts,
        finished: Callable[[Sequence[Prefix]], Awaitable[set[Prefix]]],
        replication: int,
        clock: Clock,
        run_blocking: RunBlocking,
    ) -> None:
        """`finished`: which of these former shards have nothing left that could be asked for."""
        self._kademlia = kademlia
        self._choice = choice
        self._verifier = verifier
        self._unplaced = unplaced
        self._freshness = freshness
        self._is_complete = is_complete
        self._layouts = layouts
        self._finished = finished
        self._replication = replication
        self._clock = clock
        self._run_blocking = run_blocking
        self._late: dict[AgentId, float] = {}
        self.queries = 0
        self.hits_refused = 0

    async def ask(
        self,
        codes: Codes,
        k: int,
        tags: Sequence[str],
        deadline_ms: int,
        fresh: bool = False,
        steps: Steps | None = None,
    ) -> Answer:
        """The `k` best entries of the network for `codes`, verified, with the answer's cost.

        With `fresh` the entries' own holders are asked whether the hits are still what they say.

        The shards likeliest to hold the best are asked first. When they bring fewer than `k` hits (or fewer
        than `LEAST_HITS`: so few say nothing about where the rest lies), all others are asked as well.
        """
        self.queries += 1
        started = self._clock.monotonic()
        gathered = Gathered(steps or Steps(self._clock))
        with gathered.steps.step("route"):
            likely, others = await self._run_blocking(self._choice.choose, codes)
        request = SearchRequest(likely, codes, max(k, LEAST_HITS), tuple(tags))
        with gathered.steps.step("own"):
            await self._collect_own(request, gathered)
        contacted = missed = 0
        left = deadline_ms / 1_000 - (self._clock.monotonic() - started)
        best: list[Hit] = []
        outdated = 0
        freshened = Freshened()
        with trio.move_on_after(max(0.0, left)) as scope:
            for shards in (likely, others):
                if contacted and len(gathered.settled()[0]) >= request.k:
                    wanted = gathered.to_confirm(k) - set(likely)
                    shards = tuple(shard for shard in others if shard in wanted)
                    if not shards:
                        break
                contacted += len(shards)
                missed += len(shards)  # until their holders have answered
                with gathered.steps.step("plan"):
                    wave = await self._plan(shards)
                try:
                    with gathered.steps.step("wave"):
                        await self._run_wave(wave, replace(request, shards=shards), gathered)
                finally:
                    missed += len(wave.missed) - len(shards)
                    gathered.answered |= set(shards) - set(wave.missed)
                missed -= len(await self._finished([one for one in wave.missed if self._is_former(one)]))
            best, outdated = gathered.settled()
            if fresh:
                with gathered.steps.step("heads"):
                    best = await self._freshness.check(best, k, codes, tags, freshened)
        if scope.cancelled_caught:
            best, outdated = gathered.settled()
            best = [hit for hit in (freshened.hits.get(hit.id, hit) for hit in best) if hit is not None]
        self.hits_refused += gathered.refused
        return Answer(
            tuple(best[:k]),
            Cost(
                shards_contacted=contacted,
                shards_total=len(likely) + len(others),
                nodes_contacted=len(gathered.nodes | freshened.nodes),
                ms=round((self._clock.monotonic() - started) * 1_000, 3),
                shards_missed=missed,
                deadline_hit=scope.cancelled_caught,
                hits_refused=gathered.refused,
                hits_outdated=outdated + freshened.ended,
                heads_checked=len(freshened.hits),
                heads_changed=freshened.changed,
                steps=gathered.steps.ms(),
            ),
        )

    def _is_former(self, shard: Prefix) -> bool:
        return shard.generation != self._layouts.current.generation

    async def _plan(self, shards: Sequence[Prefix]) -> Wave:
        count = self._replication + EXTRA_HOLDERS
        known = {shard: self._kademlia.known_holders(shard.basis(), count) for shard in shards}
        holders = {shard: [one.agent for one in found or ()] for shard, found in known.items()}

        async def find(shard: Prefix) -> None:
            found = await self._kademlia.holders(shard.basis(), count)
            holders[shard] = [one.agent for one in found]

        async with trio.open_nursery() as nursery:
            for shard in [shard for shard, found in known.items() if found is None]:
                nursery.start_soon(find, shard)
        now = self._clock.monotonic()
        self._late = {agent: since for agent, since in self._late.items() if now - since < LATE_S}
        return Wave(holders, self._cost, self._replication, self._late.keys())

    def _cost(self, agent: AgentId) -> float:
        return 0.0 if agent == self._kademlia.agent else 1.0 + (self._kademlia.latency(agent) or 0.0)

    async def _run_wave(self, wave: Wave, request: SearchRequest, gathered: Gathered) -> None:
        async with trio.open_nursery() as nursery:

            def send(asks: Sequence[Ask]) -> None:
                for ask in asks:
                    nursery.start_soon(one, ask)
                if wave.done:
                    nursery.cancel_scope.cancel()

            async def one(ask: Ask) -> None:
                answered = trio.Event()
                slow = False

                async def hedge() -> None:
                    nonlocal slow
                    usual = self._kademlia.latency(ask.node) or HEDGE_LEAST_S
                    with trio.move_on_after(min(max(usual * HEDGE_FACTOR, HEDGE_LEAST_S), HEDGE_MOST_S)):
                        await answered.wait()
                        return
                    slow = True
                    self._late[ask.node] = self._clock.monotonic()
                    send(wave.on_slow(ask))

                if ask.node == self._kademlia.agent:
                    # Own postings were collected before the wave; what is left to say is which shards are
                    # whole.
                    send(wave.on_answer(ask, [shard for shard in ask.shards if self._is_complete(shard)]))
                    return
                nursery.start_soon(hedge)
                gathered.nodes.add(ask.node)
                part = SearchRequest(ask.shards, request.codes, request.k, request.tags)
                try:
                    asked = self._clock.monotonic()
                    body = await self._kademlia.request(ask.node, METHOD, part.encode())
                    gathered.steps.longest("answer", self._clock.monotonic() - asked)
                    with gathered.steps.step("decode"):
                        reply = await self._run_blocking(decode_reply, body, part)
                    await self._verifier.take(ask.node, part, reply, gathered)
                except NetworkError as error:
                    log.info("asking %s failed: %s", ask.node.hex()[:8], error)
                    if isinstance(error, FrameError):
                        self._kademlia.report(ask.node)
                    answered.set()
                    send(wave.on_failure(ask))
                    return
                answered.set()
                if not slow:
                    self._late.pop(ask.node, None)
                send(wave.on_answer(ask, reply.complete))

            send(wave.start())

    async def _collect_own(self, request: SearchRequest, gathered: Gathered) -> None:
        """What this node has itself, in whatever shard: it costs no message.

        What lies in a shard that it does not hold completely may have been changed where it does not hear it.
        """

        def search() -> tuple[list[tuple[Hit, frozenset[Prefix]]], set[Cid]]:
            found, cids = self._verifier.search_own(request)
            return found, self._unplaced(cids)

        hits, unplaced = await self._run_blocking(search)
        for hit, shards in hits:
            sure = hit.record.cid in unplaced or any(map(self._is_complete, shards))
            gathered.add(hit, frozenset() if sure else shards)
