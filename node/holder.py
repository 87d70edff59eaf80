"""The holder's side of a query: postings of the local shards, ranked exactly, served with their records.

Postings are derived from content records: those held for the network in the shard role, and this agent's own
from the moment they are durable, so that what you add is found at once. The index proposes, the integer score
decides, ties go to the smaller CID. Everything here can be rebuilt from the records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from chain.cid import Cid
from chain.content import Content, content_from_body
from chain.errors import ChainError
from chain.kinds import CARRIES_CONTENT
from chain.record import Record, decode_payload
from chain.vector import Codes
from dht.placement import Layout, Role
from dht.ports import RunBlocking
from dht.record_store import Held
from node.index import IndexedPosting, LocalIndex
from node.storage.derived_state import DerivedState, Posting
from sharding.tree import Prefix

REBUILD_BATCH = 2_000
WIDEN = 4
"""Factor by which k grows while a tag filter leaves too few hits, or a tie reaches beyond the candidates."""
ROUNDING_PPM = 4
"""How far the float order of candidates may be from that of their exact scores."""

log = logging.getLogger(f"roseforest.{__name__}")

Ranked = tuple[Posting, int]
"""A posting and its score in ppm."""


class Holder:
    """Derived postings and their index. Writes come from one task at a time."""

    def __init__(
        self,
        derived: DerivedState,
        layout: Layout,
        dim: int,
        index_folder: Path | None,
        run_blocking: RunBlocking,
    ) -> None:
        self._derived = derived
        self._layout = layout
        self._dim = dim
        self._folder = index_folder
        self._run_blocking = run_blocking
        self._index = LocalIndex(dim)

    def __len__(self) -> int:
        return len(self._index)

    async def open(self) -> None:
        """Load the saved index, or make it from the postings."""
        await self._run_blocking(self._load)

    async def add(self, records: Sequence[Record]) -> None:
        """Derive the postings of content records; others are passed over, known ones too."""
        postings = await self._run_blocking(self._postings, records)
        if postings:
            await self._index_postings(await self._derived.put(postings))

    async def on_held(self, items: Sequence[Held]) -> None:
        """Index what was stored here in the shard role."""
        await self.add([item.record for item in items if any(role & Role.SHARD for role, _ in item.bases)])

    async def rebuild(self, records: Iterable[Record]) -> int:
        """Throw the derived state away and make it again from `records`; returns the postings."""
        await self._derived.clear()
        self._index = LocalIndex(self._dim)
        batch: list[Record] = []
        for record in records:
            batch.append(record)
            if len(batch) == REBUILD_BATCH:
                await self.add(batch)
                batch = []
        await self.add(batch)
        return len(self._index)

    def search(self, shards: Sequence[Prefix], codes: Codes, k: int, tags: Sequence[str]) -> list[Ranked]:
        """The `k` best postings of `shards` that carry all `tags`; blocking."""
        wanted = set(tags)
        depth = k
        while True:
            found = self._index.search(shards, codes, depth)
            rows = self._derived.get_many([number for number, _ in found])
            ranked = [
                (posting, score)
                for posting, (_, score) in zip(rows, found, strict=True)
                if posting is not None and wanted.issubset(posting.tags)
            ]
            ranked.sort(key=lambda pair: (-pair[1], pair[0].record))
            if len(found) >= sum(map(self._index.size, shards)):
                break
            # What was not proposed may tie with the last candidate; it must not tie with the k-th hit.
            if len(ranked) >= k and ranked[k - 1][1] > found[-1][1] + ROUNDING_PPM:
                break
            depth *= WIDEN
        return ranked[:k]

    def save(self) -> None:
        """Persist the index beside the stamp of the postings it was made of; blocking.

        Left for the next time while postings are on their way from the database into the index: a stamp must
        never promise more than the saved index holds.
        """
        stamp = self._derived.stamp()
        if self._folder is not None and len(self._index) == self._derived.count():
            self._index.save(self._folder, stamp)
            if self._derived.stamp() != stamp:
                self._index.forget(self._folder)

    def _load(self) -> None:
        stamp = self._derived.stamp()
        if self._folder is not None:
            loaded = LocalIndex.load(self._folder, self._dim, stamp)
            if loaded is not None:
                self._index = loaded
                return
        for batch in self._derived.all(REBUILD_BATCH):
            self._add_to_index(batch)

    async def _index_postings(self, postings: Sequence[Posting]) -> None:
        await self._run_blocking(self._add_to_index, postings)

    def _add_to_index(self, postings: Sequence[Posting]) -> None:
        self._index.add(
            [IndexedPosting(p.number, self._layout.tree.leaf_of(p.shard_key), p.codes) for p in postings]
        )

    def _postings(self, records: Sequence[Record]) -> list[Posting]:
        pairs: list[tuple[Record, Content]] = []
        for record in records:
            if record.header.kind in CARRIES_CONTENT and record.payload is not None:
                try:
                    pairs.append((record, content_from_body(decode_payload(record.payload))))
                except ChainError as error:
                    log.warning("record %s has no content to index: %s", record.cid.hex()[:16], error)
        return [
            Posting(
                number=0,
                shard_key=key,
                entry=record.subject,
                record=record.cid,
                codes=content.codes,
                tags=content.tags,
                author=record.header.author,
                hlc=record.header.hlc,
            )
            for (record, content), key in zip(pairs, self._layout.keys(pairs), strict=True)
        ]


RecordsOf = Callable[[Sequence[Cid]], list[Record | None]]
