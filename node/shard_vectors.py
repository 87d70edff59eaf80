"""The vectors of one shard, and the exact nearest ones of several shards.

FAISS keeps a vector's int8 codes as they are, a byte a component, and multiplies them as the integers they
are (its scalar quantizer `QT_8bit_direct_signed`): a quarter of the memory of floats, and faster, since a
scan waits for memory. What it ranks by is the product alone, not the cosine, because codes have different
norms. So it proposes the rows of largest product, and their cosines say from where on a row is worth having:
a row that was not proposed has a product of at most the last one's, and a norm of at least the shard's
smallest. Where that leaves a chance, everything above the product that a chance takes is fetched in a second
scan. Nothing is trained, nothing is approximate: the rows found are those that comparing all would find, on
every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chain.vector import Codes, squared_norm

FIRST_ROOM = 16
GROWTH = 1.25
WIDEN = 4
"""How many times as many vectors are proposed where those before left a chance."""
EXACT_DIM = 1024
"""Components whose products a float32 adds up without rounding (`sharding.atlas.scores`)."""
ROUNDING = 2.0**-16
"""Beyond `EXACT_DIM`: how far a product may be off, as a share of the norms' product; far more than is."""
SIGN = np.uint8(0x80)
"""FAISS keeps a code plus 128."""

Numbers = NDArray[np.int64]
Question = NDArray[np.float32]
"""A question's codes as floats, shape (1, dim)."""
Rows = NDArray[np.int64]
"""Places of vectors in a shard."""


class Found(NamedTuple):
    """A vector that was found: its number, its product with the question, its squared norm; integers."""

    number: int
    dot: int
    norm: int


