"""Frames: the messages that two nodes exchange on one byte stream, encoded and decoded without any I/O.

A frame is a 4-byte big-endian length and that many bytes of canonical msgpack `[id, kind, method|code,
body]`. Kind 0 asks (`method` is a string), 1 answers (the third item is 0), 2 refuses (`code` is an integer,
the body a reason in UTF-8). The asker chooses the id, which ties an answer to its question, so that many
questions share a stream. The length is checked before a byte of the frame is stored: however a hostile peer
cuts or inflates its bytes, a decoder holds at most one frame of `MAX_FRAME` bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from chain.canonical import decode, encode
from chain.errors import ChainError
from dht.errors import MAX_REASON_CHARS, FrameError
from dht.network import MAX_BODY, MAX_METHOD_CHARS

MAX_FRAME = 5 * (1 << 18)
"""Largest frame in bytes (1.25 MiB), its length header not counted."""
LENGTH_SIZE = 4
"""Bytes of the length header."""
MAX_ID = (1 << 32) - 1
"""Largest request id."""
MAX_CODE = (1 << 16) - 1
"""Largest refusal code on the wire; codes that this release does not know are legal."""
_MAX_REASON_BYTES = 4 * MAX_REASON_CHARS


_INTEGER_SIZES = dict.fromkeys(range(128), 0) | {0xCC: 1, 0xCD: 2, 0xCE: 4}
"""msgpack tags of unsigned integers up to 32 bits -> bytes that follow."""
_STRING_SIZES = {0xA0 | size: size for size in range(32)} | {0xD9: 1}
"""msgpack tags of short strings -> bytes that follow (for 0xD9 at least)."""
_BIN_LENGTH_SIZES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""msgpack tags of byte strings -> bytes of their length."""


class Kind(IntEnum):
    """The second item of a frame."""

    REQUEST = 0
    RESPONSE = 1
    REFUSAL = 2


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `method` with `body`; the answer carries the same `id`."""

    id: int
    method: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to request `id`."""

    id: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Request `id` was refused: an error code (`dht.errors.RefusalCode`) and a reason for people."""

    id: int
    code: int
    reason: str


Frame: TypeAlias = Request | Response | Refusal


def encode_frame(frame: Frame) -> bytes:
    """Return the frame with its length header.

    Raises `FrameError` when a field is out of range, the body over `MAX_BODY` bytes above all.
    """
    items: list[int | str | bytes]
    match frame:
        case Request():
            items = [frame.id, Kind.REQUEST.value, frame.method, frame.body]
        case Response():
            items = [frame.id, Kind.RESPONSE.value, 0, frame.body]
        case Refusal():
            items = [frame.id, Kind.REFUSAL.value, frame.code, frame.reason.encode("utf-8", "replace")]
    _frame_of(items)
    try:
        data = encode(items)
    except ChainError as error:
        raise FrameError(f"frame cannot be encoded: {error}") from error
    return len(data).to_bytes(LENGTH_SIZE, "big") + data


def check_method(method: str) -> None:
    """Raise `FrameError` unless `method` is 1 to `MAX_METHOD_CHARS` printable ASCII characters."""
    if not (0 < len(method) <= MAX_METHOD_CHARS and method.isascii() and method.isprintable()):
        raise FrameError(f"method {method[:80]!r} is not 1 to {MAX_METHOD_CHARS} printable ASCII characters")


class FrameDecoder:
    """Turns a stream of chunks, cut anywhere, into frames.

    After a `FrameError` the stream has no frame boundary left: the decoder refuses further bytes, and the
    stream must be dropped.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._wanted: int | None = None
        self._broken = False

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that has begun and is not complete; 0 between frames."""
        return len(self._buffer) + (0 if self._wanted is None else LENGTH_SIZE)

    @property
    def missing(self) -> int:
        """Bytes that the frame under way still lacks, 0 before its length is known."""
        return 0 if self._wanted is None else self._wanted - len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next chunk, return the frames it completed. O(len(data)).

        Raises `FrameError` for a length of 0 or over the limit, and for content that is not a frame. Frames
        that the same chunk completed before the bad one are lost with the stream.
        """
        if self._broken:
            raise FrameError("bytes follow a bad frame; drop the stream")
        try:
            return self._feed(memoryview(data))
        except FrameError:
            self._broken = True
            self._buffer.clear()
            self._wanted = None
            raise

    def _feed(self, rest: memoryview) -> list[Frame]:
        frames: list[Frame] = []
        while rest:
            missing = (LENGTH_SIZE if self._wanted is None else self._wanted) - len(self._buffer)
            self._buffer += rest[:missing]
            rest = rest[missing:]
            if self._wanted is None:
                if len(self._buffer) == LENGTH_SIZE:
                    self._wanted = self._length()
                    self._buffer.clear()
            elif len(self._buffer) == self._wanted:
                frames.append(_decode(bytes(self._buffer), self._limit))
                self._buffer.clear()
                self._wanted = None
        return frames

    def _length(self) -> int:
        length = int.from_bytes(self._buffer, "big")
        if not 0 < length <= self._limit:
            raise FrameError(f"frame announces {length} bytes; 1 to {self._limit} are allowed")
        return length


