"""Where a query's milliseconds go: a stopwatch for its steps, and the names that they go by.

Steps are measured always, as a dozen readings of the clock cost nothing beside a query, and shown to whoever
asks for them (`trace` in a question). Those up to `wave` follow one another, and `heads` and `texts`
follow that; the others happen inside it, side by side: `answer` is the longest wait for one holder, the rest
are sums over the holders. Every step that calls `RunBlocking` includes the wait for a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dht.ports import Clock

STEPS = ("embed", "route", "own", "plan", "wave", "answer", "decode", "verify", "fetch", "heads", "texts")
"""Text to codes; shards of the codes; own postings; holders of the shards; asking them all; longest answer;
reading the answers; checking their hits; records that did not fit an answer; whether the hits still
stand; their texts embedded again."""


class Steps:
    """Seconds by step."""

    __slots__ = ("_clock", "_seconds")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add what the block takes to a step, also when it ends with an error."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._clock.monotonic() - began

    def longest(self, name: str, seconds: float) -> None:
        """Let a step have taken at least so long."""
        self._seconds[name] = max(self._seconds.get(name, 0.0), seconds)

    def ms(self) -> dict[str, float]:
        """Milliseconds by step, in the order of `STEPS`; steps that did not happen are left out."""
        return {name: round(self._seconds[name] * 1_000, 3) for name in STEPS if name in self._seconds}
