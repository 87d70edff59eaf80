"""The heart of the simulated network: one heap of things that happen later, one task that makes them happen.

Actions run in order of (due time, order of scheduling), inside the pump's task and without waiting, so what
is in flight costs no task and the order never depends on trio's scheduling.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf
from typing import NoReturn

import trio

from sim.errors import PumpOverflow
from sim.virtual_clock import virtual_us

MAX_PENDING = 1_000_000
"""Actions that may wait at once; a run that reaches it has a sender without bounds."""


class Pump:
    """Runs actions at their virtual time."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._tickets = count()
        self._nap = trio.CancelScope()

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Run `action` once, `delay_us` µs from now. O(log n). Raises `PumpOverflow`."""
        if len(self._heap) >= MAX_PENDING:
            raise PumpOverflow(f"{MAX_PENDING:,} messages are in flight; slow the workload down")
        heapq.heappush(self._heap, (virtual_us() + delay_us, next(self._tickets), action))
        self._nap.deadline = self._next_deadline()

    async def run(self) -> NoReturn:
        """Run due actions until cancelled."""
        while True:
            self._nap = trio.CancelScope(deadline=self._next_deadline())
            with self._nap:
                await trio.sleep_forever()
            while self._heap and self._heap[0][0] <= virtual_us():
                _, _, action = heapq.heappop(self._heap)
                action()

    def _next_deadline(self) -> float:
        return self._heap[0][0] / 1_000_000 if self._heap else inf
