"""The Gaussian mechanism on a whole update: clipped to an L2 norm, noised, rounded to a grid; pure.

An update is seen as the difference from the model that its round began with, over all floating arrays
together, as in McMahan et al. 2018 (DP-FedAvg), but noised by the member itself: nobody else has to be
trusted. Clipping the whole update makes the protection one of the **member**: whatever its data are, what it
hands in differs by at most twice the clip.

- **The noise is unpredictable.** Where the true difference is known (an embedding that was not trained is
  zero), its receivers see the noise itself; from a usual generator that would give away its state and so the
  rest. Here uniform words come from ChaCha20 under a fresh 256-bit key, and Box-Muller (1958) makes them
  normal, with 64 bits for the radius: its tail ends beyond nine deviations, at a mass of 2**-64.
- **Low bits tell nothing.** Clipped differences and noise are multiples of a step that depends on the terms
  alone (a power of two, about a millionth of the noise): floating-point sums betray their parts by their last
  bits (Mironov 2012), whole numbers do not. On a grid, rounding the noise is rounding the sum, so it costs
  nothing. What is left of floating point is the accuracy of the noise's own distribution, far below a step.
- **Everything after it is free**: adding the old model, which is public, rounding to the task's dtypes, and
  keeping to its bounds do not look at the data again.

Integer arrays (counters) stay as the round began with them: they have no scale that a norm could bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log2, sqrt
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from chain.learning_task import Array
from federated.privacy.errors import PrivacyError
from federated.privacy.keystream import KEY_SIZE, keystream
from federated.update import header_of, views

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

CHUNK: Final = 1 << 15
"""Elements worked on at a time; even, so that pairs of normals do not straddle chunks."""
STEP_BITS: Final = 20
"""The grid's step is the largest power of two not above the noise's deviation, over 2**20."""
CLIP_SLACK: Final = 1 - 2.0**-30
"""Over the rounding of a norm in floating point, so that what is clipped is within the clip for certain."""
LEAST_NOISE: Final = 0.01
MOST_NOISE: Final = 1_000.0
LEAST_CLIP: Final = 1e-9
MOST_CLIP: Final = 1e9


@dataclass(frozen=True, slots=True)
class Terms:
    """`clip`: the largest L2 norm of a difference. `noise`: the deviation of the noise, in clips."""

    clip: float
    noise: float

    def __post_init__(self) -> None:
        if not LEAST_CLIP <= self.clip <= MOST_CLIP:  # false for NaN, too
            raise PrivacyError(f"the clip is {self.clip}, outside {LEAST_CLIP:g} … {MOST_CLIP:g}")
        if not LEAST_NOISE <= self.noise <= MOST_NOISE:
            raise PrivacyError(f"the noise is {self.noise}, outside {LEAST_NOISE} … {MOST_NOISE:g} clips")

    @property
    def deviation(self) -> float:
        """Of the noise of one value, in the model's units."""
        return self.clip * self.noise

    def expected_norm(self, arrays: Sequence[Array]) -> float:
        """About how far a noised update lies from what the round began with, at most."""
        return self.clip + self.deviation * sqrt(_floats(arrays))


def privatise(
    arrays: Sequence[Array],
    base: bytes,
    update: bytes,
    terms: Terms,
    key: bytes,
    max_abs: int,
    max_norm: int | None = None,
) -> bytes:
    """The update that may leave; both models are of these arrays (`federated.update.encode`).

    `key` is 32 unpredictable bytes, used for nothing else. The result is within `max_abs`, and within
    `max_norm` of `base` where there is one. Raises `PrivacyError` for an update that is not finite, which
    is then not noised either. O(bytes), about 0.1 µs an element.
    """
    import numpy as np

    if len(key) != KEY_SIZE:
        raise ValueError(f"a key of {len(key)} bytes instead of {KEY_SIZE}")
    olds, news = views(arrays, base), views(arrays, update)
    triples = list(zip(arrays, olds, news, strict=True))
    norm = sqrt(sum(_square(old, new) for array, old, new in triples if _floating(array)))
    if not isfinite(norm):
        raise PrivacyError("the update holds a value that is not finite")
    step = 2.0 ** (floor(log2(terms.deviation)) - STEP_BITS)
    shrink = min(1.0, terms.clip / norm if norm else 1.0) * CLIP_SLACK / step
    found: list[NDArray[Any]] = []
    uniform = keystream(key)
    square = 0.0
    for array, old, new in triples:
        before, after = old.reshape(-1), new.reshape(-1)
        if not _floating(array):
            found.append(before)
            continue
        moved = np.empty(array.count, np.float64)
        for start in range(0, array.count, CHUNK):
            part = slice(start, min(start + CHUNK, array.count))
            difference = after[part].astype(np.float64) - before[part]
            units = np.trunc(difference * shrink)
            units += np.rint(normals(uniform, units.size) * (terms.deviation / step))
            moved[part] = units * step
            square += float(moved[part] @ moved[part])
        found.append(moved)
    # A little inside: the model is rounded to its dtype and compared on the grid of the network.
    back = 1.0 if max_norm is None or not square else min(1.0, 0.999 * max_norm / sqrt(square))
    parts: list[bytes] = []
    for array, old, moved in zip(arrays, olds, found, strict=True):
        if _floating(array):
            value = np.clip(old.reshape(-1) + back * moved, -max_abs, max_abs)
            parts += [header_of(array), value.astype(array.dtype).tobytes()]
        else:
            parts += [header_of(array), moved.tobytes()]
    return b"".join(parts)


def normals(uniform: Callable[[int], NDArray[np.uint64]], count: int) -> Floats:
    """So many independent standard normal values, two from each pair of uniform words."""
    import numpy as np

    pairs = (count + 1) // 2
    words = uniform(2 * pairs).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[:pairs] + 0.5) * 2.0**-64))
    angle = words[pairs:] * (2.0 * np.pi * 2.0**-64)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _floating(array: Array) -> bool:
    return array.dtype != "<i8"


def _floats(arrays: Sequence[Array]) -> int:
    return sum(array.count for array in arrays if _floating(array))


def _square(old: NDArray[Any], new: NDArray[Any]) -> float:
    """The squared distance; infinite or NaN where a value is not finite."""
    import numpy as np

    before, after, total = old.reshape(-1), new.reshape(-1), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, before.size, CHUNK):
            difference = after[start : start + CHUNK].astype(np.float64) - before[start : start + CHUNK]
            total += float(difference @ difference)
    return total
