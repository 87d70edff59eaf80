"""Vectors as int8 codes and their similarity in integers.

A vector travels and is signed as `dim` int8 codes (direction only; its length is not kept), and a score is
an integer in parts per million of cosine similarity. Everything is computed in integers, so every machine
gets the same score and the asker can hold a holder to it. The dot product of int8 codes is below 2**31 for
dim ≤ 65,536, squared norms likewise, so int64 arithmetic is exact.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from chain.errors import RecordError

PPM = 1_000_000
MAX_DIM = 4096
CODE_LIMIT = 127
"""Codes lie in -127 … 127; -128 is refused, so that negation is always defined."""

Codes = NDArray[np.int8]


def codes_from_bytes(data: bytes, dim: int) -> Codes:
    """View `dim` bytes as int8 codes of shape (dim,).

    Raises `RecordError` for another length, the code -128, or the zero vector.
    """
    if len(data) != dim:
        raise RecordError(f"vector has {len(data)} codes, the network's space has {dim}")
    codes = np.frombuffer(data, dtype=np.int8)
    if int(codes.min()) < -CODE_LIMIT:
        raise RecordError("vector holds the code -128, which is outside -127 … 127")
    if not codes.any():
        raise RecordError("vector is zero and has no direction")
    return codes


def squared_norm(codes: Codes) -> int:
    """The sum of squared codes."""
    wide = codes.astype(np.int64)
    return int(wide @ wide)


def score_ppm(a: Codes, b: Codes) -> int:
    """Cosine similarity of two code vectors of shape (dim,), in ppm, rounded towards zero.

    Raises `RecordError` when shapes differ or a vector is zero.
    """
    if a.shape != b.shape:
        raise RecordError(f"vectors of shapes {a.shape} and {b.shape} cannot be compared")
    wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
    norms = int(wide_a @ wide_a) * int(wide_b @ wide_b)
    if norms == 0:
        raise RecordError("vector is zero and has no direction")
    return cosine_ppm(int(wide_a @ wide_b), norms)


def cosine_ppm(dot: int, norms: int) -> int:
    """The score of two vectors by their dot product and the product of their squared norms, not zero."""
    # isqrt(norms · 2**40) keeps 20 fractional bits of the norms' product: enough for ppm at any dim.
    magnitude = (abs(dot) * PPM << 20) // isqrt(norms << 40)
    return min(magnitude, PPM) if dot >= 0 else -min(magnitude, PPM)
