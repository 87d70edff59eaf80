"""What a link does to a message: one function decides its delay, or that it is lost.

A `Link` is asked once for each message that a simulated network sends. Everything about the topology goes in
here, so a slow or deaf peer is a link function that treats one peer differently. Delays are whole µs and
randomness is handed in, so that runs repeat exactly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Protocol

from dht.network import PeerId

MAX_PAIRS = 1 << 17
"""Pairs whose base delay is remembered: it is asked for with every message."""


class Link(Protocol):
    """Decides the fate of one message of `size` bytes from `sender` to `receiver`."""

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        """One-way delay in µs (≥ 0), or None when the message is lost."""
        ...


@dataclass(frozen=True, slots=True)
class LatencyLink:
    """Every pair of peers has its own base delay, every message some jitter and a chance to be lost.

    The base is uniform between the two bounds of `base_us` by a hash of (seed, pair), the same in both
    directions and whatever else happens; jitter is uniform in 0..`jitter_us`; `loss` is a probability.
    """

    seed: int
    base_us: tuple[int, int] = (2_000, 40_000)
    jitter_us: int = 2_000
    loss: float = 0.0

    def base(self, one: PeerId, other: PeerId) -> int:
        """The base delay of a pair in µs."""
        return _base(self.seed, self.base_us, *((one, other) if one < other else (other, one)))

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        if rng.random() < self.loss:
            return None
        return self.base(sender, receiver) + rng.randint(0, self.jitter_us)


@lru_cache(maxsize=MAX_PAIRS)
def _base(seed: int, bounds: tuple[int, int], one: PeerId, other: PeerId) -> int:
    low, high = bounds
    draw = int.from_bytes(sha256(f"{seed}/".encode() + one + other).digest()[:8], "big")
    return low + draw % (high - low + 1)
