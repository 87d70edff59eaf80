"""The asker's side of a query: choose shards, ask one wave of holders, verify, merge, and say what it cost.

The query's shards come from the atlas (`sharding.routing`), their holders from Kademlia, and `node.wave`
decides whom to ask. All requests of a wave run at once under one deadline; a holder that is slow by its own
history is hedged by the next replica. Every hit is verified here: the record's signature and payload hash,
the network and epoch, its author's opening records, the content's shape, and the score, recomputed from the
signed vector; a hit that fails is dropped and counts against the holder that sent it. Nothing is believed
because of who said it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import trio

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.identity import AgentId
from chain.record import Record
from chain.vector import Codes, codes_from_bytes, score_ppm
from dht.bundle import Bundle, Item
from dht.errors import FrameError, NetworkError
from dht.intake import Intake
from dht.kademlia import Kademlia
from dht.network import Network
from dht.placement import Layout
from dht.ports import Clock, RunBlocking
from dht.records import RecordService
from node.holder import Holder, RecordsOf
from node.models import Answer, Cost, Hit
from node.search_protocol import (
    METHOD,
    SearchReply,
    SearchRequest,
    decode_reply,
    decode_request,
    encode_reply,
)
from node.wave import Ask, Wave
from sharding.routing import CONTACT_MASS_PPM, contact_set, route
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
MAX_SERVED = 2
"""Searches for others under way at a time; the rest wait their turn. One for a rare tag reads whole shards,
and writing, which needs a worker thread too, must not wait behind dozens of them."""
EXTRA_HOLDERS = 2
"""Holders looked up beyond R, for when the first ones are new, slow or gone."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(slots=True)
class _Gathered:
    """What a wave has brought so far; a record's best proof is the first that verified."""

    hits: dict[Cid, Hit] = field(default_factory=dict)
    nodes: set[AgentId] = field(default_factory=set)
    refused: int = 0


