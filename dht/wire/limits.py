"""Every limit of the real network, in one place.

Each queue, table, wait and retry of the adapter has a bound here, so that what a dead, slow or hostile peer
can cost is read off one page: `DEFAULT_LIMITS` for a server, or a copy with smaller numbers for a small
machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from dht.wire.pace import Rate

KIB = 1024
MIB = 1024 * KIB
_ARRIVALS = Rate(per_second=32, burst=512)
_REQUESTS = Rate(per_second=4000, burst=8000)
_UNITS = Rate(per_second=16_000, burst=32_000)


_NEW_DIALS = Rate(per_second=1, burst=32)
_NEW_DIALS_LOCAL = Rate(per_second=32, burst=512)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    connections: int = 256
    """Live connections; one more closes the one that was idle longest."""
    connections_per_peer: int = 4
    """Connections to one peer (two nodes that dial each other at once get two for a while); one more closes
    the oldest."""
    handshakes: int = 64
    """Inbound connections that have not proven an identity yet; for one more the source that has most of
    them gives up its oldest."""
    arrivals: Rate = _ARRIVALS
    """Inbound connections of one source (IPv4 address, IPv6 /64); one that comes quicker is closed unread."""
    sources: int = 4096
    """Sources whose arrivals are remembered."""
    streams: int = 16
    """Open streams on one connection; a peer that opens more is dropped."""
    stream_window: int = 256 * KIB
    """What a peer may send on one stream before we have read it. Yamux fixes it: less drops honest peers."""
    in_flight: int = 64
    """Requests of ours that one connection waits for; one more is refused as overloaded."""
    handlers_per_peer: int = 64
    """Requests of one peer answered at a time, no fewer than an honest peer sends; one more is refused."""
    handlers: int = 256
    """Requests of all peers answered at a time."""
    handlers_own: int = 2
    """Requests of one peer answered at a time whatever the others ask."""
    banned_requests: int = 16
    """Requests of a banned peer refused on one connection, until this is closed."""
    requests: Rate = _REQUESTS
    """Requests of one peer; one that asks quicker is read more slowly."""
    units: Rate = _UNITS
    """Noise messages and Yamux frames of one peer, whatever is in them; the same."""
    paced_peers: int = 4096
    """Peers whose pace is remembered."""
    abandoned: int = 1024
    """Requests of ours on one stream that ended early and whose late reply is still nothing wrong."""
    queue_bytes: int = 4 * MIB
    """Frames waiting to be written on one stream."""
    held_bytes: int = 128 * MIB
    """All peers together: partial frames, requests being answered, frames waiting to be written, and unread
    stream data. When it runs out, the peer that holds most is dropped."""
    known_peers: int = 4096
    """Peers in the address book; one more forgets the one least recently learned or reached."""
    addresses_per_peer: int = 8
    """Addresses kept of one peer."""
    new_dials: Rate = _NEW_DIALS
    """Dials of one public IP address where nobody has proven an identity to us yet, and of all host names
    together: what others name is a hint, and must not make us knock at whatever door they like."""
    new_dials_local: Rate = _NEW_DIALS_LOCAL
    """The same for one address of this machine or of a private network, where test networks live."""
    dials: int = 64
    """Dials under way; further ones wait their turn."""
    connect_timeout: float = 5.0
    """TCP, Noise and Yamux together, over all addresses of a peer."""
    attempt_delay: float = 0.25
    """Head start of one address of a peer before the next is tried beside it (RFC 8305's default)."""
    stream_timeout: float = 5.0
    """Agreeing on the protocol of a new stream."""
    write_timeout: float = 10.0
    """One write of at most `WRITE_SIZE` bytes; a peer that does not read is dropped."""
    frame_timeout: float = 30.0
    """From the first byte of a frame to its last, ours, Yamux's or Noise's; a slower peer is dropped."""
    handler_timeout: float = 60.0
    """A handler of ours; a slower one is cancelled and answered as an internal error."""
    backoff_first: float = 1.0
    """Wait after the first failed dial of a peer; doubles with each further failure."""
    backoff_cap: float = 15.0
    """Longest wait between two dials of a peer."""
    keepalive: float = 30.0
    """How long the kernel goes on with a connection whose peer acknowledges nothing."""


DEFAULT_LIMITS = Limits()
READ_SIZE = 64 * KIB
"""Largest single read."""
WRITE_SIZE = 65_507
"""Largest single write on a stream: with a Yamux header (12) it fills one Noise message (65,535 - 16)
exactly."""
FEED_SIZE = 2 * KIB
"""Bytes of frames decoded before other tasks get their turn: at most some 190 frames."""
UNITS_AT_ONCE = 16
"""Noise messages and Yamux frames of one peer looked at before other tasks get their turn."""
