"""A sample of an embedding space from a file of vectors, as `numpy.save` writes it: one vector a row.

The file may be larger than memory, damaged, or not ours: its header is matched, not evaluated, and sizes are
compared with the file's before anything is read. Of many rows a part is taken that is spread evenly over the
file, since files are often sorted by subject. Only directions matter, and what repeats a row adds nothing to
a map, so rows come back as unit vectors, each once. Nothing here unpickles.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated.npy_header import MAX_HEADER, NpyHeader, read_header
from node.embedding.errors import BadSample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("|i1", *(f"{order}f{size}" for size in (2, 4, 8) for order in "<>"))
"""int8, float16, float32 and float64, of either byte order."""
MAX_BYTES = 256 << 20
"""Bytes of float32 that a sample may take: fewer rows are taken of vectors of many dimensions."""
BLOCK = 4096
"""Rows read at a time."""


def read_sample(path: Path, dim: int, rows: int) -> NDArray[np.float32]:
    """Unit vectors, shape (n, dim), of at most `rows` rows of a file, in its order, without repetitions.

    Raises `BadSample`, one line that names the file and the row. Memory O(rows · dim), whatever the file has;
    blocking, one pass over the rows that are taken.
    """
    import numpy as np

    header = _checked_header(path, dim)
    there = header.shape[0]
    count = min(there, rows, MAX_BYTES // (4 * dim))
    places = np.arange(count) * there // max(count, 1)
    units = np.empty((count, dim), dtype=np.float32)
    order: Any = "F" if header.fortran else "C"
    try:
        table = np.memmap(path, header.dtype, "r", header.offset, header.shape, order) if there else units
    except (OSError, ValueError) as error:
        raise BadSample(f"{path} cannot be read: {error}") from error
    for begin in range(0, count, BLOCK):
        chosen = places[begin : begin + BLOCK]
        block = table[chosen].astype(np.float64)
        peaks = np.abs(block).max(axis=1, keepdims=True)
        for fault, what in (
            (~np.isfinite(peaks), "holds a number that is not finite"),
            (peaks == 0, "is zero and has no direction"),
        ):
            if fault.any():
                row = int(chosen[int(fault[:, 0].argmax())])
                raise BadSample(f"{path}: row {row} {what}; leave it out of the sample")
        block /= peaks  # so that no square overflows or vanishes
        units[begin : begin + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return units[_first_of_each(units)]


def _checked_header(path: Path, dim: int) -> NpyHeader:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = read_header(file.read(MAX_HEADER))
    except OSError as error:
        raise BadSample(f"{path} cannot be read: {error.strerror}") from error
    if header is None or header.offset != header.stated:
        raise BadSample(f"{path} is no NPY file of plain numbers: write the vectors with numpy.save")
    if header.dtype not in DTYPES:
        raise BadSample(f"{path} holds {header.dtype!r}: give float16, float32, float64 or int8")
    if len(header.shape) != 2:
        raise BadSample(f"{path} has the shape {header.shape}: give one vector a row, shape (n, {dim})")
    if header.shape[1] != dim:
        raise BadSample(f"{path} has vectors of {header.shape[1]} dimensions, --dims says {dim}")
    there, itemsize = size - header.offset, int(header.dtype[2:])
    wanted = header.shape[0] * dim * itemsize
    if there < wanted:
        raise BadSample(f"{path} is cut off: {header.shape[0]} rows take {wanted} bytes, {there} are there")
    return header


def _first_of_each(units: NDArray[np.float32]) -> NDArray[np.int64]:
    """The places of the rows that no row before them equals, in order."""
    import numpy as np

    whole = np.ascontiguousarray(units + np.float32(0)).view(f"V{4 * units.shape[1]}")[:, 0]
    _, first = np.unique(whole, return_index=True)
    return np.sort(first)
