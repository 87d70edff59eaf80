"""Expected hits: how many of a question's best k answers lie in each shard, told from sketches alone.

A sketch gives the cosine of its vector to the question but for an error, which is nearly normal with one
standard deviation for all vectors of a space (`sigma`: each node measures it on vectors that it has whole).
So if the k-th best true cosine were t, an entry estimated at e would be among the k best with probability
Phi((e - t) / sigma), and t is what makes these probabilities add up to k. The sum over a shard is what it is
expected to give, and the sum over the shards asked, by k, is the recall to expect: clear questions are seen
to be clear, and nothing has to be fitted to a corpus.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharding.errors import RoutingError

CANDIDATES = 4_096
"""Of all estimates, so many are looked at for ten answers; who is not among them is not among the ten."""

HALVINGS = 20
"""Steps of the search for t. It goes by the nearest step of the table, which is off by 1/400 of `sigma` at
most; the chances are then read between steps, and made to add up to k."""

_GRID = np.linspace(-6.0, 6.0, 2_401)
_STEP = float(_GRID[1] - _GRID[0])
_NORMAL = np.concatenate(
    [[0.0], np.cumsum((np.exp(-(_GRID[1:] ** 2) / 2) + np.exp(-(_GRID[:-1] ** 2) / 2)) / 2)]
)
_NORMAL /= _NORMAL[-1]


def expected_hits(
    estimates: NDArray[np.float32], shards: NDArray[np.int64], count: int, k: int, sigma: float
) -> NDArray[np.float64]:
    """Expected hits of each of `count` shards, shape (count,): they add up to k, or to the entries there are.

    `estimates` and `shards`, both of shape (n,), are the entries' estimated cosines and the numbers of their
    shards; `sigma` is the standard deviation of an estimate's error. Raises `RoutingError`. Cost O(n).
    """
    if len(estimates) != len(shards) or k < 1 or sigma <= 0:
        raise RoutingError(
            f"{len(estimates)} estimates, {len(shards)} shards, k = {k}, sigma = {sigma}: "
            "pass a shard for each estimate, a k from 1, and a sigma above 0"
        )
    if len(estimates) <= k:
        return np.bincount(shards, minlength=count).astype(np.float64)
    most = max(CANDIDATES, 64 * k)
    near = np.arange(len(estimates))
    if len(estimates) > most:
        near = np.argpartition(-estimates, most)[:most]
    # The k best alone would add up to k at six deviations below the last of them: t is not lower, and what is
    # another six below that has no chance.
    last = float(np.partition(estimates[near], -k)[-k])
    near = near[estimates[near] >= last - 12.01 * sigma]
    found = estimates[near].astype(np.float64) / sigma
    low, high = float(found.min()) - 6, float(found.max()) + 6
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _nearly_normal(found - middle).sum() > k:
            low = middle
        else:
            high = middle
    chances = _normal(found - high)
    chances *= k / chances.sum()
    hits = np.zeros(count)
    np.add.at(hits, shards[near], chances)
    return hits


def estimate_error(estimates: NDArray[np.float32], cosines: NDArray[np.float64]) -> float:
    """Standard deviation of the estimates' errors, for vectors whose true cosines are known: `sigma`.

    Raises `RoutingError` for fewer than two.
    """
    if len(estimates) != len(cosines) or len(estimates) < 2:
        raise RoutingError(f"{len(estimates)} estimates of {len(cosines)} cosines: pass two or more of both")
    return float(np.sqrt(np.mean((estimates.astype(np.float64) - cosines) ** 2)))


def _nearly_normal(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `_normal`, at the nearest step of the table, in a quarter of the time."""
    steps = np.clip((z - _GRID[0]) / _STEP + 0.5, 0, len(_GRID) - 1).astype(np.int32)
    chances: NDArray[np.float64] = _NORMAL.take(steps)
    return chances


def _normal(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal distribution function, from a table of steps of 1/200; 0 and 1 beyond six deviations."""
    chances: NDArray[np.float64] = np.interp(z, _GRID, _NORMAL, left=0.0, right=1.0)
    return chances
