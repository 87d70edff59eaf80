"""BM25 in integers: how well a text answers a question by its words, the same on every machine.

Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), with k1 = 1.2 and b = .75: a term is
worth the more the fewer texts have it, its repetitions count less and less, and long texts count less. What
hangs on the network, the weight of each term and the mean length of a text, the asker sends along
(`Wanted`), summed up from the shards' term sketches (`sharding.term_sketch`); all else is in the text. So
holders need to know nothing of each other, their scores can be compared, and the asker can recompute each
from the signed text.

Scores are in millionths of `UNIT_NATS` nats of evidence, which makes them about as large as a cosine in ppm;
they are at least 0 and have no upper bound but that of the weights. The question's own score is the middle of
the two (`blended`): a sum of evidence, without looking at what else was found. That was chosen by measurement
(docs/sharding.md): as good as scaling by the best hit, which holders do not know, and better than ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from sharding.errors import TermError
from sharding.terms import MAX_LENGTH, MAX_TIMES, Counted

UNIT_NATS = 60.0
"""Nats of evidence that count as much as a cosine of 1."""

MAX_TERMS = 32
"""Terms of one question; of more the heaviest."""

MAX_WEIGHT = (1 << 20) - 1
MAX_MEAN = (1 << 20) - 1
"""Of the mean length, in hundredths of a term: texts of more than 10,000 terms count as of so many."""

MAX_SCORE = MAX_TERMS * MAX_WEIGHT * 22 // 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """The terms of a question, ascending by id, with their weights, and the mean length of a text.

    `mean` is in hundredths of a term. Raises `TermError` for what is out of bounds.
    """

    terms: tuple[tuple[int, int], ...]
    mean: int

    def __post_init__(self) -> None:
        ids = [term for term, _ in self.terms]
        if not 1 <= len(ids) <= MAX_TERMS or any(not 0 <= one < 1 << 32 for one in ids):
            raise TermError(f"a question has 1 to {MAX_TERMS} terms of 32 bits")
        if any(one >= other for one, other in zip(ids, ids[1:], strict=False)):
            raise TermError("the terms of a question ascend and occur once")
        if not all(1 <= weight <= MAX_WEIGHT for _, weight in self.terms) or not 1 <= self.mean <= MAX_MEAN:
            raise TermError(f"weights are 1 to {MAX_WEIGHT}, a mean length 1 to {MAX_MEAN}")


def wanted(
    ids: Sequence[int], frequencies: Mapping[int, int], texts: int, mean_length: float
) -> Wanted | None:
    """A question for these terms, `frequencies` of which (0 where absent) of `texts` texts have them.

    None without terms. Of more than `MAX_TERMS` the heaviest are kept, of equals those of smaller ids.
    """
    weights = {one: weight(frequencies.get(one, 0), texts) for one in ids}
    kept = sorted(weights, key=lambda one: (-weights[one], one))[:MAX_TERMS]
    if not kept:
        return None
    mean = min(max(round(mean_length * 100), 1), MAX_MEAN)
    return Wanted(tuple((one, weights[one]) for one in sorted(kept)), mean)


def weight(frequency: int, texts: int) -> int:
    """What a term is worth that `frequency` of `texts` texts have, in millionths of `UNIT_NATS`.

    Falls with the frequency and is at least 1.
    """
    texts = max(texts, frequency)
    nats = log(1 + (texts - frequency + 0.5) / (frequency + 0.5))
    return min(max(round(nats / UNIT_NATS * 1_000_000), 1), MAX_WEIGHT)


def score(question: Wanted, text: Counted) -> int:
    """The score of a text; 0 where it has none of the terms. O(terms of the question * log(of the text))."""
    ids = np.array([one for one, _ in question.terms], dtype=np.uint32)
    places = np.searchsorted(text.ids, ids)
    total = 0
    for (one, heavy), place in zip(question.terms, places.tolist(), strict=True):
        if place < len(text.ids) and int(text.ids[place]) == one:
            total += _part(heavy, int(text.times[place]), text.length, question.mean)
    return total


def scores(question: Wanted, texts: Sequence[Counted]) -> NDArray[np.int64]:
    """`score` of many texts, shape (len(texts),). O(terms of the texts)."""
    found = np.zeros(len(texts), dtype=np.int64)
    if not texts:
        return found
    ids = np.concatenate([one.ids for one in texts])
    times = np.concatenate([one.times for one in texts]).astype(np.int64)
    text = np.repeat(np.arange(len(texts)), [len(one.ids) for one in texts])
    terms = np.array([one for one, _ in question.terms], dtype=np.uint32)
    weights = np.array([heavy for _, heavy in question.terms], dtype=np.int64)
    places = np.searchsorted(terms, ids)
    places[places == len(terms)] = 0
    hit = np.flatnonzero(terms[places] == ids)
    text, times, weights = text[hit], times[hit], weights[places[hit]]
    lengths = np.array([min(one.length, MAX_LENGTH) for one in texts], dtype=np.int64)[text]
    mean = question.mean
    parts = 22 * weights * times * mean // (10 * mean * times + 3 * (mean + 300 * lengths))
    np.add.at(found, text, parts)
    return found


def most(weights: int) -> int:
    """What terms whose weights add up to `weights` can be worth at most, in whatever text."""
    return weights * 22 // 10


def blended(cosine_ppm: int, lexical: int) -> int:
    """The score of a hit by vector and by words: the middle of the two, rounded down."""
    return (cosine_ppm + lexical) // 2


def _part(heavy: int, times: int, length: int, mean: int) -> int:
    """What one term is worth in a text: weight * times * 2.2 / (times + .3 + .9 * length / mean)."""
    times, length = min(times, MAX_TIMES), min(length, MAX_LENGTH)
    return 22 * heavy * times * mean // (10 * mean * times + 3 * (mean + 300 * length))
