"""Initial parameters of a task: from a ServerApp's arrays, or from a file that numpy's `savez` wrote."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from math import prod
from typing import IO, TYPE_CHECKING, Any

from chain.learning_task import DTYPES, MAX_MODEL_BYTES, Array
from federated.flower.errors import AppFailed, FlowerError

if TYPE_CHECKING:
    import numpy as np


def described(arrays: Mapping[str, np.ndarray[Any, Any]]) -> tuple[list[dict[str, Any]], bytes]:
    """The terms of arrays, as the API takes them, and the arrays as a model blob.

    Raises `AppFailed` for an element type that no task takes.
    """
    from federated.update import encode

    specs: list[Array] = []
    values: list[np.ndarray[Any, Any]] = []
    for name, array in arrays.items():
        plain = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if plain.dtype.str not in DTYPES:
            raise AppFailed(
                f"array {name!r} has dtype {array.dtype}; a task takes float32, float64 and int64: "
                "convert it before"
            )
        specs.append(Array(name, plain.dtype.str, plain.shape))
        values.append(plain)
    terms = [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]
    return terms, encode(specs, values)


def read_npz(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an .npz file by name, in its order. Raises `FlowerError`.

    It may come from anywhere: no pickle, and no array is made that its entry does not hold.
    """
    import zlib

    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > 2 * MAX_MODEL_BYTES:
                raise FlowerError(f"{path} holds {size} bytes; a model has at most {MAX_MODEL_BYTES}")
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    _check_header(file, entry.file_size)
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: np.asarray(found[name]) for name in found.files}
    except OSError as error:
        raise FlowerError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, MemoryError) as error:
        # RuntimeError: it is encrypted, or (NotImplementedError) packed in a way that Python does not know.
        why = " ".join(str(error).split()) or "it ends too early"
        raise FlowerError(f"{path} is no .npz file of plain arrays: {why}") from error
    if not arrays:
        raise FlowerError(f"{path} holds no arrays")
    return arrays


def _check_header(file: IO[bytes], size: int) -> None:
    """Raises `ValueError` when an entry of so many bytes is no array, or one that is larger."""
    from tokenize import TokenError

    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"an array has the NPY version {version}; known are 1.0 and 2.0")
    try:
        shape, _, dtype = readers[version](file)
    except (SyntaxError, TokenError) as error:
        raise ValueError("the header of an array is malformed") from error
    if any(type(length) is not int or length < 0 for length in shape) or prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array of shape {shape} stands in an entry of {size} bytes")
