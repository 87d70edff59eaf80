"""Terms: what a text is found by when it is looked for by its words.

Holders and askers have to cut texts alike, on every machine and by every Python: what a term is decides
scores that are checked bit by bit. So characters are judged by the Unicode 3.2 tables that the standard
library carries unchanged (as IDNA 2003 needs them), and case is folded only for characters of that version,
for which Unicode promises since 5.0 that folding stays as it is. What came later counts as a letter, as is.

A word is a run of letters, marks and digits, compatibility forms made plain, without the accents of U+0300 to
U+036F, case folded. A word of more than five letters stands for two terms, itself and its first five letters:
a rough stem that needs no language (McNamee and Mayfield 2004 find n-grams of four or five letters as good as
stemmers), while a rare name is still worth more as a whole; measured in docs/sharding.md. Runs of Han and
kana, which have no spaces, are cut into overlapping pairs. A term goes by 32 bits of its hash.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from unicodedata import ucd_3_2_0

import numpy as np
from numpy.typing import NDArray

from sharding.errors import TermError

MAX_WORD = 64
"""Characters of a word that count."""

STEM = 5
"""Letters of a stem; shorter words have none, nor have words with digits."""

STEM_MARK = "*"

ID_BYTES = 4
MAX_TIMES = 255
"""Occurrences of one term in one text beyond which no more are counted."""

MAX_LENGTH = (1 << 20) - 1
"""Terms of one text beyond which no more are counted."""

_HEAD = 4
_WORDS = re.compile(r"[0-9a-z]+")
_PAIRED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(rf"[{_PAIRED}]+|[^\s{_PAIRED}]+")
_IS_PAIRED = re.compile(rf"[{_PAIRED}]")
_DIGIT = re.compile(r"[0-9]")


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """The terms of a text: how many there are in all, and of each its id and how often it occurs.

    `ids` is uint32, ascending, `times` uint8 of the same length; both read-only.
    """

    length: int
    ids: NDArray[np.uint32]
    times: NDArray[np.uint8]

    def encode(self) -> bytes:
        """Four bytes of length, the ids, the times."""
        return (
            self.length.to_bytes(_HEAD, "little")
            + self.ids.astype("<u4", copy=False).tobytes()
            + self.times.tobytes()
        )

    @classmethod
    def decode(cls, data: bytes) -> Counted:
        """What `encode` made. Raises `TermError` for other lengths."""
        count, rest = divmod(len(data) - _HEAD, ID_BYTES + 1)
        if len(data) < _HEAD or rest:
            raise TermError(f"{len(data)} bytes are no counted terms")
        end = _HEAD + count * ID_BYTES
        return cls(
            int.from_bytes(data[:_HEAD], "little"),
            np.frombuffer(data[_HEAD:end], dtype="<u4"),
            np.frombuffer(data[end:], dtype=np.uint8),
        )


def terms_of(text: str) -> list[str]:
    """The terms of a text in order, repetitions included. O(characters)."""
    found: list[str] = []
    if text.isascii():
        words = _WORDS.findall(text.lower())
    else:
        words = []
        for run in _RUNS.findall(_folded(text)):
            if not _IS_PAIRED.match(run):
                words.append(run)
            elif len(run) == 1:
                found.append(run)
            else:
                found += [run[at : at + 2] for at in range(len(run) - 1)]
    for word in words:
        found.append(word[:MAX_WORD])
        if len(word) > STEM and not _DIGIT.search(word):
            found.append(word[:STEM] + STEM_MARK)
    return found


@lru_cache(maxsize=32_768)
def term_id(term: str) -> int:
    """By what a term goes: the first 32 bits of its BLAKE2b hash."""
    return int.from_bytes(
        blake2b(term.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest(), "big"
    )


def counted(text: str) -> Counted:
    """The terms of a text, counted by id. O(characters)."""
    found = terms_of(text)
    counts = Counter(map(term_id, found))
    ids = sorted(counts)
    times = [min(counts[one], MAX_TIMES) for one in ids]
    return Counted(
        min(len(found), MAX_LENGTH), np.array(ids, dtype=np.uint32), np.array(times, dtype=np.uint8)
    )


def _folded(text: str) -> str:
    plain = ucd_3_2_0.normalize("NFKD", text)
    return ucd_3_2_0.normalize("NFC", plain.translate(_Folding()))


class _Folding(dict[int, str]):
    """Of each character what remains of it; a space between words. One for each text, so it stays small."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = ucd_3_2_0.category(char)
        if 0x300 <= code <= 0x36F:
            folded = ""
        elif kind == "Cn":  # assigned later than 3.2: no table to fold it by
            folded = char
        elif kind[0] in "LMN":
            folded = char.casefold()
        else:
            folded = " "
        self[code] = folded
        return folded
