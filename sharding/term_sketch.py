"""Term sketches: which terms the texts of a shard have, in how many of them, in a few bytes a term.

Summed over all shards they give the frequencies that BM25 needs of the whole network; each for itself says
whether a rare term is in its shard. A row is three bytes of a term's id and two of how many texts have it; a
few rows with the smallest ids say how many texts and terms there are (`rows`). Terms that share three bytes
are added together, so a frequency is never too small: in a network of a million different terms one in
seventeen terms has such a company, somewhere. A shard of more than `MAX_IDS` terms drops bits of the ids
until it has fewer: it is told apart less well then, and never too small either.

Laws (tests/sharding/test_term_sketch.py): the sketch of all texts is the sum of the parts' sketches, in any
order; adding a text makes no number smaller; what is read back is what was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharding.errors import TermError
from sharding.terms import Counted

ID_BITS = 24
KEY_BYTES = 3
BODY_BYTES = 2
MAX_IDS = 1 << 15
"""Different terms of one sketch; beyond that ids lose bits."""

MAX_COUNT = (1 << 16) - 1
"""Texts that one row counts; of more it says so many."""

_TEXTS, _LENGTH_LOW, _LENGTH_HIGH, _BITS = range(4)
RESERVED = 4
"""Ids below are no terms': those rows say other things."""


@dataclass(frozen=True, slots=True, eq=False)
class TermSketch:
    """How many texts there are, how many terms in all, and in how many texts each term occurs.

    `ids` (uint32, ascending) are shortened to their first `bits` of 24 bits, the others being 0; `counts` is
    int64 of the same length.
    """

    texts: int
    length: int
    ids: NDArray[np.uint32]
    counts: NDArray[np.int64]
    bits: int = ID_BITS

    def frequency(self, term: int) -> int:
        """In how many texts a term (of 32 bits) occurs: not fewer. O(log n)."""
        one = short_id(term, self.bits)
        place = int(np.searchsorted(self.ids, np.uint32(one)))
        return int(self.counts[place]) if place < len(self.ids) and int(self.ids[place]) == one else 0

    def rows(self) -> dict[bytes, bytes]:
        """As rows: bodies of `BODY_BYTES` by keys of `KEY_BYTES`. Numbers are cut off at `MAX_COUNT`."""
        about = {
            _TEXTS: min(self.texts, MAX_COUNT),
            _LENGTH_LOW: self.length & MAX_COUNT,
            _LENGTH_HIGH: min(self.length >> 16, MAX_COUNT),
            _BITS: self.bits,
        }
        counts = np.minimum(self.counts, MAX_COUNT)
        every = [*about.items(), *zip(self.ids.tolist(), counts.tolist(), strict=True)]
        return {one.to_bytes(KEY_BYTES, "big"): count.to_bytes(BODY_BYTES, "big") for one, count in every}


EMPTY = TermSketch(0, 0, np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.int64))


def short_id(term: int, bits: int = ID_BITS) -> int:
    """The part of a term's 32 bits by which it goes in a sketch."""
    one = max(term >> (32 - ID_BITS), RESERVED)
    lost = ID_BITS - bits
    return max(one >> lost << lost, RESERVED)


def sketch_of(texts: Sequence[Counted]) -> TermSketch:
    """The sketch of these texts. O(terms * log(terms))."""
    ids = [np.unique(_shortened(one.ids, ID_BITS)) for one in texts]
    found, counts = np.unique(np.concatenate([EMPTY.ids, *ids]), return_counts=True)
    length = sum(one.length for one in texts)
    return _within(TermSketch(len(texts), length, found, counts.astype(np.int64)))


def summed(parts: Iterable[TermSketch]) -> TermSketch:
    """The sketch of all that these are of. O(terms * log(terms))."""
    every = [EMPTY, *parts]
    bits = min(one.bits for one in every)
    ids, places = np.unique(np.concatenate([_coarse(one.ids, bits) for one in every]), return_inverse=True)
    counts = np.zeros(len(ids), dtype=np.int64)
    np.add.at(counts, places, np.concatenate([one.counts for one in every]))
    whole = TermSketch(sum(one.texts for one in every), sum(one.length for one in every), ids, counts, bits)
    return _capped(whole)


def read_rows(rows: bytes) -> TermSketch:
    """The sketch of rows that anybody may have made, ascending by key, one after the other.

    Raises `TermError` for what is no sketch: the rows about the whole are missing, a term occurs in no text,
    or in more than there are.
    """
    size = KEY_BYTES + BODY_BYTES
    table = np.frombuffer(rows, dtype=np.uint8)
    if len(table) % size or len(table) < RESERVED * size:
        raise TermError(f"{len(rows)} bytes are no sketch of terms")
    table = table.reshape(-1, size).astype(np.uint32)
    ids: NDArray[np.uint32] = (table[:, 0] << 16 | table[:, 1] << 8 | table[:, 2]).astype(np.uint32)
    counts = (table[:, 3] << 8 | table[:, 4]).astype(np.int64)
    if ids[:RESERVED].tolist() != list(range(RESERVED)) or (ids[1:] <= ids[:-1]).any():
        raise TermError("the rows of a sketch of terms do not ascend from those about the whole")
    texts, low, high, bits = counts[:RESERVED].tolist()
    ids, counts = ids[RESERVED:], counts[RESERVED:]
    if not 1 <= bits <= ID_BITS or len(ids) > MAX_IDS or (ids != _coarse(ids, bits)).any():
        raise TermError(f"a sketch of {len(ids)} terms of {bits} bits: up to {MAX_IDS} of 1 to {ID_BITS}")
    if len(ids) and (int(counts.min()) < 1 or int(counts.max()) > texts):
        raise TermError(f"a term occurs in none, or in more than all, of {texts} texts")
    return TermSketch(texts, high << 16 | low, ids, counts, bits)


