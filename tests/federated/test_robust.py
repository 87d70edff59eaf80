"""Robust rules: one result for every order and block size, close to floats, as far from liars as proven."""

from __future__ import annotations

import random
import tracemalloc
from fractions import Fraction
from hashlib import sha256
from mmap import PROT_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chain.aggregation_rule import FINISHES, ROBUST, TRIMMED_MEAN, parse_rule
from chain.kinds import ROUNDS_FROM
from chain.learning_task import ALL_TO_ALL, GROUPS, MAX_ABS, Array, Task
from federated.differences import MAX_ROWS, Differences, grid_bits
from federated.mixing import MAX_DENOMINATOR, clip
from federated.robust import combine, mixture_of, round_model
from federated.update import decode, encode, inspect
from tests.federated.models import task_of

Floats = NDArray[np.float64]
WIDTH = 6
SHAPES = (Array("w", "<f8", (WIDTH,)), Array("n", "<i8", (2,)))
RULES = ["median", "trimmed_mean", "nnm|trimmed_mean", ROBUST, "clip|nnm|clip|krum", "clip|multi_krum:40"]
RULES += ["nnm|geometric_median", "clip|centred_clip", "clip|nnm|nnm|mean"]


def encoded(task: Task, rows: Floats) -> list[tuple[bytes, bytes]]:
    """Updates whose first array is a row; named as by a CID."""
    found = [
        encode(task.arrays, [row.astype("<f8"), np.array([place % 2, -1])]) for place, row in enumerate(rows)
    ]
    return [(sha256(data).digest(), data) for data in found]


def combined(rule: str, rows: Floats, base: Floats | None = None, **terms: int) -> Floats:
    """What a rule makes of these rows, as the difference from the base (zeros)."""
    task = task_of(*SHAPES, **{"max_members": 16, "max_abs": 1_000, **terms})
    origin = np.zeros(WIDTH) if base is None else base
    start = encode(task.arrays, [origin.astype("<f8"), np.zeros(2, np.int64)])
    data = combine(task, parse_rule(rule), start, encoded(task, rows))
    assert inspect(task.arrays, data, task.max_abs) is None
    return decode(task.arrays, data, task.max_abs)[0] - origin


