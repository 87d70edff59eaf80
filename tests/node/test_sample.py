"""A sample of a space from a file: unit rows, evenly spread, of what NumPy wrote; all else is one line."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated.npy_header import MAX_HEADER, read_header
from node.embedding import sample
from node.embedding.errors import BadSample
from node.embedding.sample import BLOCK, read_sample

DIM = 6
ROWS = np.random.default_rng(0).normal(size=(40, DIM))


def units(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f4", "<f8", ">f8", "i1"])
@pytest.mark.parametrize("fortran", [False, True])
def test_whatever_numpy_writes_is_read_as_directions(tmp_path: Path, dtype: str, fortran: bool) -> None:
    rows = (ROWS * 20).astype(dtype)
    np.save(tmp_path / "v.npy", np.asfortranarray(rows) if fortran else rows)
    found = read_sample(tmp_path / "v.npy", DIM, 100)
    assert found.dtype == np.float32
    assert np.allclose(found, units(rows), atol=1e-6)


@settings(max_examples=30)
@given(st.integers(1, 3 * BLOCK), st.integers(1, 2 * BLOCK))
def test_of_many_rows_evenly_spread_ones_are_taken(count: int, wanted: int) -> None:
    angles = np.arange(count) / (4 * BLOCK)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "v.npy")
        np.save(path, table)
        found = read_sample(path, 2, wanted)
    places = np.rint(np.arctan2(found[:, 1], found[:, 0]) * 4 * BLOCK).astype(int)
    taken = min(count, wanted)
    assert places.tolist() == [number * count // taken for number in range(taken)]


def test_lengths_neither_overflow_nor_vanish_and_repetitions_go(tmp_path: Path) -> None:
    one = np.array([3.0, 4.0])
    np.save(tmp_path / "v.npy", np.array([one * 1e300, one * 5e-324 * 2, -one, one, -one * 2, one * 1e-300]))
    found = read_sample(tmp_path / "v.npy", 2, 10)
    assert len(found) <= 3
    assert np.allclose(found[0], [0.6, 0.8])
    assert any(np.allclose(row, [-0.6, -0.8]) for row in found)


def test_a_sample_takes_no_more_memory_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "MAX_BYTES", 4 * DIM * 7)
    np.save(tmp_path / "v.npy", ROWS)
    assert len(read_sample(tmp_path / "v.npy", DIM, 40)) == 7


def written(path: Path, array: object) -> bytes:
    np.save(path, np.asarray(array), allow_pickle=True)
    return path.read_bytes()


def spoiled(place: int, value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[place] = value
    return rows


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}], dtype=object), "holds '|O'"),
        (np.zeros((4, DIM), np.int32), "holds '<i4'"),
        (np.zeros((4, DIM), np.complex64), "holds '<c8'"),
        (np.zeros(DIM), r"shape \(6,\)"),
        (np.zeros((2, 2, DIM)), "one vector a row"),
        (np.ones((4, DIM + 1)), "7 dimensions, --dims says 6"),
        (spoiled(17, np.nan), "row 17 .* not finite"),
        (spoiled(39, -np.inf), "row 39 .* not finite"),
        (spoiled(3, 0.0), "row 3 is zero"),
        (np.zeros(3, dtype=[("a", "f4"), ("b", "f4")]), "no NPY file"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, array: np.ndarray, message: str) -> None:
    written(tmp_path / "v.npy", array)
    with pytest.raises(BadSample, match=rf"^{tmp_path}/v.npy[^\n]*{message.replace('|', '.')}[^\n]*$"):
        read_sample(tmp_path / "v.npy", DIM, 100)


def test_headers_that_lie_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    whole = written(tmp_path / "v.npy", ROWS)
    start = whole.index(b"(40, 6)")
    lying = whole[:start] + b"(999999999999, 6), }" + whole[start + 20 :]
    for data, message in (
        (lying, "cut off"),
        (whole[:-1], "cut off"),
        (whole[:50], "no NPY file"),
        (b"", "no NPY file"),
        (pickle.dumps(list(range(10))), "no NPY file"),
        (whole[:8] + b"\xff\xff" + whole[10:], "no NPY file"),
        (whole.replace(b"False", b"exit(", 1), "no NPY file"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + whole[10:], "no NPY file"),
    ):
        (tmp_path / "v.npy").write_bytes(data)
        with pytest.raises(BadSample, match=message):
            read_sample(tmp_path / "v.npy", DIM, 100)
    for missing in (tmp_path / "none.npy", tmp_path):
        with pytest.raises(BadSample, match="cannot be read"):
            read_sample(missing, DIM, 100)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 127))
def test_any_bytes_are_a_header_or_none(noise: bytes, at: int) -> None:
    sound = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (40, 6), }"
    sound = sound.ljust(127) + b"\n"
    header = read_header(sound)
    assert header is not None
    assert (header.shape, header.offset, header.stated) == ((40, 6), 128, 128)
    for data in (noise, sound[:at] + noise + sound[at + len(noise) :]):
        found = read_header(data[:MAX_HEADER])
        assert found is None or found.offset <= len(data)
