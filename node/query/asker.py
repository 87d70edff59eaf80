"""The asker's side of a query: choose shards, ask one wave of holders, verify, merge, and say what it cost.

`node.query.choosing` names the shards, Kademlia their holders, and `node.query.wave` decides whom to ask. All
requests of a wave run at once under one deadline; a holder that is slow by its own history is hedged by the
next replica. What comes back is checked by `node.query.verifying` and settled by `node.query.gathering`. When
the deadline comes the answer is what is there, and says what it lacks (`node.query.effort`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.vector import PPM
from dht.errors import FrameError, NetworkError, PeerSilent, RefusalCode, RequestRefused, RequestTimeout
from dht.overlay.heartbeat import Heartbeats
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from dht.records.layouts import Layouts
from node.models import Answer, Cost, Hit
from node.query.choosing import FILTERED, ShardChoice, expected_recall_ppm
from node.query.effort import Reached, shortfall
from node.query.freshness import Freshened, Freshness
from node.query.gathering import Gathered
from node.query.question import Question
from node.query.result_cache import ResultCache
from node.query.search_protocol import (
    COPIES,
    METHOD,
    SearchRequest,
    decode_reply,
)
from node.query.spot_checks import SpotChecks
from node.query.steps import Steps
from node.query.text_check import Looked, TextCheck
from node.query.trail import LIKELY, MOVED, TO_CONFIRM, TOO_FEW, Trail, route_of
from node.query.verifying import Verifier
from node.query.wave import Ask, Wave
from node.query.wording import Wording
from sharding.tree import Prefix

DEFAULT_DEADLINE_MS = 3_000
MAX_DEADLINE_MS = 60_000
HEDGE_FACTOR = 3.0
"""A holder is hedged after this many times its usual latency, within the bounds below."""
HEDGE_LEAST_S = 0.15
HEDGE_MOST_S = 0.6
SEARCH_FACTOR = 2.0
"""A search is taken to last so many times a holder's smoothed latency, when a deadline is offered."""
LEAST_HITS = 10
"""Hits that the likeliest shards have to bring before the others are left unasked."""
LATE_S = 60.0
"""A holder that had to be hedged is asked last for so long, or until it answers in time: it costs one hedge,
not one in every query. By then the upkeep has found out whether it is alive."""
TEXTS_MARGIN_S = 0.005
"""Hits' texts are looked at until so long before the deadline: who has all hits is not cut off by that."""
WAIT_PART = 4
"""One part of so many of the deadline may go by in asking what has changed in others' shards."""
MAX_REPLANS = 3
"""So often a question goes on by a tree of shards that it has just heard of."""
SUSPECT_SHARE = 0.5
"""The part of what is left of a question's time that a holder whose answer was lost is waited for: who is
silent on purpose leaves the rest to the other shards."""
EXTRA_HOLDERS = 2
"""Holders looked up beyond R, for when the first ones are new, slow or gone."""
NO_GUEST_S = 20.0
"""Who had no copy of a shard is not tried again for so long."""

log = logging.getLogger(f"roseforest.{__name__}")


