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
    """Connections dropped for a bad, unexpected or unfinished frame, ours or Yamux's, or too many streams."""
    dropped: int = 0
    """Connections dropped for other reasons of ours: peer does not read, no memory left."""
    evicted: int = 0
    """Peers dropped because they held most of the memory when it ran out."""
    slowed: int = 0
    """Times that a peer was read more slowly because it was beyond its pace."""
    banned: int = 0
    """Requests of banned peers, refused unread."""
    retired: int = 0
    """Connections closed because another one to the same peer had come about at the same time."""
    dials: int = 0
    dial_failures: int = 0
    dials_withheld: int = 0
    """Dials that were not made because their host, which others had named, is dialled too often."""
    accepted: int = 0
    """Inbound connections whose peer proved its identity."""
    handshake_failures: int = 0
    """Inbound connections that did not get that far, or found no room."""
    turned_away: int = 0
    """Of these, the ones closed unread because their source opens connections too quickly."""

    def snapshot(self) -> dict[str, int]:
        """A copy by name."""
        return asdict(self)
