"""Robust rules that only need inner products: which updates are scaled, mixed or chosen, in Python's
integers.

Norm clipping, nearest-neighbour mixing, Krum, the geometric median and centred clipping all give
combinations of the updates, with coefficients that depend on distances alone; and every distance between
combinations follows from the inner products of the updates. So none of them has to look at an element:
what they decide is a small matrix of integers over one denominator, exact, the same on every machine, in
O(n³) for n updates however large the model is. `federated.robust` applies it in one pass.

Where a root or a quotient is needed it is rounded **toward zero**: a clip factor is never too large, and
the coefficients of a row never sum to more than 1 in magnitude. Ties go to the row that comes first; rows
come in the order of their CIDs, so the order of arrival means nothing.

n is the number of updates, f how many of them may be anything. All promises need f < n/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from federated.differences import Gram

ONE_BITS = 24
ONE = 1 << ONE_BITS
"""A clip factor of 1."""
WHOLE = 1 << 30
"""Coefficients of the geometric median and of centred clipping are multiples of 1 / WHOLE."""
MAX_DENOMINATOR = 1 << 31
"""`federated.robust` divides by no larger number without overflow."""
WEISZFELD_STEPS = 64
SMOOTHING_BITS = 12
"""The geometric median takes no distance for smaller than the median one / 2**12."""
CENTRED_STEPS = 8


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rows that are combinations of the updates: row i is Σ_j `rows`[i][j] · d_j / `denominator`.

    The magnitudes of a row sum to at most `denominator`, which is at most `MAX_DENOMINATOR`.
    """

    rows: tuple[tuple[int, ...], ...]
    denominator: int

    @property
    def unmixed(self) -> bool:
        """Whether the rows are the updates as they are."""
        return self == unmixed(len(self.rows))

    def gram(self, of: Gram) -> Gram:
        """Inner products of the rows, in units of 1 / denominator²; exact."""
        if self.unmixed:
            return of
        half = [[_dot(row, column) for column in of] for row in self.rows]  # `of` is symmetric
        return [[_dot(left, row) for row in self.rows] for left in half]

    def then(self, rows: Sequence[Sequence[int]], denominator: int) -> Mixture:
        """Combinations of these rows, as one mixture; rounded toward zero if the denominator is too large."""
        columns = list(zip(*self.rows, strict=True))
        found = [[_dot(row, column) for column in columns] for row in rows]
        whole = self.denominator * denominator
        if whole > MAX_DENOMINATOR:
            found = [[_toward_zero(value * MAX_DENOMINATOR, whole) for value in row] for row in found]
            whole = MAX_DENOMINATOR
        return Mixture(tuple(map(tuple, found)), whole)


def unmixed(count: int) -> Mixture:
    """Every update as it is."""
    return Mixture(tuple(tuple(int(i == j) for j in range(count)) for i in range(count)), 1)


