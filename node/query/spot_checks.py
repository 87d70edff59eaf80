"""Spot checks of blocks that others gave: a sketch is a pure function of a signed vector, so a lie is proven.

Whatever this node gets to see whole it may compare: hits of its questions, a few of them each time, and of
every holder that gave whole blocks a few rows at random, whose records it has the holder show. A row that is
not its record's sketch, or that stands in a shard where its record does not belong, proves that the holder
lied: it is reported and all its blocks go (`Puller.accuse`). When two holders' blocks have different rows for
one record, that record is looked at. A hit that a block does not show is no proof: it may be new. The block
is asked about again before it counts. All of it happens beside the questions, from a queue with a bound.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trio

from chain.cid import DIGEST_SIZE, Cid, record_cid_of_digest
from chain.content import Content
from chain.errors import ChainError
from chain.identity import AgentId
from chain.record import Record
from chain.vector import PPM, Codes, codes_from_bytes
from dht.errors import FrameError, NetworkError
from dht.ports import Random, RunBlocking
from dht.records.bundle import Item
from dht.records.intake import Intake
from dht.records.layouts import Layouts
from dht.records.methods import RecordService
from dht.summaries.puller import Puller
from dht.summaries.shelf import Copy
from node.models import Hit
from node.query.calibration import Calibration
from node.sketch_rows import key_of, rotation_of
from sharding.sketch import Sketches, sketches
from sharding.tree import Prefix

HITS = 3
"""Hits of one answer that are compared."""
ROWS = 4
"""Rows of one block whose records are looked at."""
WAITING = 64
"""Checks that wait; beyond it they are left out."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class _Seen:
    """Hits of one answer to a question of these codes."""

    question: bytes
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as it has to be: its shard, key and body, and the cosine to the question that its sketch says."""

    shard: Prefix
    key: bytes
    body: bytes
    estimate: float | None


@dataclass(frozen=True, slots=True)
class _Probe:
    """Rows of a block to be looked at, by key, at the holder that gave it, and what is claimed of them."""

    holder: AgentId
    shard: Prefix
    keys: tuple[bytes, ...]
    claims: tuple[tuple[AgentId, bytes, bytes], ...]
    """(who, key, body)"""


class SpotChecks:
    """Compares rows of blocks with records. `hits` and the hooks only note; `run` works."""

    def __init__(
        self,
        agent: AgentId,
        puller: Puller,
        records: RecordService,
        intake: Intake,
        layouts: Layouts,
        calibration: Calibration,
        dim: int,
        rng: Random,
        run_blocking: RunBlocking,
    ) -> None:
        self._agent = agent
        self._puller = puller
        self._records = records
        self._intake = intake
        self._layouts = layouts
        self._calibration = calibration
        self._dim = dim
        self._rng = rng.choice
        self._run_blocking = run_blocking
        self._send, self._receive = trio.open_memory_channel[_Seen | _Probe](WAITING)
        puller.on_whole = self._on_whole
        puller.on_other = self._on_other
        self.compared = 0
        """Rows that were compared with their records."""
        self.lies = 0
        """Rows that were not their records'."""

    def hits(self, question: bytes, hits: Sequence[Hit]) -> None:
        """An answer shows these, verified; `question`: its codes."""
        if not len(self._puller.shelf):
            return
        drawn = hits if len(hits) <= HITS else self._rng.sample(list(hits), HITS)
        some = tuple(hit for hit in drawn if not hit.private and hit.record.payload is not None)
        if some:
            self._note(_Seen(question, some))

    async def run(self) -> None:
        """Look at what was noted, one after the other, for ever."""
        async for one in self._receive:
            if isinstance(one, _Seen):
                await self._compare(one)
            else:
                try:
                    await self._look(one)
                except NetworkError as error:
                    log.info("%s does not show what its block names: %s", one.holder.hex()[:8], error)
                    self._puller.report(one.holder, error)
                    self._puller.shelf.doubt(one.shard)

    def _note(self, one: _Seen | _Probe) -> None:
        try:
            self._send.send_nowait(one)
        except trio.WouldBlock:
            return

    def _on_whole(self, holder: AgentId, shards: Sequence[Prefix]) -> None:
        shard = self._rng.choice(list(shards))
        copy = self._puller.shelf.copy(shard)
        if copy is None or not len(copy.block):
            return
        rows = copy.block.mapping()
        keys = self._rng.sample(list(rows), min(ROWS, len(rows)))
        self._note(_Probe(holder, shard, tuple(keys), tuple((holder, key, rows[key]) for key in keys)))

    def _on_other(self, shard: Prefix, before: Copy, after: Copy) -> None:
        """Of rows that two holders give differently one is a lie."""
        mine, theirs = before.block.mapping(), after.block.mapping()
        differing = [key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]]
        if differing:
            key = min(differing)
            claims = ((before.holder, key, mine[key]), (after.holder, key, theirs[key]))
            self._note(_Probe(after.holder, shard, (key,), claims))
            self._note(_Probe(before.holder, shard, (key,), claims))

    async def _compare(self, seen: _Seen) -> None:
        found = await self._run_blocking(self._true_rows, [hit.record for hit in seen.hits], seen.question)
        for hit, row in zip(seen.hits, found, strict=True):
            copy = None if row is None else self._puller.shelf.copy(row.shard)
            if row is None or copy is None:
                continue
            body = copy.block.get(row.key)
            if body is None:
                if hit.holder != self._agent:
                    self._puller.shelf.doubt(row.shard)
                continue
            self._judge(copy.holder, row.body, body)
            # What was not found by its vector alone has no cosine.
            if body == row.body and row.estimate is not None and hit.cosine is not None:
                self._calibration.observe(row.estimate - hit.cosine / PPM)

    async def _look(self, probe: _Probe) -> None:
        """Have a holder show the records behind rows; raises `NetworkError`."""
        first = min(probe.keys)
        before = record_cid_of_digest(_before(first))
        page = await self._records.cids(probe.holder, probe.shard.basis(), before)
        wanted = {key_of(cid): cid for cid in page if key_of(cid) in probe.keys}
        if not wanted:
            # Rows of what the holder wrote itself and has not placed yet, or of what went: no proof.
            self._puller.shelf.doubt(probe.shard)
            return
        bundle = await self._records.fetch(probe.holder, sorted(wanted.values()))
        for item in bundle.items:
            if not isinstance(item, Item) or item.record.cid not in wanted.values():
                raise FrameError("it sends what it was not asked for")
            record = item.record
            if record.payload is None:
                continue
            try:
                await self._run_blocking(self._intake.verify, record, bundle.openings)
                (found,) = await self._run_blocking(self._true_rows, [record])
            except ChainError as error:
                raise FrameError(f"a record behind its rows does not hold: {error}") from error
            if found is None or found.shard.generation != probe.shard.generation:
                continue  # meanwhile there is another atlas
            for who, claimed, body in probe.claims:
                if claimed == found.key:
                    self._judge(who, found.body, body)
                    if not probe.shard.contains(self._key(record)):
                        where = f"a row of shard {found.shard.text()} in {probe.shard.text()}"
                        self._puller.accuse(who, where)

    def _judge(self, holder: AgentId, true: bytes, body: bytes) -> None:
        self.compared += 1
        if body != true:
            self.lies += 1
            self._puller.accuse(holder, "a row is not the sketch of its record's vector")

    def _true_rows(self, records: Sequence[Record], question: bytes = b"") -> list[_Row | None]:
        """What the rows of content records have to be; None for another record. Blocking."""
        layout = self._layouts.current
        if layout.atlas is None:
            return [None] * len(records)
        read: dict[Cid, tuple[Record, Content, Codes]] = {}
        for record in records:
            try:
                content = self._intake.content(record)
                codes = codes_from_bytes(content.codes, self._dim)
            except ChainError:
                continue  # whoever holds that has been judged by others: here it only cannot be compared
            read[record.cid] = record, content, codes
        if not read:
            return [None] * len(records)
        rotation = rotation_of(layout.atlas.cid, self._dim)
        bodies = sketches(rotation, np.stack([codes for _, _, codes in read.values()]))
        keys = layout.keys([(record, content) for record, content, _ in read.values()])
        estimates: list[float | None] = [None] * len(read)
        if any(question):
            sketched = Sketches.decode(bodies.tobytes(), self._dim)
            estimates = list(sketched.cosines(rotation, np.frombuffer(question, dtype=np.int8)).tolist())
        rows = {
            cid: _Row(layout.tree.leaf_of(key), key_of(cid), body.tobytes(), estimate)
            for cid, key, body, estimate in zip(read, keys, bodies, estimates, strict=True)
        }
        return [rows.get(record.cid) for record in records]

    def _key(self, record: Record) -> bytes:
        (key,) = self._layouts.current.keys([(record, self._intake.content(record))])
        return key


def _before(key: bytes) -> bytes:
    """The last digest before those that begin with `key`; the first of all, where there is none."""
    number = int.from_bytes(key, "big")
    if not number:
        return bytes(DIGEST_SIZE)
    return (number - 1).to_bytes(len(key), "big") + b"\xff" * (DIGEST_SIZE - len(key))
