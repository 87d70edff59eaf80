"""Initial parameters of a task: from a ServerApp's arrays, or from a file that numpy's `savez` wrote."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    """The arrays of an .npz file by name, in its order. Raises `FlowerError`."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > 2 * MAX_MODEL_BYTES:
            raise FlowerError(f"{path} holds {size} bytes; a model has at most {MAX_MODEL_BYTES}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except OSError as error:
        raise FlowerError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise FlowerError(f"{path} is no .npz file of plain arrays: {error}") from error
    if not arrays:
        raise FlowerError(f"{path} holds no arrays")
    return arrays
