"""From vectors to int8 codes: code = round(v / max|v| · 127), halves away from zero.

The same rule serves exact integer sums (the built-in embedder) and floats (vectors given by a caller or
a model). For integers nothing is ever rounded but the last step, in integers, so every machine gets the
same code; for floats the result is determined by IEEE 754 division and multiplication. Scaling a vector
by a positive power of two, or an integer one by any positive integer, leaves its code unchanged. Every
code has a component of ±127, so that its norm lies between 127 and 127·√dim.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from node.embedding.errors import NotFinite, WrongSize, ZeroVector

CODE_MAX = 127
"""Largest absolute value of a code's component; −128 never occurs."""

SUM_MAX = 2**54
"""Largest absolute component of an integer vector: 254 times it still fits into 63 bits."""


def quantise_integers(vectors: NDArray[np.int64]) -> NDArray[np.int8]:
    """Codes, shape (n, dim), of integer vectors of shape (n, dim); exact on every machine.

    Raises `ZeroVector` for the first row that is zero, and `OverflowError` beyond `SUM_MAX`.
    """
    magnitudes = np.abs(vectors)
    peaks = magnitudes.max(axis=1, initial=0, keepdims=True)
    if peaks.size and (int(peaks.max()) > SUM_MAX or int(magnitudes.min()) < 0):
        raise OverflowError(f"a component of an integer vector exceeds {SUM_MAX}; sum fewer rows")
    _refuse_zero_rows(peaks[:, 0])
    rounded = (2 * CODE_MAX * magnitudes + peaks) // (2 * peaks)
    codes: NDArray[np.int8] = (np.sign(vectors) * rounded).astype(np.int8)
    return codes


def quantise_floats(vectors: ArrayLike, dim: int) -> NDArray[np.int8]:
    """Codes, shape (n, dim), of float vectors of shape (n, dim).

    Raises `WrongSize`, `NotFinite` or `ZeroVector`, each naming the first offending row.
    """
    try:
        floats = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise NotFinite(
            f"the vectors are not a table of numbers ({error}); give {dim} numbers each"
        ) from error
    if floats.ndim != 2 or floats.shape[1] != dim:
        found = floats.shape[1] if floats.ndim == 2 else f"shape {floats.shape}"
        raise WrongSize(f"a vector of {found} components was given; this space has {dim}")
    if floats.shape[0] == 0:
        return np.zeros((0, dim), dtype=np.int8)
    finite = np.isfinite(floats)
    if not finite.all():
        row, column = (int(index) for index in np.argwhere(~finite)[0])
        raise NotFinite(
            f"component {column} of vector {row} is {floats[row, column]}; every component must be finite"
        )
    magnitudes = np.abs(floats)
    peaks = magnitudes.max(axis=1, keepdims=True)
    _refuse_zero_rows(peaks[:, 0])
    rounded = np.floor(magnitudes / peaks * CODE_MAX + 0.5)
    codes: NDArray[np.int8] = (np.sign(floats) * rounded).astype(np.int8)
    return codes


def _refuse_zero_rows(peaks: NDArray[np.int64] | NDArray[np.float64]) -> None:
    zero = np.flatnonzero(peaks == 0)
    if zero.size:
        raise ZeroVector(f"vector {int(zero[0])} has only zeros and so no direction; give another vector")
