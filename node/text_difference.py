"""Which splices turn one text into another: what somebody did in an editor, as far as both texts show it.

Lines first, words in the lines that differ, by the longest common runs (Ratcliff and Obershelp, as in
difflib). Small splices matter: two people who change two words of one line both keep their change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from chain.splices import MAX_SPLICES, Splice

MAX_TOKENS = 2000
"""Words in a place of changed lines up to which they are compared; O(their square)."""
MAX_LINES = 4000
"""Changed lines up to which lines are compared."""
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


def splices_between(old: str, new: str) -> tuple[Splice, ...]:
    """At most `MAX_SPLICES` splices that make `new` of `old`, the last place first; none for equal texts."""
    if old == new:
        return ()
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    whole = (start, old[start : len(old) - end], new[start : len(new) - end])
    for parts in (_lines_and_words, _lines):
        found = [Splice(at, len(gone), come) for at, gone, come in parts(*whole)]
        if len(found) <= MAX_SPLICES:
            return tuple(reversed(found))
    at, gone, come = whole
    return (Splice(at, len(gone), come),)


def _common(a: str, b: str) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _lines_and_words(at: int, old: str, new: str) -> Iterator[tuple[int, str, str]]:
    for place, gone, come in _lines(at, old, new):
        yield from _changes(place, _WORD.findall(gone), _WORD.findall(come), MAX_TOKENS)


def _lines(at: int, old: str, new: str) -> Iterator[tuple[int, str, str]]:
    yield from _changes(at, old.splitlines(keepends=True), new.splitlines(keepends=True), MAX_LINES)


def _changes(at: int, old: Sequence[str], new: Sequence[str], most: int) -> Iterator[tuple[int, str, str]]:
    if max(len(old), len(new)) > most:
        yield at, "".join(old), "".join(new)
        return
    place, done = at, 0
    for tag, i, j, m, n in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        place += sum(map(len, old[done:i]))
        done = i
        if tag != "equal":
            yield place, "".join(old[i:j]), "".join(new[m:n])
