"""Hilbert curves, exactly: the walk through a grid that visits every point once and steps to a neighbour each
time.

The curve is the one of J. Skilling, "Programming the Hilbert curve" (AIP Conf. Proc. 707, 2004), whose axis
order the package `hilbertcurve` shares. Three paths compute it: arrays of any dimension
(`sharding.hilbert_skilling`), arrays of two dimensions by table (`sharding.hilbert_tables`, chosen without
being asked), and single points on Python's own integers (here, the plainest form, which the other two are
tested against). All three agree on every point, on every machine: nothing here rounds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharding import hilbert_skilling, hilbert_tables
from sharding.errors import CurveError

MAX_BITS = 64
"""Bits of one coordinate: what numpy's widest unsigned integer holds."""

MAX_INDEX_BITS = 256
"""Bits of an index, `dims * bits`: the width of a key."""

WORD_BITS = 64
"""Indices up to this width are `uint64`; wider ones are rows of bytes."""


def index_bytes(dims: int, bits: int) -> int:
    """Length in bytes of one row of indices wider than 64 bits: `dims * bits` rounded up to whole bytes."""
    return (dims * bits + 7) // 8


def encode(points: ArrayLike, bits: int) -> NDArray[Any]:
    """Positions along the curve of many points.

    `points` has shape (n, dims), any integer dtype, values in [0, 2**bits). The result is `uint64` of shape
    (n,) when `dims * bits <= 64`, else `uint8` of shape (n, ceil(dims * bits / 8)): each row one big-endian
    integer, so rows sort as bytes do. Raises `CurveError`. Cost O(n * dims * bits), O(n * bits / 8) in two
    dimensions.
    """
    grid = _integers(points, "points")
    if grid.ndim != 2:
        raise CurveError(f"points have shape {grid.shape}: pass one row a point, shape (n, dims)")
    dims = grid.shape[1]
    _check_order(dims, bits)
    _check_range(grid, bits, "points")
    if dims == 2 and 2 * bits <= WORD_BITS:
        return hilbert_tables.encode(grid, bits)
    return hilbert_skilling.encode(grid, bits)


def decode(indices: ArrayLike, dims: int, bits: int) -> NDArray[Any]:
    """Points at many positions along the curve: the inverse of `encode`.

    `indices` is what `encode` returns for these `dims` and `bits` (any integer dtype of shape (n,) up to 64
    bits). The result has shape (n, dims) and the smallest unsigned dtype that holds `bits`. Raises
    `CurveError`.
    """
    _check_order(dims, bits)
    total = dims * bits
    line = _integers(indices, "indices")
    if total <= WORD_BITS:
        if line.ndim != 1:
            raise CurveError(
                f"indices have shape {line.shape}: {total}-bit indices are one integer each, shape (n,)"
            )
        _check_range(line, total, "indices")
        if dims == 2:
            return hilbert_tables.decode(line, bits)
        return hilbert_skilling.decode_words(line, dims, bits)
    width = index_bytes(dims, bits)
    if line.dtype != np.uint8 or line.ndim != 2 or line.shape[1] != width:
        raise CurveError(
            f"indices have shape {line.shape} and dtype {line.dtype}: {total}-bit indices are "
            f"big-endian rows, uint8 of shape (n, {width})"
        )
    spare = 8 * width - total
    if spare and line.size and int(line[:, 0].max()) >> (8 - spare):
        raise CurveError(f"indices reach beyond the curve's 2**{total} points: clear the top {spare} bits")
    return hilbert_skilling.decode_rows(line, dims, bits)


def encode_point(point: Sequence[SupportsIndex], bits: int) -> int:
    """Position along the curve of one point, on Python integers. Raises `CurveError`. Cost O(dims * bits)."""
    dims = len(point)
    _check_order(dims, bits)
    axes = [_coordinate(value, bits, "coordinate") for value in point]
    for bit in range(bits - 1, 0, -1):
        for axis in range(dims):
            _turn(axes, axis, bit)
    for axis in range(1, dims):
        axes[axis] ^= axes[axis - 1]
    parity = axes[-1] >> 1
    for shift in (1, 2, 4, 8, 16, 32):
        parity ^= parity >> shift
    index = 0
    for bit in range(bits - 1, -1, -1):
        for value in axes:
            index = index << 1 | (value ^ parity) >> bit & 1
    return index


def decode_point(index: SupportsIndex, dims: int, bits: int) -> tuple[int, ...]:
    """The point at one position along the curve: the inverse of `encode_point`. Raises `CurveError`."""
    _check_order(dims, bits)
    rest = _coordinate(index, dims * bits, "index")
    axes = [0] * dims
    for place in range(dims * bits):
        axes[dims - 1 - place % dims] |= (rest >> place & 1) << place // dims
    parity = axes[-1] >> 1
    for axis in range(dims - 1, 0, -1):
        axes[axis] ^= axes[axis - 1]
    axes[0] ^= parity
    for bit in range(1, bits):
        for axis in range(dims - 1, -1, -1):
            _turn(axes, axis, bit)
    return tuple(axes)


def _turn(axes: list[int], axis: int, bit: int) -> None:
    """Skilling's step, its own inverse: mirror axis 0 below `bit` where `axis` has it, else exchange the two
    there.
    """
    below = (1 << bit) - 1
    if axes[axis] >> bit & 1:
        axes[0] ^= below
    else:
        differ = (axes[0] ^ axes[axis]) & below
        axes[0] ^= differ
        axes[axis] ^= differ


def _check_order(dims: int, bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise CurveError(f"{bits} bits a coordinate: choose 1 to {MAX_BITS}")
    if not 1 <= dims * bits <= MAX_INDEX_BITS:
        raise CurveError(
            f"{dims} dimensions of {bits} bits make {dims * bits}: choose 1 to {MAX_INDEX_BITS} bits"
        )


def _coordinate(value: SupportsIndex, bits: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise CurveError(f"{name} {value!r} is not an integer: quantise it first") from None
    if not 0 <= number < 1 << bits:
        raise CurveError(f"{name} {number} is outside [0, 2**{bits}): scale it or raise bits")
    return number


def _integers(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise CurveError(f"{name} do not form an array: {error}") from error
    if array.dtype.kind not in "iu":
        raise CurveError(f"{name} have dtype {array.dtype}: pass integers")
    return array


def _check_range(array: NDArray[Any], bits: int, name: str) -> None:
    if not array.size:
        return
    signed = array.dtype.kind == "i"
    if signed and int(array.min()) < 0:
        raise CurveError(f"{name} hold {int(array.min())}: nothing on the curve is negative")
    if 8 * array.dtype.itemsize - signed > bits and int(array.max()) >> bits:
        raise CurveError(f"{name} hold {int(array.max())}, outside [0, 2**{bits}): scale them or raise bits")
