"""How fast one peer may ask, by the kind of work: a bucket for each class of methods.

A peer's requests cost very different things: naming neighbours is a look at a table, a store is judged,
embedded and written to disk, a search occupies a worker. So each class of methods has a pace of its own, a
request costs one and what its body weighs, and a peer that is `slowed` for its conduct pays more for
everything. What exceeds the pace a little waits, what exceeds it more is refused as overloaded, which costs
nobody's liveness; whoever goes on for more than a minute misbehaves (`Misdeed.PRESSING`). These paces are
what one core can serve to one peer; that many peers together ask for too much is the business of
`dht.wire.turns`. Pure: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache

from dht.network import PeerId
from dht.wire.pace import Pace, Rate

MAX_PEERS = 4096
"""Peers whose pace is remembered, for each class."""
MAX_WAIT = 0.2
"""Seconds that a request beyond the pace waits; when that is not enough it is refused."""
UNIT_BYTES = 16 * 1024
"""Bytes of a request's body that cost as much as the request."""
SLOWED = 8.0
"""What a slowed peer pays, in others' requests."""


class Work(Enum):
    """Classes of methods, and what one peer may ask of each: units a second, and at once."""

    NEIGHBOURS = Rate(per_second=500, burst=2000)
    READ = Rate(per_second=300, burst=2000)
    STORE = Rate(per_second=400, burst=4000)
    SEARCH = Rate(per_second=200, burst=1000)
    SUMMARY = Rate(per_second=50, burst=400)
    BLOB = Rate(per_second=100, burst=400)


BY_PREFIX: Mapping[str, Work] = {
    "peer.": Work.NEIGHBOURS,
    "hello": Work.NEIGHBOURS,
    "clock": Work.NEIGHBOURS,
    "record.store": Work.STORE,
    "learning.": Work.STORE,
    "shard.summary": Work.SUMMARY,
    "shard.": Work.SEARCH,
    "blob.": Work.BLOB,
}
"""The class of a method by its beginning; what is not listed reads."""


@lru_cache(maxsize=256)
def work_of(method: str) -> Work:
    """The class of a method."""
    for prefix, work in BY_PREFIX.items():
        if method.startswith(prefix):
            return work
    return Work.READ


class MethodPace:
    """The paces of all peers. O(1)."""

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self._paces: dict[Work, Pace[PeerId]] = {work: Pace(work.value, max_peers) for work in Work}
        self._pressing: Pace[PeerId] = Pace(Rate(per_second=1, burst=1), max_peers)

    def wait(self, peer: PeerId, method: str, size: int, slowed: bool, now: float) -> float | None:
        """Seconds to wait before answering a request of `size` bytes; None when it is to be refused.

        A refused request takes nothing, so that a peer that asks less is soon answered again.
        """
        pace = self._paces[work_of(method)]
        if pace.delay(peer, 0, now) > MAX_WAIT:
            return None
        return min(MAX_WAIT, pace.delay(peer, (1 + size / UNIT_BYTES) * (SLOWED if slowed else 1), now))

    def presses(self, peer: PeerId, now: float) -> bool:
        """Whether a refusal counts against `peer`: one a second does."""
        return self._pressing.admit(peer, now)
