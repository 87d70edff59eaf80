"""Pace: how quickly one peer, or one source of connections, may keep us busy.

A token bucket (as in ATM's generic cell rate algorithm) fills at a steady rate up to a burst. Two ways to use
it: `delay` always takes, and says how long to wait before the next taking, so that whoever is too quick is
read more slowly and loses nothing; `admit` takes only what is there. Buckets are kept of a bounded number of
keys, and a bucket that is full again is no different from a new one, so forgetting the one used longest ago
forgives least. Pure: `now` is an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` on average, `burst` at once."""

    per_second: float
    burst: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Pace(Generic[Key]):
    """Buckets of one rate by key, at most `most` of them. Every method is O(1)."""

    def __init__(self, rate: Rate, most: int) -> None:
        self._rate = rate
        self._most = most
        self._buckets: OrderedDict[Key, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def delay(self, key: Key, count: float, now: float) -> float:
        """Take `count`, into debt if need be; seconds until the debt is paid, 0 without one."""
        bucket = self._filled(key, now)
        bucket.tokens -= count
        return max(0.0, -bucket.tokens / self._rate.per_second)

    def admit(self, key: Key, now: float) -> bool:
        """Take one if there is one."""
        bucket = self._filled(key, now)
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def _filled(self, key: Key, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            while len(self._buckets) >= self._most:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(self._rate.burst, now)
        gained = max(0.0, now - bucket.at) * self._rate.per_second
        bucket.tokens = min(self._rate.burst, bucket.tokens + gained)
        bucket.at = now
        self._buckets.move_to_end(key)
        return bucket
