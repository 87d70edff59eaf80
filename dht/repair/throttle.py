"""A token bucket: how fast what is moved may go, in bytes.

It fills at `RATE` up to `BURST` and may be overdrawn: a message goes when there is anything in it, and who
sent it waits until it is filled up to nothing again. So whatever the sizes, what goes in T seconds is at most
`BURST` + `RATE` · T, and one message more of each who sends at the same time. What is urgent takes its part
without waiting, and what is not gives way to it. Pure: `now` is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = 4_000_000
"""Bytes a second that a node moves at most on average: a third of a line of 100 Mbit/s."""
BURST = 1_000_000
"""Bytes that may go at once after a rest."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Holds `level` bytes at the time `at`; below nothing when it is overdrawn. Values never change."""

    level: float = BURST
    at: float = 0.0

    def spent(self, size: int, now: float) -> Bucket:
        """After `size` bytes went at `now`."""
        return Bucket(self._level(now) - size, max(now, self.at))

    def wait_s(self, now: float) -> float:
        """How long the next message has to wait."""
        return max(0.0, -self._level(now) / RATE)

    def _level(self, now: float) -> float:
        return min(BURST, self.level + RATE * max(0.0, now - self.at))
