"""Which shards a question goes to: those likeliest to hold its answers, and the others if they bring too few.

The likeliest follow from the atlas (`sharding.routing`): as many as hold the part of the mass that gives the
recall wanted. While postings move from one atlas to the next, shards of both are chosen. What was expected of
each shard also says, once the holders have answered, which part of the true best an answer should hold
(`expected_recall_ppm`). Runs in any thread.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from chain.vector import PPM, Codes
from dht.records.layouts import Layouts
from dht.records.placement import Layout
from sharding.routing import contact_set, route
from sharding.tree import Prefix


@dataclass(frozen=True, slots=True)
class Choice:
    """The shards of a question: `likely` to ask first and all `others`, each in the order of the curve.

    `expected_ppm` is the part of its hits that each shard is expected to hold; those of one generation add up
    to 1,000,000 but for rounding down.
    """

    likely: tuple[Prefix, ...]
    others: tuple[Prefix, ...]
    expected_ppm: Mapping[Prefix, int]

    def __len__(self) -> int:
        return len(self.likely) + len(self.others)


class ShardChoice:
    """Chooses shards of the layouts that are asked."""

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts

    def choose(self, codes: Codes, recall_ppm: int) -> Choice:
        """The shards for a question of which this part of the true best is wanted."""
        chosen = [self._choose_in(layout, codes, recall_ppm) for layout in self._layouts.places.asked]
        return Choice(
            likely=tuple(shard for one in chosen for shard in one.likely),
            others=tuple(shard for one in chosen for shard in one.others),
            expected_ppm={shard: ppm for one in chosen for shard, ppm in one.expected_ppm.items()},
        )

    def _choose_in(self, layout: Layout, codes: Codes, recall_ppm: int) -> Choice:
        leaves = self._layouts.leaves_of(layout)
        if layout.atlas is None:
            return Choice(leaves, (), dict.fromkeys(leaves, PPM // max(1, len(leaves))))
        scored = route(layout.atlas, layout.tree, codes)
        likely = set(contact_set(scored, mass_for_ppm(recall_ppm), len(layout.tree.leaves)))
        return Choice(
            likely=tuple(leaf for leaf in leaves if leaf in likely),
            others=tuple(leaf for leaf in leaves if leaf not in likely),
            expected_ppm={one.prefix: one.mass_ppm for one in scored},
        )


def mass_for_ppm(recall_ppm: int) -> int:
    """The mass to reach for a recall; by the atlas it is off by .022 at most (docs/sharding.md)."""
    return recall_ppm


def expected_recall_ppm(choice: Choice, answered: Container[Prefix]) -> int:
    """The part of the true best that the answer of these shards should hold.

    While postings move each lies in the old place or the new, and both are asked: the generation of which
    more was told counts.
    """
    reached: dict[int, int] = {}
    lacking: set[int] = set()
    for shard in (*choice.likely, *choice.others):
        reached.setdefault(shard.generation, 0)
        if shard in answered:
            reached[shard.generation] += choice.expected_ppm.get(shard, 0)
        else:
            lacking.add(shard.generation)
    return max((PPM if one not in lacking else ppm for one, ppm in reached.items()), default=0)
