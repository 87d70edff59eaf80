"""Counters of the network adapter, for metrics and tests: plain integers that only grow."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """What one network has done since it opened. Bytes are those of frames, without encryption and
    framing."""

    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0
    requests_out: int = 0
    requests_in: int = 0
    refused_out: int = 0
    """Requests of ours refused before they were sent: too much in flight to that peer."""
    refused_in: int = 0
    """Requests of peers answered with an error code."""
    late: int = 0
    """Replies that came after their request had ended."""
    bad_frames: int = 0
    """Connections dropped for a bad, unexpected or unfinished frame, or for too many streams."""
    dropped: int = 0
    """Connections dropped for other reasons of ours: peer does not read, no memory left."""
    dials: int = 0
    dial_failures: int = 0
    accepted: int = 0
    """Inbound connections whose peer proved its identity."""
    handshake_failures: int = 0
    """Inbound connections that did not get that far, or found no room."""

    def snapshot(self) -> dict[str, int]:
        """A copy by name."""
        return asdict(self)


@dataclass(slots=True)
class Budget:
    """A pool of bytes that all connections share, so that many small holdings cannot add up to too much."""

    size: int
    used: int = 0

    def take(self, count: int) -> bool:
        """Reserve `count` bytes (negative: give back); False, reserving nothing, when they do not fit."""
        if count > 0 and self.used + count > self.size:
            return False
        self.used += count
        return True
