"""Which shards a question goes to: those likeliest to hold its answers, the others if those bring too few.

The likeliest follow from the atlas (`sharding.routing`): as many as hold the wanted part of the mass. While
postings move from one atlas to the next, shards of both are chosen. Runs in any thread.
"""

from __future__ import annotations

from itertools import chain

from chain.vector import Codes
from dht.records.layouts import Layouts
from dht.records.placement import Layout
from sharding.routing import CONTACT_MASS_PPM, contact_set, route
from sharding.tree import Prefix


class ShardChoice:
    """Chooses shards of the layouts that are asked."""

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts

    def choose(self, codes: Codes) -> tuple[tuple[Prefix, ...], tuple[Prefix, ...]]:
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