def _decode(data: bytes, limit: int) -> Frame:
    if not _is_flat(data):
        raise FrameError(f"frame of {len(data)} bytes is not an array of id, kind, method or code, and body")
    try:
        items = decode(data, limit)
    except ChainError as error:
        raise FrameError(f"frame of {len(data)} bytes is not canonical msgpack: {error}") from error
    return _frame_of(items)


def _is_flat(data: bytes) -> bool:
    """Whether the msgpack tags promise two integers, an integer or string, and a byte string to the end.
    O(1).

    Decoding proper builds an object an element; without this look a hostile megabyte of nested arrays would
    hold the event loop for a good part of a second.
    """
    if data[0] != 0x94:
        return False
    at = 1
    for allowed in (_INTEGER_SIZES, _INTEGER_SIZES, _INTEGER_SIZES | _STRING_SIZES):
        if at >= len(data) or data[at] not in allowed:
            return False
        extra = 1 + data[at + 1] if data[at] == 0xD9 and at + 1 < len(data) else allowed[data[at]]
        at += 1 + extra
    if at >= len(data) or data[at] not in _BIN_LENGTH_SIZES:
        return False
    start = at + 1 + _BIN_LENGTH_SIZES[data[at]]
    return start + int.from_bytes(data[at + 1 : start], "big") == len(data)


def _frame_of(items: object) -> Frame:
    if not isinstance(items, list) or len(items) != 4:
        raise FrameError("frame is not an array of four items")
    number, kind, subject, body = items
    if type(number) is not int or not 0 <= number <= MAX_ID:
        raise FrameError(f"frame id is not an integer from 0 to {MAX_ID}")
    if type(kind) is not int:
        raise FrameError("frame kind is not an integer")
    if type(body) is not bytes or len(body) > MAX_BODY:
        raise FrameError(f"frame body is not a byte string of at most {MAX_BODY} bytes")
    if kind == Kind.REQUEST:
        if type(subject) is not str:
            raise FrameError("method of a request is not a string")
        check_method(subject)
        return Request(number, subject, body)
    if kind == Kind.RESPONSE:
        if type(subject) is not int or subject != 0:
            raise FrameError("third item of a response is not 0")
        return Response(number, body)
    if kind == Kind.REFUSAL:
        if type(subject) is not int or not 0 <= subject <= MAX_CODE:
            raise FrameError(f"refusal code is not an integer from 0 to {MAX_CODE}")
        if len(body) > _MAX_REASON_BYTES:
            raise FrameError(
                f"reason of a refusal has {len(body)} bytes; at most {_MAX_REASON_BYTES} are allowed"
            )
        try:
            return Refusal(number, subject, body.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise FrameError("reason of a refusal is not UTF-8") from error
    raise FrameError(f"frame kind {kind} is unknown")
