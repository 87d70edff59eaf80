"""Measures: distributions by nearest rank, and recall against an exhaustive search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.vector import score_ppm
from node.embedding.static import StaticEmbedder
from sim.assertions import Assertion, parse_assertion
from sim.measures import Oracle, distribution


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_a_distribution_is_of_its_samples_whatever_their_order(values: list[float]) -> None:
    figures = distribution(values)
    assert figures == distribution(values[::-1])
    ordered = sorted(values)
    assert figures["count"] == len(values)
    assert figures["max"] == round(ordered[-1], 6)
    at_most = sum(value <= figures["p95"] + 1e-6 for value in values)
    assert at_most >= 0.95 * len(values)
    assert figures["mean"] == pytest.approx(math.fsum(values) / len(values), abs=1e-5)


def test_recall_counts_what_an_exhaustive_search_would_have_found() -> None:
    embedder = StaticEmbedder()
    oracle = Oracle(embedder)
    texts = ["a red apple", "green pears", "the price of oil", "apple trees", "a red apple"]
    ids = [bytes([number]) for number in range(5)]
    oracle.learn(ids[:2], texts[:2])
    oracle.learn(ids[2:], texts[2:])
    scores = oracle.scores("red apples")
    codes = embedder.embed([*texts, "red apples"])
    exact = [score_ppm(codes[-1], one) for one in codes[:-1]]
    assert np.allclose(scores * 1e6, exact, atol=2)
    assert oracle.recall(scores, [ids[0], ids[4]], 2) == 1
    assert oracle.recall(scores, [ids[0]], 1) == oracle.recall(scores, [ids[4]], 1) == 1  # they tie
    assert oracle.recall(scores, [ids[2], ids[0], b"unknown"], 2) == 0.5
    assert oracle.recall(scores, ids, 10) == 1
    oracle.replace(ids[2], "red apples")
    assert oracle.recall(oracle.scores("red apples"), [ids[2]], 1) == 1
    assert oracle.recall(scores[:2], [ids[2]], 1) == 0  # it came after the question


@pytest.mark.parametrize(
    ("text", "value", "held"),
    [
        ("a.b >= 0.5", 0.5, True),
        ("a.b > 0.5", 0.5, False),
        ("x == -1", -1.0, True),
        ("x<=2", 2.5, False),
        ("x < 2", 1.0, True),
    ],
)
def test_an_assertion_holds_or_does_not(text: str, value: float, held: bool) -> None:
    assert parse_assertion(text).holds(value) is held


def test_an_assertion_finds_its_metric() -> None:
    metrics = {"pending": 3, "sync_lag": {"p95": 4.0}, "steps": {"load": {"query_ms": {"max": 9.0}}}}
    assert Assertion("pending", "==", 0).value_in(metrics) == 3
    assert Assertion("sync_lag.p95", "==", 0).value_in(metrics) == 4
    assert Assertion("load.query_ms.max", "==", 0).value_in(metrics) == 9
    assert Assertion("load.recall", "==", 0).value_in(metrics) is None
    assert Assertion("settle_s", "==", 0).value_in(metrics) is None
