"""Shard keys in a network with an atlas, from docs/protocol.md (§10) alone, on Python's integers."""

from __future__ import annotations

from functools import cache
from math import isqrt

from tests.protocol.second_format import Refused, digest_of, signed_codes, value_of


@cache
def cells_of(atlas: bytes) -> tuple[list[list[int]], list[int]]:
    """The centroids in rank order, and 2³⁹ over the norm of each."""
    form, _model, cells, dim, flat, positions = value_of(atlas)
    if form != 1 or cells & (cells - 1) or (len(flat), len(positions)) != (cells * dim, 4 * cells):
        raise Refused("no atlas")
    rows = [signed_codes(flat[at : at + dim]) for at in range(0, len(flat), dim)]
    return rows, [isqrt(2**78 // dot(row, row)) for row in rows]


def shard_key(atlas: bytes, codes: bytes, cid: bytes) -> bytes:
    """The key of a content record with these codes."""
    rows, scales = cells_of(atlas)
    point = signed_codes(codes)
    rank = max(range(len(rows)), key=lambda cell: (dot(point, rows[cell]) * scales[cell], -cell))
    p, q = max(rank - 1, 0), min(rank + 1, len(rows) - 1)
    width = 64 - (len(rows).bit_length() - 1)
    half = 2 ** (width - 1)
    along = (dot(point, rows[q]) * scales[q] - dot(point, rows[p]) * scales[p]) * 2**16
    apart = 2**39 - dot(rows[p], rows[q]) * scales[p] * scales[q] // 2**39
    reach = max(1, isqrt(dot(point, point) * 2**32) * apart) + abs(along)
    inside = min(half + along * half // reach, 2 * half - 1)
    return (rank << width | inside).to_bytes(8, "big") + digest_of(cid)[:24]


def dot(a: list[int], b: list[int]) -> int:
    return sum(map(int.__mul__, a, b))
