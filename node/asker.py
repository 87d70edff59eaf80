"""The asker's side of a query: choose shards, ask one wave of holders, verify, merge, and say what it cost.

The query's shards come from the atlas (`sharding.routing`), their holders from Kademlia, and `node.wave`
decides whom to ask. All requests of a wave run at once under one deadline; a holder that is slow by its own
history is hedged by the next replica. Every hit is verified here: the record's signature and payload hash,
the network and epoch, its author's opening records, the content's shape, the score, recomputed from the
signed vector, and its tags, from the records that give and take them; a hit that fails is dropped and counts
against the holder that sent it. Nothing is believed because of who said it.

What an entry's value once was is proven for ever, so old postings have to be told from new ones: a hit that
another hit overwrites is dropped, and what this node has itself, or a holder that is not complete, counts for
a shard only as long as no complete holder answered for it (`_Gathered.settled`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import trio

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT
from chain.record import Record
from chain.vector import Codes, codes_from_bytes, score_ppm
from crdt.postings import is_tag_record, overwritten, proofs, proven_tags
from crdt.standing import CLEAR, Standing
from dht.errors import FrameError, NetworkError
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, RunBlocking
from dht.records.bundle import Bundle, Item
from dht.records.intake import Intake, PurgesOf
from dht.records.layouts import Layouts
from dht.records.methods import MAX_FETCH, RecordService
from dht.records.placement import Layout
from dht.wire.turns import Turns
from node.entry_records import EntryRecords
from node.freshness import Freshened, Freshness
from node.holder import Holder, RecordsOf
from node.models import Answer, Cost, Hit
from node.search_protocol import (
    METHOD,
    Ranked,
    SearchReply,
    SearchRequest,
    decode_reply,
    decode_request,
    encode_reply,
)
from node.steps import Steps
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
class _Candidate:
    """A hit that verified. `doubtful`: its shards, one in each layout; a complete holder of one of them would
    have to show it, too. Empty when one did, or when the record has not reached its holders yet."""

    hit: Hit
    doubtful: frozenset[Prefix]


@dataclass(slots=True)
class _Gathered:
    """What a wave has brought so far, by content record; `answered` are the shards told completely."""

    steps: Steps
    hits: dict[Cid, _Candidate] = field(default_factory=dict)
    nodes: set[AgentId] = field(default_factory=set)
    answered: set[Prefix] = field(default_factory=set)
    refused: int = 0

    def add(self, hit: Hit, doubtful: frozenset[Prefix]) -> None:
        """Take a verified hit; of several copies the one beyond doubt counts, else the first."""
        known = self.hits.get(hit.record.cid)
        if known is None or (known.doubtful and not doubtful):
            self.hits[hit.record.cid] = _Candidate(hit, doubtful)

    def settled(self) -> tuple[list[Hit], int]:
        """The best hit of each entry, best first, and how many were dropped as outdated."""
        ended = overwritten(one.hit.record for one in self.hits.values())
        current = [
            one.hit
            for one in self.hits.values()
            if (one.hit.id, one.hit.record.cid) not in ended
            and not (one.doubtful and one.doubtful <= self.answered)
        ]
        best: dict[Cid, Hit] = {}
        for hit in sorted(current, key=lambda hit: (-hit.score, hit.record.cid)):
            best.setdefault(hit.id, hit)
        ordered = sorted(best.values(), key=lambda hit: (-hit.score, hit.id))
        return ordered, len(self.hits) - len(current)

    def to_confirm(self, k: int) -> set[Prefix]:
        """Shards nobody was heard about that would have to show one of the best `k` hits."""
        best = sorted(self.hits.values(), key=lambda one: -one.hit.score)[:k]
        return {shard for one in best for shard in one.doubtful} - self.answered


class Asker:
    """Answers this node's queries over the network, and serves `shard.search` to others."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        holder: Holder,
        records_of: RecordsOf,
        purges_of: PurgesOf,
        entries: EntryRecords,
        unplaced: Callable[[Sequence[Cid]], set[Cid]],
        freshness: Freshness,
        is_complete: Callable[[Prefix], bool],
        intake: Intake,
        layouts: Layouts,
        finished: Callable[[Sequence[Prefix]], Awaitable[set[Prefix]]],
        dim: int,
        replication: int,
        clock: Clock,
        run_blocking: RunBlocking,
        standing: Callable[[], Standing] = lambda: CLEAR,
    ) -> None:
        """`finished`: which of these former shards have nothing left that could be asked for."""
        self._standing = standing
        self._finished = finished
        self._kademlia = kademlia
        self._records = records
        self._holder = holder
        self._records_of = records_of
        self._purges_of = purges_of
        self._entries = entries
        self._unplaced = unplaced
        self._freshness = freshness
        self._is_complete = is_complete
        self._intake = intake
        self._layouts = layouts
        self._dim = dim
        self._replication = replication
        self._clock = clock
        self._run_blocking = run_blocking
        self._late: dict[AgentId, float] = {}
        self._serving = Turns(MAX_SERVED, MAX_SERVED)
        self.queries = 0
        self.served = 0
        self.hits_refused = 0
        self.turn_s = 0.0
        """Seconds that searches for others have waited for their turn, in all."""
        self.answering_s = 0.0
        """Seconds that they took then, a wait for a thread included."""
        network.register(METHOD, kademlia.members_only(self._serve))

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
        gathered = _Gathered(steps or Steps(self._clock))
        with gathered.steps.step("route"):
            likely, others = await self._run_blocking(self._choose, codes)
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

    def _choose(self, codes: Codes) -> tuple[tuple[Prefix, ...], tuple[Prefix, ...]]:
        """The shards to ask first, and all others; each in the order of the curve.

        While postings move from one atlas to the next, those of both.
        """
        chosen = [self._choose_in(layout, codes) for layout in self._layouts.places.asked]
        likely, others = zip(*chosen, strict=True)
        return tuple(chain(*likely)), tuple(chain(*others))

    def _choose_in(self, layout: Layout, codes: Codes) -> tuple[tuple[Prefix, ...], tuple[Prefix, ...]]:
        leaves = self._layouts.leaves_of(layout)
        if layout.atlas is None:
            return leaves, ()
        scored = route(layout.atlas, layout.tree, codes)
        likely = set(contact_set(scored, CONTACT_MASS_PPM, len(layout.tree.leaves)))
        return (
            tuple(leaf for leaf in leaves if leaf in likely),
            tuple(leaf for leaf in leaves if leaf not in likely),
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
                    asked = self._clock.monotonic()
                    body = await self._kademlia.request(ask.node, METHOD, part.encode())
                    gathered.steps.longest("answer", self._clock.monotonic() - asked)
                    with gathered.steps.step("decode"):
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
        """What this node has itself, in whatever shard: it costs no message.

        What lies in a shard that it does not hold completely may have been changed where it does not hear it.
        """
        hits, unplaced = await self._run_blocking(self._search_own, request)
        for hit, shards in hits:
            sure = hit.record.cid in unplaced or any(map(self._is_complete, shards))
            gathered.add(hit, frozenset() if sure else shards)

    def _search_own(self, request: SearchRequest) -> tuple[list[tuple[Hit, frozenset[Prefix]]], set[Cid]]:
        """The best of this node's own postings with their shards, and the records not placed yet."""
        me, leaves = self._kademlia.agent, self._layouts.current.tree.leaves
        ranked = self._holder.search(leaves, request.codes, request.k, request.tags)
        cids = [posting.record for posting, _ in ranked]
        records = self._records_of(cids)
        standing = self._standing()
        self._intake.remember(one for one in records if one is not None and one.payload is not None)
        hits = [
            (self._hit(record, self._intake.content(record), score, posting.tags, me), posting.shard_key)
            for (posting, score), record in zip(ranked, records, strict=True)
            if record is not None and record.payload is not None and standing.counts(record)
        ]
        if self._layouts.moving:
            shards = self._shards_of([hit for hit, _ in hits])
        else:
            shards = [frozenset((self._layouts.current.tree.leaf_of(key),)) for _, key in hits]
        return [(hit, at) for (hit, _), at in zip(hits, shards, strict=True)], self._unplaced(cids)

    async def _take(
        self, node: AgentId, request: SearchRequest, reply: SearchReply, gathered: _Gathered
    ) -> None:
        """Verify a holder's hits and merge them; fetch records that did not fit into its reply.

        What verifies is merged whatever else the holder sent. Raises `FrameError` when a hit does not, or is
        named and not served: then the holder's word that it told everything is worth nothing either.
        """
        needed = {cid for one in reply.ranking for cid in (one.record, *one.proofs)}
        have: dict[Cid, Record] = {}
        bundle = reply.bundle
        problem: str | None = None
        while True:
            with gathered.steps.step("verify"):
                verified, refused = await self._run_blocking(self._verify, bundle, needed - have.keys())
            have.update((record.cid, record) for record in verified)
            missing = sorted(needed - have.keys())
            gathered.refused += refused
            if refused:
                problem = f"{refused} of its records do not verify"
            elif missing and not verified and bundle is not reply.bundle:
                problem = f"it names {len(missing)} records that it does not serve"
            if problem is not None or not missing:
                break
            with gathered.steps.step("fetch"):
                bundle = await self._records.fetch(node, missing[:MAX_FETCH])
        whole = set(reply.complete) >= set(request.shards)
        with gathered.steps.step("verify"):
            hits, refused = await self._run_blocking(self._read, reply, have, request, node)
            # Where both places are asked, a holder may show what lies in neither of the shards asked for.
            plain = (whole and not self._layouts.moving) or self._layouts.unknown(reply.complete)
            nowhere: list[frozenset[Prefix]] = [frozenset()] * len(hits)
            shards = nowhere if plain else await self._run_blocking(self._shards_of, hits)
        for hit, places in zip(hits, shards, strict=True):
            gathered.add(hit, frozenset() if places & set(reply.complete) else places)
        gathered.refused += refused
        if problem is not None or refused:
            raise FrameError(problem or f"{refused} of its hits do not verify")

    def _verify(self, bundle: Bundle, wanted: set[Cid]) -> tuple[list[Record], int]:
        """The records of a bundle that hold by themselves, and how many do not or were not asked for."""
        verified: list[Record] = []
        refused = 0
        for item in bundle.items:
            try:
                if not isinstance(item, Item):
                    raise FrameError(item.reason)
                if item.record.cid not in wanted:
                    raise FrameError("sends a record that it has not named, or twice")
                self._intake.verify(item.record, bundle.openings)
                wanted.discard(item.record.cid)
                verified.append(item.record)
            except (ChainError, FrameError) as error:
                refused += 1
                log.warning("hit refused: %s", error)
        return verified, refused

    def _read(
        self, reply: SearchReply, have: Mapping[Cid, Record], request: SearchRequest, node: AgentId
    ) -> tuple[list[Hit], int]:
        """The hits of a reply whose records are all here, and how many of them are not what they claim."""
        hits: list[Hit] = []
        refused = 0
        wanted = set(request.tags)
        standing = self._standing()
        seen: set[Cid] = set()
        purged = self._purges_of([one.record for one in reply.ranking])
        for one in reply.ranking:
            if one.record in purged:
                continue  # the holder has not heard of it yet
            if one.record not in have or any(cid not in have for cid in one.proofs):
                continue
            try:
                record, proofs = have[one.record], [have[cid] for cid in one.proofs]
                if record.cid in seen:
                    raise FrameError("ranks a record twice")
                seen.add(record.cid)
                if self._entries.blocks.hides(record):
                    continue
                if record.header.kind not in CARRIES_CONTENT:
                    raise FrameError(f"ranks a record of kind {record.header.kind!r:.80}")
                content = self._intake.content(record)
                score = score_ppm(request.codes, codes_from_bytes(content.codes, self._dim))
                if one.score != score:
                    raise FrameError(f"claims the score {one.score} for a hit that scores {score}")
                if not all(proof.subject == record.subject and is_tag_record(proof) for proof in proofs):
                    raise FrameError("sends a proof that proves no tag of its hit")
                # The holder may not have heard of a warrant yet: that is no lie.
                heard = [one for one in proofs if standing.counts(one)]
                tags = proven_tags(record, heard)
                if not standing.counts(record) or (len(heard) < len(proofs) and not wanted <= set(tags)):
                    continue
                if not wanted.issubset(tags):
                    raise FrameError("sends a hit without the tags asked for")
                hits.append(self._hit(record, content, score, tags, node))
            except (ChainError, FrameError) as error:
                refused += 1
                log.warning("hit refused: %s", error)
        return hits, refused

    def _shards_of(self, hits: Sequence[Hit]) -> list[frozenset[Prefix]]:
        return self._layouts.shards_of([(hit.record, self._intake.content(hit.record)) for hit in hits])

    @staticmethod
    def _hit(record: Record, content: Content, score: int, tags: tuple[str, ...], holder: AgentId) -> Hit:
        return Hit(
            id=record.subject,
            score=score,
            author=record.header.author,
            text=content.text,
            tags=tags,
            record=record,
            holder=holder,
        )

    async def _serve(self, sender: AgentId, body: bytes) -> bytes:
        self.served += 1
        request = decode_request(body, self._dim)
        began = self._clock.monotonic()
        async with self._serving.of(sender):
            # Read here, as it looks at the event loop's clock, and before the search that it vouches for.
            complete = [place for place, shard in enumerate(request.shards) if self._is_complete(shard)]
            waited = self._clock.monotonic()
            reply = await self._run_blocking(self._answer, request, complete)
            self.turn_s += waited - began
            self.answering_s += self._clock.monotonic() - waited
            return reply

    def _answer(self, request: SearchRequest, complete: list[int]) -> bytes:
        found = self._holder.search(request.shards, request.codes, request.k, request.tags)
        records = self._records_of([posting.record for posting, _ in found])
        standing = self._standing()
        ranking: list[Ranked] = []
        sent: dict[Cid, Record] = {}
        extra: dict[Cid, Record] = {}
        for (posting, score), record in zip(found, records, strict=True):
            if record is None or record.payload is None or not standing.counts(record):
                continue
            chosen: list[Cid] = []
            if posting.tags != self._intake.content(record).tags:
                about = self._entries.about(posting.entry)
                chosen = proofs(record.cid, posting.tags, request.tags, about, self._standing())
                extra.update((cid, about[cid]) for cid in chosen)
            ranking.append(Ranked(record.cid, score, tuple(chosen)))
            sent[record.cid] = record
        bundle, _ = self._records.bundle((sent | extra).values(), named=False)
        return encode_reply(complete, ranking, bundle)
