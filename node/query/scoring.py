"""What a content value scores for a question: by its vector, by its words, or by both.

A pure function of the question as it goes to holders and of what is signed, so that whoever has the record
can say what its holder had to claim. `score` is what hits are ordered by: the cosine in ppm (by vector), the
evidence of the words (`sharding.bm25`), or the middle of the two (hybrid).
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.content import Content
from chain.vector import Codes, codes_from_bytes, score_ppm
from sharding.bm25 import Wanted, blended
from sharding.bm25 import score as score_words
from sharding.terms import counted

MODES = ("hybrid", "vector", "lexical")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a question; `only`: they alone decide."""

    wanted: Wanted
    only: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """`cosine` in ppm; `lexical`, 0 or more, None where no words were asked for."""

    cosine: int
    lexical: int | None = None
    only_words: bool = False

    @property
    def score(self) -> int:
        """What hits are ordered by."""
        if self.lexical is None:
            return self.cosine
        return self.lexical if self.only_words else blended(self.cosine, self.lexical)


def scores_of(codes: Codes, words: Words | None, content: Content) -> Scores:
    """The scores of a content value, recomputed from what is signed. O(text)."""
    cosine = score_ppm(codes, codes_from_bytes(content.codes, len(codes)))
    if words is None:
        return Scores(cosine)
    return Scores(cosine, score_words(words.wanted, counted(content.text)), words.only)
