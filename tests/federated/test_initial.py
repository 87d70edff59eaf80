"""Initial parameters from anybody's file: plain arrays are read, of others one line says what they are."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated.flower.errors import FlowerError, ProjectError
from federated.flower.initial import read_npz
from federated.flower.npz import npz
from federated.flower.project import read_project

ARRAYS = {"w": np.arange(12, dtype="<f4").reshape(4, 3), "b": np.ones(3)}


def packed() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **ARRAYS)  # type: ignore[arg-type]
    return file.getvalue()


def claiming(shape: str) -> bytes:
    """A file whose first array's header says another shape than its entry has room for."""
    with zipfile.ZipFile(io.BytesIO(npz(ARRAYS))) as archive:
        data = archive.read("w.npy")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", data.replace(b"(4, 3), }", f"{shape}, }}".encode()))
    return file.getvalue()


@pytest.mark.parametrize("data", [npz(ARRAYS), packed()])
def test_what_numpy_wrote_is_read(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "model.npz"
    file.write_bytes(data)
    found = read_npz(str(file))
    assert list(found) == ["w", "b"]
    np.testing.assert_array_equal(found["w"], ARRAYS["w"])


@pytest.mark.parametrize("shape", ["(40000000, 3)", "(4000000000000, 3)", "(-4, -3)", "(" * 200, "(True,)"])
def test_no_array_is_made_that_the_file_does_not_hold(tmp_path: Path, shape: str) -> None:
    file = tmp_path / "model.npz"
    file.write_bytes(claiming(shape))
    with pytest.raises(FlowerError):
        read_npz(str(file))


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), values=st.binary(min_size=1, max_size=4), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: float, values: bytes, cut: bool
) -> None:
    data = packed()
    at = int(place * len(data))
    file = tmp_path_factory.getbasetemp() / "damaged.npz"
    file.write_bytes(data[:at] + values + (b"" if cut else data[at + len(values) :]))
    with suppress(FlowerError):
        read_npz(str(file))


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "a = " + "{a=" * 20_000])
def test_a_project_that_is_nested_too_deeply_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ProjectError, match="nested too deeply"):
        read_project(str(tmp_path))
