"""Searching for others: `shard.search`, answered from this node's postings with the records that prove them.

Two searches run at a time and the others wait their turn, by asker. Which shards are told completely is read
before the search that it vouches for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from crdt.postings import proofs
from crdt.standing import CLEAR, Standing
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, RunBlocking
from dht.records.intake import Intake
from dht.records.methods import RecordService
from dht.wire.turns import Turns
from node.entry_records import EntryRecords
from node.holder import Holder, RecordsOf
from node.query.search_protocol import COPIES, METHOD, Ranked, SearchRequest, decode_request, encode_reply
from node.vitals import Vitals
from sharding.tree import Prefix

MAX_SERVED = 2
"""Searches for others under way at a time; the rest wait their turn. One for a rare tag reads whole shards,
and writing, which needs a worker thread too, must not wait behind dozens of them."""


class SearchService:
    """Serves `shard.search`."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        holder: Holder,
        records_of: RecordsOf,
        entries: EntryRecords,
        is_complete: Callable[[Prefix], bool],
        serves: Callable[[Prefix], bool],
        intake: Intake,
        dim: int,
        clock: Clock,
        run_blocking: RunBlocking,
        vitals: Vitals,
        standing: Callable[[], Standing] = lambda: CLEAR,
        moved: Callable[[Sequence[Prefix]], list[bytes]] = lambda shards: [],
    ) -> None:
        """`serves`: whether this node has a fresh copy of a shard at least. `moved`: the proofs that some of
        these are no shards any more."""
        self._moved = moved
        self._vitals = vitals
        self._records = records
        self._holder = holder
        self._records_of = records_of
        self._entries = entries
        self._is_complete = is_complete
        self._serves = serves
        self._intake = intake
        self._dim = dim
        self._clock = clock
        self._run_blocking = run_blocking
        self._standing = standing
        self._serving = Turns(MAX_SERVED, MAX_SERVED)
        self.served = 0
        self.turn_s = 0.0
        """Seconds that searches have waited for their turn, in all."""
        self.answering_s = 0.0
        """Seconds that they took then, a wait for a thread included."""
        network.register(METHOD, kademlia.members_only(self._search))
        network.register(COPIES, kademlia.members_only(self._search_copies))

    async def _search(self, sender: AgentId, body: bytes) -> bytes:
        return await self._serve(sender, body, self._is_complete)

    async def _search_copies(self, sender: AgentId, body: bytes) -> bytes:
        return await self._serve(sender, body, self._serves)

    async def _serve(self, sender: AgentId, body: bytes, has_all: Callable[[Prefix], bool]) -> bytes:
        self.served += 1
        request = decode_request(body, self._dim)
        began = self._clock.monotonic()
        async with self._serving.of(sender):
            # Read here, as it looks at the event loop's clock, and before the search that it vouches for.
            complete = [place for place, shard in enumerate(request.shards) if has_all(shard)]
            waited = self._clock.monotonic()
            answered = False
            try:
                reply = await self._run_blocking(self._answer, request, complete)
                answered = True
            finally:
                if not answered:
                    self._vitals.failed()
            ended = self._clock.monotonic()
            self.turn_s += waited - began
            self.answering_s += ended - waited
            self._vitals.served((request.shards[place] for place in complete), ended - began)
            return reply

    def _answer(self, request: SearchRequest, complete: list[int]) -> bytes:
        found = self._holder.best(request)
        records = self._records_of([posting.record for posting, _ in found])
        standing = self._standing()
        ranking: list[Ranked] = []
        sent: dict[Cid, Record] = {}
        extra: dict[Cid, Record] = {}
        for (posting, scores), record in zip(found, records, strict=True):
            if record is None or record.payload is None or not standing.counts(record):
                continue
            chosen: list[Cid] = []
            if posting.tags != self._intake.content(record).tags:
                about = self._entries.about(posting.entry)
                chosen = proofs(record.cid, posting.tags, request.tags, about, self._standing())
                extra.update((cid, about[cid]) for cid in chosen)
            ranking.append(Ranked(record.cid, scores.cosine, tuple(chosen), scores.lexical))
            sent[record.cid] = record
        bundle, _ = self._records.bundle((sent | extra).values(), named=False)
        return encode_reply(complete, ranking, bundle, self._moved(request.shards))