def contradiction(claimed: TermSketch, texts: Sequence[Counted], unseen: int) -> str | None:
    """What `claimed` says that no sketch of `texts` and `unseen` others does; None: nothing.

    The more is unseen the less is told apart: each text not seen may have any term once. O(terms).
    """
    true = sketch_of(texts)
    if not unseen and claimed.bits != true.bits:
        return f"ids of {claimed.bits} bits, not {true.bits}"
    bits = min(claimed.bits, true.bits)
    claimed, true = _coarsened(claimed, bits), _coarsened(true, bits)
    if not true.texts <= claimed.texts <= true.texts + unseen:
        return f"{claimed.texts} texts, where there are {true.texts} and {unseen} not seen"
    if claimed.length < true.length or (not unseen and claimed.length > true.length):
        return f"{claimed.length} terms in all, where there are {true.length} and {unseen} texts not seen"
    ids = np.union1d(claimed.ids, true.ids)
    said, least = _counts_of(claimed, ids), np.minimum(_counts_of(true, ids), MAX_COUNT)
    wrong = np.flatnonzero((said < least) | (said > least + unseen))
    if len(wrong):
        one = int(wrong[0])
        return (
            f"term {int(ids[one]):06x} in {said[one]} texts: it is in {least[one]} and {unseen} are not seen"
        )
    return None


class TermTable:
    """The sketches of many shards put together, to look terms up in all of them at once."""

    __slots__ = ("_coarse", "_counts", "_ids", "_places", "length", "shards", "texts")

    def __init__(self, sketches: Sequence[TermSketch]) -> None:
        """`texts` of each shard (int64), `length` of all together. O(terms * log(terms))."""
        self.shards = len(sketches)
        self.texts = np.array([one.texts for one in sketches], dtype=np.int64)
        self.length = sum(one.length for one in sketches)
        self._coarse = [(place, one) for place, one in enumerate(sketches) if one.bits < ID_BITS]
        fine = [(place, one) for place, one in enumerate(sketches) if one.bits == ID_BITS]
        ids = np.concatenate([EMPTY.ids, *(one.ids for _, one in fine)])
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._counts = np.concatenate([EMPTY.counts, *(one.counts for _, one in fine)])[order]
        sizes = [len(one.ids) for _, one in fine]
        self._places = np.repeat(np.array([place for place, _ in fine], dtype=np.int64), sizes)[order]

    def frequencies(self, terms: Sequence[int]) -> NDArray[np.int64]:
        """Of each shard (rows) and term of 32 bits (columns) how many texts have it: not fewer."""
        found = np.zeros((self.shards, len(terms)), dtype=np.int64)
        wanted = np.array([short_id(one) for one in terms], dtype=np.uint32)
        first = np.searchsorted(self._ids, wanted)
        last = np.searchsorted(self._ids, wanted, side="right")
        for column, (start, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            found[self._places[start:end], column] = self._counts[start:end]
        for place, sketch in self._coarse:
            found[place] = [sketch.frequency(one) for one in terms]
        return found


def _shortened(ids: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """`short_id` of many."""
    return _coarse(np.maximum(ids >> np.uint32(32 - ID_BITS), np.uint32(RESERVED)), bits)


def _coarse(ids: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    lost = np.uint32(ID_BITS - bits)
    coarse: NDArray[np.uint32] = np.maximum(ids >> lost << lost, np.uint32(RESERVED))
    return coarse


def _coarsened(sketch: TermSketch, bits: int) -> TermSketch:
    return sketch if sketch.bits == bits else summed([sketch, replace(EMPTY, bits=bits)])


def _counts_of(sketch: TermSketch, ids: NDArray[np.uint32]) -> NDArray[np.int64]:
    """How many texts have each of `ids`, which include the sketch's; shape (len(ids),)."""
    counts = np.zeros(len(ids), dtype=np.int64)
    counts[np.searchsorted(ids, sketch.ids)] = sketch.counts
    return counts


def _within(sketch: TermSketch) -> TermSketch:
    """The sketch with as many bits as leave it `MAX_IDS` terms."""
    while len(sketch.ids) > MAX_IDS:
        bits = sketch.bits - 1
        ids, places = np.unique(_coarse(sketch.ids, bits), return_inverse=True)
        counts = np.zeros(len(ids), dtype=np.int64)
        np.add.at(counts, places, sketch.counts)
        sketch = _capped(TermSketch(sketch.texts, sketch.length, ids, counts, bits))
    return sketch


def _capped(sketch: TermSketch) -> TermSketch:
    """No term is in more texts than there are; terms that share an id may be in the same ones."""
    counts = np.minimum(sketch.counts, sketch.texts)
    return TermSketch(sketch.texts, sketch.length, sketch.ids, counts, sketch.bits)