class Asker:
    """Answers this node's queries over the network, and serves `shard.search` to others."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        holder: Holder,
        records_of: RecordsOf,
        is_complete: Callable[[Prefix], bool],
        intake: Intake,
        layout: Layout,
        dim: int,
        replication: int,
        clock: Clock,
        run_blocking: RunBlocking,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._holder = holder
        self._records_of = records_of
        self._is_complete = is_complete
        self._intake = intake
        self._layout = layout
        self._dim = dim
        self._replication = replication
        self._clock = clock
        self._run_blocking = run_blocking
        self._late: dict[AgentId, float] = {}
        self._serving = trio.Semaphore(MAX_SERVED)
        self.queries = 0
        self.served = 0
        self.hits_refused = 0
        network.register(METHOD, kademlia.members_only(self._serve))

    async def ask(self, codes: Codes, k: int, tags: Sequence[str], deadline_ms: int) -> Answer:
        """The `k` best entries of the network for `codes`, verified, with the answer's cost.

        The shards likeliest to hold the best are asked first. When they bring fewer than `k` hits (or fewer
        than `LEAST_HITS`: so few say nothing about where the rest lies), all others are asked as well.
        """
        self.queries += 1
        started = self._clock.monotonic()
        likely, others = await self._run_blocking(self._choose, codes)
        request = SearchRequest(likely, codes, max(k, LEAST_HITS), tuple(tags))
        gathered = _Gathered()
        await self._collect_own(request, gathered)
        contacted = missed = 0
        left = deadline_ms / 1_000 - (self._clock.monotonic() - started)
        with trio.move_on_after(max(0.0, left)) as scope:
            for shards in (likely, others):
                if contacted and len(gathered.hits) >= request.k:
                    break
                contacted += len(shards)
                missed += len(shards)  # until their holders have answered
                wave = await self._plan(shards)
                try:
                    await self._run_wave(wave, replace(request, shards=shards), gathered)
                finally:
                    missed += len(wave.missed) - len(shards)
        best = sorted(gathered.hits.values(), key=lambda hit: (-hit.score, hit.id))
        self.hits_refused += gathered.refused
        return Answer(
            tuple(best[:k]),
            Cost(
                shards_contacted=contacted,
                shards_total=len(self._layout.tree.leaves),
                nodes_contacted=len(gathered.nodes),
                ms=round((self._clock.monotonic() - started) * 1_000, 3),
                shards_missed=missed,
                deadline_hit=scope.cancelled_caught,
                hits_refused=gathered.refused,
            ),
        )

    def _choose(self, codes: Codes) -> tuple[tuple[Prefix, ...], tuple[Prefix, ...]]:
        """The shards to ask first, and all others; each in the order of the curve."""
        leaves = self._layout.tree.leaves
        if self._layout.atlas is None:
            return tuple(leaves), ()
        scored = route(self._layout.atlas, self._layout.tree, codes)
        likely = set(contact_set(scored, CONTACT_MASS_PPM, len(leaves)))
        return (
            tuple(leaf for leaf in leaves if leaf in likely),
            tuple(leaf for leaf in leaves if leaf not in likely),
        )

    async def _plan(self, shards: Sequence[Prefix]) -> Wave:
        holders = {
            shard: [
                c.agent
                for c in await self._kademlia.holders(shard.basis(), self._replication + EXTRA_HOLDERS)
            ]
            for shard in shards
        }
        now = self._clock.monotonic()
        self._late = {agent: since for agent, since in self._late.items() if now - since < LATE_S}
        return Wave(holders, self._cost, self._replication, self._late.keys())

    def _cost(self, agent: AgentId) -> float:
        return 0.0 if agent == self._kademlia.agent else 1.0 + (self._kademlia.latency(agent) or 0.0)

    async def _run_wave(self, wave: Wave, request: SearchRequest, gathered: _Gathered) -> None:
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
                    body = await self._kademlia.request(ask.node, METHOD, part.encode())
                    reply = await self._run_blocking(decode_reply, body, part)
                    await self._take(ask.node, part, reply, gathered)
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

    async def _collect_own(self, request: SearchRequest, gathered: _Gathered) -> None:
        """What this node has itself, in whatever shard: it costs no message."""
        ranked = await self._run_blocking(
            self._holder.search, self._layout.tree.leaves, request.codes, request.k, request.tags
        )
        records = self._records_of([posting.record for posting, _ in ranked])
        for (_, score), record in zip(ranked, records, strict=True):
            if record is not None and record.payload is not None:
                content = self._intake.content(record)
                self._merge(gathered, record, content, score, self._kademlia.agent)

    async def _take(
        self, node: AgentId, request: SearchRequest, reply: SearchReply, gathered: _Gathered
    ) -> None:
        """Verify a holder's hits and merge them; fetch records that did not fit into its reply.

        What verifies is merged whatever else the holder sent. Raises `FrameError` when a hit does not, or is
        named and not served: then the holder's word that it told everything is worth nothing either.
        """
        missing = dict(reply.ranking)
        bundle = reply.bundle
        while True:
            verified, refused = await self._run_blocking(self._verify, bundle, missing, request)
            for record, content, score in verified:
                self._merge(gathered, record, content, score, node)
            gathered.refused += refused
            if refused:
                raise FrameError(f"{refused} of its hits do not verify")
            if not missing:
                return
            if not verified and bundle is not reply.bundle:
                raise FrameError(f"it names {len(missing)} hits that it does not serve")
            bundle = await self._records.fetch(node, list(missing))

    def _verify(
        self, bundle: Bundle, missing: dict[Cid, int], request: SearchRequest
    ) -> tuple[list[tuple[Record, Content, int]], int]:
        """The hits of a bundle that hold, and how many do not; each is taken out of `missing` (its claimed
        scores).
        """
        wanted = set(request.tags)
        verified: list[tuple[Record, Content, int]] = []
        refused = 0
        for item in bundle.items:
            try:
                if not isinstance(item, Item):
                    raise FrameError(item.reason)
                record = item.record
                claimed = missing.pop(record.cid, None)
                if claimed is None:
                    raise FrameError("sends a hit that it has not ranked, or twice")
                content = self._intake.verify_content(record, bundle.openings)
                score = score_ppm(request.codes, codes_from_bytes(content.codes, self._dim))
                if claimed != score:
                    raise FrameError(f"claims the score {claimed} for a hit that scores {score}")
                if not wanted.issubset(content.tags):
                    raise FrameError("sends a hit without the tags asked for")
                verified.append((record, content, score))
            except (ChainError, FrameError) as error:
                refused += 1
                log.warning("hit refused: %s", error)
        return verified, refused

    @staticmethod
    def _merge(gathered: _Gathered, record: Record, content: Content, score: int, holder: AgentId) -> None:
        known = gathered.hits.get(record.subject)
        if known is None or (score, record.cid) > (known.score, known.record.cid):
            gathered.hits[record.subject] = Hit(
                id=record.subject,
                score=score,
                author=record.header.author,
                text=content.text,
                tags=content.tags,
                record=record,
                holder=holder,
            )

    async def _serve(self, _sender: AgentId, body: bytes) -> bytes:
        self.served += 1
        request = decode_request(body, self._dim)
        async with self._serving:
            # Read here, as it looks at the event loop's clock, and before the search that it vouches for.
            complete = [place for place, shard in enumerate(request.shards) if self._is_complete(shard)]
            return await self._run_blocking(self._answer, request, complete)

    def _answer(self, request: SearchRequest, complete: list[int]) -> bytes:
        ranked = self._holder.search(request.shards, request.codes, request.k, request.tags)
        records = self._records_of([posting.record for posting, _ in ranked])
        ranking = [
            (posting.record, score)
            for (posting, score), record in zip(ranked, records, strict=True)
            if record is not None and record.payload is not None
        ]
        bundle, _ = self._records.bundle(
            (record for record in records if record is not None and record.payload is not None), named=False
        )
        return encode_reply(complete, ranking, bundle)