class Asker:
    """Answers this node's queries over the network."""

    def __init__(
        self,
        kademlia: Kademlia,
        choice: ShardChoice,
        spots: SpotChecks,
        wording: Wording,
        verifier: Verifier,
        unplaced: Callable[[Sequence[Cid]], set[Cid]],
        freshness: Freshness,
        texts: TextCheck,
        results: ResultCache,
        is_complete: Callable[[Prefix], bool],
        layouts: Layouts,
        finished: Callable[[Sequence[Prefix]], Awaitable[set[Prefix]]],
        heard: Callable[[Sequence[bytes], AgentId], Awaitable[object]],
        replication: int,
        clock: Clock,
        run_blocking: RunBlocking,
        heartbeats: Heartbeats,
        rng: Random,
    ) -> None:
        """`finished`: which of these former shards have nothing left that could be asked for. `heard` takes
        the proofs that a holder sends, that shards are none any more."""
        self._kademlia = kademlia
        self._choice = choice
        self._spots = spots
        self._wording = wording
        self._verifier = verifier
        self._unplaced = unplaced
        self._freshness = freshness
        self._texts = texts
        self._results = results
        self._is_complete = is_complete
        self._layouts = layouts
        self._finished = finished
        self._heard = heard
        self._replication = replication
        self._clock = clock
        self._run_blocking = run_blocking
        self._heartbeats = heartbeats
        self._rng = rng.choice
        self._late: dict[AgentId, float] = {}
        self._no_guests: dict[tuple[AgentId, Prefix], float] = {}
        self.queries = 0
        self.hits_refused = 0
        self.suspects_asked = 0
        """Requests to holders of whom an answer was lost, because nobody else was left."""

    async def ask(self, question: Question, steps: Steps | None = None) -> Answer:
        """The best entries of the network for a question, verified, with the answer's cost.

        The shards likeliest to hold the best are asked first. When they bring fewer than `k` hits (or fewer
        than `LEAST_HITS`: so few say nothing about where the rest lies), all others are asked as well.
        """
        self.queries += 1
        started = self._clock.monotonic()
        trail = Trail(self._clock, started)
        gathered = Gathered(steps or Steps(self._clock), trail)
        growth = self._layouts.growth
        with gathered.steps.step("route"):
            depth = max(question.k, LEAST_HITS) * (FILTERED if question.tags or question.filters else 1)
            wait_s = question.deadline_ms / 1_000 / WAIT_PART
            choice = await self._choice.choose(question.codes, depth, question.recall_ppm, wait_s)
            words, choice = await self._wording.ask(question, choice, wait_s)
        changes = self._results.changes
        likely, others = choice.likely, choice.others
        request = SearchRequest(
            likely, question.codes, max(question.k, LEAST_HITS), question.tags, question.filters, words
        )
        with gathered.steps.step("own"):
            await self._collect_own(request, gathered)
        contacted = missed = 0
        spent = gathered.steps.ms().get("embed", 0.0) / 1_000 + self._clock.monotonic() - started
        left = question.deadline_ms / 1_000 - spent
        best: list[Hit] = []
        outdated = 0
        freshened = Freshened()
        looked = Looked()
        with trio.move_on_after(max(0.0, left)) as scope:
            asked: set[Prefix] = set()
            waves = [(likely, LIKELY), (others, TOO_FEW)]
            replans = 0
            while waves:
                shards, why = waves.pop(0)
                if why == TOO_FEW and contacted and len(gathered.settled()[0]) >= request.k:
                    wanted = gathered.to_confirm(question.k) - asked
                    shards, why = tuple(shard for shard in shards if shard in wanted), TO_CONFIRM
                if not shards:
                    continue
                asked |= set(shards)
                trail.begin_wave(shards, why)
                contacted += len(shards)
                missed += len(shards)  # until their holders have answered
                with gathered.steps.step("plan"):
                    wave = await self._plan(shards, question.recall_ppm < PPM and not question.fresh)
                try:
                    with gathered.steps.step("wave"):
                        await self._run_wave(wave, replace(request, shards=shards), gathered)
                finally:
                    missed += len(wave.missed) - len(shards)
                    gathered.answered |= set(shards) - set(wave.missed)
                over = await self._finished([one for one in wave.missed if self._is_former(one)])
                missed -= len(over)
                gathered.answered |= over  # that nothing is there is an answer
                if self._layouts.growth is not growth and replans < MAX_REPLANS:
                    # We asked by a tree that is none any more; what has moved is asked for at once.
                    replans, growth = replans + 1, self._layouts.growth
                    choice = await self._choice.choose(question.codes, depth, question.recall_ppm, 0.0)
                    _, choice = await self._wording.ask(question, choice, 0.0)
                    first = tuple(one for one in choice.likely if one not in asked)
                    rest = tuple(one for one in choice.others if one not in asked)
                    waves = [(first, MOVED), (rest, TOO_FEW)]
            best, outdated = gathered.settled()
            if question.fresh:
                with gathered.steps.step("heads"):
                    best = await self._freshness.check(best, question, words, freshened)
            if self._texts.active:
                with gathered.steps.step("texts"):
                    left = scope.deadline - trio.current_time() - TEXTS_MARGIN_S
                    best = await self._texts.check(best, question.k, looked, left)
        if scope.cancelled_caught:
            # What is whole here was searched before the wave; others were only asked because they have more.
            here = {shard for shard in trail.why if self._is_complete(shard)} - gathered.answered
            gathered.answered |= here
            missed -= len(here)
            best, outdated = gathered.settled()
            best = [hit for hit in (freshened.hits.get(hit.id, hit) for hit in best) if hit is not None]
            best = self._texts.known(best, looked)
        self.hits_refused += gathered.refused
        self.suspects_asked += gathered.suspects_asked
        self._spots.hits(question.codes.tobytes(), best[: question.k])
        recall_ppm = expected_recall_ppm(choice, gathered.answered)
        known = not question.only_words or recall_ppm == PPM
        reached = Reached(
            recall_ppm if known else PPM, scope.cancelled_caught, missed, self._would_take_ms(trail)
        )
        answer = Answer(
            tuple(best[: question.k]),
            Cost(
                shards_contacted=contacted,
                shards_total=len(choice),
                nodes_contacted=len(gathered.nodes | freshened.nodes),
                ms=round((self._clock.monotonic() - started) * 1_000, 3),
                shards_missed=missed,
                deadline_hit=scope.cancelled_caught,
                hits_refused=gathered.refused,
                hits_outdated=outdated + freshened.ended,
                heads_checked=len(freshened.hits),
                heads_changed=freshened.changed,
                suspects_asked=gathered.suspects_asked,
                expected_recall=recall_ppm / PPM if contacted and known else None,
                shortfall=shortfall(question.recall_ppm, question.deadline_ms, MAX_DEADLINE_MS, reached),
                texts_checked=looked.checked,
                texts_unlike=looked.left_out,
                steps=gathered.steps.ms(),
            ),
            words=words,
        )
        self._results.keep(question, answer, trail.why, changes)
        if question.explain:
            route = route_of(trail, choice, question.recall_ppm, scope.cancelled_caught)
            answer = replace(answer, route=route)
        return answer

    def _would_take_ms(self, trail: Trail) -> float | None:
        """After how long those who were waited for would usually have answered; None before any was asked."""
        if not trail.requests:
            return None
        now = self._clock.monotonic()
        ends = [
            max(now, one.began_s + SEARCH_FACTOR * (self._kademlia.latency(one.node) or HEDGE_LEAST_S))
            for one in trail.waited_for()
        ]
        return (max(ends, default=now) - trail.began_s) * 1_000

    def _is_former(self, shard: Prefix) -> bool:
        return shard not in self._layouts.current.tree

    async def _plan(self, shards: Sequence[Prefix], by_guests: bool) -> Wave:
        """`by_guests`: those who only have a copy may be asked as well."""
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
        suspects = {shard: self._suspects(shard) for shard in shards}
        there = sorted({agent for some in (*holders.values(), *suspects.values()) for agent in some})
        costs = {agent: self._heartbeats.cost(agent, self._rng.random()) for agent in there}
        guests = self._guests(holders, now) if by_guests else frozenset()
        return Wave(holders, costs.__getitem__, self._replication, self._late.keys(), guests, suspects)

    def _suspects(self, shard: Prefix) -> list[AgentId]:
        found = self._kademlia.suspected_holders(shard.basis(), self._replication)
        return [one.agent for one in found]

    def _guests(
        self, holders: Mapping[Prefix, Sequence[AgentId]], now: float
    ) -> frozenset[tuple[AgentId, Prefix]]:
        """Who may have a copy, beside the holders, of what these say is asked for too much."""
        self._no_guests = {key: since for key, since in self._no_guests.items() if now - since < NO_GUEST_S}
        hot = self._heartbeats.book.hot(now)
        return frozenset(
            (agent, shard)
            for shard, agents in holders.items()
            if not hot.get(shard, set()).isdisjoint(agents[: self._replication])
            for agent in agents[self._replication :]
            if (agent, shard) not in self._no_guests
        )

    async def _run_wave(self, wave: Wave, request: SearchRequest, gathered: Gathered) -> None:
        async with trio.open_nursery() as nursery:

            def send(asks: Sequence[Ask], again: bool = True) -> None:
                for ask in asks:
                    nursery.start_soon(one, ask, again)
                if wave.done:
                    nursery.cancel_scope.cancel()

            async def one(ask: Ask, again: bool) -> None:
                here = ask.node == self._kademlia.agent
                sent = gathered.trail.request(ask.node, ask.shards, again, here)
                answered = trio.Event()
                slow = False

                async def hedge() -> None:
                    nonlocal slow
                    usual = self._kademlia.latency(ask.node) or HEDGE_LEAST_S
                    with trio.move_on_after(min(max(usual * HEDGE_FACTOR, HEDGE_LEAST_S), HEDGE_MOST_S)):
                        await answered.wait()
                        return
                    slow = sent.slow = True
                    self._late[ask.node] = self._clock.monotonic()
                    send(wave.on_slow(ask))

                if here:
                    # Own postings were collected before the wave; what is left to say is which shards are
                    # whole.
                    whole = [shard for shard in ask.shards if self._is_complete(shard)]
                    sent.answered(whole, 0, sent.began_s)
                    send(wave.on_answer(ask, whole))
                    return
                nursery.start_soon(hedge)
                gathered.nodes.add(ask.node)
                gathered.suspects_asked += ask.suspected
                self._heartbeats.used(ask.node)
                part = replace(request, shards=ask.shards)
                tried = [shard for shard in ask.shards if (ask.node, shard) in wave.guests]
                asked = self._clock.monotonic()
                try:
                    method = COPIES if tried else METHOD
                    body = await self._request(ask, method, part.encode())
                    now = self._clock.monotonic()
                    took = now - asked
                    self._heartbeats.book.answered(ask.node, took, now)
                    gathered.steps.longest("answer", took)
                    with gathered.steps.step("decode"):
                        reply = await self._run_blocking(decode_reply, body, part)
                    await self._verifier.take(ask.node, part, reply, gathered)
                    if reply.moved:  # looking up who stands for it takes time: the hits are in by then
                        await self._heard(reply.moved, ask.node)
                except NetworkError as error:
                    log.info("asking %s failed: %s", ask.node.hex()[:8], error)
                    if isinstance(error, FrameError):
                        self._kademlia.report(ask.node)
                    now = self._clock.monotonic()
                    self._no_guests.update(((ask.node, shard), now) for shard in tried)
                    if not _is_older(error):
                        self._heartbeats.book.failed(ask.node, now - asked, now)
                    sent.failed(str(error), now)
                    answered.set()
                    lost = isinstance(error, (RequestTimeout, PeerSilent))
                    send(wave.on_loss(ask) if lost else wave.on_failure(ask))
                    return
                self._no_guests.update(
                    ((ask.node, shard), now) for shard in tried if shard not in reply.complete
                )
                sent.answered(reply.complete, len(reply.ranking), self._clock.monotonic())
                answered.set()
                if not slow:
                    self._late.pop(ask.node, None)
                send(wave.on_answer(ask, reply.complete))

            send(wave.start(), again=False)

    async def _request(self, ask: Ask, method: str, body: bytes) -> bytes:
        """Raises as `Kademlia.request`."""
        if not ask.suspected:
            return await self._kademlia.request(ask.node, method, body)
        left = trio.current_effective_deadline() - trio.current_time()
        with trio.move_on_after(SUSPECT_SHARE * left):
            return await self._kademlia.request(ask.node, method, body, suspected=True)
        raise RequestTimeout(f"peer {ask.node.hex()[:8]} did not answer in its part of the question's time")

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


def _is_older(error: NetworkError) -> bool:
    """Whether a node of an earlier release was asked for a copy, and does not know what that is."""
    return isinstance(error, RequestRefused) and error.code == RefusalCode.UNKNOWN_METHOD
