"""Background work kept going: what ends it, what is tried again, and what ends the node.

A node's upkeep is a dozen loops that run for ever beside one another, and in a nursery the first error of any
ends them all: one request that some loop cannot stand, and the daemon is gone. So they run under a supervisor
with a limited intensity, as in Erlang/OTP (Armstrong 2003): a loop that fails is logged with its traceback,
counted, and begun again after a pause; one that fails more than a few times in ten minutes ends the node
after all, because what cannot be mended must not look healthy. Disks are told apart: a full or failing one
ends work that writes, not the node, and a locked database is waited for. The loops keep their state outside
of `run`, so that beginning again loses nothing. Simulations and tests allow no failure at all.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from dht.ports import Clock
from node.storage.errors import DatabaseCorrupt, DatabaseUnavailable, DiskFull, ReadOnly

LOCKED_RETRY_S = 5.0
"""Wait after another process held a database's lock for too long."""
WINDOW_S = 600.0
"""Failures are counted over so long."""
PAUSE_FIRST_S = 1.0
"""Wait after a failure; twice as long after each further one within the window."""
PAUSE_MOST_S = 60.0

Work = Callable[[], Awaitable[None]]

log = logging.getLogger(f"roseforest.{__name__}")


class Supervisor:
    """Keeps loops running; each may fail `allowed` times in `WINDOW_S` seconds, and not once more."""

    def __init__(self, clock: Clock, allowed: int = 0) -> None:
        self._clock = clock
        self._allowed = allowed
        self.failed = 0
        """Failures survived, of all loops."""

    async def keep(self, work: Work) -> None:
        """Run a loop until it is cancelled, or a disk that takes no writes ends it.

        Raises what it raised when it fails too often.
        """
        lately: deque[float] = deque()
        over = False
        while not over:
            pause = LOCKED_RETRY_S
            try:
                await work()
                return
            except* (DiskFull, ReadOnly, DatabaseCorrupt) as group:
                over = True
                log.error("the node goes on read-only: %s", _first(group))
            except* DatabaseUnavailable as group:
                log.warning("next try in %.0f s: %s", LOCKED_RETRY_S, _first(group))
            except* Exception as group:
                now = self._clock.monotonic()
                lately.append(now)
                while lately[0] < now - WINDOW_S:
                    lately.popleft()
                if len(lately) > self._allowed:
                    raise
                self.failed += 1
                pause = min(PAUSE_FIRST_S * 2.0 ** (len(lately) - 1), PAUSE_MOST_S)
                log.error("%s failed, and begins again in %.0f s", _name(work), pause, exc_info=group)
            if not over:
                await trio.sleep(pause)


def _name(work: Work) -> str:
    return getattr(work, "__qualname__", type(work).__name__)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
