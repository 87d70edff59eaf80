"""The guard before the multiplexer: every Yamux header is judged before Yamux acts on it.

py-libp2p's Yamux trusts its peer: it buffers what exceeds a window, skips frames of unknown types without
ever yielding, answers any number of pings, and lets a peer open streams under our own numbers. The guard is
told each header and says what is wrong with it, by the Yamux specification and by our limits; the layer that
reads (`dht.wire.libp2p_transport`) drops the connection then. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dht.wire.limits import Limits

HEADER = struct.Struct("!BBHII")
"""version, type, flags, stream, length: 12 bytes."""
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Header:
    """A Yamux header; `length` is that of the body only for `DATA`."""

    version: int
    type: int
    flags: int
    stream: int
    length: int

    @property
    def body(self) -> int:
        """Bytes that follow the header."""
        return self.length if self.type == DATA else 0


def read_header(data: bytes) -> Header:
    """The header in 12 bytes."""
    return Header(*HEADER.unpack(data))


class MuxGuard:
    """Judges the headers of one connection. `peer_parity` is that of the stream numbers the peer may open."""

    def __init__(self, limits: Limits, peer_parity: int) -> None:
        self._limits = limits
        self._parity = peer_parity
        self._stray = limits.stream_window

    def check(self, header: Header, unread: int | None, open_streams: int) -> str | None:
        """What is wrong with `header`; None when Yamux may have it.

        `unread`: bytes of its stream that nobody has read yet, None for a stream that is not open.
        `open_streams`: how many of the peer's streams are.
        """
        if header.version != 0 or header.type > GO_AWAY or header.flags > SYN | ACK | FIN | RST:
            return f"not a Yamux header: version {header.version}, type {header.type}, flags {header.flags}"
        if header.type in (PING, GO_AWAY):
            return None if header.stream == 0 else "ping or go-away on a stream"
        if header.stream == 0:
            return "data or window for no stream"
        if header.flags & SYN:
            return self._opened(header, open_streams)
        if header.type != DATA:
            return None
        if unread is None:
            self._stray -= header.length
            return "data for streams that are not open" if self._stray < 0 else None
        if unread + header.length > self._limits.stream_window:
            return f"{unread + header.length} bytes unread on a stream, {self._limits.stream_window} allowed"
        return None

    def _opened(self, header: Header, open_streams: int) -> str | None:
        if header.stream % 2 != self._parity:
            return f"stream {header.stream} is not the peer's to open"
        if open_streams >= self._limits.streams:
            return f"more than {self._limits.streams} streams"
        if header.body > self._limits.stream_window:
            return f"{header.body} bytes on a new stream, {self._limits.stream_window} allowed"
        # when the stream is over, what is under way for it may still come
        self._stray = min(self._stray + self._limits.stream_window, self._most_stray)
        return None

    @property
    def _most_stray(self) -> int:
        return self._limits.streams * self._limits.stream_window
