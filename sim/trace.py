"""The trace of a simulated run: one hash over everything that the network carried.

Each event is hashed as (virtual time in µs, event, sender, receiver, method, sha256 of the body) in a fixed-
width, hence unambiguous, encoding. Two runs took the same steps as far as any node could tell exactly when
their digests are equal, which is how reproducibility is tested. Beside the digest the trace counts events
and bytes by method; an observer sees each event, to find where two runs part.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from dht.network import PeerId


class Event(IntEnum):
    """What happened to a message or a connection; the number is hashed."""

    CONNECT = 1
    """The receiver accepted the sender's connection."""
    DISCONNECT = 2
    """The receiver learnt that its connection to the sender is gone."""
    REQUEST = 3
    REPLY = 4
    REFUSAL = 5
    """A reply that carries an error code."""
    LOST = 6
    """A message that the link swallowed, at the time when it was sent."""


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One event at `at_us` µs of virtual time; `method` is empty for connections."""

    at_us: int
    event: Event
    sender: PeerId
    receiver: PeerId
    method: str
    body_hash: bytes


@dataclass(slots=True)
class MethodCounts:
    """How many of a method's messages arrived or were lost, and the bytes of the bodies that arrived."""

    requests: int = 0
    replies: int = 0
    refusals: int = 0
    lost: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0


class Trace:
    """An incremental sha256 over the events of a run, and counts by method."""

    def __init__(self, observer: Callable[[TraceEvent], None] | None = None) -> None:
        self._hash = sha256(b"roseforest/sim-trace/1\0")
        self._observer = observer
        self._methods: dict[str, MethodCounts] = {}
        self.events = 0

    def record(
        self, at_us: int, event: Event, sender: PeerId, receiver: PeerId, method: str = "", body: bytes = b""
    ) -> None:
        """Add one event. O(len(body))."""
        body_hash = sha256(body).digest()
        name = method.encode()
        self._hash.update(struct.pack(">QBB", at_us, event, len(name)))
        self._hash.update(sender + receiver + name + body_hash)
        self.events += 1
        if method:
            self._count(event, method, len(body))
        if self._observer is not None:
            self._observer(TraceEvent(at_us, event, sender, receiver, method, body_hash))

    def hexdigest(self) -> str:
        """The hash of all events so far."""
        return self._hash.hexdigest()

    def methods(self) -> dict[str, MethodCounts]:
        """Counts by method, sorted by name."""
        return dict(sorted(self._methods.items()))

    def _count(self, event: Event, method: str, size: int) -> None:
        counts = self._methods.setdefault(method, MethodCounts())
        match event:
            case Event.REQUEST:
                counts.requests += 1
                counts.request_bytes += size
            case Event.REPLY:
                counts.replies += 1
                counts.reply_bytes += size
            case Event.REFUSAL:
                counts.refusals += 1
            case Event.LOST:
                counts.lost += 1
            case Event.CONNECT | Event.DISCONNECT:
                pass
