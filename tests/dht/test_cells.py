"""Cells: they cover the key space once, and in each the R nearest to any key are the same nodes."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.distance import closest
from dht.repair.cells import MAX_CELLS, SPACE, Cell, cells, shared


@given(st.sampled_from([0, 1, 2, 3, 4, 9, 40]), st.integers(1, 5), st.integers(0, 10_000))
def test_the_nearest_are_the_same_all_over_a_cell(count: int, replication: int, seed: int) -> None:
    rng = random.Random(seed)
    nodes = {rng.randbytes(32): rng.randbytes(32) for _ in range(count)}
    found = cells(nodes, replication)
    whole = sum(cell.end - cell.first for cell in found) == SPACE
    assert whole or count > 3
    assert all(a.end <= b.first and (a.end, a.holders) != (b.first, b.holders) for a, b in pairwise(found))
    for cell in found:
        for key in (cell.first, cell.end - 1, rng.randrange(cell.first, cell.end)):
            near = closest(key.to_bytes(8, "big") + rng.randbytes(24), nodes, nodes.__getitem__, replication)
            assert cell.holders == frozenset(near)


@given(st.sampled_from([1, 3, 4, 9, 40]), st.integers(1, 4), st.integers(1, 6), st.integers(0, 10_000))
def test_where_enough_lies_cells_are_cut_as_they_would_be_everywhere(
    count: int, replication: int, enough: int, seed: int
) -> None:
    rng = random.Random(seed)
    nodes = {rng.randbytes(32): rng.randbytes(32) for _ in range(count)}
    keys = sorted(rng.randrange(SPACE) >> rng.choice((0, 0, 20)) for _ in range(30))

    def inside(first: int, end: int) -> int:
        return bisect_left(keys, end) - bisect_left(keys, first)

    found = cells(nodes, replication, lambda first, end: inside(first, end) >= enough)
    every = cells(nodes, replication)
    for cell in found:
        (around,) = [one for one in every if one.first <= cell.first and cell.end <= one.end]
        assert around.holders == cell.holders
        assert inside(cell.first, cell.end) >= enough
    if enough == 1 and sum(cell.end - cell.first for cell in every) == SPACE:
        assert sum(inside(cell.first, cell.end) for cell in found) == len(keys)


def test_positions_made_to_be_close_cost_no_more_than_the_limit() -> None:
    twins = {bytes([n]) * 32: bytes(20) + bytes([n]) * 12 for n in range(6)}
    others = {bytes([n]) * 32: random.Random(n).randbytes(32) for n in range(6, 20)}
    found = cells(twins | others, 3)
    assert len(found) <= MAX_CELLS
    assert sum(cell.end - cell.first for cell in found) > SPACE // 4


def test_adjoining_cells_are_compared_as_one_range() -> None:
    a, b, c = (Cell(n, n + 10, frozenset()) for n in (0, 10, 40))
    assert shared([c, a, b]) == [(0, 20), (40, 50)]
