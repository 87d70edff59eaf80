"""Virtual time, and the two other ports that a reproducible run needs.

A simulation is one trio run under `JumpingClock`: whenever every task is blocked, time jumps to the next
deadline, so hours pass in milliseconds and a timeout is exact (`trio.testing.MockClock` does the same, and
takes two turns of the event loop and its statistics for a jump). The clock does not wait for threads, so
`InlineBlocking` calls blocking functions in place and charges them a virtual delay. Trio shuffles the tasks
that become runnable together; `run_deterministic` makes it sort them first and shuffle by our seed, for
which it reaches into trio's private `_ALLOW_DETERMINISTIC_SCHEDULING` and `_r` (trio offers no public
switch). The promise: the same function, arguments and seed take the same steps in every process, whatever
PYTHONHASHSEED says.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from dht.ports import Random

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH_US = 1_767_225_600_000_000
"""Wall clock at virtual time 0, in µs since 1970: 2026-01-01 00:00 UTC."""


def virtual_us() -> int:
    """Virtual time in whole µs since the run began; needs a running trio loop."""
    return round(trio.current_time() * 1_000_000)


def no_skew() -> int:
    """A wall clock that is right."""
    return 0


class JumpingClock(trio.abc.Clock):
    """Virtual time for one trio run, from 0. It stands still while a task can run.

    It also keeps actions that are to happen later, which costs a fifth of a task that sleeps: that would be
    ended by a deadline, a cancellation and an exception.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._tickets = count()

    @property
    def pending(self) -> int:
        """Actions that have not happened yet."""
        return len(self._timers)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Call `action` once at that time, when no task can run; it must neither wait nor raise. O(log n).

        Actions happen by time, and those of one time in the order in which they were handed in.
        """
        heapq.heappush(self._timers, (moment, next(self._tickets), action))

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        # The event loop asks only when no task can run: then nothing happens until that deadline.
        if self._timers and self._timers[0][0] <= deadline:
            self._now = max(self._now, self._timers[0][0])
            while self._timers and self._timers[0][0] <= self._now:
                heapq.heappop(self._timers)[2]()
            return 0.0
        if deadline == math.inf:
            return math.inf
        self._now = max(self._now, deadline)
        return 0.0


@dataclass(frozen=True, slots=True)
class SimClock:
    """The `Clock` port on virtual time; `skew_us` says by how much this node's wall clock is ahead now."""

    skew_us: Callable[[], int] = no_skew

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_us(self) -> int:
        return EPOCH_US + virtual_us() + self.skew_us()


@dataclass(frozen=True, slots=True)
class InlineBlocking:
    """The `RunBlocking` port without threads: wait `delay` virtual seconds, then call the function in place.

    The delay stands for what the call costs a real machine (an fsync, say). A call cancelled while it waits
    has never started, so a node that crashes then has written nothing.
    """

    delay: float = 0.0

    async def __call__(self, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        await _pause(self.delay)
        return fn(*args)


async def _pause(seconds: float) -> None:
    """`trio.sleep`, cheaper where the clock is a `JumpingClock`."""
    clock = trio.lowlevel.current_clock()
    if not seconds or not isinstance(clock, JumpingClock):
        await trio.sleep(seconds)
        return
    task, waits = trio.lowlevel.current_task(), True

    def wake() -> None:
        if waits:
            trio.lowlevel.reschedule(task)

    def give_up(_: object) -> trio.lowlevel.Abort:
        nonlocal waits
        waits = False
        return trio.lowlevel.Abort.SUCCEEDED

    clock.at(clock.current_time() + seconds, wake)
    await trio.lowlevel.wait_task_rescheduled(give_up)


inline_blocking = InlineBlocking()
"""`RunBlocking` that costs no virtual time."""


def seeded_random(seed: int, name: str) -> Random:
    """The `Random` port of the part called `name` in the run with `seed`; equal in every process.

    Parts with different names draw from independent streams, so one more draw here changes nothing there.
    """
    return Random(
        choice=random.Random(f"{seed}/{name}/choice"),
        random_bytes=random.Random(f"{seed}/{name}/bytes").randbytes,
    )


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Make trio runs inside order simultaneous tasks by `seed`; restores trio's own state afterwards.

    Raises `RuntimeError` when this trio has no such switch any more.
    """
    internals = vars(trio._core._run)
    shuffler = internals.get("_r")
    if not isinstance(shuffler, random.Random) or "_ALLOW_DETERMINISTIC_SCHEDULING" not in internals:
        raise RuntimeError(
            f"trio {trio.__version__} schedules in a way that simulations cannot seed; "
            "install a version that has trio._core._run._r, or adapt sim.virtual_clock"
        )
    allowed, state = internals["_ALLOW_DETERMINISTIC_SCHEDULING"], shuffler.getstate()
    internals["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    shuffler.seed(seed)
    try:
        yield
    finally:
        internals["_ALLOW_DETERMINISTIC_SCHEDULING"] = allowed
        shuffler.setstate(state)


def run_deterministic(async_fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts, seed: int) -> T:
    """Run `async_fn(*args)` in virtual time and return its result; its exceptions pass through.

    Not to be called inside a running trio loop.
    """
    with deterministic_scheduling(seed):
        return trio.run(async_fn, *args, clock=JumpingClock())
