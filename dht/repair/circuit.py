"""A circuit breaker for one peer, and how long to wait between attempts: whether what moves may go there now.

While a circuit is *closed* everything passes; `FAILURES` failures in a row open it. While it is *open*
nothing passes: a peer in trouble, which may answer everything but this, is left alone, and what moves goes on
with others. Then it is *half-open*: one request at a time may try, `PASSES` answers in a row close it, and
one failure opens it again (Nygard, Release It!, 2007). What was asked before it opened says nothing after: a
permission is numbered, and its outcome counts only in the state that gave it.

How long it stays open is drawn anew each time from a range that grows with the pause before (`decorrelated`),
so that those whom one outage has united do not come back together (Brooker, Exponential backoff and jitter,
AWS architecture blog, 2015). So in any T seconds a peer that fails always is asked at most
`FAILURES` + T / `REST_FIRST_S` + 1 times, and soon only once in some 20 s. Pure: `now`, in seconds of a
monotonic clock, and `draw`, uniform in [0, 1), are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

FAILURES = 4
"""In a row, and a closed circuit opens: where one message in ten gets lost that is one run in 10,000."""
PASSES = 3
"""Answers in a row that close a half-open circuit."""
REST_FIRST_S = 1.0
REST_MOST_S = 30.0
"""How long an open circuit rests, at least and at most."""
GROWS = 3.0
"""A pause is drawn from up to so many times the one before."""


class Gate(Enum):
    """What a circuit lets pass: everything, nothing, or one request at a time."""

    CLOSED = auto()
    OPEN = auto()
    HALF_OPEN = auto()


@dataclass(frozen=True, slots=True)
class Circuit:
    """The circuit to one peer. Values never change; every event makes a new one. All O(1)."""

    gate: Gate = Gate.CLOSED
    number: int = 0
    """Counts changes of the gate: outcomes of permissions of another number do not count."""
    failures: int = 0
    """In a row, while it is closed."""
    trying: bool = False
    """Whether a request is under way, while it is half-open."""
    passes: int = 0
    """In a row, while it is half-open."""
    rest_s: float = 0.0
    """The last rest; 0 since it was last closed."""
    until: float = 0.0
    """When an open circuit may be tried."""

    def asked(self, now: float) -> tuple[Circuit, int | None]:
        """Whether a request may go: the number of its permission, or None. Each is to be ended by one of
        `answered`, `failed` and `abandoned`."""
        if self.gate is Gate.CLOSED:
            return self, self.number
        if self.gate is Gate.OPEN:
            if now < self.until:
                return self, None
            half = Circuit(Gate.HALF_OPEN, self.number + 1, trying=True, rest_s=self.rest_s)
            return half, half.number
        if self.trying:
            return self, None
        return replace(self, trying=True), self.number

    def answered(self, number: int) -> Circuit:
        """A request with this permission was answered."""
        if number != self.number:
            return self
        if self.gate is Gate.CLOSED:
            return replace(self, failures=0)
        if self.passes + 1 >= PASSES:
            return Circuit(number=self.number + 1)
        return replace(self, trying=False, passes=self.passes + 1)

    def failed(self, number: int, now: float, draw: float) -> Circuit:
        """A request with this permission failed."""
        if number != self.number:
            return self
        if self.gate is Gate.CLOSED and self.failures + 1 < FAILURES:
            return replace(self, failures=self.failures + 1)
        rest_s = decorrelated(self.rest_s, draw, REST_FIRST_S, REST_MOST_S)
        return Circuit(Gate.OPEN, self.number + 1, rest_s=rest_s, until=now + rest_s)

    def abandoned(self, number: int) -> Circuit:
        """A request with this permission was given up here, or never sent: that says nothing of the peer."""
        if number != self.number or self.gate is not Gate.HALF_OPEN:
            return self
        return replace(self, trying=False)

    def hurried(self) -> Circuit:
        """An open circuit need not rest any longer."""
        return replace(self, until=0.0) if self.gate is Gate.OPEN else self


def decorrelated(last_s: float, draw: float, first_s: float, most_s: float) -> float:
    """The pause after one of `last_s` seconds, 0 before the first.

    Uniform between `first_s` and `GROWS` times the last one, at most `most_s`; `draw` is uniform in [0, 1).
    """
    return min(most_s, first_s + draw * (GROWS * max(first_s, last_s) - first_s))
