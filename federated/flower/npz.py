"""Arrays as an .npz file: what NumPy's `savez` writes, but equal arrays give equal bytes, whatever their
names."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np


def npz(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """The arrays as an .npz file, for `numpy.load`; equal arrays give equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(values), allow_pickle=False)
    return file.getvalue()
