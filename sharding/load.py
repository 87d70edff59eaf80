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

HORIZON_S = 300.0
"""What a copy costs and saves is compared over so long."""
MOVE_BYTES_PER_S = 4_000_000
"""What is copied costs its holders the line, or the disk, for so long."""
UPKEEP_S = 0.0005
"""Seconds of work a second to keep a copy up to date: two small comparisons every ten seconds."""
MARGIN = 2.0
"""A copy has to save so many times what it costs before it is made, and may save so much less once it is
there: or it would come and go."""
BUSIEST = 0.95


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


def saved_by_copy(per_second: float, seconds: float, busy: float, copies: int, size: int) -> float:
    """How many times what it costs one more copy of a shard saves, in seconds that searches take and wait.

    `per_second` searches of the shard go to each of its `copies`, each takes `seconds`; a holder is `busy`, a
    share of its time from 0 to 1; `size` in bytes is copied. What goes to the new copy is no load of the
    others, and at whoever is less busy the rest waits less: (1 - busy) in the denominator, as in a queue with
    one server (M/M/1; Kleinrock, 1975). The new copy is taken to be as busy as the others become. 0 where
    nothing is asked.
    """
    if per_second <= 0 or seconds <= 0 or copies < 1:
        return 0.0
    before = min(BUSIEST, max(busy, per_second * seconds))
    after = max(0.0, before - per_second * seconds / (copies + 1))
    waits = seconds * (before / (1 - before) - after / (1 - after))
    saved = per_second * copies * waits * HORIZON_S
    return saved / (size / MOVE_BYTES_PER_S + UPKEEP_S * HORIZON_S)


def wants_copy(saved: float, has: bool) -> bool:
    """Whether a shard is to have one more copy; `has`: whether it has it already (hysteresis)."""
    return saved > (1 / MARGIN if has else MARGIN)
