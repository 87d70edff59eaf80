"""A question as the query path passes it on: what is asked, and how much of the answer is wanted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from chain.vector import Codes
from node.query.filters import Filters


@dataclass(frozen=True, slots=True)
class Question:
    """Ask for the `k` best entries for `codes` that carry all `tags` and pass `filters`.

    `recall_ppm` is the part of the true best that is wanted, `deadline_ms` how long it is waited for.
    `fresh`: the hits' own holders confirm them. `explain`: the answer brings its route. `cache`: an answer
    kept from before will do; not for who wants it fresh or explained.
    """

    codes: Codes
    k: int
    tags: tuple[str, ...]
    filters: Filters
    recall_ppm: int
    deadline_ms: int
    fresh: bool = False
    explain: bool = False
    cache: bool = True

    def key(self) -> Hashable:
        """What decides which answer is right: equal keys, equal answers, however long they may take."""
        return (self.codes.tobytes(), self.k, tuple(sorted(self.tags)), self.filters, self.recall_ppm)
