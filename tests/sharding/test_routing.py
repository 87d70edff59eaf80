"""Routing finds the shards where the answers lie, asks them in order, and says the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.vector import PPM
from sharding import hilbert, routing
from sharding.atlas import Atlas, nearest_cells, scores
from sharding.atlas_build import build_atlas, quantise
from sharding.errors import AtlasError, RoutingError
from sharding.key import places
from sharding.routing import Scored, cell_weights, contact_set, route
from sharding.tree import Prefix, ShardTree, split

DIM = 5
CELLS = 16


def plain_atlas() -> Atlas:
    centroids = [
        [(cell * 37 + axis * 59 + cell * axis * 11) % 201 - 100 for axis in range(DIM)]
        for cell in range(CELLS)
    ]
    positions = [hilbert.decode_point(cell << 28, 2, 16) for cell in range(CELLS)]
    return Atlas("golden", np.array(centroids, dtype=np.int8), np.array(positions, dtype=np.uint16))


ATLAS = plain_atlas()
rows = st.lists(st.integers(-127, 127), min_size=DIM, max_size=DIM).filter(any)


GOLDEN_ROUTE = [("00", 788808), ("11", 108353), ("01", 63294), ("10", 39543)]
GOLDEN_HALVINGS = [1073741824, 33554431, 1048575, 32767, 1023, 31, 0]


@st.composite
def trees(draw: st.DrawFn) -> ShardTree:
    tree = ShardTree.fixed(draw(st.integers(0, 3)))
    for _ in range(draw(st.integers(0, 12))):
        leaf = draw(st.sampled_from(tree.leaves))
        if leaf.length < 12:
            tree = split(tree, leaf)
    return tree


@given(trees(), rows)
def test_every_leaf_is_scored_once_most_first_and_masses_make_a_whole(
    tree: ShardTree, row: list[int]
) -> None:
    scored = route(ATLAS, tree, np.array(row, np.int8))
    assert sorted(shard.prefix for shard in scored) == list(tree.leaves)
    masses = [shard.mass_ppm for shard in scored]
    assert masses == sorted(masses, reverse=True)
    assert PPM - len(masses) <= sum(masses) <= PPM


@given(trees(), rows)
def test_a_leaf_is_worth_its_cells_and_a_part_of_a_cell_its_part(tree: ShardTree, row: list[int]) -> None:
    code = np.array(row, np.int8)
    weights = cell_weights(ATLAS, code[np.newaxis])
    total = sum(weights)
    for shard in route(ATLAS, tree, code):
        # 12 bits divide every leaf of these trees into whole pieces, 256 of them to a cell.
        first = shard.prefix.bits << (12 - shard.prefix.length)
        pieces = range(first, first + (1 << (12 - shard.prefix.length)))
        worth = sum(weights[piece >> 8] for piece in pieces)
        assert shard.mass_ppm == worth * PPM // (total * 256)


@given(trees(), rows, st.data())
def test_splitting_a_leaf_moves_no_mass_elsewhere(
    tree: ShardTree, row: list[int], data: st.DataObject
) -> None:
    code = np.array(row, np.int8)
    leaf = data.draw(st.sampled_from(tree.leaves))
    before = {shard.prefix: shard.mass_ppm for shard in route(ATLAS, tree, code)}
    after = {shard.prefix: shard.mass_ppm for shard in route(ATLAS, split(tree, leaf), code)}
    halves = sum(after.pop(child) for child in leaf.children())
    assert halves <= before.pop(leaf) <= halves + 1
    assert after == before


@given(rows)
def test_the_nearest_cell_is_worth_most(row: list[int]) -> None:
    code = np.array([row], np.int8)
    weights = cell_weights(ATLAS, code)
    assert weights[int(nearest_cells(ATLAS, code)[0])] == max(weights) == 1 << routing.WEIGHT_BITS


@given(st.lists(rows, min_size=1, max_size=5))
def test_a_question_of_several_vectors_adds_their_expectations(drawn: list[list[int]]) -> None:
    codes = np.array(drawn, np.int8)
    apart = [cell_weights(ATLAS, code[np.newaxis]) for code in codes]
    assert cell_weights(ATLAS, codes) == [sum(column) for column in zip(*apart, strict=True)]
    tree = ShardTree.fixed(3)
    assert route(ATLAS, tree, codes) == route(ATLAS, tree, codes[::-1].copy())


@given(
    st.lists(st.integers(0, 300_000), min_size=1, max_size=20),
    st.integers(0, PPM),
    st.none() | st.integers(1, 25),
)
def test_the_contact_set_is_the_shortest_head_that_holds_the_mass(
    masses: list[int], wanted: int, limit: int | None
) -> None:
    scored = [Scored(Prefix(i, 6), mass) for i, mass in enumerate(sorted(masses, reverse=True))]
    chosen = contact_set(scored, wanted, limit)
    assert chosen == [shard.prefix for shard in scored[: len(chosen)]]
    assert 1 <= len(chosen) <= (limit or len(scored))
    held = sum(shard.mass_ppm for shard in scored[: len(chosen)])
    if len(chosen) < min(limit or len(scored), len(scored)):
        assert held >= wanted
    if len(chosen) > 1 and wanted < PPM:
        assert held - scored[len(chosen) - 1].mass_ppm < wanted


def test_the_whole_mass_means_every_shard() -> None:
    scored = route(ATLAS, ShardTree.fixed(3), np.array([9, 1, 0, -3, 4], np.int8))
    assert len(contact_set(scored, PPM)) == 8
    assert len(contact_set(scored, PPM, limit=5)) == 5
    assert len(contact_set(scored, 0)) == 1


@pytest.mark.parametrize("wanted", [-1, PPM + 1])
def test_impossible_masses_are_refused(wanted: int) -> None:
    with pytest.raises(RoutingError, match="mass"):
        contact_set([], wanted)


def test_impossible_limits_and_questions_are_refused() -> None:
    tree = ShardTree.fixed(1)
    with pytest.raises(RoutingError, match="limit of 0"):
        contact_set([], 1, 0)
    with pytest.raises(RoutingError, match="0 vectors"):
        route(ATLAS, tree, np.empty((0, DIM), np.int8))
    with pytest.raises(RoutingError, match="65 vectors"):
        route(ATLAS, tree, np.ones((65, DIM), np.int8))
    with pytest.raises(RoutingError, match="halving"):
        route(ATLAS, tree, np.ones(DIM, np.int8), halving_ppm=0)
    for bad in (np.zeros(DIM, np.int8), np.ones(DIM + 1, np.int8), np.ones((1, 1, DIM), np.int8)):
        with pytest.raises(AtlasError):
            route(ATLAS, tree, bad)


def test_routing_finds_the_neighbours_of_a_question_in_clustered_data() -> None:
    generator = np.random.default_rng(11)
    centres = generator.normal(size=(200, 24))

    def sample(count: int) -> np.ndarray:
        spread = generator.normal(size=(count, 24)) * 0.35
        return quantise((centres[generator.integers(0, 200, count)] + spread).astype(np.float32))

    atlas = build_atlas(sample(3000), "test", cells=256, seed=1, learned_map=False)
    tree = ShardTree.fixed(6)
    stored, questions = sample(4000), sample(60)
    shard = np.array(places(atlas, stored), dtype=np.uint64) >> np.uint64(58)
    units = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    found = asked = 0
    for question in questions:
        nearest = np.argsort(-(units @ question), kind="stable")[:10]
        chosen = {prefix.bits for prefix in contact_set(route(atlas, tree, question))}
        found += sum(int(shard[i]) in chosen for i in nearest)
        asked += len(chosen)
    assert found / 600 >= 0.93
    assert asked / 60 <= 32  # half of them; asking blindly for .93 takes 60


@settings(max_examples=20)
@given(st.integers(1, PPM))
def test_weights_fall_with_distance_for_any_halving(halving: int) -> None:
    codes = np.array([[50, -20, 7, 90, -3]], np.int8)
    weights = cell_weights(ATLAS, codes, halving)
    fits = scores(ATLAS, codes)[0]
    falling = [weights[cell] for cell in np.argsort(-fits, kind="stable")]
    assert falling == sorted(falling, reverse=True)


def test_golden_values() -> None:
    scored = route(ATLAS, ShardTree.fixed(2), np.array([50, -20, 7, 90, -3], np.int8))
    assert [(shard.prefix.text(), shard.mass_ppm) for shard in scored] == GOLDEN_ROUTE
    assert routing._halvings()[::160].tolist() == GOLDEN_HALVINGS
