"""The errors of the distributed floor, one tree under `DhtError`.

Each message names the peer, method or address concerned, the value that was wrong and what to do. Peers are
shown by the first eight hex digits of their key.
"""

from __future__ import annotations

from enum import IntEnum


class DhtError(Exception):
    """Anything that this floor raises on purpose."""


class NetworkError(DhtError):
    """Talking to a peer failed."""


class PeerUnreachable(NetworkError):
    """No address, a failed or backed-off dial, or a connection lost before the reply came."""


class PeerSilent(PeerUnreachable):
    """The peer left another request unanswered of late: it is not asked now, or not waited for any longer."""


class RequestTimeout(NetworkError):
    """The peer did not answer within the time given."""


class FrameError(NetworkError):
    """Bytes that are not a frame: oversized, truncated, not canonical, or of the wrong shape."""


class BrokenTransport(FrameError):
    """A frame that was not finished in time, or bytes that fail Noise: the peer may be slow, or somebody on
    the way have altered them, so nobody is blamed."""


class AddressError(NetworkError):
    """A multiaddr that cannot be dialled, or that names another peer than the one that answered."""


class ListenError(NetworkError):
    """The node cannot listen where it was told to; the message says where and what to do."""


class RefusalCode(IntEnum):
    """Why a peer refused a request: the `code` of an error frame."""

    UNKNOWN_METHOD = 1
    OVERLOADED = 2
    BAD_REQUEST = 3
    FORBIDDEN = 4
    INTERNAL = 5
    BANNED = 6
    """The asker misbehaved lately; it is not listened to for the time that the reason says."""


MAX_REASON_CHARS = 256
"""Longest reason sent with a refusal; the rest is cut."""


class RequestRefused(NetworkError):
    """The peer answered with an error code; raised by a handler, it *becomes* that answer.

    `code` is a plain int when a newer peer sends one that `RefusalCode` does not know.
    """

    def __init__(self, code: RefusalCode | int, reason: str = "") -> None:
        try:
            self.code: int = RefusalCode(code)
        except ValueError:
            self.code = code
        self.reason = reason[:MAX_REASON_CHARS]
        name = self.code.name.lower() if isinstance(self.code, RefusalCode) else f"code {self.code}"
        super().__init__(
            f"request refused ({name}): {self.reason}" if self.reason else f"request refused ({name})"
        )
