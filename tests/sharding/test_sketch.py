"""Sketches: pure, exact, unbiased, and refused when they cannot be any vector's."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sharding.errors import SketchError
from sharding.sketch import FRACTION_BITS, Rotation, Sketches, restored, sketch_bytes, sketches

DIMS = (1, 2, 3, 7, 8, 100, 255, 256, 384)


def draw(count: int, dim: int, seed: int = 1) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(-127, 128, (count, dim)).astype(np.int8)
    codes[~codes.any(axis=1), 0] = 1
    return codes


def cosines(codes: np.ndarray, question: np.ndarray) -> np.ndarray:
    wide, asked = codes.astype(np.float64), question.astype(np.float64)
    return wide @ asked / np.linalg.norm(wide, axis=1) / np.linalg.norm(asked)


def test_the_bytes_of_a_sketch_are_fixed_for_good() -> None:
    found = sketches(Rotation(b"a seed", 256), draw(100, 256))
    assert hashlib.sha256(found.tobytes()).hexdigest() == FIXED


def test_a_sketch_hangs_on_its_own_vector_alone() -> None:
    rotation, codes = Rotation(b"a seed", 100), draw(600, 100)
    together = sketches(rotation, codes)
    for number in (0, 255, 256, 599):
        assert (sketches(rotation, codes[number : number + 1]) == together[number]).all()
    assert (sketches(Rotation(b"another", 100), codes) != together).any()


@pytest.mark.parametrize("dim", DIMS)
def test_turning_keeps_lengths_and_angles(dim: int) -> None:
    codes = draw(50, dim)
    turned = Rotation(b"a seed", dim).turn(codes).astype(np.float64) / (1 << FRACTION_BITS)
    wide = codes.astype(np.float64)
    assert np.allclose(turned @ turned.T, wide @ wide.T, rtol=1e-4, atol=0.01 * dim)


@pytest.mark.parametrize("dim", DIMS)
def test_codes_read_back_from_sketches_point_where_the_vectors_did(dim: int) -> None:
    rotation, codes = Rotation(b"a seed", dim), draw(300, dim)
    back = restored(rotation, Sketches.decode(sketches(rotation, codes).tobytes(), dim))
    wide, again = codes.astype(np.float64), back.astype(np.float64)
    found = (wide * again).sum(axis=1) / np.linalg.norm(wide, axis=1) / np.linalg.norm(again, axis=1)
    assert found.mean() > 0.92
    assert np.abs(back).max(axis=1).min() == 127, "a code is as long as it can be"


@pytest.mark.parametrize("dim", [100, 256, 384])
def test_estimates_are_without_bias_and_as_near_as_is_said(dim: int) -> None:
    rotation, codes = Rotation(b"a seed", dim), draw(3_000, dim)
    found = Sketches.decode(sketches(rotation, codes).tobytes(), dim)
    errors = np.concatenate(
        [found.cosines(rotation, one).astype(np.float64) - cosines(codes, one) for one in draw(5, dim, 2)]
    )
    assert errors.std() < 0.40 / dim**0.5
    assert abs(errors.mean()) < 4 * errors.std() / len(errors) ** 0.5 + 0.001


def test_along_an_axis_the_rotation_spreads_what_one_component_says() -> None:
    rotation = Rotation(b"a seed", 256)
    axes = np.eye(256, dtype=np.int8)
    assert sketches(rotation, axes)[:, -1].min() > 0.8 * 255


@given(arrays(np.int8, (3, 24), elements=st.integers(-127, 127)), st.integers(1, 5))
def test_levels_are_the_best_that_two_bits_can_say(codes: np.ndarray, factor: int) -> None:
    codes[:, 0] |= 1
    rotation = Rotation(b"a seed", 24)
    turned = rotation.turn(codes).astype(np.float64)
    found = Sketches.decode(sketches(rotation, codes).tobytes(), 24)
    for vector, levels in zip(turned, found.levels.astype(np.float64), strict=True):
        ours = vector @ levels / np.linalg.norm(levels)
        for cut in np.abs(vector):
            other = np.where(vector < 0, -1, 1) * np.where(np.abs(vector) >= cut, 3, 1)
            assert ours >= vector @ other / np.linalg.norm(other) * (1 - 1e-3)


@pytest.mark.parametrize("dim", [7, 256])
def test_what_no_vector_has_is_refused(dim: int) -> None:
    rotation = Rotation(b"a seed", dim)
    good = sketches(rotation, draw(2, dim)).tobytes()
    assert len(good) == 2 * sketch_bytes(dim)
    assert len(Sketches.decode(good, dim)) == 2
    assert len(Sketches.decode(b"", dim)) == 0
    with pytest.raises(SketchError, match="no row"):
        Sketches.decode(good[:-1], dim)
    with pytest.raises(SketchError, match="right angles"):
        Sketches.decode(good[:-1] + b"\0", dim)
    if dim % 8:
        with pytest.raises(SketchError, match="beyond"):
            Sketches.decode(b"\xff" + good[1:], dim)
    for bad in (
        np.zeros((1, dim), np.int8),
        np.full((1, dim), -128, np.int8),
        np.ones((1, dim + 1), np.int8),
    ):
        with pytest.raises(SketchError):
            sketches(rotation, bad)
    with pytest.raises(SketchError):
        Rotation(b"a seed", 0)
    assert sketches(rotation, np.zeros((0, dim), np.int8)).shape == (0, sketch_bytes(dim))


FIXED = "6051caabd0ce04a3ae36d4e8b9a6aef1f75db9a163b5d01d43d023e442195f7c"
