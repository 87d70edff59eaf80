"""Which shards a question goes to: those likeliest to hold its answers, and the others if they bring too few.

Blocks of sketches say how many of the best answers each shard is expected to hold, the atlas says how near a
shard's cells lie (`sharding.contact`); where there are no blocks, as with peers that give none, the atlas
decides alone. In a network whose blocks would have more rows than a node keeps, only those of the shards that
the atlas puts first are wanted. While postings move from one atlas to the next, shards of both are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chain.vector import PPM, Codes
from dht.ports import RunBlocking
from dht.records.layouts import Layouts
from dht.records.placement import Layout
from dht.summaries.block import Block
from dht.summaries.puller import WAIT_S, Puller
from node.query.calibration import Calibration
from node.sketch_rows import rotation_of, sketches_in
from sharding.atlas import Atlas
from sharding.contact import contacts, weigh
from sharding.expectation import expected_hits
from sharding.growth import within
from sharding.routing import Scored, route
from sharding.tree import Prefix
from sharding.word_routing import recall_of_both

BEST = 8
"""In a large network the blocks of one of so many shards are wanted for a question."""
FILTERED = 8
"""Who filters looks so many times deeper: of the nearest only some pass."""
MAX_DECODED = 2
"""Sets of blocks that are kept ready to be compared with questions."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The shards of a question: `likely` to ask first and all `others`, each in the order of the curve.

    `expected_ppm` is the part of the best answers that each shard is expected to hold; those of one
    generation add up to 1,000,000 but for rounding down. `here`: shards of which this node has everything, so
    that they need not be asked.
    """

    likely: tuple[Prefix, ...]
    others: tuple[Prefix, ...]
    expected_ppm: Mapping[Prefix, int]
    idle: tuple[Prefix, ...] = ()
    """Shards that are known to have nothing that is asked for."""
    here: frozenset[Prefix] = frozenset()
    words_ppm: Mapping[Prefix, int] | None = None
    """The same of the best answers by words, as far as sketches of terms tell; None where the vector alone
    decides."""

    def __len__(self) -> int:
        return len(self.likely) + len(self.others) + len(self.idle)


class Ready:
    """Blocks decoded and put together: `places` are the numbers of the rows' shards in `shards`."""

    __slots__ = ("_blocks", "places", "shards", "sketches")

    def __init__(self, blocks: Mapping[Prefix, Block], dim: int) -> None:
        self._blocks = dict(blocks)
        self.shards = list(blocks)
        kind = blocks[self.shards[0]].kind
        self.sketches = sketches_in(Block(kind, b"".join(blocks[shard].rows for shard in self.shards)), dim)
        self.places = np.repeat(np.arange(len(self.shards)), [len(blocks[shard]) for shard in self.shards])

    def is_of(self, blocks: Mapping[Prefix, Block]) -> bool:
        """Whether these are the very blocks; O(shards)."""
        return len(blocks) == len(self._blocks) and all(
            self._blocks.get(shard) is block for shard, block in blocks.items()
        )


