"""Arrays as an .npz file: what NumPy's `savez` writes, but equal arrays give equal bytes, whatever their
names."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from federated.npy_header import MAX_HEADER, read_header


def npz(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """The arrays as an .npz file, for `numpy.load`; equal arrays give equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(values), allow_pickle=False)
    return file.getvalue()


def unlike(ours: bytes, theirs: bytes, tolerance: float) -> str | None:
    """How a file of arrays differs from one of our own making, or None.

    The same names, dtypes and shapes in the same order; floating values within tolerance (1 + |theirs|), all
    others equal. Of a stranger's file no more is read than ours has.
    """
    if ours == theirs:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(ours)) as one, zipfile.ZipFile(io.BytesIO(theirs)) as other:
            if one.namelist() != other.namelist():
                return "it has other arrays"
            for entry in one.infolist():
                with other.open(entry.filename) as file:
                    difference = _array_unlike(one.read(entry), file.read(entry.file_size + 1), tolerance)
                if difference is not None:
                    return f"array {entry.filename.removesuffix('.npy')!r:.80} {difference}"
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        return f"it is no file of arrays: {error}"
    return None


def _array_unlike(ours: bytes, theirs: bytes, tolerance: float) -> str | None:
    header = read_header(ours[:MAX_HEADER])
    assert header is not None
    at = header.offset
    if len(ours) != len(theirs) or ours[:at] != theirs[:at]:
        return "has another dtype or shape"
    a, b = (np.frombuffer(data, header.dtype, offset=at) for data in (ours, theirs))
    if a.dtype.kind != "f":
        return None if ours == theirs else "has other values"
    near = np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return None if near else f"differs by more than {tolerance:g}"
