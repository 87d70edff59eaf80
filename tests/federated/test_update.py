"""Models as bytes: what NumPy writes, read without trust, and every lie named by its own code."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from chain.learning_task import DTYPES, Array
from federated.compression import most_sent
from federated.update import Fault, UpdateError, decode, encode, inspect, update_size
from tests.chain.samples import damage
from tests.federated.models import ARRAYS, model, task_of, values

MAX_ABS = 100


def saved(*found: NDArray[Any]) -> bytes:
    """What `np.save` writes of these arrays, one after the other."""
    out = io.BytesIO()
    for array in found:
        np.save(out, array, allow_pickle=True)
    return out.getvalue()


shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@st.composite
def models(draw: st.DrawFn) -> tuple[tuple[Array, ...], list[NDArray[Any]]]:
    terms: list[Array] = []
    found: list[NDArray[Any]] = []
    for number in range(draw(st.integers(1, 3))):
        dtype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(shapes)
        elements: st.SearchStrategy[Any] = (
            st.integers(-MAX_ABS, MAX_ABS)
            if dtype == "<i8"
            else st.floats(-MAX_ABS, MAX_ABS, width=32, allow_subnormal=True)
        )
        terms.append(Array(f"a{number}", dtype, shape))
        found.append(np.asarray(draw(arrays_of.arrays(np.dtype(dtype), shape, elements=elements))))
    return tuple(terms), found


@given(pair=models())
def test_a_model_is_what_numpy_saves_and_reads_back_bit_by_bit(
    pair: tuple[tuple[Array, ...], list[NDArray[Any]]],
) -> None:
    terms, found = pair
    data = encode(terms, found)
    assert data == saved(*found)
    assert len(data) == update_size(terms)
    for array, view in zip(found, decode(terms, data, MAX_ABS), strict=True):
        assert array.dtype == view.dtype
        assert array.tobytes() == view.tobytes()
        assert not view.flags.writeable


@given(data=st.data())
def test_damaged_bytes_are_refused_or_another_model(data: st.DataObject) -> None:
    damaged = data.draw(damage(model(1)))
    if inspect(ARRAYS, damaged, MAX_ABS) is None:
        assert encode(ARRAYS, decode(ARRAYS, damaged, MAX_ABS)) == damaged
    else:
        with pytest.raises(UpdateError):
            decode(ARRAYS, damaged, MAX_ABS)


@given(data=st.binary(max_size=200))
def test_nothing_but_a_model_is_read(data: bytes) -> None:
    assert inspect(ARRAYS, data, MAX_ABS) is Fault.FORMAT


W, B, N = values(1)
LIES: list[tuple[str, bytes, Fault]] = [
    ("more rows", saved(np.zeros((4, 2), "<f4"), B, N), Fault.SHAPE),
    ("transposed", saved(np.zeros((2, 3), "<f4"), B, N), Fault.SHAPE),
    ("flat", saved(W.reshape(-1), B, N), Fault.SHAPE),
    ("no dimension", saved(W, np.zeros((1,), "<f8"), N), Fault.SHAPE),
    ("a huge shape without the bytes", saved(W, B)[:-8] + saved(N).replace(b"(2,)", b"(9,)"), Fault.FORMAT),
    ("doubles", saved(W.astype("<f8"), B, N), Fault.DTYPE),
    ("big-endian", saved(W.astype(">f4"), B, N), Fault.DTYPE),
    ("objects", saved(np.array([[{}] * 2] * 3, dtype=object), B, N), Fault.DTYPE),
    ("halves", saved(W.astype("<f2"), B, N), Fault.DTYPE),
    ("complex", saved(W.astype("<c8"), B, N), Fault.DTYPE),
    ("Fortran order", saved(np.asfortranarray(W), B, N), Fault.FORMAT),
    ("an array too few", saved(W, B), Fault.FORMAT),
    ("an array too many", saved(W, B, N, N), Fault.FORMAT),
    ("another order", saved(B, W, N), Fault.DTYPE),
    ("cut short", saved(W, B, N)[:-1], Fault.FORMAT),
    ("a tail", saved(W, B, N) + b"\0", Fault.FORMAT),
    ("nothing", b"", Fault.FORMAT),
    ("NaN", saved(np.full((3, 2), np.nan, "<f4"), B, N), Fault.NOT_FINITE),
    ("one infinity", saved(W, np.array(np.inf), N), Fault.NOT_FINITE),
    ("minus infinity", saved(W, np.array(-np.inf), N), Fault.NOT_FINITE),
    ("too large", saved(W, np.array(100.0001), N), Fault.BOUND),
    ("too small", saved(W, B, np.array([-101, 0], "<i8")), Fault.BOUND),
    ("the smallest integer", saved(W, B, np.array([-(1 << 63), 0], "<i8")), Fault.BOUND),
]


@pytest.mark.parametrize(("data", "fault"), [pytest.param(d, f, id=name) for name, d, f in LIES])
def test_every_lie_has_its_name(data: bytes, fault: Fault) -> None:
    assert inspect(ARRAYS, data, MAX_ABS) is fault


def test_values_at_the_bound_are_fine_and_one_bad_value_deep_inside_is_found() -> None:
    terms = (Array("w", "<f4", (200_000,)),)
    found = np.full(200_000, 100, "<f4")
    assert inspect(terms, saved(found), MAX_ABS) is None
    found[150_001] = np.nan
    assert inspect(terms, saved(found), MAX_ABS) is Fault.NOT_FINITE
    found[150_001] = np.nextafter(np.float32(100), np.float32(101))
    assert inspect(terms, saved(found), MAX_ABS) is Fault.BOUND


def test_what_is_written_is_neither_cast_nor_reshaped() -> None:
    with pytest.raises(UpdateError, match="the task says <f4") as wrong_type:
        encode(ARRAYS, [W.astype("<f8"), B, N])
    assert wrong_type.value.fault is Fault.DTYPE
    with pytest.raises(UpdateError, match=r"shape \(6,\)") as wrong_shape:
        encode(ARRAYS, [W.reshape(-1), B, N])
    assert wrong_shape.value.fault is Fault.SHAPE
    with pytest.raises(UpdateError, match="2 arrays"):
        encode(ARRAYS, [W, B])
    assert encode(ARRAYS, [np.asfortranarray(W), B, N]) == saved(W, B, N)
    assert encode(ARRAYS, [W.astype(">f4"), B, N]) == saved(W, B, N)


def test_twice_the_precision_still_fits_what_is_fetched() -> None:
    terms = (Array("w", "<f4", (1_000,)),)
    assert len(saved(np.zeros(1_000, "<f8"))) <= most_sent(task_of(*terms))
