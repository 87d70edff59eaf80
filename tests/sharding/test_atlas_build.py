"""Building an atlas: it names the sample's clusters, keeps like cells together, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from sharding import hilbert
from sharding.atlas import Atlas, nearest_cells
from sharding.atlas_build import ROUNDS, build_atlas, order_by_components, quantise, spherical_kmeans
from sharding.errors import AtlasError


def clusters(count: int, dim: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(count, dim))
    labels = np.repeat(np.arange(count), each)
    return (centres[labels] + 0.05 * generator.normal(size=(len(labels), dim))).astype(np.float32), labels


@pytest.mark.slow
@pytest.mark.parametrize("learned_map", [True, False])
def test_the_same_sample_and_seed_give_the_same_valid_atlas(learned_map: bool) -> None:
    vectors, _ = clusters(20, 12, 15)
    atlas = build_atlas(vectors, "test", cells=16, seed=3, learned_map=learned_map)
    assert Atlas.decode(atlas.encode()) == atlas
    assert (atlas.cells, atlas.dim, atlas.space) == (16, 12, "test")
    assert build_atlas(vectors, "test", cells=16, seed=3, learned_map=learned_map).cid == atlas.cid
    assert build_atlas(vectors, "test", cells=16, seed=4, learned_map=learned_map).cid != atlas.cid


def test_a_cell_holds_vectors_of_one_cluster_only() -> None:
    vectors, labels = clusters(4, 16, 50)
    atlas = build_atlas(vectors, "test", cells=16, seed=1)
    ranks = nearest_cells(atlas, quantise(vectors))
    assert all(len(set(labels[ranks == rank].tolist())) == 1 for rank in set(ranks.tolist()))
    assert len(set(ranks.tolist())) == 16


def test_codes_and_lengths_do_not_matter_only_directions() -> None:
    codes = np.random.default_rng(2).integers(-60, 60, (80, 6), np.int8, endpoint=True)
    codes[:, 0] |= 1
    whole = build_atlas(codes, "test", cells=8, learned_map=False)
    assert build_atlas(codes.astype(np.float32) * 2, "test", cells=8, learned_map=False).cid == whole.cid


def test_fallback_positions_lie_evenly_along_the_curve() -> None:
    units, _ = clusters(64, 10, 1)
    order, positions = order_by_components(units)
    assert sorted(order.tolist()) == list(range(64))
    assert np.diff(hilbert.encode(positions, 16).astype(np.int64)).tolist() == [1 << 26] * 63


@pytest.mark.parametrize("learned_map", [True, False])
def test_neighbours_in_rank_are_more_alike_than_strangers(learned_map: bool) -> None:
    generator = np.random.default_rng(5)
    themes = generator.normal(size=(8, 20))
    vectors = (np.repeat(themes, 60, axis=0) + 0.5 * generator.normal(size=(480, 20))).astype(np.float32)
    centroids = build_atlas(vectors, "test", cells=64, seed=0, learned_map=learned_map).centroids.astype(
        float
    )
    units = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    assert (units[1:] * units[:-1]).sum(axis=1).mean() > (units @ units.T).mean() + 0.3


def test_every_cell_is_used_even_when_the_sample_repeats_itself() -> None:
    units, _ = clusters(32, 8, 1)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    repeated = np.repeat(units, [100] + [1] * 31, axis=0)
    centroids = spherical_kmeans(repeated, 16, seed=0)
    assert np.isfinite(centroids).all()
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-4)


def test_whoever_watches_is_told_each_step() -> None:
    told: list[tuple[str, int, int | None]] = []
    vectors, _ = clusters(20, 12, 5)
    build_atlas(vectors, "test", cells=8, progress=lambda *step: told.append(step))
    rounds = [done for step, done, of in told if step == "dividing into cells" and of == ROUNDS]
    assert rounds == list(range(len(rounds)))
    assert told[len(rounds) :] == [("laying out the cells", 0, None)]


def test_vectors_that_cancel_out_leave_a_direction() -> None:
    vectors = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]] * 4, np.float32)
    assert build_atlas(vectors, "test", cells=2).centroids.any(axis=1).all()


@pytest.mark.parametrize(
    ("vectors", "cells", "message"),
    [
        (np.ones((8, 3), np.float64), 4, "float32 or int8"),
        (np.ones(8, np.float32), 4, "float32 or int8"),
        ([[1.0]], 2, "float32 or int8"),
        (np.ones((8, 3), np.float32), 3, "power of two"),
        (np.ones((8, 3), np.float32), 1, "power of two"),
        (np.ones((8, 3), np.float32), 131072, "power of two"),
        (np.ones((3, 3), np.float32), 4, "larger sample"),
        (np.zeros((8, 3), np.float32), 4, "vector 0 is zero"),
        (
            np.array([[1, 2], [np.nan, 1], [np.inf, 0], [1, 1]], np.float32),
            2,
            "vector 1 is zero or not finite",
        ),
    ],
)
def test_bad_samples_are_refused_by_name(vectors: np.ndarray, cells: int, message: str) -> None:
    with pytest.raises(AtlasError, match=message):
        build_atlas(vectors, "test", cells=cells)
