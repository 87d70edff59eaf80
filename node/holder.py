"""The holder's side of a query: postings of the local shards, ranked exactly, served with their records.

Postings are derived from content records: those held for the network in the shard role, and this agent's own
from the moment they are durable, so that what you add is found at once. They follow their entries
(`crdt.postings`), and what an offender wrote is not found: whatever of an entry's records is here, in
whatever role, a posting of a value that one of them overwrote or deleted goes, and does not come back with a
late copy; a posting's tags are its entry's. The index proposes, the integer score decides, ties go to the
smaller CID. Everything here can be rebuilt from the records, with the same result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import trio

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.kinds import CARRIES_CONTENT, CREATE, ENTRY_OPERATIONS, VOTE
from chain.record import Record
from chain.vector import Codes
from crdt.operations import content_of
from crdt.postings import shown
from crdt.standing import CLEAR, Standing
from dht.ports import RunBlocking
from dht.records.layouts import Layouts
from dht.records.placement import Layout, Role
from dht.records.record_store import Held
from node.entry_records import EntryRecords
from node.index import IndexedPosting, LocalIndex
from node.query.exhaustive import ROUNDING_PPM, Found, best_of_all
from node.query.filters import ANY, Facts, Filters
from node.query.scoring import Scores
from node.query.search_protocol import SearchRequest
from node.query.word_search import WordSearch
from node.sketch_rows import key_range
from node.storage.derived_state import MAX_POSTINGS, DerivedState, Posting
from sharding.growth import overlap, within
from sharding.terms import counted
from sharding.tree import Prefix

REBUILD_BATCH = 2_000
LOAD_BATCH = 1 << 16
"""Postings read at a time when a node starts: 40 MB, so that many go into one shard in one call."""
REKEY_BATCH = 500
"""Postings that get other keys in one call: some 50 ms each at 4,096 cells."""
REFRESH_BATCH = 50
"""Entries derived in one call off the event loop."""
WIDEN = 4
"""Factor by which k grows while filters leave too few hits, or a tie reaches beyond the candidates."""
SHALLOW = 4
"""So many times k candidates are looked at for hits that pass the filters; then every posting is asked."""

log = logging.getLogger(f"roseforest.{__name__}")


class Holder:
    """Derived postings and their index; `entries` is where the records are read that postings follow."""

    def __init__(
        self,
        derived: DerivedState,
        entries: EntryRecords,
        layouts: Layouts,
        dim: int,
        run_blocking: RunBlocking,
        standing: Callable[[], Standing] = lambda: CLEAR,
    ) -> None:
        """`standing`: whose records do not count now; who changes that refreshes the entries concerned."""
        self._derived = derived
        self._standing = standing
        self._entries = entries
        self._layouts = layouts
        self._layout = layouts.current
        self._moving = False
        self._dim = dim
        self._run_blocking = run_blocking
        self._index = LocalIndex(dim)
        # What is derived must not be older than what was derived before it from fewer records.
        self._turn = trio.Lock()
        self.on_changed: Callable[[Iterable[Prefix]], None] = lambda shards: None
        """Told of shards whose postings are not as they were, when they can be read."""
        self.on_changed_all: Callable[[], None] = lambda: None
        """Told when postings may lie in other shards."""

    def __len__(self) -> int:
        return len(self._index)

    async def open(self) -> None:
        """Make the index of the postings."""
        await self._run_blocking(self._load)

    async def follow_layout(self) -> None:
        """Go over to the newest layout: postings get their keys by its atlas, a batch at a time.

        Meanwhile everything is searched, whichever shards are asked for. Cost: as placing each posting anew.
        To be called by one task only.
        """
        async with self._turn:  # what is being derived has keys by the layout before
            layout = self._layout = self._layouts.current
            self._moving = self._derived.generation != layout.generation
            self.on_changed_all()
        if not self._moving:
            await self._follow_tree(layout)
            return
        after = 0
        while True:
            async with self._turn:
                page, keys = await self._run_blocking(self._rekeyed, after, layout)
                if not page:
                    break
                await self._derived.rekey(keys)
                await self._run_blocking(self._index.move, [self._indexed(one) for one in page])
                after = page[-1].number
            await trio.lowlevel.checkpoint()
        await self._derived.note_generation(layout.generation)
        self._moving = False
        self.on_changed_all()

    async def _follow_tree(self, layout: Layout) -> None:
        """Put postings of shards that the tree has not got any more into those that it has."""
        stale = [one for one in self._index.shards() if one not in layout.tree and self._index.size(one)]
        for shard in stale:
            low, high = key_range(shard)
            async with self._turn:
                rows = await self._run_blocking(self._derived.records_in_range, low, high)
                numbers = [number for number, _ in rows]
                for start in range(0, len(numbers), REKEY_BATCH):
                    part = numbers[start : start + REKEY_BATCH]
                    found = await self._run_blocking(self._derived.get_many, part)
                    moved = [self._indexed(one) for one in found if one is not None]
                    await self._run_blocking(self._index.move, moved)
        if stale:
            self.on_changed_all()

    def _rekeyed(self, after: int, layout: Layout) -> tuple[list[Posting], dict[int, bytes]]:
        page = next(self._derived.all(REKEY_BATCH, after), [])
        keys = layout.keys_of([(one.record, one.codes) for one in page])
        moved = [replace(one, shard_key=key) for one, key in zip(page, keys, strict=True)]
        return moved, {one.number: one.shard_key for one in moved}

    async def add(self, records: Sequence[Record]) -> None:
        """Derive what these records change, all of them own ones or held for a shard; known ones are free.

        An entry with operations is derived anew from all its records, O(records); others take one posting.
        """
        await self._derive(records, None)

    async def on_held(self, items: Sequence[Held]) -> None:
        """Derive what these records change; new postings only for what was stored here for a shard."""
        in_shard = {
            (basis, item.record.cid) for item in items for role, basis in item.bases if role & Role.SHARD
        }
        await self._derive([item.record for item in items], in_shard)

    async def refresh(self, entries: Sequence[Cid]) -> None:
        """Derive these entries anew from what is here about them; O(records)."""
        async with self._turn:
            await self._refresh(entries)

    async def forget(self, records: Sequence[Cid]) -> None:
        """Remove the postings of those of these records that are not (any more) to be found here."""
        for start in range(0, len(records), MAX_POSTINGS):
            part = records[start : start + MAX_POSTINGS]
            async with self._turn:
                mine = await self._run_blocking(self._entries.to_index, part)
                await self._remove([cid for cid in part if cid not in mine])

    async def rebuild(self, records: Iterable[Record]) -> int:
        """Throw the derived state away and make it again from `records`; returns the postings."""
        async with self._turn:
            await self._derived.clear()
            self._index = LocalIndex(self._dim)
            self.on_changed_all()
        batch: list[Record] = []
        for record in records:
            batch.append(record)
            if len(batch) == REBUILD_BATCH:
                await self.add(batch)
                batch = []
        await self.add(batch)
        await self._derived.note_generation(self._layout.generation)
        return len(self._index)

    async def _derive(self, records: Sequence[Record], held_at: Collection[tuple[bytes, Cid]] | None) -> None:
        """`held_at`: what may get a new posting, each with its own shard's basis; None: whatever comes."""
        about = [one for one in records if one.header.kind == CREATE or one.header.kind in ENTRY_OPERATIONS]
        about = [one for one in about if one.header.kind != VOTE]
        if not about:
            return
        async with self._turn:
            changed = {one.subject for one in about if one.header.kind != CREATE}
            changed |= await self._run_blocking(self._entries.operated_on, [one.subject for one in about])
            standing = self._standing()
            plain = [one for one in about if one.subject not in changed and standing.counts(one)]
            if held_at is not None:
                here = {cid for _, cid in held_at}
                plain = [one for one in plain if one.cid in here]
            postings = await self._run_blocking(self._postings, plain)
            if held_at is not None:
                at: dict[Cid, list[bytes]] = {}
                for basis, cid in held_at:
                    at.setdefault(cid, []).append(basis)
                postings = [
                    posting
                    for posting in postings
                    if any(
                        self._layouts.is_home(basis, posting.shard_key, self._layout)
                        for basis in at.get(posting.record, ())
                    )
                ]
            if postings:
                await self._index_postings(await self._derived.put(postings))
            await self._refresh(sorted(changed))

    async def _refresh(self, entries: Sequence[Cid]) -> None:
        for start in range(0, len(entries), REFRESH_BATCH):
            for new, gone, tags in await self._run_blocking(
                self._changes, entries[start : start + REFRESH_BATCH]
            ):
                if gone:
                    await self._remove(gone)
                if new:
                    await self._index_postings(await self._derived.put(new))
                if tags:
                    await self._derived.retag(tags)

    def _changes(
        self, entries: Sequence[Cid]
    ) -> list[tuple[list[Posting], list[Cid], dict[Cid, tuple[str, ...]]]]:
        """For each entry: postings to add, records whose postings go, tags that postings get; blocking."""
        changes = []
        for entry in entries:
            records = self._entries.about(entry)
            show = shown(entry, records, self._standing())
            there = {posting.record: posting.tags for posting in self._derived.of_entry(entry)}
            living = self._postings([records[cid] for cid, _ in show.values], show.tags)
            # A value may lie here only beside another one of its entry: then others show it.
            mine = self._entries.at_home([(self._layout.shard_basis(p.shard_key), p.record) for p in living])
            if self._layout.generation or self._layouts.growth.decisions:
                mine |= self._entries.at_former_home(
                    [(p.record, p.shard_key) for p in living],
                    lambda basis, key: self._layouts.is_home(basis, key, self._layout),
                )
            living = [posting for posting in living if posting.record in mine]
            new = [posting for posting in living if posting.record not in there]
            gone = sorted(there.keys() - mine)
            tags = {p.record: show.tags for p in living if there.get(p.record, show.tags) != show.tags}
            if new or gone or tags:
                changes.append((new, gone, tags))
        return changes

    @property
    def moving(self) -> bool:
        """Whether postings are on their way to the shards of another layout."""
        return self._moving

    def search(
        self,
        shards: Sequence[Prefix],
        codes: Codes,
        k: int,
        tags: Sequence[str],
        filters: Filters = ANY,
    ) -> list[Found]:
        """The `k` best postings of `shards` that carry all `tags` and pass `filters`; blocking.

        All `k` of them however few pass: first of `SHALLOW` * k candidates, then of all postings of the
        shards, which are then read once: O(postings in the shards). Where one of another atlas is among them,
        the best of all that is here: each posting is kept by its newest key alone.
        """
        everywhere = self._is_everywhere(shards)
        shards = self._index.shards() if everywhere else self._leaves_of(shards)
        wanted = set(tags)
        depth = k
        while True:
            found = self._index.search(shards, codes, depth)
            rows = self._derived.get_many([number for number, _ in found])
            ranked = [
                (posting, score)
                for posting, (_, score) in zip(rows, found, strict=True)
                if posting is not None and wanted.issubset(posting.tags) and filters.admit(_facts(posting))
            ]
            ranked.sort(key=lambda pair: (-pair[1], pair[0].record))
            if len(found) >= sum(map(self._index.size, shards)):
                break
            # What was not proposed may tie with the last candidate; it must not tie with the k-th hit.
            if len(ranked) >= k and ranked[k - 1][1] > found[-1][1] + ROUNDING_PPM:
                break
            if (wanted or filters) and depth >= SHALLOW * k:
                leaves = None if everywhere else self._whole_leaves(shards)
                return best_of_all(self._derived, leaves, codes, k, tags, filters)
            depth *= WIDEN
        return ranked[:k]

    def best(self, request: SearchRequest) -> list[tuple[Posting, Scores]]:
        """The best postings for a question, by vector, by words or by both; as `search` otherwise."""
        shards, codes, k = request.shards, request.codes, request.k
        tags, filters, words = request.tags, request.filters, request.words

        def near(depth: int) -> list[Found]:
            return self.search(shards, codes, depth, tags, filters)

        if words is None:
            return [(posting, Scores(score)) for posting, score in near(k)]
        where = None if self._is_everywhere(shards) else self._whole_leaves(shards)
        search = WordSearch(self._derived, where, codes, words.wanted, tags, filters)
        return search.by_words(k) if words.only else search.by_both(near, k)

    def _is_everywhere(self, shards: Sequence[Prefix]) -> bool:
        """Whether everything has to be searched: postings are moving, or lie by another layout."""
        return self._moving or any(shard.generation != self._layout.generation for shard in shards)

    def _whole_leaves(self, shards: Sequence[Prefix]) -> list[Prefix]:
        """The leaves in which these shards lie, or that lie in them, each once."""
        return sorted({leaf for shard in shards for leaf in within(self._layout.tree, shard)})

    def _leaves_of(self, shards: Sequence[Prefix]) -> Sequence[Prefix]:
        """Where in the index their postings are, also while some go from one leaf to another."""
        tree = self._layout.tree
        if not self._layouts.growth.decisions and all(shard in tree for shard in shards):
            return shards
        leaves = {leaf for shard in shards for leaf in within(tree, shard)}
        leaves |= {one for one in self._index.shards() if any(overlap(one, shard) for shard in shards)}
        return sorted(leaves)

    def _load(self) -> None:
        for rows in self._derived.vectors(LOAD_BATCH):
            self._index.fill(self._layout.tree.leaves, rows)

    async def _remove(self, records: Sequence[Cid]) -> None:
        shards = await self._run_blocking(self._shards_of, records)
        numbers = await self._derived.remove(records)
        await self._run_blocking(self._index.remove, numbers)
        self.on_changed(shards)

    def _shards_of(self, records: Sequence[Cid]) -> set[Prefix]:
        tree = self._layouts.current.tree
        return {tree.leaf_of(key) for key in self._derived.keys_of(records)}

    async def _index_postings(self, postings: Sequence[Posting]) -> None:
        await self._run_blocking(self._add_to_index, postings)
        tree = self._layouts.current.tree
        self.on_changed({tree.leaf_of(one.shard_key) for one in postings})

    def _add_to_index(self, postings: Sequence[Posting]) -> None:
        self._index.add([self._indexed(one) for one in postings])

    def _indexed(self, posting: Posting) -> IndexedPosting:
        return IndexedPosting(posting.number, self._layout.tree.leaf_of(posting.shard_key), posting.codes)

    def _postings(self, records: Sequence[Record], tags: tuple[str, ...] | None = None) -> list[Posting]:
        """Postings of these content records; their own tags, unless the entry's `tags` are given."""
        pairs: list[tuple[Record, Content]] = []
        for record in records:
            if self._entries.blocks.hides(record):
                continue
            if record.header.kind in CARRIES_CONTENT and record.payload is not None:
                try:
                    pairs.append((record, content_of(record)))
                except ChainError as error:
                    log.warning("record %s has no content to index: %s", record.cid.hex()[:16], error)
        return [
            Posting(
                number=0,
                shard_key=key,
                entry=record.subject,
                record=record.cid,
                codes=content.codes,
                tags=content.tags if tags is None else tags,
                author=record.header.author,
                hlc=record.header.hlc,
                domain=content.domain,
                confidence=content.confidence,
                words=counted(content.text),
            )
            for (record, content), key in zip(pairs, self._layout.keys(pairs), strict=True)
        ]


def _facts(posting: Posting) -> Facts:
    return Facts(posting.author, posting.hlc, posting.domain, posting.confidence)


RecordsOf = Callable[[Sequence[Cid]], list[Record | None]]
