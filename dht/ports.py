"""The impure ports besides `Network`: time, randomness and blocking work.

Decisions are pure and are handed these values; the layer that waits gets them from a port, so that the same
node runs in a daemon (`SystemClock`, threads) and under a simulator (virtual clock, inline calls, a seed).
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Clock(Protocol):
    """Two readings of time: one to measure with, one to date things with."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back. Agrees with trio's deadlines."""
        ...

    def wall_us(self) -> int:
        """Microseconds since 1970-01-01 UTC; may jump."""
        ...


class RunBlocking(Protocol):
    """Run a blocking call (SQLite, FAISS, embedding) without holding up the event loop."""

    async def __call__(self, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Return `fn(*args)`. Once started the call is not interrupted; cancellation waits for its end."""
        ...


@dataclass(frozen=True, slots=True)
class Random:
    """Randomness as an argument: `choice` for jitter and picks, `random_bytes(n)` for keys, salts and nonces.

    Only `random_bytes` need be unpredictable; a simulator derives both from its seed.
    """

    choice: random.Random
    random_bytes: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's clock. `monotonic` needs a running trio loop."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_us(self) -> int:
        return time.time_ns() // 1_000


class ThreadedBlocking:
    """`RunBlocking` on worker threads, at most `limit` at once; further calls wait their turn in order."""

    def __init__(self, limit: int) -> None:
        self._limiter = trio.CapacityLimiter(limit)

    async def __call__(self, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limiter)


def system_random() -> Random:
    """Randomness of the operating system."""
    return Random(choice=random.Random(secrets.randbits(128)), random_bytes=secrets.token_bytes)
