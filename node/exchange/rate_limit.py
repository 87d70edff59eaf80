"""How many requests a client may make: at most `limit` in any `window_s` seconds, exactly.

Kept for each client are the times of the requests that were let in, at most `limit` of them: the next one may
enter when there are fewer, or when the oldest has left the window (a sliding log). What is refused is not
counted, so who keeps knocking gets in as soon as it is due. The table holds a bounded number of clients and
forgets those that were let in longest ago; who has that many addresses to ask from had as many allowances
anyhow.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

LIMIT = 100
WINDOW_S = 60.0
MAX_CLIENTS = 4096


class RateLimit:
    """The requests of many clients; time is an argument, in seconds of a clock that never goes back."""

    def __init__(
        self, limit: int = LIMIT, window_s: float = WINDOW_S, max_clients: int = MAX_CLIENTS
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._max_clients = max_clients
        self._let_in: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._let_in)

    def enter(self, client: Hashable, now: float) -> float:
        """Let a request in and count it: 0.0; or refuse it: in how many seconds one may enter. O(1)."""
        times = self._let_in.get(client)
        if times is None:
            while len(self._let_in) >= self._max_clients:
                self._let_in.popitem(last=False)
            times = self._let_in[client] = deque(maxlen=self._limit)
        elif len(times) == self._limit and now - times[0] < self._window_s:
            return times[0] + self._window_s - now
        times.append(now)
        self._let_in.move_to_end(client)
        return 0.0
