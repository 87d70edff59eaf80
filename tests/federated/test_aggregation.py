"""Fixed-point averages: one result for every order, within the grid of the exact one, never an overflow."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chain.learning_task import MAX_ABS, MAX_EXAMPLES, MAX_MEMBERS, Array
from federated.aggregation import Accumulator, average, scale_bits
from federated.update import decode, encode, inspect
from tests.federated.models import ARRAYS, TASK, model, task_of, values

updates = st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 1_000)), min_size=1, max_size=4)


@given(chosen=updates, seed=st.integers(0, 99))
def test_every_order_gives_the_same_bytes(chosen: list[tuple[int, int]], seed: int) -> None:
    pairs = [(model(one), weight) for one, weight in chosen]
    expected = average(TASK, pairs)
    random.Random(seed).shuffle(pairs)
    assert average(TASK, pairs) == expected
    assert inspect(ARRAYS, expected, TASK.max_abs) is None


@given(chosen=updates)
def test_it_is_the_exact_mean_of_the_rounded_values(chosen: list[tuple[int, int]]) -> None:
    """The same in Python's integers, where nothing can overflow or be reordered."""
    found = decode(ARRAYS, average(TASK, [(model(one), weight) for one, weight in chosen]), TASK.max_abs)
    total = sum(weight for _, weight in chosen)
    for place, (array, mean) in enumerate(zip(ARRAYS, found, strict=True)):
        scale = 1 if array.dtype == "<i8" else 1 << scale_bits(TASK)
        for index in np.ndindex(array.shape):
            rounded = [
                (round(Fraction(values(one)[place][index].item()) * scale), weight) for one, weight in chosen
            ]
            exact = round(Fraction(sum(value * weight for value, weight in rounded), total))
            expected = np.array(float(Fraction(exact, scale))).astype(array.dtype)
            assert mean[index] == expected


@given(chosen=updates)
def test_it_is_close_to_floating_fedavg(chosen: list[tuple[int, int]]) -> None:
    found = decode(ARRAYS, average(TASK, [(model(one), weight) for one, weight in chosen]), TASK.max_abs)
    weights = [weight for _, weight in chosen]
    for place, mean in enumerate(found[:2]):
        floating = np.average([values(one)[place] for one, _ in chosen], axis=0, weights=weights)
        assert np.allclose(mean, floating, rtol=2e-7, atol=2e-6)


def test_the_largest_values_and_weights_that_a_task_may_allow_do_not_overflow() -> None:
    for most, examples in (
        (MAX_ABS, MAX_EXAMPLES),
        (1, MAX_EXAMPLES),
        (MAX_ABS, 1),
        (1, 1),
        (999_999, 999_999),
    ):
        task = task_of(max_abs=most, max_examples=examples, max_members=MAX_MEMBERS)
        for sign in (1, -1):
            extreme = encode(ARRAYS, [np.full(a.shape, sign * most, a.dtype) for a in ARRAYS])
            assert average(task, [(extreme, examples)] * MAX_MEMBERS) == extreme
    assert scale_bits(task_of(max_abs=MAX_ABS, max_examples=MAX_EXAMPLES, max_members=MAX_MEMBERS)) == 18


near_powers = st.builds(lambda bits, near: max(1, (1 << bits) + near), st.integers(0, 19), st.integers(-1, 1))


@given(most=near_powers, examples=near_powers, members=st.integers(2, MAX_MEMBERS))
@example(most=8, examples=171, members=3)  # 2**9 + 1 in all
def test_the_grid_is_as_fine_as_the_proof_allows(most: int, examples: int, members: int) -> None:
    scale = scale_bits(task_of(max_abs=most, max_examples=examples, max_members=members))
    assert most << scale <= 1 << 53
    assert most * members * examples << scale <= 1 << 62
    a, w = (next(n for n in range(63) if 1 << n >= one) for one in (most, members * examples))
    assert 1 << a + scale == 1 << 53 or 1 << a + w + scale == 1 << 62


def test_halves_round_to_even() -> None:
    task = task_of(Array("n", "<i8", (4,)))
    pair = [encode(task.arrays, [np.array(row, "<i8")]) for row in ([1, 2, -1, -2], [2, 3, -2, -3])]
    (mean,) = decode(task.arrays, average(task, [(one, 1) for one in pair]), task.max_abs)
    assert mean.tolist() == [2, 2, -2, -2]


def test_many_elements_and_few_give_the_same() -> None:
    """Work goes by chunks; their edges must not show."""
    long = task_of(Array("w", "<f4", (100_003,)))
    rng = np.random.default_rng(3)
    rows = [rng.uniform(-1, 1, 100_003).astype("<f4") for _ in range(3)]
    data = average(long, [(encode(long.arrays, [row]), 5 + n) for n, row in enumerate(rows)])
    (whole,) = decode(long.arrays, data, long.max_abs)
    for start in (0, 32_767, 65_535, 99_999):
        short = task_of(Array("w", "<f4", (4,)))
        part = average(
            short, [(encode(short.arrays, [row[start : start + 4]]), 5 + n) for n, row in enumerate(rows)]
        )
        assert decode(short.arrays, part, short.max_abs)[0].tolist() == whole[start : start + 4].tolist()


def test_weights_beyond_the_terms_are_refused() -> None:
    accumulator = Accumulator(TASK)
    with pytest.raises(ValueError, match="no update"):
        accumulator.mean()
    with pytest.raises(ValueError, match="weight of 0"):
        accumulator.add(model(1), 0)
    for _ in range(TASK.max_members):
        accumulator.add(model(1), TASK.max_examples)
    with pytest.raises(ValueError, match="exceeds"):
        accumulator.add(model(1), 1)
    assert (accumulator.updates, accumulator.weight) == (4, 4_000)
