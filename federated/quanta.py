"""Quanta: differences in 8 bits, q · 2**e, one exponent e for every block of 256 elements.

The arithmetic that every form of compressed updates shares. q · 2**e is exact in float64, so base + q ·
2**e is one correctly rounded addition and one correctly rounded conversion: every machine reads the same
bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chain.learning_task import Array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK: Final = 256
"""Elements that share an exponent."""
LEVELS: Final = 127
LOWEST, HIGHEST = -64, 15
"""Exponents. 127 · 2**15 is beyond any difference between values within the largest `max_abs`."""
CHUNK: Final = 64 * BLOCK
"""Elements worked on at a time."""


def exponents_of(moved: NDArray[Any]) -> NDArray[np.int8]:
    """For each block the least e with which its largest difference is at most 127 · 2**e."""
    import numpy as np

    largest = np.maximum.reduceat(np.abs(moved), np.arange(0, moved.size, BLOCK))
    fraction, exponent = np.frexp(largest / LEVELS)
    exponent = np.where(largest == 0, LOWEST, exponent - (fraction == 0.5))
    found: NDArray[np.int8] = np.clip(exponent, LOWEST, HIGHEST).astype(np.int8)
    return found


def steps_of(exponents: NDArray[Any], times: int = BLOCK) -> NDArray[Any]:
    """2**e, exact, `times` over: for every element of the blocks."""
    import numpy as np

    return np.repeat(np.ldexp(1.0, exponents.astype(np.int32)), times)


def moved_by(base: NDArray[Any], quanta: NDArray[Any], steps: NDArray[Any]) -> NDArray[Any]:
    """base + quanta · steps in float64, then in the dtype of `base`."""
    import numpy as np

    moved: NDArray[Any] = np.multiply(quanta, steps, dtype=np.float64)
    moved += base
    return moved.astype(base.dtype)


def in_range(exponents: NDArray[Any], quanta: NDArray[Any]) -> bool:
    """Whether a stranger's exponents and quanta are within the bounds here."""
    return bool(exponents.min() >= LOWEST and exponents.max() <= HIGHEST and quanta.min() >= -LEVELS)


def blocks_of(array: Array) -> int:
    """Blocks of an array; the last one may be short."""
    return -(-array.count // BLOCK)


def is_whole(array: Array) -> bool:
    """Whether an array holds integers, which are sent as they are."""
    return array.dtype == "<i8"
