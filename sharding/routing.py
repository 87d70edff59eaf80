"""Routing by meaning: which shards should be asked so that a question finds most of its answers.

The asker needs nothing but the atlas and the tree. Cells are ranked by how near their centroids lie to the
question; a cell's worth falls with its place in that ranking, as 3 / (3 + place), and halves with every
`HALVING_PPM` of cosine that it lies behind the best. (The ranking adapts to questions that are near to
everything or to nothing, the cosine to how clear the question is; each alone asks more shards, measured in
docs/sharding.md.) A shard is worth what the cells under its prefix are worth, and a shard finer than a cell
an equal part of it. Shards are asked in that order until they hold the wanted mass, the part of all hits that
the asker may expect to find. Integers throughout: with the same atlas everybody asks the same shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from chain.vector import PPM
from sharding.atlas import SCORE_BITS, Atlas, check_codes, scores
from sharding.errors import RoutingError
from sharding.tree import MAX_DEPTH, Prefix, ShardTree

HALVING_PPM = 100_000
"""How far behind the best cell, in ppm of cosine, a cell is worth half. Measured, see docs/sharding.md."""

PLACE_OFFSET = 3
"""The cell in place r, counted from 0, is worth 3 / (3 + r) of the first. Measured, see docs/sharding.md."""

CONTACT_MASS_PPM = 950_000
"""The mass to reach for a recall of .95. Measured, see docs/sharding.md."""

MAX_QUERY_CODES = 64
"""Vectors that one question may be made of."""

WEIGHT_BITS = 30
"""The best cell's weight is 2**30; with 65,536 cells and 64 vectors, sums stay below 2**52."""

STEPS = 32
"""Steps a halving in the table of weights."""

NORM_BITS = 16


@dataclass(frozen=True, slots=True)
class Scored:
    """A shard and its share of the expected hits, in ppm, rounded down."""

    prefix: Prefix
    mass_ppm: int


def route(
    atlas: Atlas, tree: ShardTree, query_codes: NDArray[np.int8], halving_ppm: int = HALVING_PPM
) -> list[Scored]:
    """All leaves of `tree` by expected hits, most first; of equals, the first in key order.

    `query_codes` is int8 of shape (dim,), or (m, dim) for a question of up to 64 vectors, whose expectations
    add up. Raises `AtlasError` for codes the atlas cannot place, `RoutingError` for too many or none. Cost
    O(m * cells * dim + leaves * log(leaves)).
    """
    codes = (
        query_codes[np.newaxis]
        if isinstance(query_codes, np.ndarray) and query_codes.ndim == 1
        else query_codes
    )
    checked = check_codes(atlas, codes)
    if not 1 <= len(checked) <= MAX_QUERY_CODES:
        raise RoutingError(f"a question of {len(checked)} vectors: pass 1 to {MAX_QUERY_CODES}")
    masses = _leaf_masses(cell_weights(atlas, checked, halving_ppm), atlas.rank_bits, tree)
    total = sum(masses)
    order = sorted(range(len(masses)), key=lambda leaf: (-masses[leaf], leaf))
    return [Scored(tree.leaves[leaf], masses[leaf] * PPM // total) for leaf in order]


def contact_set(
    scored: Sequence[Scored], mass_ppm: int = CONTACT_MASS_PPM, limit: int | None = None
) -> list[Prefix]:
    """The shortest head of `scored` that holds `mass_ppm`, but at most `limit` shards; at least one.

    1,000,000 ppm means every shard. Raises `RoutingError` for a mass outside 0..1,000,000 or a limit below 1.
    """
    if not 0 <= mass_ppm <= PPM:
        raise RoutingError(f"a mass of {mass_ppm} ppm: choose 0 to {PPM}")
    if limit is not None and limit < 1:
        raise RoutingError(f"a limit of {limit} shards: at least one must be asked")
    chosen: list[Prefix] = []
    held = 0
    for shard in scored[:limit]:
        if chosen and held >= mass_ppm and mass_ppm < PPM:
            break
        chosen.append(shard.prefix)
        held += shard.mass_ppm
    return chosen


def cell_weights(atlas: Atlas, codes: NDArray[np.int8], halving_ppm: int = HALVING_PPM) -> list[int]:
    """The worth of every cell by rank, summed over the codes; each code's best cell is worth 2**30.

    The cell in place r that lies g of cosine behind the best is worth 2**30 * 3 / (3 + r) / 2**(g / halving),
    the power from a table of 32 steps a halving. Of equally near cells the lower rank comes first.
    Codes must have passed `check_codes`. Raises `RoutingError` for a halving outside 1..1,000,000 ppm.
    """
    if not 1 <= halving_ppm <= PPM:
        raise RoutingError(f"a halving of {halving_ppm} ppm: choose 1 to {PPM}")
    table = _halvings()
    fits = scores(atlas, codes).astype(np.int64)  # exact integers, see `scores`
    by_place = (PLACE_OFFSET << WEIGHT_BITS) // (PLACE_OFFSET + np.arange(atlas.cells, dtype=np.int64))
    weights = np.zeros(atlas.cells, dtype=np.int64)
    for code, fit in zip(codes, fits, strict=True):
        wide = code.astype(np.int64)
        norm = isqrt(int(wide @ wide) << 2 * NORM_BITS)
        # A score is cosine * |code| * 2**SCORE_BITS; this is the score difference of one step of the table.
        step = max(1, (norm * halving_ppm << (SCORE_BITS - NORM_BITS)) // (PPM * STEPS))
        order = np.argsort(-fit, kind="stable")
        behind = np.minimum((fit[order[0]] - fit[order]) // step, len(table) - 1)
        weights[order] += by_place * table[behind] >> WEIGHT_BITS  # below 2**60 before the shift
    cells: list[int] = weights.tolist()
    return cells


def _leaf_masses(weights: Sequence[int], rank_bits: int, tree: ShardTree) -> list[int]:
    """The worth of every leaf, scaled by 2**48 a cell so that a leaf finer than a cell gets an exact part of
    it.
    """
    running = [0, *accumulate(weights)]
    cell_width = MAX_DEPTH - rank_bits
    masses = []
    for leaf in tree.leaves:
        first, last = leaf.start >> cell_width, -(-leaf.end >> cell_width)
        held = (running[last] - running[first]) << cell_width
        if leaf.length > rank_bits:
            held >>= leaf.length - rank_bits
        masses.append(held)
    return masses


@cache
def _halvings() -> NDArray[np.int64]:
    """floor-like 2**(30 - i / 32) by integer square roots, until nothing is left; the last entry is 0."""
    scale = 60
    root = 1 << (scale - 1)  # 2**-1, then its square root five times: 2**(-1/32)
    for _ in range(STEPS.bit_length() - 1):
        root = isqrt(root << scale)
    value, table = 1 << scale, []
    while value >> (scale - WEIGHT_BITS):
        table.append(value >> (scale - WEIGHT_BITS))
        value = value * root >> scale
    halvings = np.array([*table, 0], dtype=np.int64)
    halvings.setflags(write=False)
    return halvings
