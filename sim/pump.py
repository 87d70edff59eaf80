"""The heart of the simulated network: things that happen later, in order of time.

Actions run in order of (due time, order of scheduling), by the clock of the run and without waiting, so what
is in flight costs no task and the order never depends on trio's scheduling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import trio

from sim.errors import PumpOverflow
from sim.virtual_clock import JumpingClock, virtual_us

MAX_PENDING = 1_000_000
"""Actions that may wait at once; a run that reaches it has a sender without bounds."""


class Pump:
    """Runs actions at their virtual time, until `run` ends. For a run of `run_deterministic`."""

    def __init__(self) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, JumpingClock)
        self._clock = clock
        self._failed = trio.Event()
        self._error: BaseException | None = None
        self._over = False

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Run `action` once, `delay_us` µs from now. O(log n). Raises `PumpOverflow`."""
        if self._clock.pending >= MAX_PENDING:
            raise PumpOverflow(f"{MAX_PENDING:,} messages are in flight; slow the workload down")

        def act() -> None:
            if self._over:
                return
            try:
                action()
            except BaseException as error:  # it ends the run, where `run` is awaited
                self._over, self._error = True, error
                self._failed.set()

        self._clock.at((virtual_us() + delay_us) / 1_000_000, act)

    async def run(self) -> NoReturn:
        """Wait for ever, or raise what an action raised; cancelled, nothing happens any more."""
        try:
            await self._failed.wait()
        finally:
            self._over = True
        assert self._error is not None
        raise self._error
