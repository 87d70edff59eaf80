"""The Hilbert curve in any number of dimensions, for arrays of points: Skilling's algorithm, one axis at a
time.

The points of a block lie axis by axis in the smallest unsigned dtype that holds a coordinate, so that each of
the algorithm's steps (J. Skilling, AIP Conf. Proc. 707, 2004) is eight branch-free passes over a contiguous
row that stays in cache. The last stage, interleaving the axes' bits into an index, is a permutation of at
most 64 bits done by eight table lookups, or by unpacking bits when the index is wider. Exact on every point.
The checks of shape and range are `sharding.hilbert`'s.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 18
"""Bytes of coordinates worked on at a time; with scratch rows they fit in the second cache."""

CACHED_ORDERS = 16
"""Orders (dims, bits) whose 16 KiB permutation tables are kept."""

WORD_BITS = 64


def encode(points: NDArray[Any], bits: int) -> NDArray[Any]:
    """Indices of points (n, dims): uint64 (n,) up to 64 bits, else big-endian uint8 rows."""
    count, dims = points.shape
    total = dims * bits
    if total <= WORD_BITS:
        out: NDArray[Any] = np.empty(count, dtype=np.uint64)
    else:
        out = np.empty((count, -(-total // 8)), dtype=np.uint8)
    for rows in _blocks(count, dims, bits):
        axes = np.ascontiguousarray(points[rows].T).astype(_dtype(bits))
        _to_transpose(axes, bits)
        out[rows] = _weave_words(axes, bits) if total <= WORD_BITS else _weave_rows(axes, bits)
    return out


def decode_words(indices: NDArray[Any], dims: int, bits: int) -> NDArray[Any]:
    """Points (n, dims) of integer indices (n,), `dims * bits` <= 64."""
    out = np.empty((len(indices), dims), dtype=_dtype(bits))
    for rows in _blocks(len(indices), dims, bits):
        axes = _unweave_words(indices[rows].astype(np.uint64), dims, bits)
        _from_transpose(axes, bits)
        out[rows] = axes.T
    return out


def decode_rows(indices: NDArray[np.uint8], dims: int, bits: int) -> NDArray[Any]:
    """Points (n, dims) of big-endian rows (n, ceil(dims * bits / 8))."""
    out = np.empty((len(indices), dims), dtype=_dtype(bits))
    for rows in _blocks(len(indices), dims, bits):
        axes = _unweave_rows(indices[rows], dims, bits)
        _from_transpose(axes, bits)
        out[rows] = axes.T
    return out


def _dtype(bits: int) -> np.dtype[Any]:
    return np.min_scalar_type((1 << bits) - 1)


def _blocks(count: int, dims: int, bits: int) -> list[slice]:
    size = max(1, BLOCK_BYTES // (dims * _dtype(bits).itemsize))
    return [slice(begin, begin + size) for begin in range(0, count, size)]


def _to_transpose(axes: NDArray[Any], bits: int) -> None:
    """In place: coordinates (dims, n) into the index's bits, bit b of axis a being index bit b * dims + dims
    - 1 - a.
    """
    scratch = np.empty((2, axes.shape[1]), dtype=axes.dtype)
    for bit in range(bits - 1, 0, -1):
        for axis in range(len(axes)):
            _turn(axes, axis, bit, scratch)
    for axis in range(1, len(axes)):
        axes[axis] ^= axes[axis - 1]
    parity, shifted = scratch
    np.right_shift(axes[-1], 1, out=parity)
    shift = 1
    while shift < bits:
        np.right_shift(parity, shift, out=shifted)
        parity ^= shifted
        shift *= 2
    axes ^= parity


def _from_transpose(axes: NDArray[Any], bits: int) -> None:
    """In place: the inverse of `_to_transpose`."""
    scratch = np.empty((2, axes.shape[1]), dtype=axes.dtype)
    parity = axes[-1] >> 1
    for axis in range(len(axes) - 1, 0, -1):
        axes[axis] ^= axes[axis - 1]
    axes[0] ^= parity
    for bit in range(1, bits):
        for axis in range(len(axes) - 1, -1, -1):
            _turn(axes, axis, bit, scratch)


def _turn(axes: NDArray[Any], axis: int, bit: int, scratch: NDArray[Any]) -> None:
    """Skilling's step without a branch: mirror axis 0 below `bit` where `axis` has it, else exchange them
    there.
    """
    kind = axes.dtype.type
    below = kind((1 << bit) - 1)
    mirror, differ = scratch
    np.bitwise_and(axes[axis], kind(1 << bit), out=mirror)
    np.right_shift(mirror, kind(bit), out=differ)
    mirror -= differ  # 2**bit becomes 2**bit - 1, the bits below; 0 stays 0
    if axis == 0:
        axes[0] ^= mirror
        return
    np.bitwise_xor(axes[0], axes[axis], out=differ)
    differ &= below
    # differ is already inside `below`, and mirror is either all of it or nothing: clear it where axis 0 is
    # mirrored.
    np.bitwise_or(differ, mirror, out=differ)
    axes[0] ^= differ
    differ ^= mirror
    axes[axis] ^= differ


@lru_cache(maxsize=CACHED_ORDERS)
def _weave_tables(dims: int, bits: int, inverse: bool) -> NDArray[np.uint64]:
    """Tables (bytes, 256) of the bit permutation between axes laid end to end and their interleaving.

    Entry [k, v] is where the set bits of the value v, standing in byte k of the word, go.
    """
    total = dims * bits
    destination = [0] * total
    for axis in range(dims):
        for bit in range(bits):
            joined, woven = (dims - 1 - axis) * bits + bit, bit * dims + dims - 1 - axis
            source, target = (woven, joined) if inverse else (joined, woven)
            destination[source] = target
    values = np.arange(256, dtype=np.uint64)
    tables = np.zeros((-(-total // 8), 256), dtype=np.uint64)
    for source, target in enumerate(destination):
        tables[source // 8] |= (values >> np.uint64(source % 8) & np.uint64(1)) << np.uint64(target)
    tables.setflags(write=False)
    return tables


def _permute(words: NDArray[np.uint64], tables: NDArray[np.uint64]) -> NDArray[np.uint64]:
    octets = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    out: NDArray[np.uint64] = tables[0].take(octets[:, 0])
    for place in range(1, len(tables)):
        out |= tables[place].take(octets[:, place])
    return out


def _weave_words(axes: NDArray[Any], bits: int) -> NDArray[np.uint64]:
    joined = axes[0].astype(np.uint64)
    for axis in axes[1:]:
        joined <<= np.uint64(bits)
        joined |= axis
    return _permute(joined, _weave_tables(len(axes), bits, False))


def _unweave_words(words: NDArray[np.uint64], dims: int, bits: int) -> NDArray[Any]:
    joined = _permute(words, _weave_tables(dims, bits, True))
    axes = np.empty((dims, len(words)), dtype=_dtype(bits))
    mask = np.uint64((1 << bits) - 1)
    for axis in range(dims - 1, -1, -1):
        axes[axis] = joined & mask
        if axis:
            joined >>= np.uint64(bits)
    return axes


def _weave_rows(axes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    dims, count = axes.shape
    item = axes.dtype.itemsize
    octets = np.ascontiguousarray(axes.T).astype(axes.dtype.newbyteorder(">")).view(np.uint8)
    planes = np.unpackbits(octets.reshape(count, dims, item), axis=2)[:, :, 8 * item - bits :]
    flat = planes.transpose(0, 2, 1).reshape(count, dims * bits)
    return np.packbits(_padded(flat), axis=1)


def _unweave_rows(rows: NDArray[np.uint8], dims: int, bits: int) -> NDArray[Any]:
    total = dims * bits
    flat = np.unpackbits(rows, axis=1)[:, 8 * rows.shape[1] - total :]
    planes = flat.reshape(len(rows), bits, dims).transpose(0, 2, 1)
    dtype = _dtype(bits)
    wide = np.zeros((len(rows), dims, 8 * dtype.itemsize), dtype=np.uint8)
    wide[:, :, 8 * dtype.itemsize - bits :] = planes
    octets = np.packbits(wide, axis=2).reshape(len(rows), dims * dtype.itemsize)
    return np.ascontiguousarray(octets.view(dtype.newbyteorder(">")).astype(dtype).T)


def _padded(flat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of bits with zeros in front, up to whole bytes."""
    spare = -flat.shape[1] % 8
    if not spare:
        return flat
    return np.concatenate([np.zeros((len(flat), spare), dtype=np.uint8), flat], axis=1)
