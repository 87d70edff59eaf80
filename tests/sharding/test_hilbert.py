"""Hilbert curves: a bijection in unit steps, the same by every path and the same as `hilbertcurve`'s."""

from __future__ import annotations

import numpy as np
import pytest
from hilbertcurve.hilbertcurve import HilbertCurve
from hypothesis import given
from hypothesis import strategies as st

from sharding import hilbert, hilbert_skilling, hilbert_tables
from sharding.errors import CurveError

SMALL_ORDERS = [
    (1, 6),
    (2, 1),
    (2, 2),
    (2, 3),
    (2, 5),
    (2, 6),
    (3, 1),
    (3, 2),
    (3, 4),
    (4, 3),
    (5, 2),
    (6, 2),
    (10, 1),
]
LARGE_ORDERS = [
    (2, 16),
    (8, 8),
    (2, 32),
    (1, 64),
    (3, 21),
    (64, 1),
    (13, 5),
    (2, 33),
    (2, 64),
    (32, 8),
    (7, 33),
    (9, 9),
]
GOLDEN_PLANE = [0, 4294967295, 1555040834, 3958378517]
GOLDEN_CUBE = 0xAE2FEB844444444
GOLDEN_KEY = 0xAAAAAAAAAAFFAFD742216CB921E3416B2E413FD0B3983D10BD244C4E3054CC32


