"""The two-dimensional Hilbert curve by table: four or eight bits of each coordinate a step.

Seen from inside any square, the curve runs in one of four ways (as it is, mirrored at a diagonal, and either
of these turned by half a circle), so it is an automaton of four states that reads one bit of x and one of y
and writes two bits of the index. Composing that automaton with itself gives tables that swallow 4 bits of
each coordinate (1,024 entries, which stay in the first cache) or 8 (262,144 entries, 1 MiB, built when first
worth it): one gather replaces eight steps. Exact: equal to `sharding.hilbert_skilling` on every point.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALL_STEP = 4
LARGE_STEP = 8

LARGE_STEP_POINTS = 4096
"""From this many points on, building and loading the large table pays."""

BLOCK = 1 << 14
"""Points worked on at a time, so that the intermediate arrays stay in the second cache."""

_SWAP = 1
_HALF_TURN = 2

Words = NDArray[np.uint32]


class StepTables(NamedTuple):
    """Both directions of `step` bits a coordinate, indexed by state << 2*step | pair of words or digits.

    An entry holds the digits (or x << step | y) in its low 2*step bits and the next state above them.
    """

    to_index: Words
    to_point: Words


@cache
def step_tables(step: int) -> StepTables:
    """The automaton composed `step` times with itself. Cost O(step * 4**step), once a process."""
    single = np.array([[_digit(state, pair) for pair in range(4)] for state in range(4)], dtype=np.uint32)
    cells = np.arange(1 << 2 * step, dtype=np.uint32)
    x, y = cells >> step, cells & ((1 << step) - 1)
    to_index = np.empty((4, cells.size), dtype=np.uint32)
    to_point = np.empty((4, cells.size), dtype=np.uint32)
    for start in range(4):
        state = np.full(cells.size, start, dtype=np.uint32)
        digits = np.zeros(cells.size, dtype=np.uint32)
        for bit in range(step - 1, -1, -1):
            entry = single[state, (x >> bit & 1) << 1 | (y >> bit & 1)]
            digits = digits << 2 | (entry & 3)
            state = entry >> 2
        to_index[start] = state << 2 * step | digits
        to_point[start, digits] = state << 2 * step | cells
    tables = StepTables(to_index.reshape(-1), to_point.reshape(-1))
    for table in tables:
        table.setflags(write=False)
    return tables


def encode(points: NDArray[Any], bits: int) -> NDArray[np.uint64]:
    """Indices (n,) of points (n, 2); values must lie in [0, 2**bits), bits <= 32."""
    count = len(points)
    step = _step(count, bits)
    table = step_tables(step).to_index
    out = np.empty(count, dtype=np.uint64)
    for begin in range(0, count, BLOCK):
        block = points[begin : begin + BLOCK]
        x, y = block[:, 0].astype(np.uint32), block[:, 1].astype(np.uint32)
        out[begin : begin + BLOCK] = _encode_block(x, y, bits, step, table)
    return out


def decode(indices: NDArray[Any], bits: int) -> NDArray[Any]:
    """Points (n, 2) of indices (n,); values must lie in [0, 4**bits), bits <= 32."""
    count = len(indices)
    step = _step(count, bits)
    table = step_tables(step).to_point
    out = np.empty((count, 2), dtype=np.min_scalar_type((1 << bits) - 1))
    for begin in range(0, count, BLOCK):
        rows = slice(begin, begin + BLOCK)
        _decode_block(indices[rows], bits, step, table, out[rows])
    return out


def _digit(state: int, pair: int) -> int:
    """One step of the automaton: next state << 2 | digit, for the bits pair = x << 1 | y."""
    x, y = pair >> 1, pair & 1
    if state & _HALF_TURN:
        x, y = x ^ 1, y ^ 1
    if state & _SWAP:
        x, y = y, x
    digit = x << 1 | x ^ y
    following = state
    if digit in (0, 3):
        following ^= _SWAP
    if digit == 3:
        following ^= _HALF_TURN
    return following << 2 | digit


def _step(count: int, bits: int) -> int:
    return LARGE_STEP if count >= LARGE_STEP_POINTS and bits > SMALL_STEP else SMALL_STEP


def _plan(bits: int, step: int) -> tuple[range, int]:
    """The shifts of the steps, highest first, and the starting state.

    A width that is no multiple of the step is padded with leading zeros; each leading zero pair is digit 0,
    which only swaps, so an odd padding starts swapped and reaches the first real bit in state 0.
    """
    steps = -(-bits // step)
    return range((steps - 1) * step, -1, -step), _SWAP if (steps * step - bits) & 1 else 0


def _encode_block(x: Words, y: Words, bits: int, step: int, table: Words) -> NDArray[np.unsignedinteger[Any]]:
    shifts, start = _plan(bits, step)
    mask, width = np.uint32((1 << step) - 1), np.uint32(2 * step)
    digits, states = np.uint32((1 << 2 * step) - 1), np.uint32(3 << 2 * step)
    wide = 2 * bits > 32
    index: NDArray[np.unsignedinteger[Any]] | None = None
    entry: Words | None = None
    for shift in shifts:
        cell = x >> np.uint32(shift)
        cell &= mask
        cell <<= np.uint32(step)
        cell |= (y >> np.uint32(shift)) & mask
        if entry is None:
            cell |= np.uint32(start << 2 * step)
        else:
            entry &= states
            cell |= entry
        # mode="clip" skips a copy that the default makes; every cell is inside the table by construction.
        entry = table.take(cell, mode="clip")
        digit = entry & digits
        if index is None:
            index = digit.astype(np.uint64) if wide else digit
        else:
            index <<= width
            index |= digit
    assert index is not None
    return index


def _decode_block(line: NDArray[Any], bits: int, step: int, table: Words, out: NDArray[Any]) -> None:
    shifts, start = _plan(bits, step)
    mask, states = np.uint32((1 << step) - 1), np.uint32(3 << 2 * step)
    digits = (1 << 2 * step) - 1
    scale: Any = np.uint64 if 2 * bits > 32 else np.uint32
    index = line.astype(scale)
    x = np.zeros(len(line), dtype=np.uint32)
    y = np.zeros(len(line), dtype=np.uint32)
    entry: Words | None = None
    for shift in shifts:
        cell = ((index >> scale(2 * shift)) & scale(digits)).astype(np.uint32, copy=False)
        if entry is None:
            cell |= np.uint32(start << 2 * step)
        else:
            entry &= states
            cell |= entry
        entry = table.take(cell, mode="clip")
        x <<= np.uint32(step)
        x |= (entry >> np.uint32(step)) & mask
        y <<= np.uint32(step)
        y |= entry & mask
    out[:, 0] = x
    out[:, 1] = y