def drawn(seed: int, count: int, liars: int = 0) -> Floats:
    """Honest rows around one point, then liars of one of several kinds."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=WIDTH) + rng.normal(size=(count - liars, WIDTH)) * rng.choice([0.1, 1, 3])
    middle, spread = honest.mean(0), honest.std(0)
    lies = [
        lambda: np.tile(middle - rng.uniform(0, 2) * spread, (liars, 1)),
        lambda: np.tile(-rng.uniform(0.1, 20) * middle, (liars, 1)),
        lambda: rng.normal(size=(liars, WIDTH)) * rng.choice([1, 100]),
        lambda: np.tile(honest[0], (liars, 1)),
        lambda: np.tile(rng.choice([-1000.0, 1000.0], WIDTH), (liars, 1)),
        lambda: np.zeros((liars, WIDTH)),
    ]
    return np.concatenate([honest, lies[seed % len(lies)]()]) if liars else honest


sizes = st.integers(1, 13)
seeds = st.integers(0, 10_000)


@settings(max_examples=40)
@given(seed=seeds, count=sizes, rule=st.sampled_from(RULES), chunk=st.integers(1, 7))
def test_order_and_block_size_do_not_show(seed: int, count: int, rule: str, chunk: int) -> None:
    task = task_of(*SHAPES, max_members=16)
    rng = np.random.default_rng(seed)
    # Half of them lie on a coarse grid, where many distances are equal.
    coarse = rng.integers(-1, 2, (count, WIDTH)).astype(np.float64)
    rows: Floats = coarse if seed % 2 else drawn(seed, count) / 10
    updates = encoded(task, rows)
    base = encode(task.arrays, [np.ones(WIDTH), np.array([3, 4])])
    whole = combine(task, parse_rule(rule), base, updates)
    random.Random(seed).shuffle(updates)
    assert combine(task, parse_rule(rule), base, updates, chunk) == whole


class Tied(Exception):
    """Rows are equally near, and the papers do not say which of them is taken."""


def reference(rule: str, rows: Floats) -> Floats:
    """The same pipeline as in the papers, in floating point, on whole matrices. Raises `Tied`."""
    parsed = parse_rule(rule)
    n = len(rows)
    f = parsed.liars(n)
    if not f:
        return np.asarray(rows.mean(0))
    for step in parsed.transforms:
        if step == "clip":
            norms = np.linalg.norm(rows, axis=1)
            rows = rows * np.minimum(1, np.sort(norms)[(n - 1) // 2] / norms)[:, None]
        else:
            apart = np.linalg.norm(rows[:, None] - rows, axis=2)
            rows = np.stack([rows[np.argsort(row, kind="stable")[: n - f]].mean(0) for row in apart])
    if parsed.finish == "median":
        return np.asarray(np.median(rows, axis=0))
    if parsed.finish == "trimmed_mean":
        return np.asarray(np.sort(rows, axis=0)[f : n - f].mean(0))
    if parsed.finish.endswith("krum"):
        apart = np.sort(np.linalg.norm(rows[:, None] - rows, axis=2) ** 2, axis=1)
        near = max(n - min(f, max((n - 3) // 2, 0)) - 2, 1)
        scores = apart[:, 1 : near + 1].sum(1)
        best = np.argsort(scores, kind="stable")
        chosen = n - f if parsed.finish == "multi_krum" else 1
        if chosen < n and np.isclose(scores[best[chosen - 1]], scores[best[chosen]], rtol=1e-6):
            raise Tied
        return np.asarray(rows[best[:chosen]].mean(0))
    if parsed.finish == "geometric_median":
        point = rows.mean(0)
        for _ in range(64):
            reach = np.linalg.norm(rows - point, axis=1)
            reach = np.maximum(reach, np.sort(reach)[(n - 1) // 2] / 4096)
            point = np.average(rows, axis=0, weights=1 / reach)
        return np.asarray(point)
    if parsed.finish == "centred_clip":
        point = np.zeros(rows.shape[1])
        for _ in range(8):
            reach = np.linalg.norm(rows - point, axis=1)
            factor = np.minimum(1, np.sort(reach)[(n - 1) // 2] / reach)
            point = point + ((rows - point) * factor[:, None]).mean(0)
        return np.asarray(point)
    return np.asarray(rows.mean(0))


SINGLE = [*sorted(FINISHES), ROBUST, "nnm|median", "clip|geometric_median", "nnm|multi_krum", "clip|nnm|mean"]


@settings(max_examples=40)
@given(seed=seeds, count=sizes, rule=st.sampled_from(SINGLE))
def test_it_is_what_the_papers_say_in_floating_point(seed: int, count: int, rule: str) -> None:
    """To 1e-5 of the longest row: clip factors are cut off after 24 bits, the grid has 2**-28."""
    rows = drawn(seed, count)
    try:
        expected = reference(rule, rows)
    except Tied:
        reject()
    assert np.allclose(combined(rule, rows), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["krum", "multi_krum"])
def test_krum_is_what_its_paper_says_of_few_and_of_many(rule: str) -> None:
    for count in range(5, 14):  # of three or four the two nearest are equally good
        rows = drawn(count, count)
        assert np.allclose(combined(rule, rows), reference(rule, rows), rtol=0, atol=1e-5)


def test_neighbours_are_those_of_the_clipped() -> None:
    """The fourth lies far off in the direction of most, the fifth a little off in the other one."""
    rows = np.zeros((5, WIDTH))
    rows[:, :2] = np.array([[1, 0], [0.8, 0.6], [0.8, -0.6], [30, 1], [-1.2, 0.1]])
    found = combined("clip|nnm|mean", rows)
    assert np.allclose(found, reference("clip|nnm|mean", rows), rtol=0, atol=1e-5)
    assert found[0] > 0.7, "the fifth is nobody's neighbour but its own"


@settings(max_examples=40)
@given(seed=seeds, count=st.integers(3, 16), rule=st.sampled_from(["median", "trimmed_mean:40"]))
def test_no_coordinate_leaves_what_honest_members_say(seed: int, count: int, rule: str) -> None:
    f = parse_rule(rule).liars(count)
    rows = drawn(seed, count, f)
    honest, slack = rows[: count - f], 2.0**-26
    moved = combined(rule, rows)
    assert np.all(moved >= honest.min(0) - slack)
    assert np.all(moved <= honest.max(0) + slack)


def kappa(rule: str, n: int, f: int) -> float:
    """The bound of Allouah et al. (2023), table 1 and lemma 1."""
    ratio = f / (n - 2 * f)
    finish = rule.rpartition("|")[2]
    bound = {"trimmed_mean": 6 * ratio * (1 + ratio), "krum": 6 * (1 + ratio)}.get(
        finish, 4 * (1 + ratio) ** 2
    )
    return 8 * f / (n - f) * (bound + 1) if rule.startswith("nnm|") else bound


BOUNDED = ["trimmed_mean", "median", "krum", "geometric_median"]


@settings(max_examples=50)
@given(seed=seeds, count=st.integers(4, 16), rule=st.sampled_from([*BOUNDED, *(f"nnm|{r}" for r in BOUNDED)]))
def test_liars_move_it_no_further_than_honest_members_differ(seed: int, count: int, rule: str) -> None:
    """|F(x) - mean(S)|² ≤ κ · variance(S) for the honest S, whatever the f others say."""
    f = parse_rule(rule).liars(count)
    rows = drawn(seed, count, f)
    honest = rows[: count - f]
    middle = honest.mean(0)
    variance = ((honest - middle) ** 2).sum(1).mean()
    error = ((combined(rule, rows) - middle) ** 2).sum()
    assert error <= kappa(rule, count, f) * variance + 1e-6


@settings(max_examples=30)
@given(seed=seeds, count=st.integers(3, 16), finish=st.sampled_from(["mean", "nnm|mean", "centred_clip"]))
def test_behind_a_clip_nobody_moves_the_model_further_than_an_honest_member_could(
    seed: int, count: int, finish: str
) -> None:
    rule = parse_rule(f"clip|{finish}:49")
    f = rule.liars(count)
    rows = drawn(seed, count, f)
    longest = np.linalg.norm(rows[: count - f], axis=1).max()
    assert np.linalg.norm(combined(str(rule), rows)) <= longest + 1e-6


@settings(max_examples=50)
@given(seed=seeds, rule=st.sampled_from([ROBUST, "median", "krum", "nnm|geometric_median"]))
def test_of_the_models_of_two_groups_neither_counts_for_more_than_twice_the_other(
    seed: int, rule: str
) -> None:
    rows = drawn(seed, 2, 1)
    of_groups = {"topology": GROUPS, "strategy": rule}
    lengths = np.linalg.norm(rows, axis=1) + 1e-12
    factors = np.minimum(1, 2 * lengths.min() / lengths)
    expected = {
        (GROUPS, None): rows.mean(0),
        (GROUPS, ROUNDS_FROM): (rows * factors[:, None]).mean(0),
        (ALL_TO_ALL, ROUNDS_FROM): rows.mean(0),
    }
    for (topology, rules), mean in expected.items():
        terms = {**of_groups, "topology": topology, "rules": rules}
        assert np.allclose(joined(terms, rows), mean, rtol=0, atol=1e-4)
    assert np.linalg.norm(joined({**of_groups, "rules": ROUNDS_FROM}, rows)) <= 1.5 * lengths.min() + 1e-6
    trusting = {**of_groups, "strategy": f"{rule}:0", "rules": ROUNDS_FROM}
    assert np.allclose(joined(trusting, rows), rows.mean(0), rtol=0, atol=1e-6)


def joined(terms: dict[str, Any], rows: Floats) -> Floats:
    """What the terms' strategy makes of these rows, as the difference from zeros."""
    task = task_of(*SHAPES, max_members=16, max_abs=1_000, **terms)
    start = encode(task.arrays, [np.zeros(WIDTH), np.zeros(2, np.int64)])
    updates = [(cid, data, 1) for cid, data in encoded(task, rows)]
    return decode(task.arrays, round_model(task, start, updates), task.max_abs)[0]


