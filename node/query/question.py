"""A question as the query path passes it on: what is asked, and how much of the answer is wanted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from chain.vector import Codes
from node.errors import InvalidInput
from node.query.filters import Filters
from node.query.scoring import MODES

DEFAULT_MODE: Final = "vector"


class QueryError(InvalidInput):
    """A query that cannot be asked; the message says which part is wrong."""


def mode_of(mode: str | None, has_text: bool, has_vector: bool) -> str:
    """How a question is asked: by `mode`, else a text by `DEFAULT_MODE` and a vector by itself.

    A text and a vector go together where words count: the vector then stands for what the text means.
    Raises `QueryError`.
    """
    if mode not in (None, *MODES):
        raise QueryError(f"the mode is {mode!r:.40}: choose {', '.join(MODES)}")
    found = mode or (DEFAULT_MODE if has_text else "vector")
    if has_text and has_vector and (mode is None or mode == "vector"):
        raise QueryError("give either a text or a vector to ask for, or both with the mode hybrid or lexical")
    if not has_text and not has_vector:
        raise QueryError("give a text or a vector to ask for")
    if not has_text and found != "vector":
        raise QueryError(f"the mode {found} asks by words: give a text")
    return found


@dataclass(frozen=True, slots=True)
class Question:
    """Ask for the `k` best entries for `codes` that carry all `tags` and pass `filters`.

    `recall_ppm` is the part of the true best that is wanted, `deadline_ms` how long it is waited for.
    `fresh`: the hits' own holders confirm them. `explain`: the answer brings its route. `cache`: an answer
    kept from before will do; not for who wants it fresh or explained. `text`: whose words count,
    None: none do. `only_words`: nothing else does.
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
    text: str | None = None
    only_words: bool = False

    def key(self) -> Hashable:
        """What decides which answer is right: equal keys, equal answers, however long they may take."""
        tags = tuple(sorted(self.tags))
        words = (self.text, self.only_words)
        return (self.codes.tobytes(), self.k, tags, self.filters, self.recall_ppm, words)
