"""The shard key: 256 bits that say where in the network a piece of knowledge lies, from its meaning alone.

    rank of the nearest cell (log2 C bits; 12 with 4,096 cells) | position inside the cell (the rest of 64
    bits) | first 24 bytes of the CID's digest

Keys sort along the atlas's Hilbert curve: between cells by rank, inside a cell from the side of its
predecessor to the side of its successor, and the digest makes them distinct. A key is a pure function of
(atlas, code, CID), computed in integers from end to end, so author, holder and asker on any machine compute
the same 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chain.cid import Cid, digest
from chain.errors import ChainError
from sharding.atlas import SCORE_BITS, Atlas, check_codes, nearest_cells
from sharding.errors import ShardKeyError

KEY_BYTES = 32
PLACE_BITS = 64
"""Bits of rank and position together. An atlas of C cells gives log2 C of them to the rank: 12 and 52 at
4,096.
"""

DIGEST_BYTES = KEY_BYTES - PLACE_BITS // 8

NORM_BITS = 16
"""Fractional bits of a code's norm; they keep its rounding far below a position's meaning."""


def shard_keys(atlas: Atlas, codes: NDArray[np.int8], cids: Sequence[Cid]) -> list[bytes]:
    """The key of each code, 32 bytes big-endian, so that keys sort as bytes do.

    `codes` is int8 of shape (n, dim), `cids` n CIDs. Raises `AtlasError` for a code the atlas cannot place
    and `ShardKeyError` for CIDs that are none or not n. Cost: one nearest-cell search a code.
    """
    if len(codes) != len(cids):
        raise ShardKeyError(f"{len(codes)} codes and {len(cids)} CIDs: pass one CID for each code")
    try:
        tails = [digest(cid)[:DIGEST_BYTES] for cid in cids]
    except ChainError as error:
        raise ShardKeyError(f"no key without a CID: {error}") from error
    return [
        place.to_bytes(PLACE_BITS // 8, "big") + tail
        for place, tail in zip(places(atlas, codes), tails, strict=True)
    ]


def places(atlas: Atlas, codes: NDArray[np.int8]) -> list[int]:
    """The first 64 bits of each code's key: rank and position inside the cell."""
    checked = check_codes(atlas, codes)
    ranks = nearest_cells(atlas, checked)
    before = np.maximum(ranks - 1, 0)
    after = np.minimum(ranks + 1, atlas.cells - 1)
    toward_before = _dots(checked, atlas.centroids[before])
    toward_after = _dots(checked, atlas.centroids[after])
    across = _dots(atlas.centroids[before], atlas.centroids[after])
    reciprocal_before = atlas.reciprocals[before].tolist()
    reciprocal_after = atlas.reciprocals[after].tolist()
    norms = _dots(checked, checked)
    width = PLACE_BITS - atlas.rank_bits
    return [
        rank << width
        | _inside(
            dot_before, dot_after, dot_across, scale_before, scale_after, isqrt(norm << 2 * NORM_BITS), width
        )
        for rank, dot_before, dot_after, dot_across, scale_before, scale_after, norm in zip(
            ranks.tolist(),
            toward_before,
            toward_after,
            across,
            reciprocal_before,
            reciprocal_after,
            norms,
            strict=True,
        )
    ]


def _inside(
    dot_before: int,
    dot_after: int,
    dot_across: int,
    scale_before: int,
    scale_after: int,
    norm: int,
    width: int,
) -> int:
    """Position inside a cell, in [0, 2**width): the code projected on the line between the cell's neighbours.

    For unit vectors x, p (before) and q (after), x's place on the line from p to q, measured from its middle,
    is (x.q - x.p) / |q - p|**2 and |q - p|**2 = 2 * (1 - p.q). The whole line has no ends, so u = (x.q - x.p)
    / (1 - p.q) is squashed by u / (1 + |u|) into (-1, 1). Numerator and denominator carry the common factor
    |code| * 2**(SCORE_BITS + NORM_BITS), and the quotient is one integer division.
    """
    along = (dot_after * scale_after - dot_before * scale_before) << NORM_BITS
    apart = (1 << SCORE_BITS) - (dot_across * scale_before * scale_after >> SCORE_BITS)
    reach = max(1, norm * apart) + abs(along)
    half = 1 << (width - 1)
    return min(half + along * half // reach, 2 * half - 1)


def _dots(left: NDArray[Any], right: NDArray[Any]) -> list[int]:
    """Row by row dot products of int8 rows, in int64: below 2**26, so exact."""
    dots: list[int] = np.einsum("nd,nd->n", left, right, dtype=np.int64).tolist()
    return dots