def test_inner_products_of_the_largest_values_are_exact() -> None:
    """Against Python's integers, over the edges of blocks, for the widest task that the terms allow."""
    task = task_of(Array("w", "<f8", (8_200,)), Array("n", "<i8", (1,)), max_abs=MAX_ABS, max_members=16)
    rng = np.random.default_rng(1)
    rows = rng.choice([-MAX_ABS, MAX_ABS - 0.1, MAX_ABS], (3, 8_200))
    base = rng.choice([-MAX_ABS, MAX_ABS], 8_200).astype(float)
    blobs = [encode(task.arrays, [row, np.array([MAX_ABS])]) for row in (base, *rows)]
    gram = Differences(task, blobs[0], blobs[1:]).gram()
    scale = 1 << grid_bits(task)
    whole = [[round(Fraction(x) * scale) for x in row.tolist()] for row in (base, *rows)]
    moved = [[x - b for x, b in zip(row, whole[0], strict=True)] for row in whole[1:]]
    assert max(abs(x) for row in moved for x in row) > 1 << 38
    for i, one in enumerate(moved):
        for j, other in enumerate(moved):
            assert gram[i][j] == sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("most", [MAX_ABS])
def test_the_largest_values_of_the_most_updates_do_not_overflow(most: int) -> None:
    rows = np.full((MAX_ROWS, WIDTH), -float(most))
    rows[: MAX_ROWS // 8] = most
    far = np.full(WIDTH, float(most))
    for rule in ("nnm|trimmed_mean", "clip|centred_clip"):
        moved = combined(rule, rows, far, max_abs=most)
        assert np.all(moved >= -2.0 * most)
        assert np.all(moved <= 2.0**-20)
    assert np.all(combined(TRIMMED_MEAN, rows, far, max_abs=most) == -2 * most)


def test_integer_arrays_are_combined_but_do_not_decide_who_is_near() -> None:
    task = task_of(*SHAPES, max_members=16, max_abs=1_000_000)
    counters = [1, 2, 3, 1_000_000, 4]
    rows = [[0.0], [0.1], [0.2], [0.15], [90.0]]
    updates = [
        (bytes([n]), encode(task.arrays, [np.repeat(row, WIDTH), np.array([counter, counter])]))
        for n, (row, counter) in enumerate(zip(rows, counters, strict=True))
    ]
    base = encode(task.arrays, [np.zeros(WIDTH), np.zeros(2, np.int64)])
    chosen = decode(task.arrays, combine(task, parse_rule("krum"), base, updates), task.max_abs)
    assert chosen[0][0] == pytest.approx(0.15, abs=1e-4)
    trimmed = decode(task.arrays, combine(task, parse_rule("trimmed_mean"), base, updates), task.max_abs)
    assert trimmed[1].tolist() == [3, 3]


def test_a_clip_factor_is_never_too_large_and_denominators_stay_in_bounds() -> None:
    gram = [[(i + 1) ** 2 * (j + 1) ** 2 * 10**9 for j in range(32)] for i in range(32)]
    factors, one = clip(gram)
    most = gram[15][15]
    assert all(factors[i][i] ** 2 * gram[i][i] <= most * one * one for i in range(16, 32))
    assert all(factors[i][i] == one for i in range(16))
    for rule in (ROBUST, "geometric_median", "clip|nnm|clip|mean"):
        mixture = mixture_of(parse_rule(rule), gram)
        assert mixture.denominator <= MAX_DENOMINATOR
        assert all(sum(map(abs, row)) <= mixture.denominator for row in mixture.rows)


@pytest.mark.slow
def test_memory_holds_the_result_and_some_blocks_not_the_updates(tmp_path: Path) -> None:
    """Sixteen mapped updates of 1.6 MB each; the whole would be 26 MB, as integers twice that."""
    task = task_of(Array("w", "<f4", (400_000,)), max_members=16)
    rng = np.random.default_rng(5)
    mapped: list[mmap] = []
    for number in range(17):
        path = tmp_path / str(number)
        path.write_bytes(encode(task.arrays, [rng.normal(size=400_000).astype("<f4")]))
        with path.open("rb") as file:
            mapped.append(mmap(file.fileno(), 0, prot=PROT_READ))
    updates = [(bytes([number]), data) for number, data in enumerate(mapped[1:])]
    tracemalloc.start()
    try:
        result = combine(task, parse_rule(ROBUST), mapped[0], updates)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * len(result) + (8 << 20)
    held = [(cid, bytes(data)) for cid, data in updates]
    assert combine(task, parse_rule(ROBUST), bytes(mapped[0]), held, 1_000) == result


def test_too_many_updates_and_none_are_refused() -> None:
    for count in (0, MAX_ROWS + 1):
        with pytest.raises(ValueError, match=f"{count} updates"):
            combined(ROBUST, np.zeros((count, WIDTH)))
