"""A round's updates as differences from the model that the round began with: integers, block by block.

What a robust rule looks at is how a member would move the model, so every update x becomes d = q(x) -
q(base), where q rounds to multiples of 2**-s as in `federated.aggregation`. A matrix of all updates would
not fit in memory (16 of 40 MB each), so there never is one: blocks of `CHUNK` elements pass by, twice:
once for the inner products of all pairs (`gram`), which is all that distances and norms need, and once
for the new model.

**Exact.** s ≤ 38 - a with 2**a ≥ `max_abs`, so |q| ≤ 2**38 and |d| ≤ 2**39. Each d is split into two
signed limbs, d = high · 2**20 + low, both of at most 2**19. A product of limbs is at most 2**38 and a sum
over a block of 2**13 at most 2**51, so products of matrices in float64 have no rounding at all, whatever
the order of the additions, and with two bits to spare; sums over blocks are integers. So the fast library
for matrices may be used, and every machine gets the same bits. Integer arrays have scale 0; they take no
part in distances (a counter of batches would outweigh every parameter), but are combined like the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from chain.learning_task import Array, Task
from federated.aggregation import scale_bits
from federated.compression import rows
from federated.update import Model, views

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

Gram: TypeAlias = list[list[int]]
"""Inner products of all pairs of differences, in units of 2**-2s."""

CHUNK = 1 << 13
"""Elements worked on at a time."""
MAX_ROWS = 64
"""Updates of one round that the bounds here and in `federated.robust` are proven for."""
VALUE_BITS = 38
LIMB_BITS = 20
_FLUSH = 1 << 10
"""Blocks whose products, at most 2**51 each, are summed in int64 before Python's integers take over."""


def grid_bits(task: Task) -> int:
    """s: values are rounded to multiples of 2**-s; with the default bounds 28, as for the mean."""
    return min(scale_bits(task), VALUE_BITS - (task.max_abs - 1).bit_length())


class Differences:
    """The updates of one round, each checked by `federated.admission.examine`; see above.

    `chunk` is for tests: nothing depends on it. Raises `ValueError` for no updates or over `MAX_ROWS`.
    """

    def __init__(self, task: Task, base: Model, updates: Sequence[Model], chunk: int = CHUNK) -> None:
        if not 0 < len(updates) <= MAX_ROWS:
            raise ValueError(f"there are {len(updates)} updates, 1 to {MAX_ROWS} can be combined")
        if not 0 < chunk <= CHUNK:
            raise ValueError(f"a block of {chunk} elements is outside 1 … {CHUNK}")
        self.arrays = task.arrays
        self.count = len(updates)
        self.bits = grid_bits(task)
        self._chunk = chunk
        self._base = [view.reshape(-1) for view in views(task.arrays, base)]
        self._rows = [rows(task, base, update) for update in updates]

    def blocks(self, place: int) -> Iterator[tuple[int, Floats, Floats]]:
        """Of array number `place`: (start, base as integers (b,), differences (count, b)).

        Both are whole numbers in float64. The differences are overwritten by the next block.
        """
        import numpy as np

        array, base = self.arrays[place], self._base[place]
        scale = 1.0 if array.dtype == "<i8" else 2.0**self.bits
        scratch = np.empty((self.count, min(self._chunk, array.count)))
        for start in range(0, array.count, self._chunk):
            stop = min(start + self._chunk, array.count)
            origin = np.rint(base[start:stop].astype(np.float64) * scale)
            block = scratch[:, : stop - start]
            for row, flats in zip(block, self._rows, strict=True):
                np.multiply(flats[place][start:stop], scale, out=row, dtype=np.float64)
            np.rint(block, out=block)
            block -= origin
            yield start, origin, block

    def gram(self) -> Gram:
        """Inner products of all pairs, exact; O(count² · elements)."""
        import numpy as np

        n = self.count
        pairs = np.zeros((2 * n, 2 * n), np.int64)
        total = [[0] * (2 * n) for _ in range(2 * n)]
        held = 0
        for place, array in enumerate(self.arrays):
            if not takes_part(array):
                continue
            for _, _, block in self.blocks(place):
                limbs = np.concatenate(split(block))
                pairs += (limbs @ limbs.T).astype(np.int64)
                held += 1
                if held == _FLUSH:
                    _flush(pairs, total)
                    held = 0
        _flush(pairs, total)
        return [
            [
                (total[i][j] << 2 * LIMB_BITS)
                + ((total[i][n + j] + total[n + i][j]) << LIMB_BITS)
                + total[n + i][n + j]
                for j in range(n)
            ]
            for i in range(n)
        ]


def takes_part(array: Array) -> bool:
    """Whether an array counts in distances and norms."""
    return array.dtype != "<i8"


def split(block: Floats) -> tuple[Floats, Floats]:
    """(high, low) with block = high · 2**20 + low, |low| ≤ 2**19; exact for whole numbers below 2**53."""
    import numpy as np

    high = np.rint(block * 2.0**-LIMB_BITS)
    return high, block - high * 2.0**LIMB_BITS


def _flush(pairs: NDArray[np.int64], total: list[list[int]]) -> None:
    for i, row in enumerate(pairs.tolist()):
        for j, value in enumerate(row):
            total[i][j] += value
    pairs[:] = 0
