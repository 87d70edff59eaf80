"""Which entries a new one is in conflict with: whether two entries disagree without knowing of each other.

Nobody here understands what a text claims. What can be seen is how near two texts lie in the network's space,
whether they differ, and what their authors said about each other, so that is what decides:

- who says `contradicts` is in conflict with what it names, however near or far;
- two entries of one domain whose texts differ and lie at least `NEAR_PPM` apart in cosine are in conflict as
  long as neither refers to the other: they were written without each other, and one of them may be wrong;
- any other relation between them (it supports, extends, supersedes, …) settles that, whatever the texts say:
  an author has seen both.

With the built-in embedder near means: "coffee reduces" and "coffee increases the risk of diabetes" have .88,
two wordings of one fact .67 to .98, and two facts of one topic now and then more than that (.88 for two
sorting algorithms). So the list is one of candidates to look at, neither complete nor proof of a
contradiction.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from chain.cid import Cid
from chain.reference import Reference, Relation

NEAR_PPM: Final = 800_000
"""Cosine similarity from which on two texts are taken to be about the same."""
CONTRADICTS: Final = "contradicts"


@dataclass(frozen=True, slots=True)
class Claim:
    """What the decision looks at in an entry."""

    id: Cid
    text: str
    domain: str | None
    references: Sequence[Reference] = ()


def disagreeing(new: Claim, others: Iterable[tuple[Claim, int]]) -> list[Cid]:
    """Those of `others`, each with its cosine similarity to `new` in ppm, that conflict with it.

    Nearest first, ties by id. O(others).
    """
    found = [(-cosine, other.id) for other, cosine in others if disagree(new, other, cosine)]
    return [cid for _, cid in sorted(found)]


def disagree(one: Claim, other: Claim, cosine_ppm: int) -> bool:
    """Whether two entries are in conflict; symmetric. An entry never is with itself."""
    if one.id == other.id:
        return False
    said = {
        relation.predicate
        for source, target in ((one, other), (other, one))
        for relation in source.references
        if isinstance(relation, Relation) and relation.target == target.id
    }
    if said - {CONTRADICTS}:
        return False
    if CONTRADICTS in said:
        return True
    same_domain = one.domain is not None and one.domain == other.domain
    return same_domain and cosine_ppm >= NEAR_PPM and wording(one.text) != wording(other.text)


def wording(text: str) -> str:
    """A text without what makes no other statement of it: case, spaces, and how its letters are encoded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