class ShardVectors:
    """Vectors of `dim` int8 codes, each with a number. Not safe for several threads."""

    def __init__(self, dim: int) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.dim = dim
        self._faiss: Any = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        self._numbers: Numbers = np.empty(FIRST_ROOM, dtype=np.int64)
        self._norms: NDArray[np.int32] = np.empty(FIRST_ROOM, dtype=np.int32)
        self._count = self._most = 0
        self.least_norm, self.largest_norm = 2**31, 0
        """Squared norms between which all are; vectors that went may widen it."""

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of vectors, numbers and norms; FAISS may keep room for as many vectors again."""
        return self._count * self.dim + self._numbers.nbytes + self._norms.nbytes

    def add(self, codes: NDArray[np.int8], numbers: Numbers) -> None:
        """Add vectors, int8 of shape (n, dim), with numbers that are not here; amortised O(n · dim)."""
        end = self._count + len(numbers)
        if end > len(self._numbers):
            room = max(end, int(self._count * GROWTH)) - self._count
            used = slice(self._count)
            self._numbers = np.concatenate((self._numbers[used], np.empty(room, dtype=np.int64)))
            self._norms = np.concatenate((self._norms[used], np.empty(room, dtype=np.int32)))
        norms = np.einsum("nd,nd->n", codes, codes, dtype=np.int32)
        self._faiss.add(codes.astype(np.float32))
        self._numbers[self._count : end] = numbers
        self._norms[self._count : end] = norms
        self._count = end
        self._most = max(self._most, end)
        self.least_norm = min(self.least_norm, int(norms.min(initial=2**31 - 1)))
        self.largest_norm = max(self.largest_norm, int(norms.max(initial=0)))

    def remove(self, numbers: Numbers) -> None:
        """Remove the vectors of these numbers; O(all). Memory is given back when half of them are gone."""
        import faiss

        keep = ~np.isin(self._numbers[: self._count], numbers)
        gone = np.flatnonzero(~keep)
        if not len(gone):
            return
        self._faiss.remove_ids(faiss.IDSelectorBatch(gone))  # the others keep their order
        kept = int(keep.sum())
        self._numbers[:kept] = self._numbers[: self._count][keep]
        self._norms[:kept] = self._norms[: self._count][keep]
        self._count = kept
        if 2 * kept < self._most and self._most > FIRST_ROOM:
            self._faiss = faiss.clone_index(self._faiss)
            self._numbers, self._norms = self._numbers[:kept].copy(), self._norms[:kept].copy()
            self._most = kept

    def largest(self, query: Question, most: int) -> tuple[NDArray[np.float32], Rows]:
        """Products and places of the `most` vectors of largest product, the largest first."""
        dots, rows = self._faiss.search(query, most)
        return dots[0], rows[0]

    def above(self, query: Question, product: float, most: int) -> tuple[NDArray[np.float32], Rows]:
        """Products and places of all vectors of this product or more, known to be more than `most`.

        By deeper and deeper searches: FAISS's search by range takes milliseconds for its buffers alone.
        """
        while True:
            most = min(WIDEN * most, self._count)
            products, rows = self.largest(query, most)
            if most == self._count or float(products[-1]) < product:
                return products, rows

    def norms_at(self, rows: Rows) -> NDArray[np.int32]:
        """Squared norms."""
        return self._norms[rows]

    def numbers_at(self, rows: Rows) -> Numbers:
        """Numbers of vectors."""
        return self._numbers[rows]

    def products(self, query: Codes, rows: Rows) -> NDArray[np.float64]:
        """The exact products of the vectors at `rows`."""
        import faiss

        kept = faiss.rev_swig_ptr(self._faiss.codes.data(), self._count * self.dim)
        codes = (kept.reshape(-1, self.dim)[rows] ^ SIGN).view(np.int8)
        exact: NDArray[np.float64] = codes.astype(np.float64) @ query.astype(np.float64)
        return exact


def nearest(shards: Sequence[ShardVectors], query: Codes, depth: int) -> list[Found]:
    """The `depth` vectors of `shards` nearest to `query` by cosine, of equals those of the smaller numbers.

    In no particular order; fewer only where fewer are there. O(vectors · dim), mostly in one scan. Whether
    cosines are equal is as float64 has it: they may differ by one part in 10^15.
    """
    wanted = query.astype(np.float32)[None]
    off = 0.0 if len(query) <= EXACT_DIM else ROUNDING * sqrt(squared_norm(query))
    proposed: list[tuple[ShardVectors, NDArray[np.float32], Rows]] = []
    fits = [np.empty(0)]
    for shard in shards:
        if len(shard):
            products, rows = shard.largest(wanted, min(depth, len(shard)))
            fits.append(products / np.sqrt(shard.norms_at(rows)))
            proposed.append((shard, products, rows))
    fit = np.concatenate(fits)
    # Each gave `depth` rows or all it has, so that with fewer in all nothing is left to look for.
    floor = float(np.partition(fit, -depth)[-depth]) - off if len(fit) >= depth else -inf
    found: list[tuple[Numbers, NDArray[np.float64], NDArray[np.int32]]] = []
    for shard, products, rows in proposed:
        if _most(float(products[0]), shard) < floor - off:
            continue
        if len(rows) < len(shard) and _most(float(products[-1]), shard) >= floor - off:
            products, rows = shard.above(wanted, _least(floor - off, shard), len(rows))
        norms = shard.norms_at(rows)
        able = products >= (floor - off) * np.sqrt(norms) - 0.5
        if able.any():
            exact = shard.products(query, rows[able]) if off else products[able].astype(np.float64)
            found.append((shard.numbers_at(rows[able]), exact, norms[able]))
    if not found:
        return []
    numbers, dots, norms = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = np.lexsort((numbers, -dots / np.sqrt(norms)))[:depth]
    chosen = zip(numbers[best].tolist(), dots[best].tolist(), norms[best].tolist(), strict=True)
    return [Found(number, int(dot), norm) for number, dot, norm in chosen]


def _most(product: float, shard: ShardVectors) -> float:
    """The most that a vector of at most this product can be worth: product over norm."""
    return product / sqrt(shard.least_norm if product > 0 else shard.largest_norm)


def _least(worth: float, shard: ShardVectors) -> float:
    """A product below that of every vector which is worth so much."""
    product = worth * sqrt(shard.least_norm if worth > 0 else shard.largest_norm)
    return product - abs(product) * 1e-6 - 1.0
