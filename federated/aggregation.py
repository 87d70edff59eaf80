"""Federated averaging in fixed point: the same bits on every machine, in whatever order updates come.

FedAvg (McMahan et al., 2017) is the mean of the updates weighted by their examples. In floating point the
sum depends on its order, on the compiler and on the vector unit, so members would end with different models
and no two hashes would agree. Here a value x becomes the integer round(x · 2**s), the weighted integers are
summed in int64, which is exact and has no order, the sum is divided with rounding half to even, and one exact
scaling leads back. Every step is either exact or a single correctly rounded IEEE operation.

**No overflow.** Let A = 2**a ≥ `max_abs` and W = 2**w ≥ `max_members` · `max_examples` be powers of two. With
s ≤ 62 - a - w, every |round(x · 2**s)| ≤ A · 2**s, because A · 2**s is an integer, and the weights sum to at
most W, so |Σ| ≤ W · A · 2**s ≤ 2**62 < 2**63. With s ≤ 53 - a also |x| · 2**s ≤ 2**53, so scaling, rounding
and the way back (an integer of at most 53 bits times 2**-s) are exact in float64; for <f4 one rounding to
float32 follows. The terms of a task allow a ≤ 20 and w ≤ 24, so s ≥ 18: the grid is at least as fine as 4e-6,
and with the defaults (`max_abs` 1000, up to 16 members with a million examples) as 2**-28 ≈ 4e-9. For <i8
the scale is 0: the mean is the exact one, rounded half to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chain.learning_task import Task
from federated.compression import rows
from federated.update import Model, header_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK = 1 << 15
"""Elements worked on at a time: the temporaries of one chunk stay in the cache."""
SUM_BITS = 62
EXACT_BITS = 53


def scale_bits(task: Task) -> int:
    """s: values are rounded to multiples of 2**-s."""
    a = (task.max_abs - 1).bit_length()
    w = (task.max_members * task.max_examples - 1).bit_length()
    return min(SUM_BITS - a - w, EXACT_BITS - a)


class Accumulator:
    """The weighted sum of checked updates; 8 bytes an element, whatever the number of updates.

    Adding is exact, so the order is indifferent. `updates` and `weight` count what was added.
    """

    def __init__(self, task: Task) -> None:
        import numpy as np

        self._task = task
        self._arrays = task.arrays
        self._bits = scale_bits(task)
        self._most = task.max_members * task.max_examples
        self._sums: list[NDArray[np.int64]] = [np.zeros(array.count, np.int64) for array in task.arrays]
        self.updates = 0
        self.weight = 0

    def add(self, data: Model, examples: int, base: Model | None = None) -> None:
        """Add an update that `federated.admission.examine` found right, with a weight that the task allows.

        `base` is what the round began with; compressed updates need it.

        Raises `ValueError` when the weights would exceed what the proof above covers.
        """
        import numpy as np

        if examples < 1 or self.weight + examples > self._most:
            raise ValueError(f"a weight of {examples} after {self.weight} exceeds the task's {self._most}")
        scratch, whole = np.empty(CHUNK, np.float64), np.empty(CHUNK, np.int64)
        for array, flat, total in zip(self._arrays, rows(self._task, base, data), self._sums, strict=True):
            for start in range(0, array.count, CHUNK):
                part = flat[start : start + CHUNK]
                integers = whole[: part.size]
                if array.dtype == "<i8":
                    np.multiply(part, examples, out=integers)
                else:
                    values = scratch[: part.size]
                    np.multiply(part, 2.0**self._bits, out=values, dtype=np.float64)
                    np.rint(values, out=values)
                    np.copyto(integers, values, casting="unsafe")
                    np.multiply(integers, examples, out=integers)
                total[start : start + CHUNK] += integers
        self.updates += 1
        self.weight += examples

    @classmethod
    def of(cls, task: Task, sums: Sequence[NDArray[np.int64]], updates: int, weight: int) -> Accumulator:
        """The accumulator of sums that were made elsewhere; see `sums`. They are not copied."""
        made = cls(task)
        made._sums, made.updates, made.weight = list(sums), updates, weight
        return made

    def sums(self) -> list[NDArray[np.int64]]:
        """The weighted integers of each array, flat; not copies."""
        return self._sums

    def mean(self) -> bytes:
        """The weighted mean as a model's bytes; raises `ValueError` before anything was added."""
        import numpy as np

        if not self.weight:
            raise ValueError("the mean of no update")
        parts: list[bytes] = []
        for array, total in zip(self._arrays, self._sums, strict=True):
            out = np.empty(array.count, array.dtype)
            for start in range(0, total.size, CHUNK):
                mean = divide(total[start : start + CHUNK], self.weight)
                if array.dtype == "<i8":
                    out[start : start + CHUNK] = mean
                else:
                    out[start : start + CHUNK] = mean.astype(np.float64) * 2.0**-self._bits
            parts += [header_of(array), out.tobytes()]
        return b"".join(parts)


def average(task: Task, updates: Sequence[tuple[Model, int]], base: Model | None = None) -> bytes:
    """The weighted mean of (update, examples) pairs; see `Accumulator`."""
    accumulator = Accumulator(task)
    for data, examples in updates:
        accumulator.add(data, examples, base)
    return accumulator.mean()


def divide(total: NDArray[np.int64], weight: int) -> NDArray[np.int64]:
    """total / weight, rounded half to even; exact for |total| < 2**62 and 0 < weight < 2**62."""
    import numpy as np

    floor: NDArray[Any] = np.floor_divide(total, weight)
    twice = 2 * (total - floor * weight)  # 0 ≤ remainder < weight
    floor += (twice > weight) | ((twice == weight) & (floor & 1 == 1))
    return floor
