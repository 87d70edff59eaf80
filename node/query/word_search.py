"""Searching postings by their words, and by words and vector together.

By words the heaviest terms are looked up first. Each brings postings, which are scored whole; as soon as the
k best are worth more than all terms left could be, the common terms need not be looked up (MaxScore; Turtle
and Flood 1995). By both, the best of each list are taken together, and the lists are made longer until
nothing that is in neither could be among the k best (the threshold algorithm; Fagin 2001). Both are exact
within `MAX_SCORED` and `DEEPEST`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from chain.vector import Codes, codes_from_bytes, score_ppm
from node.query.exhaustive import EVERYTHING, key_ranges
from node.query.filters import Filters
from node.query.scoring import Scores, Words
from node.storage.derived_state import DerivedState, Posting
from sharding.bm25 import Wanted, most, scores
from sharding.tree import Prefix

MAX_SCORED = 16_384
"""Postings scored by their words for one search: of those that only have common terms, some are left out."""
AT_ONCE = 1_024
"""Postings scored in one go."""
READ = 64
"""Postings read whole beyond k at a time."""
WIDEN = 4
DEEPEST = 64
"""So many times k, or as many as `LEAST_DEEP`, the lists are made long at most."""
LEAST_DEEP = 1_000

Told = tuple[Posting, int]
"""A posting and its score by words."""
Near = Callable[[int], list[tuple[Posting, int]]]
"""The so many nearest postings that pass, with their cosines in ppm."""


def best_by_words(
    derived: DerivedState,
    shards: Sequence[Prefix] | None,
    question: Wanted,
    k: int,
    tags: Sequence[str],
    filters: Filters,
) -> list[Told]:
    """The `k` best postings with keys under these prefixes (None: all) that carry `tags` and pass `filters`.

    Only such as have one of the terms. Of equals those of smaller records first. Blocking.
    """
    passing = _passing(derived, shards, tags, filters)
    found: dict[int, int] = {}
    if not derived.indexed:  # every posting is looked at
        numbers = derived.numbers_in([EVERYTHING]) if passing is None else passing.tolist()
        _score(derived, question, numbers, found)
        return _read(derived, {number: one for number, one in found.items() if one}, k, tags)
    left = sum(weight for _, weight in question.terms)
    for term, weight in sorted(question.terms, key=lambda one: (-one[1], one[0])):
        if len(found) >= MAX_SCORED or (len(found) >= k and _kth(found, k) > most(left)):
            break
        numbers = np.array(derived.with_term(term), dtype=np.int64)
        if passing is not None:
            numbers = np.intersect1d(numbers, passing)
        new = [number for number in numbers.tolist() if number not in found]
        _score(derived, question, new[: MAX_SCORED - len(found)], found)
        left -= weight
    return _read(derived, found, k, tags)


def best_by_both(
    derived: DerivedState,
    near: Near,
    told: Callable[[int], list[Told]],
    codes: Codes,
    words: Words,
    k: int,
) -> list[tuple[Posting, Scores]]:
    """The `k` best postings by vector and words together. `near` and `told` give the best of each alone."""
    depth = k
    while True:
        by_vector, by_words = near(depth), told(depth)
        every = {posting.number: posting for posting, _ in (*by_vector, *by_words)}
        cosine = {posting.number: one for posting, one in by_vector}
        lexical = {posting.number: one for posting, one in by_words}
        unknown = derived.words([number for number in every if number not in lexical])
        lexical.update(zip(unknown, scores(words.wanted, list(unknown.values())).tolist(), strict=True))
        found = [
            (
                posting,
                Scores(
                    cosine[number]
                    if number in cosine
                    else score_ppm(codes, codes_from_bytes(posting.codes, len(codes))),
                    lexical.get(number, 0),
                ),
            )
            for number, posting in every.items()
        ]
        found.sort(key=lambda one: (-one[1].score, one[0].record))
        if len(by_vector) < depth or depth >= max(DEEPEST * k, LEAST_DEEP):
            break
        unseen = Scores(by_vector[-1][1], by_words[-1][1] if len(by_words) >= depth else 0)
        if len(found) >= k and found[k - 1][1].score > unseen.score:
            break
        depth *= WIDEN
    return found[:k]


def _passing(
    derived: DerivedState, shards: Sequence[Prefix] | None, tags: Sequence[str], filters: Filters
) -> NDArray[np.int64] | None:
    """The numbers of the postings that may be wanted, ascending; None: all."""
    if shards is None and not tags and not filters:
        return None
    ranges = [EVERYTHING] if shards is None else key_ranges(shards)
    return np.sort(np.array(derived.numbers_in(ranges, tags, *filters.condition()), dtype=np.int64))


def _score(derived: DerivedState, question: Wanted, numbers: Sequence[int], found: dict[int, int]) -> None:
    for start in range(0, len(numbers), AT_ONCE):
        words = derived.words(numbers[start : start + AT_ONCE])
        found.update(zip(words, scores(question, list(words.values())).tolist(), strict=True))


def _kth(found: dict[int, int], k: int) -> int:
    values = np.fromiter(found.values(), dtype=np.int64, count=len(found))
    return int(np.partition(values, len(values) - k)[len(values) - k])


def _read(derived: DerivedState, found: dict[int, int], k: int, tags: Sequence[str]) -> list[Told]:
    """The k best of what was scored, read whole; who has not the tags after all is left out."""
    order = sorted(found, key=lambda number: (-found[number], number))
    ranked: list[Told] = []
    for start in range(0, len(order), k + READ):
        part = order[start : start + k + READ]
        if len(ranked) >= k and ranked[k - 1][1] > found[part[0]]:
            break
        ranked.extend(
            (posting, found[posting.number])
            for posting in derived.get_many(part)
            if posting is not None and set(tags) <= set(posting.tags)
        )
        ranked.sort(key=lambda pair: (-pair[1], pair[0].record))
    return ranked[:k]
