"""Spot checks of term sketches: what a holder says of a shard's words is counted again from its texts.

A term sketch says in how many texts of a shard each term is (`sharding.term_sketch`), so no single text
proves it false. But whoever gives it gives the shard's vector sketches too, whose rows name the records that
it has, and both have the same version as long as nothing changes. So now and then, while questions by words
come, one copy of whom was looked at longest ago is audited: the holder names its records and shows them, they
are verified, and their terms are counted. Texts that it does not show may have any terms and widen the bounds
by one each (`contradiction`), since what it wrote itself may not be placed yet. What does not fit twice, some
time apart and at the same version, is a lie: it costs the holder all its blocks here and its standing.

An audit of a full shard is half a megabyte and some 60 ms of a core, so there is one in `PAUSE_S` at most.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection

import trio

from chain.cid import Cid, record_cid_of_digest
from chain.errors import ChainError
from chain.identity import AgentId
from dht.errors import FrameError, NetworkError
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from dht.records.bundle import Bundle, Item
from dht.records.intake import Intake
from dht.records.methods import MAX_FETCH, RecordService
from dht.summaries.block import Kind, SummaryError, Version
from dht.summaries.messages import METHOD, decode_answer, encode_question
from dht.summaries.puller import LINGER_S, PATIENCE_S, Puller
from dht.summaries.shelf import Copy, Shelf
from node.sketch_rows import key_of
from sharding.errors import TermError
from sharding.term_sketch import RESERVED, contradiction, read_rows
from sharding.terms import Counted, counted
from sharding.tree import Prefix

PAUSE_S = 15.0
"""Between two audits, and between the two that prove a lie."""
TRIES = 4
"""A copy that changes all the time is let go after so many."""
MAX_TEXTS = 1_024
"""Larger shards are not audited."""
MAX_PAGES = 64
"""Answers of one kind that one audit asks for."""
COUNT_S = 30.0
"""For all that one count asks of a holder: who trickles its answers keeps nobody else from being audited."""
MAX_REMEMBERED = 4_096
"""Holders of whom is known when they were audited."""

log = logging.getLogger(f"roseforest.{__name__}")


class TermAudits:
    """Audits others' term sketches. `noted` only wakes; `run` works, and rests when nobody asks by words."""

    def __init__(
        self,
        words: Puller,
        vectors: Kind,
        kademlia: Kademlia,
        records: RecordService,
        intake: Intake,
        clock: Clock,
        rng: Random,
        run_blocking: RunBlocking,
    ) -> None:
        """`vectors`: the kind of block whose rows name records."""
        self._words = words
        self._vectors = vectors
        self._kademlia = kademlia
        self._records = records
        self._intake = intake
        self._clock = clock
        self._rng = rng.choice
        self._run_blocking = run_blocking
        self._last: OrderedDict[AgentId, bool] = OrderedDict()
        """Holders, whose audit is longest ago first; whether it was of a shard that has terms."""
        self._asked_at = float("-inf")
        self._wake = trio.Event()
        self.audited = 0
        """Copies that were counted again."""
        self.lies = 0

    def noted(self) -> None:
        """A question goes by term sketches."""
        self._asked_at = self._clock.monotonic()
        self._wake.set()

    async def run(self) -> None:
        """Audit one copy after the other, for ever, while questions come."""
        while True:
            await self._wake.wait()
            while self._clock.monotonic() - self._asked_at < LINGER_S:
                await trio.sleep(PAUSE_S)
                chosen = self._choose()
                if chosen is not None:
                    await self._audit(*chosen)
            self._wake = trio.Event()

    def _choose(self) -> tuple[AgentId, Prefix] | None:
        """A shard of the holder that was not audited for longest, at random among its copies."""
        copies = self._words.shelf.holders()
        if not copies:
            return None
        order = {agent: place for place, agent in enumerate(self._last, 1)}
        holder = min(copies, key=lambda agent: (order.get(agent, 0), agent))
        # Every other time one that has terms: with few texts most shards are empty.
        wants_terms = not self._last.pop(holder, False)
        self._last[holder] = wants_terms
        while len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        shards = sorted(copies[holder])
        some = [shard for shard in shards if self._has_terms(shard)] if wants_terms else []
        return holder, self._rng.choice(some or shards)

    def _has_terms(self, shard: Prefix) -> bool:
        copy = self._words.shelf.copy(shard)
        return copy is not None and len(copy.block) > RESERVED

    async def _audit(self, holder: AgentId, shard: Prefix) -> None:
        before: Version | None = None
        for attempt in range(TRIES):
            if attempt:
                await trio.sleep(PAUSE_S)
            copy = self._words.shelf.copy(shard)
            if copy is None or copy.holder != holder:
                return
            found = None
            try:
                with trio.move_on_after(COUNT_S) as patience:
                    found = await self._count(copy, shard)
            except NetworkError as error:
                log.info("%s does not show what its terms are of: %s", holder.hex()[:8], error)
                self._words.report(holder, error)
                self._words.shelf.doubt(shard)
                return
            if patience.cancelled_caught:
                log.info("%s does not show within %g s what its terms are of", holder.hex()[:8], COUNT_S)
                self._words.shelf.doubt(shard)
                return
            if found is None:
                # As soon as it is asked about again both may be of one version.
                self._words.shelf.doubt(shard)
                continue
            why, version = found
            if not why:
                self.audited += 1
                return
            if version == before:
                self.lies += 1
                self._words.accuse(holder, f"of shard {shard.text()}: {why}")
                return
            before = version

    async def _count(self, copy: Copy, shard: Prefix) -> tuple[str, Version] | None:
        """What of a copy cannot be, empty for nothing, and at which version; None when that is not known.

        Raises `NetworkError`.
        """
        named = await self._named(copy.holder, shard)
        if named is None:
            return None
        here, there = copy.version, named.version
        if (here.instance, here.counter) != (there.instance, there.counter):
            return None
        keys = named.block.mapping().keys()
        if len(keys) > MAX_TEXTS:
            return "", there
        texts = await self._texts(copy.holder, shard, keys)
        block = copy.block

        def judge() -> str:
            try:
                return contradiction(read_rows(block.rows), texts, max(0, len(keys) - len(texts))) or ""
            except TermError as error:
                return str(error)

        return await self._run_blocking(judge), there

    async def _named(self, holder: AgentId, shard: Prefix) -> Copy | None:
        """The holder's vector sketches of a shard, as they are now."""
        shelf = Shelf(self._vectors)
        for _ in range(MAX_PAGES):
            item = shelf.item(shard, holder)
            body = encode_question(self._vectors, [item])
            reply = await self._kademlia.request(holder, METHOD, body, most=PATIENCE_S)
            (told,) = await self._run_blocking(decode_answer, reply, self._vectors, [item])
            try:
                more = shelf.heard(shard, holder, told, self._clock.monotonic())
            except SummaryError as error:
                raise FrameError(f"its vector sketches do not add up: {error}") from error
            if not more:
                break
        return shelf.copy(shard)

    async def _texts(self, holder: AgentId, shard: Prefix, keys: Collection[bytes]) -> list[Counted]:
        """The terms of the records that these keys name, of those that it shows."""
        wanted: dict[Cid, None] = {}
        after = record_cid_of_digest(bytes(32))
        for _ in range(MAX_PAGES):
            page = await self._records.cids(holder, shard.basis(), after)
            wanted.update((cid, None) for cid in page if key_of(cid) in keys)
            if not page or len(wanted) >= len(keys):
                break
            after = page[-1]
        found: dict[Cid, Counted] = {}
        for _ in range(MAX_PAGES):
            left = [cid for cid in wanted if cid not in found][:MAX_FETCH]
            if not left:
                break
            bundle = await self._records.fetch(holder, left)
            new = await self._run_blocking(self._read, bundle, frozenset(left))
            if not new:
                break
            found |= new
        return list(found.values())

    def _read(self, bundle: Bundle, wanted: Collection[Cid]) -> dict[Cid, Counted]:
        """The terms of the records in a bundle, which have to verify. Raises `FrameError`."""
        found: dict[Cid, Counted] = {}
        for item in bundle.items:
            if not isinstance(item, Item) or item.record.cid not in wanted:
                raise FrameError("it sends what it was not asked for")
            if item.record.payload is None:
                continue
            try:
                self._intake.verify(item.record, bundle.openings)
                found[item.record.cid] = counted(self._intake.content(item.record).text)
            except ChainError as error:
                raise FrameError(f"a record behind its terms does not hold: {error}") from error
        return found
