"""Load in one number that follows the present: how often something happens, and how long or how well it goes.

Both forget exponentially. A `Pulse` counts events and tells how many there are a second, with what happened a
half-life ago counting half; a `Smoothed` value moves a fixed share of the way to each new one (as TCP's
round-trip times do; RFC 6298). Pure: `now` is an argument, in seconds of any clock that never goes back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HALF_LIFE_S = 60.0
"""After so long an event counts half: no burst of a second makes a shard hot, minutes of quiet cool all."""
WEIGHT = 0.125
"""How far a smoothed value moves towards a new one."""


@dataclass(slots=True)
class Pulse:
    """How often something has happened lately."""

    half_life_s: float = HALF_LIFE_S
    _mass: float = 0.0
    _at: float = -math.inf

    def beat(self, now: float, times: float = 1.0) -> None:
        """It happened, so many times."""
        self._mass = self._left(now) + times
        self._at = max(self._at, now)

    def per_second(self, now: float) -> float:
        """Events a second; of a steady stream its rate, once it has lasted some half-lives. O(1)."""
        return self._left(now) * math.log(2) / self.half_life_s

    def _left(self, now: float) -> float:
        if not self._mass:
            return 0.0
        return float(self._mass * 0.5 ** (max(0.0, now - self._at) / self.half_life_s))


@dataclass(slots=True)
class Smoothed:
    """A value as it has been lately; None before the first one."""

    weight: float = WEIGHT
    value: float | None = None

    def add(self, value: float) -> None:
        """A new value."""
        self.value = value if self.value is None else self.value + self.weight * (value - self.value)
