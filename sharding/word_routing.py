"""Routing by words: in which shards the best answers by words are expected to lie, told from term sketches.

A sketch says in how many texts of a shard each term is, not which terms stand together. If they fell on texts
independently, a text of the shard would have exactly a given set of the question's terms with a probability
that follows from the frequencies, and so many texts with it would be expected. All sets of the heaviest terms
are gone through, heaviest set first, over all shards at once, until they amount to k texts: what falls on
each shard is what it is expected to give. That terms keep company is left out: it would favour the same
shards. This is resource selection as in federated search (Gravano, Garcia-Molina and Tomasic's GlOSS 1994),
with counts in place of similarities. A term that only one shard has sends the question there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HEAVIEST = 8
"""Terms of which all sets are gone through: the heaviest decide, and 256 sets of them cost little."""
LOST_WITHOUT_WORDS = 0.35
"""The part of the best by both scores, of those that the vector finds, which lie where words would lead.

Measured, see docs/sharding.md: .27 to .39 for sentences, .27 to .46 for some words of a stored text.
"""


def recall_of_both(by_vector: float, by_words: float) -> float:
    """The part of the best answers by both scores that shards are expected to hold, 0 to 1.

    They are expected to hold the parts `by_vector` and `by_words` of those by one score alone. The vector's
    part bounds it, of which less is found the fewer answers by words the shards hold.
    """
    return by_vector * (1.0 - LOST_WITHOUT_WORDS * (1.0 - min(by_words, 1.0)))


def least_by_words(by_vector: float, wanted: float) -> float:
    """The part of the answers by words that must be held for that recall of both; above 1 if none will do."""
    return 1.0 - (1.0 - wanted / by_vector) / LOST_WITHOUT_WORDS if by_vector > 0 else 1.0


def expected_by_words(
    frequencies: NDArray[np.int64], texts: NDArray[np.int64], weights: Sequence[int], k: int
) -> NDArray[np.float64]:
    """Of the `k` best texts by words, how many each shard is expected to hold; they add up to k at most.

    `frequencies` of shape (shards, terms), `texts` of shape (shards,), a weight for each term. Fewer than k
    when fewer texts have any of the terms. O(shards * 2**HEAVIEST).
    """
    return expected_at(frequencies, texts, weights, (k,))[0]


def expected_at(
    frequencies: NDArray[np.int64], texts: NDArray[np.int64], weights: Sequence[int], depths: Sequence[int]
) -> list[NDArray[np.float64]]:
    """`expected_by_words` for several numbers of best texts, at the cost of one."""
    shards = len(texts)
    heavy = np.argsort(-np.asarray(weights), kind="stable")[:HEAVIEST]
    if not shards or not len(heavy):
        return [np.zeros(shards) for _ in depths]
    chance = frequencies[:, heavy] / np.maximum(texts, 1)[:, np.newaxis]
    chance = np.clip(chance, 0.0, 1.0)
    expected = texts.astype(np.float64)[:, np.newaxis]
    worth = np.zeros(1)
    for place, term in enumerate(heavy):
        part = chance[:, place, np.newaxis]
        expected = np.concatenate([expected * (1 - part), expected * part], axis=1)
        worth = np.concatenate([worth, worth + weights[term]])
    order = np.argsort(-worth, kind="stable")
    order = order[worth[order] > 0]
    running = np.cumsum(expected[:, order].sum(axis=0))
    return [_best(expected, order, running, k) for k in depths]


def _best(
    expected: NDArray[np.float64], order: NDArray[np.int64], running: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    last = int(np.searchsorted(running, k))
    hits: NDArray[np.float64] = expected[:, order[:last]].sum(axis=1)
    if last < len(order):
        left = k - (running[last - 1] if last else 0.0)
        whole = expected[:, order[last]]
        hits = hits + whole * (left / whole.sum())
    return hits