class ShardChoice:
    """Chooses shards of the layouts that are asked."""

    def __init__(
        self,
        layouts: Layouts,
        puller: Puller,
        calibration: Calibration,
        dim: int,
        is_complete: Callable[[Prefix], bool],
        run_blocking: RunBlocking,
    ) -> None:
        self._layouts = layouts
        self._is_complete = is_complete
        self._puller = puller
        self._calibration = calibration
        self._dim = dim
        self._run_blocking = run_blocking
        self._ready: list[Ready] = []
        self._leaves: tuple[tuple[Prefix, ...], frozenset[Prefix]] = ((), frozenset())

    async def choose(self, codes: Codes, k: int, recall_ppm: int, wait_s: float = WAIT_S) -> Choice:
        """The shards to ask for the `k` best answers to `codes`, so that this part of them may be expected.

        Who filters names a greater `k`: so deep the answers may lie that pass. Waits at most about `wait_s`
        for what has changed in others' shards.
        """
        chosen = [
            await self._choose_in(layout, codes, k, recall_ppm, 0.0 if place else wait_s)
            for place, layout in enumerate(self._layouts.places.asked)
        ]
        return Choice(
            likely=tuple(shard for one in chosen for shard in one.likely),
            others=tuple(shard for one in chosen for shard in one.others),
            expected_ppm={shard: ppm for one in chosen for shard, ppm in one.expected_ppm.items()},
            here=frozenset(shard for one in chosen for shard in one.here),
        )

    async def _choose_in(
        self, layout: Layout, codes: Codes, k: int, recall_ppm: int, wait_s: float
    ) -> Choice:
        leaves = self._layouts.leaves_of(layout)
        beside = self._layouts.beside(layout)
        if layout.atlas is None:
            return Choice((*leaves, *beside), (), dict.fromkeys(leaves, PPM // max(1, len(leaves))))
        scored = await self._run_blocking(route, layout.atlas, layout.tree, codes)
        # What was there before a shard was divided, or two were joined, may still lie where it lay; what the
        # new one's holders have of it says little.
        unsettled = {leaf for one in beside for leaf in within(layout.tree, one)}
        blocks: dict[Prefix, Block] = {}
        if layout.generation == self._layouts.current.generation:
            blocks = await self._blocks(scored, leaves, wait_s)
            blocks = {leaf: block for leaf, block in blocks.items() if leaf not in unsettled}
        here = frozenset(leaf for leaf in leaves if leaf not in unsettled and self._is_complete(leaf))
        atlas = layout.atlas

        def decide() -> Choice:
            parts = weigh(scored, self._expected(atlas, blocks, codes, k))
            asked = {*contacts(parts, scored, recall_ppm / PPM, here)}
            asked |= {one for one in beside if any(leaf in asked for leaf in within(layout.tree, one))}
            return Choice(
                likely=tuple(leaf for leaf in (*leaves, *beside) if leaf in asked),
                others=tuple(leaf for leaf in (*leaves, *beside) if leaf not in asked),
                expected_ppm={shard: int(part * PPM) for shard, part in parts.items()},
                here=here,
            )

        return await self._run_blocking(decide)

    async def _blocks(
        self, scored: Sequence[Scored], leaves: tuple[Prefix, ...], wait_s: float
    ) -> dict[Prefix, Block]:
        if self._leaves[0] is not leaves:
            self._leaves = leaves, frozenset(leaves)
        shelf = self._puller.shelf
        wanted = [one.prefix for one in scored]
        if len(shelf) and shelf.rows / len(shelf) * len(wanted) > shelf.max_rows:
            wanted = wanted[: -(-len(wanted) // BEST)]
        return await self._puller.blocks(wanted, self._leaves[1], wait_s)

    def _expected(
        self, atlas: Atlas, blocks: Mapping[Prefix, Block], codes: Codes, k: int
    ) -> dict[Prefix, float]:
        """Expected hits of the shards whose blocks these are; none for a question without a direction."""
        if not blocks or not codes.any():
            return {}
        ready = self._made_ready(blocks)
        estimates = ready.sketches.cosines(rotation_of(atlas.cid, self._dim), codes)
        hits = expected_hits(estimates, ready.places, len(ready.shards), k, self._calibration.sigma(atlas))
        return dict(zip(ready.shards, hits.tolist(), strict=True))

    def _made_ready(self, blocks: Mapping[Prefix, Block]) -> Ready:
        for ready in self._ready:
            if ready.is_of(blocks):
                return ready
        ready = Ready(blocks, self._dim)
        self._ready = [ready, *self._ready][:MAX_DECODED]
        return ready


def expected_recall_ppm(choice: Choice, answered: Container[Prefix]) -> int:
    """The part of the best answers that may be expected of these shards.

    While postings move each lies in the old place or the new, and both are asked: the generation of which
    more was told counts.
    """
    by_vector = _reached_ppm(choice, answered)
    if choice.words_ppm is None or by_vector == PPM:
        return by_vector
    words = sum(ppm for shard, ppm in choice.words_ppm.items() if shard in answered or shard in choice.here)
    return int(recall_of_both(by_vector / PPM, words / PPM) * PPM)


def _reached_ppm(choice: Choice, answered: Container[Prefix]) -> int:
    reached: dict[int, int] = {}
    lacking: set[int] = set()
    for shard in (*choice.likely, *choice.others):
        reached.setdefault(shard.generation, 0)
        if shard in answered or shard in choice.here:
            reached[shard.generation] += choice.expected_ppm.get(shard, 0)
        else:
            lacking.add(shard.generation)
    return max((PPM if one not in lacking else ppm for one, ppm in reached.items()), default=0)
