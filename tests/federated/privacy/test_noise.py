"""What leaves a member: bounded in what its data can change, noised as stated, and still an update."""

from __future__ import annotations

from math import floor, log2, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chain.learning_task import Array
from federated.admission import examine
from federated.privacy.errors import PrivacyError
from federated.privacy.keystream import keystream
from federated.privacy.noise import CHUNK, STEP_BITS, Terms, normals, privatise
from federated.update import encode, views
from tests.federated.models import TASK, model, task_of

KEY = bytes(range(32))
WIDE = (Array("a", "<f8", (40,)), Array("b", "<f8", (3, 5)))


def flat(arrays: tuple[Array, ...], data: bytes) -> NDArray[np.float64]:
    found = views(arrays, data)
    return np.concatenate([v.reshape(-1).astype(np.float64) for v in found if v.dtype.kind == "f"])


@settings(max_examples=25, deadline=None)
@given(
    clip=st.floats(1e-3, 1e3),
    noise=st.floats(0.05, 20),
    sizes=st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)),
    seed=st.integers(0, 2**32),
)
def test_two_data_sets_change_what_leaves_by_two_clips_at_most(
    clip: float, noise: float, sizes: tuple[float, float], seed: int
) -> None:
    """With the same noise: it is a whole number of steps, so it cancels out exactly."""
    rng = np.random.default_rng(seed)
    zero = encode(WIDE, [np.zeros(array.shape) for array in WIDE])
    terms = Terms(clip, noise)
    step = 2.0 ** (floor(log2(terms.deviation)) - STEP_BITS)
    out: list[NDArray[np.float64]] = []
    for size in sizes:
        update = [size * rng.standard_normal(array.shape) for array in WIDE]
        out.append(flat(WIDE, privatise(WIDE, zero, encode(WIDE, update), terms, KEY, 10**6)))
        units = np.rint(out[-1] / step)
        assert np.array_equal(out[-1], units * step), "nothing below the grid's step"
        assert (units % 2 == 1).any(), "and no coarser grid, however far the update lies"
    still = flat(WIDE, privatise(WIDE, zero, zero, terms, KEY, 10**6))
    assert np.linalg.norm(out[0] - out[1]) <= 2 * clip
    for one in out:
        assert np.linalg.norm(one - still) <= clip


def test_an_update_within_the_clip_keeps_its_direction_and_a_longer_one_is_shortened() -> None:
    zero = encode(WIDE, [np.zeros(array.shape) for array in WIDE])
    for length, expected in ((0.5, 0.5), (7.0, 2.0)):
        direction = np.ones(55) / sqrt(55)
        update = encode(WIDE, [length * direction[:40], length * direction[40:].reshape(3, 5)])
        terms = Terms(2.0, 0.01)
        moved = flat(WIDE, privatise(WIDE, zero, update, terms, KEY, 100))
        moved -= flat(WIDE, privatise(WIDE, zero, zero, terms, KEY, 100))
        assert np.linalg.norm(moved) == pytest.approx(expected, rel=1e-4)
        assert moved @ direction == pytest.approx(expected, rel=1e-4)


def test_the_noise_is_normal_with_the_stated_deviation_and_another_one_under_another_key() -> None:
    arrays = (Array("a", "<f8", (60_001,)),)
    zero = encode(arrays, [np.zeros(60_001)])
    first, again, other = (
        flat(arrays, privatise(arrays, zero, zero, Terms(4.0, 0.5), key, 1_000)) / 2.0
        for key in (KEY, KEY, KEY[::-1])
    )
    assert np.array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02
    for values in (first, other):
        for share in (0.001, 0.05, 0.3, 0.5, 0.9, 0.99):
            below = float(np.mean(values <= NormalDist().inv_cdf(share)))
            assert abs(below - share) < 4.5 * sqrt(share * (1 - share) / values.size)
        assert abs(values.std() - 1) < 0.015


def test_no_two_values_have_the_same_noise() -> None:
    """Whoever knows one value's difference would know the other's: in a chunk, over chunks and arrays."""
    arrays = (Array("a", "<f8", (2 * CHUNK,)), Array("b", "<f8", (CHUNK,)))
    zero = encode(arrays, [np.zeros(array.shape) for array in arrays])
    parts = flat(arrays, privatise(arrays, zero, zero, Terms(1.0, 1.0), KEY, 1_000)).reshape(6, -1)
    apart = np.corrcoef(parts) - np.eye(6)  # of each chunk both halves
    assert np.abs(apart).max() < 6 / sqrt(parts.shape[1])


def test_the_generator_is_chacha20_and_its_normals_are_finite_at_every_edge() -> None:
    # The keystream of key 0, nonce 0, counter 0: RFC 8439, appendix A.1, first vector.
    assert keystream(bytes(32))(2).tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    edges = np.array([0, 2**64 - 1, 2**63, 0, 2**63, 2**64 - 1], np.uint64)
    found = normals(lambda words: edges[:words], 6)
    assert np.isfinite(found).all()
    assert 9 < np.abs(found).max() < 10


@pytest.mark.parametrize("max_norm", [None, 30, 1])
def test_what_leaves_is_an_update_that_the_task_takes(max_norm: int | None) -> None:
    task = task_of(max_norm=max_norm)
    base, update = model(1), model(2)
    noised = privatise(task.arrays, base, update, Terms(3.0, 20.0), KEY, task.max_abs, max_norm)
    assert examine(task, base, noised) is None
    assert views(task.arrays, noised)[2].tolist() == views(task.arrays, base)[2].tolist(), "counters stay"
    assert noised not in (base, update)


def test_what_is_not_finite_is_refused_and_so_are_terms_that_mean_nothing() -> None:
    broken: list[Any] = [np.full((3, 2), np.nan, np.float32), np.float64(1), np.array([1, 2])]
    with pytest.raises(PrivacyError, match="not finite"):
        privatise(TASK.arrays, model(1), encode(TASK.arrays, broken), Terms(1.0, 1.0), KEY, 100)
    for clip, noise in ((0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (1.0, float("inf")), (-1.0, 1.0)):
        with pytest.raises(PrivacyError):
            Terms(clip, noise)
