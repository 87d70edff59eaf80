"""Searching postings by their words, and by words and vector together.

The heaviest terms are looked up first, and each posting that has one is scored whole. By words alone this
ends as soon as the k best are worth more than all terms left could be (MaxScore; Turtle and Flood 1995), so
common words need hardly ever be looked up. By both, the nearest postings are taken besides: what is not among
them is at most as near as the last of them, and needs so many words to be among the k best after all that the
lookups end even sooner (the threshold algorithm; Fagin, Lotem and Naor 2001). Where all postings of the
shards are among the nearest, nothing is looked up. Both are exact up to `MAX_SCORED` postings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np

from chain.vector import PPM, Codes, codes_from_bytes, score_ppm
from node.query.exhaustive import EVERYTHING, key_ranges
from node.query.filters import Filters
from node.query.scoring import Scores
from node.storage.derived_state import DerivedState, Posting
from sharding.bm25 import Wanted, most, scores
from sharding.terms import Counted
from sharding.tree import Prefix

MAX_SCORED = 16_384
"""Postings scored by their words for one search: of those that only have common terms, some are left out."""
AT_ONCE = 1_024
"""Postings scored in one go."""
MANY = 2_048
"""Postings of a term beyond which it is looked first which of them lie in the shards asked."""
NEAR = 64
"""Nearest postings taken besides, or four times k."""
SLACK = 16
"""Candidates beyond k whose score is computed exactly, so that float rounding drops none of the best."""

Near = Callable[[int], list[tuple[Posting, int]]]
"""The so many nearest postings that pass, with their cosines in ppm."""


class WordSearch:
    """One search among the postings with keys under some prefixes (None: all). Blocking throughout."""

    def __init__(
        self,
        derived: DerivedState,
        shards: Sequence[Prefix] | None,
        codes: Codes,
        question: Wanted,
        tags: Sequence[str],
        filters: Filters,
    ) -> None:
        """Only postings that carry `tags` and pass `filters` are found."""
        self._derived = derived
        self._codes = codes
        self._wide = codes.astype(np.float64) / np.linalg.norm(codes.astype(np.float64))
        self._question = question
        self._tags = tuple(tags)
        self._condition = filters.condition()
        self._all = shards is None and not tags and not filters
        self._ranges = [EVERYTHING] if shards is None else key_ranges(shards)
        self._lows = [low for low, _ in self._ranges]
        self._passing: frozenset[int] | None = None
        self._found: dict[int, tuple[int, float]] = {}
        """By number the score by words, and about the cosine in ppm."""

    def by_words(self, k: int) -> list[tuple[Posting, Scores]]:
        """The `k` best by words, of such as have one of the terms; of equals those of smaller records."""

        def enough(left: int) -> bool:
            return len(self._found) >= k and self._kth(k, alone=True) > left

        self._look_up(enough)
        have = [number for number, (lexical, _) in self._found.items() if lexical]
        return self._read(sorted(have, key=lambda number: (-self._found[number][0], number)), k, True)

    def by_both(self, near: Near, k: int, depth: int | None = None) -> list[tuple[Posting, Scores]]:
        """The `k` best by vector and words together; of equals those of smaller records.

        `depth` of the nearest are taken besides, `NEAR` or four times k when it is None.
        """
        depth = depth or max(NEAR, 4 * k)
        nearest = near(depth)
        words = self._derived.words([posting.number for posting, _ in nearest])
        lexical = dict(zip(words, scores(self._question, list(words.values())).tolist(), strict=True))
        self._found.update(
            (posting.number, (lexical.get(posting.number, 0), float(cosine))) for posting, cosine in nearest
        )
        if len(nearest) >= depth:
            last = nearest[-1][1]

            def enough(left: int) -> bool:
                return self._kth(k, alone=False) > left + last + 2  # a blend is rounded down

            self._look_up(enough)
        order = sorted(self._found, key=lambda number: (-sum(self._found[number]), number))
        return self._read(order, k, False)

    def _look_up(self, enough: Callable[[int], bool]) -> None:
        """Score the postings that have terms, the heaviest first, until the others could add nothing."""
        if not self._derived.indexed:  # every posting is looked at
            self._score(sorted(self._those_that_pass()))
            return
        left = sum(weight for _, weight in self._question.terms)
        for term, weight in sorted(self._question.terms, key=lambda one: (-one[1], one[0])):
            if len(self._found) >= MAX_SCORED or enough(most(left)):
                break
            numbers = [one for one in self._derived.with_term(term) if one not in self._found]
            if len(numbers) > MANY and not self._all:
                passing = self._those_that_pass()
                numbers = [one for one in numbers if one in passing]
            self._score(numbers[: MAX_SCORED - len(self._found)])
            left -= weight

    def _score(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), AT_ONCE):
            part = numbers[start : start + AT_ONCE]
            rows = self._derived.with_words(part, self._tags, *self._condition)
            rows = [row for row in rows if self._lies_here(row[1])]
            if not rows:
                continue
            table = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.int8).reshape(len(rows), -1)
            wide = table.astype(np.float64)
            cosines = PPM * (wide @ self._wide) / np.linalg.norm(wide, axis=1)
            lexical = scores(self._question, [Counted.decode(row[3]) for row in rows])
            for row, one, cosine in zip(rows, lexical.tolist(), cosines.tolist(), strict=True):
                self._found[row[0]] = (one, cosine)

    def _lies_here(self, key: bytes) -> bool:
        place = bisect_right(self._lows, key) - 1
        return place >= 0 and key <= self._ranges[place][1]

    def _those_that_pass(self) -> frozenset[int]:
        if self._passing is None:
            numbers = self._derived.numbers_in(self._ranges, self._tags, *self._condition)
            self._passing = frozenset(numbers)
        return self._passing

    def _kth(self, k: int, alone: bool) -> float:
        """What the k-th best so far is worth: by words, or the sum of both."""
        if len(self._found) < k:
            return float("-inf")
        table = np.array(list(self._found.values()))
        values = table[:, 0] if alone else table.sum(axis=1)
        return float(np.partition(values, len(values) - k)[len(values) - k])

    def _read(self, order: Sequence[int], k: int, alone: bool) -> list[tuple[Posting, Scores]]:
        """The k best of what was scored, exactly; who has not the tags after all is left out."""
        ranked: list[tuple[Posting, Scores]] = []
        for start in range(0, len(order), k + SLACK):
            part = order[start : start + k + SLACK]
            if len(ranked) >= k:
                next_one = self._found[part[0]]
                if ranked[k - 1][1].score > (next_one[0] if alone else sum(next_one) / 2) + 1:
                    break
            for posting in self._derived.get_many(part):
                if posting is not None and set(self._tags) <= set(posting.tags):
                    cosine = score_ppm(self._codes, codes_from_bytes(posting.codes, len(self._codes)))
                    ranked.append((posting, Scores(cosine, self._found[posting.number][0], alone)))
            ranked.sort(key=lambda one: (-one[1].score, one[0].record))
        return ranked[:k]