def clip(gram: Gram) -> tuple[list[list[int]], int]:
    """Norm clipping to the (lower) median norm: longer differences are scaled down to it.

    With f < n/2 the median lies between two honest norms, so a liar moves the model no further than an
    honest member could, and no bound has to be guessed beforehand. A clip as Sun et al. (2019) have it, with
    a bound that adapts as in ARC (Allouah et al., 2024), here at the median.
    """
    squares = [gram[i][i] for i in range(len(gram))]
    most = sorted(squares)[(len(gram) - 1) // 2]
    return [
        [(ONE if square <= most else isqrt(most * ONE * ONE // square)) * (i == j) for j in range(len(gram))]
        for i, square in enumerate(squares)
    ], ONE


def bound_two(gram: Gram) -> tuple[list[list[int]], int]:
    """Of two differences the longer is scaled down to twice the length of the shorter.

    Where either may be anything nothing says which one is right, and their mean goes as far as a lie does.
    With this the mean lies within 3/2 of the honest length, and against the honest difference it goes at most
    half as far back. Two honest ones of unequal lengths are seldom touched, which a bound at the shorter,
    as in `clip`, would slow down in every round.
    """
    one, other = gram[0][0], gram[1][1]
    most = 4 * min(one, other)
    factors = [ONE if square <= most else isqrt(most * ONE * ONE // square) for square in (one, other)]
    return [[factors[0], 0], [0, factors[1]]], ONE


def nnm(gram: Gram, f: int) -> tuple[list[list[int]], int]:
    """Nearest-neighbour mixing: every difference becomes the mean of the n - f nearest ones, itself included.

    Allouah et al., "Fixing by Mixing" (2023): it shrinks the spread of unequal but honest members, behind
    which a lie hides; any finish with the bound κ then has 8f / (n - f) · (κ + 1), of the order of the best.
    """
    n = len(gram)
    rows: list[list[int]] = []
    for i in range(n):
        chosen = set(_nearest(gram, i)[: n - f])
        rows.append([int(j in chosen) for j in range(n)])
    return rows, n - f


def mean(gram: Gram) -> tuple[list[list[int]], int]:
    """The mean, every member the same."""
    return [[1] * len(gram)], len(gram)


def krum(gram: Gram, f: int, chosen: int = 1) -> tuple[list[list[int]], int]:
    """(Multi-)Krum: the mean of the `chosen` rows whose n - f - 2 nearest others are nearest.

    Blanchard et al. (2017), who need n ≥ 2f + 3: with fewer, f is taken for (n - 3) / 2. One row alone is
    noisy when members are unequal.
    """
    n = len(gram)
    near = max(n - min(f, max((n - 3) // 2, 0)) - 2, 1)
    scores = []
    for i in range(n):
        others = sorted(_distance(gram, i, j) for j in range(n) if j != i)
        scores.append((sum(others[:near]), i))
    best = {i for _, i in sorted(scores)[:chosen]}
    return [[int(i in best) for i in range(n)]], min(chosen, n)


def geometric_median(gram: Gram, steps: int = WEISZFELD_STEPS) -> tuple[list[list[int]], int]:
    """The point with the least sum of distances, by a fixed number of smoothed Weiszfeld steps from the mean.

    Pillutla et al., RFA (2022). Breakdown point 1/2. What is computed is the stated number of steps, not the
    limit: liars who choose their distances well can make it converge slowly.
    """
    n = len(gram)
    point = [WHOLE // n] * n
    for _ in range(steps):
        reaches = [isqrt(max(square, 0)) for square in _from(gram, point)]
        least = max(sorted(reaches)[(n - 1) // 2] >> SMOOTHING_BITS, 1)
        reaches = [max(reach, least) for reach in reaches]
        unit = max(reaches) << 32
        weights = [unit // reach for reach in reaches]
        total = sum(weights)
        point = [weight * WHOLE // total for weight in weights]
    return [point], WHOLE


def centred_clip(gram: Gram, steps: int = CENTRED_STEPS) -> tuple[list[list[int]], int]:
    """Centred clipping: from the old model, steps by the mean of what lies around, each clipped at a radius.

    Karimireddy, He and Jaggi (2021), whose radius is to be chosen; here it is the (lower) median distance of
    each step.
    """
    n = len(gram)
    point = [0] * n
    for _ in range(steps):
        reaches = [isqrt(max(square, 0)) for square in _from(gram, point)]
        radius = sorted(reaches)[(n - 1) // 2]
        factors = [ONE if reach <= radius else radius * ONE // reach for reach in reaches]
        back = n * ONE - sum(factors)
        point = [
            _toward_zero(point[j] * back + factors[j] * WHOLE, n * ONE) for j in range(n)
        ]  # v + 1/n Σ c (d - v)
    return [point], WHOLE


def _from(gram: Gram, point: Sequence[int]) -> list[int]:
    """Squared distances of all rows from Σ `point`_j · d_j / WHOLE, in units of 1 / WHOLE²; exact."""
    inner = [_dot(point, row) for row in gram]
    length = _dot(point, inner)
    return [WHOLE * WHOLE * gram[i][i] - 2 * WHOLE * inner[i] + length for i in range(len(gram))]


def _nearest(gram: Gram, i: int) -> list[int]:
    """All rows by their distance from row i, which is the first."""
    return sorted(range(len(gram)), key=lambda j: (_distance(gram, i, j), j != i, j))


def _distance(gram: Gram, i: int, j: int) -> int:
    """The square of the distance between two rows."""
    return gram[i][i] + gram[j][j] - 2 * gram[i][j]


def _dot(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _toward_zero(value: int, by: int) -> int:
    return value // by if value >= 0 else -(-value // by)
