"""How long members wait for each other: never longer than a task says, and not much longer than most took.

When most have done their part, the rest get `PATIENCE` times as long again as these took, and `FLOOR_S` at
least. So a round adapts to what training takes, and one member that is gone costs little where the others are
quick. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 2.0
"""The rest is waited for so many times as long as most took."""
FLOOR_S: Final = 2.0
"""Seconds that a member gets at least after most of the others."""


class Deadline:
    """When a phase is over: after `limit_s`, and sooner once most have done their part."""

    def __init__(self, now: float, limit_s: float) -> None:
        self.since = now
        self.limit_s = limit_s
        self._most_at: float | None = None

    def again(self, now: float, limit_s: float | None = None) -> None:
        """Begin anew, maybe with another limit."""
        self.since, self._most_at = now, None
        self.limit_s = self.limit_s if limit_s is None else limit_s

    def note(self, done: int, most: int, now: float) -> None:
        """So many have done their part; `most` is what counts as most."""
        if self._most_at is None and done >= most:
            self._most_at = now

    def at(self) -> float:
        """The time, as far as is known now."""
        latest = self.since + self.limit_s
        if self._most_at is None:
            return latest
        return min(latest, self._most_at + max(FLOOR_S, PATIENCE * (self._most_at - self.since)))
