"""Expected hits: they add up, they follow the question, and they come true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import RoutingError
from sharding.expectation import estimate_error, expected_hits


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 10), st.floats(0.001, 0.5), st.integers(0, 9))
def test_they_add_up_to_k_or_to_all_there_is(n: int, k: int, count: int, sigma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    estimates = rng.normal(0.2, 0.1, n).astype(np.float32)
    hits = expected_hits(estimates, rng.integers(0, count, n), count, k, sigma)
    assert hits.shape == (count,)
    assert (hits >= 0).all()
    assert hits.sum() == pytest.approx(min(n, k))


def test_without_doubt_the_k_best_are_expected_and_nobody_else() -> None:
    estimates = np.linspace(0, 1, 100, dtype=np.float32)
    hits = expected_hits(estimates, np.arange(100), 100, 10, 1e-4)
    assert hits[90:] == pytest.approx(1.0, abs=1e-3)
    assert hits[:90] == pytest.approx(0.0, abs=1e-3)


def test_the_order_of_entries_does_not_matter_and_more_than_are_looked_at_change_nothing() -> None:
    rng = np.random.default_rng(2)
    estimates, shards = rng.normal(0.1, 0.05, 20_000).astype(np.float32), rng.integers(0, 64, 20_000)
    hits = expected_hits(estimates, shards, 64, 10, 0.01)
    order = rng.permutation(20_000)
    assert expected_hits(estimates[order], shards[order], 64, 10, 0.01) == pytest.approx(hits)
    near = np.argsort(-estimates)[:10_000]
    assert expected_hits(estimates[near], shards[near], 64, 10, 0.01) == pytest.approx(hits)


def test_what_is_expected_of_the_shards_asked_comes_true() -> None:
    rng = np.random.default_rng(3)
    expected, got = [], []
    for _ in range(200):
        true = rng.normal(0.1, 0.08, 5_000)
        estimates = (true + rng.normal(0, 0.02, 5_000)).astype(np.float32)
        shards = rng.integers(0, 500, 5_000)
        hits = expected_hits(estimates, shards, 500, 10, 0.02)
        asked = np.argsort(-hits)[:10]
        expected.append(hits[asked].sum() / 10)
        got.append(np.isin(shards[np.argsort(-true)[:10]], asked).mean())
    assert abs(np.mean(expected) - np.mean(got)) < 0.03


def test_the_error_is_measured_on_vectors_that_are_known() -> None:
    true = np.linspace(-1, 1, 1_000)
    noisy = (true + np.random.default_rng(4).normal(0, 0.05, 1_000)).astype(np.float32)
    assert estimate_error(noisy, true) == pytest.approx(0.05, rel=0.1)
    with pytest.raises(RoutingError):
        estimate_error(noisy[:1], true[:1])
    with pytest.raises(RoutingError):
        expected_hits(noisy, np.zeros(3, np.int64), 1, 10, 0.1)