@st.composite
def orders(draw: st.DrawFn) -> tuple[int, int]:
    dims = draw(st.integers(1, 20))
    return dims, draw(st.integers(1, min(hilbert.MAX_BITS, hilbert.MAX_INDEX_BITS // dims)))


@st.composite
def curves(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    dims, bits = draw(orders())
    coordinate = st.integers(0, (1 << bits) - 1)
    return bits, draw(st.lists(st.lists(coordinate, min_size=dims, max_size=dims), min_size=1, max_size=8))


def as_integers(indices: np.ndarray) -> list[int]:
    return [int(index) if indices.ndim == 1 else int.from_bytes(index.tobytes(), "big") for index in indices]


@given(curves())
def test_all_paths_agree_and_decoding_inverts_encoding(curve: tuple[int, list[list[int]]]) -> None:
    bits, rows = curve
    dims = len(rows[0])
    points = np.array(rows, dtype=np.uint64)
    indices = hilbert.encode(points, bits)
    expected = [hilbert.encode_point(row, bits) for row in rows]
    assert as_integers(indices) == expected
    assert as_integers(hilbert_skilling.encode(points, bits)) == expected
    assert hilbert.decode(indices, dims, bits).tolist() == rows
    assert [list(hilbert.decode_point(index, dims, bits)) for index in expected] == rows


@given(curves())
def test_the_curve_is_the_one_of_the_package_hilbertcurve(curve: tuple[int, list[list[int]]]) -> None:
    bits, rows = curve
    peer = HilbertCurve(bits, len(rows[0]))
    indices = peer.distances_from_points(rows)
    assert [hilbert.encode_point(row, bits) for row in rows] == indices
    assert as_integers(hilbert.encode(np.array(rows, dtype=np.uint64), bits)) == indices


@pytest.mark.parametrize(("dims", "bits"), SMALL_ORDERS)
def test_small_curves_visit_every_point_once_in_unit_steps(dims: int, bits: int) -> None:
    length = 1 << dims * bits
    points = hilbert.decode(np.arange(length), dims, bits).astype(np.int64)
    assert len(np.unique(points, axis=0)) == length
    assert (np.abs(np.diff(points, axis=0)).sum(axis=1) == 1).all()
    assert hilbert.encode(points, bits).tolist() == list(range(length))
    assert [hilbert.decode_point(index, dims, bits) for index in range(length)] == [
        tuple(p) for p in points.tolist()
    ]


@pytest.mark.parametrize(("dims", "bits"), LARGE_ORDERS)
@pytest.mark.parametrize("count", [1, 5000])
def test_large_orders_agree_with_hilbertcurve_on_random_points(dims: int, bits: int, count: int) -> None:
    points = np.random.default_rng(dims * 100 + bits).integers(
        0, (1 << bits) - 1, (count, dims), np.uint64, endpoint=True
    )
    indices = hilbert.encode(points, bits)
    some = points[:40].tolist()
    assert as_integers(indices[:40]) == HilbertCurve(bits, dims).distances_from_points(some)
    assert np.array_equal(hilbert.decode(indices, dims, bits), points)


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32])
def test_both_steps_of_the_tables_agree_with_skilling(bits: int) -> None:
    points = np.random.default_rng(bits).integers(
        0, 1 << bits, (hilbert_tables.LARGE_STEP_POINTS, 2), np.uint64
    )
    few = points[:100]
    expected = hilbert_skilling.encode(points, bits)
    assert np.array_equal(hilbert_tables.encode(points, bits), expected)
    assert np.array_equal(hilbert_tables.encode(few, bits), expected[:100])
    assert np.array_equal(hilbert_tables.decode(expected, bits), points)
    assert np.array_equal(hilbert_tables.decode(expected[:100], bits), few)


def test_results_do_not_depend_on_how_the_points_are_split_into_blocks() -> None:
    points = np.random.default_rng(3).integers(0, 256, (70_000, 8), np.uint8)
    whole = hilbert.encode(points, 8)
    parts = np.concatenate([hilbert.encode(part, 8) for part in np.array_split(points, 7)])
    assert np.array_equal(whole, parts)


def test_wide_indices_sort_as_bytes_in_curve_order() -> None:
    points = np.random.default_rng(5).integers(0, 1 << 16, (200, 16), np.uint16)
    rows = hilbert.encode(points, 16)
    assert rows.shape == (200, 32)
    assert sorted(row.tobytes() for row in rows) == [i.to_bytes(32, "big") for i in sorted(as_integers(rows))]


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i8", ">i8", ">u2", "<u4"])
def test_any_integer_dtype_and_layout_is_taken(dtype: str) -> None:
    points = np.random.default_rng(1).integers(0, 128, (60, 4), np.uint8)
    expected = hilbert.encode(points, 7)
    assert np.array_equal(hilbert.encode(points.astype(dtype), 7), expected)
    assert np.array_equal(hilbert.encode(np.asfortranarray(points.astype(dtype)), 7), expected)
    assert np.array_equal(hilbert.encode(np.repeat(points, 2, axis=0)[::2], 7), expected)


def test_inputs_are_left_as_they_were() -> None:
    for dims, bits in ((2, 16), (8, 8), (16, 16)):
        points = (
            np.random.default_rng(1).integers(0, 1 << bits, (50, dims), np.uint64).astype(f"u{bits // 8}")
        )
        before = points.copy()
        indices = hilbert.encode(points, bits)
        kept = indices.copy()
        hilbert.decode(indices, dims, bits)
        assert np.array_equal(points, before)
        assert np.array_equal(indices, kept)


def test_no_points_make_no_indices() -> None:
    for dims, bits in ((2, 16), (3, 4), (16, 16)):
        indices = hilbert.encode(np.empty((0, dims), dtype=np.uint16), bits)
        assert len(indices) == 0
        assert hilbert.decode(indices, dims, bits).shape == (0, dims)


def test_golden_values() -> None:
    assert (
        hilbert.encode(np.array([[0, 0], [65535, 0], [12345, 54321], [40000, 7]]), 16).tolist()
        == GOLDEN_PLANE
    )
    assert hilbert.encode_point(range(0, 256, 32), 8) == GOLDEN_CUBE
    assert hilbert.encode_point([2**16 - 1 - 997 * i for i in range(16)], 16) == GOLDEN_KEY


@pytest.mark.parametrize(
    ("points", "bits", "message"),
    [
        ([[0.5, 1.0]], 4, "float64"),
        ([[True, False]], 4, "bool"),
        ([["a", "b"]], 4, "pass integers"),
        ([1, 2, 3], 4, "one row a point"),
        ([[[1, 2]]], 4, "one row a point"),
        ([[1, 2], [3]], 4, "do not form an array"),
        ([[-1, 2]], 4, "negative"),
        ([[16, 2]], 4, r"outside \[0, 2\*\*4\)"),
        (np.array([[1, 2**63]], dtype=np.uint64), 63, "outside"),
        ([[1, 2]], 0, "1 to 64"),
        ([[1, 2]], 65, "1 to 64"),
        ([[1] * 17], 16, "1 to 256 bits"),
        (np.empty((3, 0), dtype=np.uint8), 4, "0 dimensions"),
    ],
)
def test_bad_points_are_refused_by_name(points: object, bits: int, message: str) -> None:
    with pytest.raises(CurveError, match=message):
        hilbert.encode(points, bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("indices", "dims", "bits", "message"),
    [
        ([1.0], 2, 4, "float64"),
        ([[1]], 2, 4, "one integer each"),
        ([256], 2, 4, "outside"),
        ([-1], 3, 4, "negative"),
        ([1], 0, 4, "0 dimensions"),
        ([1], 2, 0, "1 to 64"),
        (np.zeros((2, 31), dtype=np.uint8), 16, 16, "big-endian rows"),
        (np.zeros((2, 32), dtype=np.uint16), 16, 16, "big-endian rows"),
        (np.zeros(32, dtype=np.uint8), 16, 16, "big-endian rows"),
        (np.full((1, 9), 255, dtype=np.uint8), 5, 13, "clear the top 7 bits"),
    ],
)
def test_bad_indices_are_refused_by_name(indices: object, dims: int, bits: int, message: str) -> None:
    with pytest.raises(CurveError, match=message):
        hilbert.decode(indices, dims, bits)  # type: ignore[arg-type]


@pytest.mark.parametrize("point", [[-1, 0], [16, 0], [0.5, 0], ["1", 0], []])
def test_bad_single_points_are_refused_by_name(point: list[object]) -> None:
    with pytest.raises(CurveError):
        hilbert.encode_point(point, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 256, 1.5, None])
def test_bad_single_indices_are_refused_by_name(index: object) -> None:
    with pytest.raises(CurveError):
        hilbert.decode_point(index, 2, 4)  # type: ignore[arg-type]
