"""Messages between the command and the app's process: maps as msgpack, each behind its length in 8 bytes.

Both ends are ours, but the user's code runs in one of them, so lengths are bounded and nothing is unpickled.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import msgpack

LENGTH_BYTES = 8
MAX_MESSAGE = 1 << 30
"""Bytes of one message; a model is at most a quarter of it."""


class PipeBroken(Exception):
    """The other end has gone, or what it sent is no message."""


def send(pipe: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message. Raises `PipeBroken`."""
    data = msgpack.packb(message, use_bin_type=True)
    if len(data) > MAX_MESSAGE:
        raise PipeBroken(f"a message of {len(data)} bytes is larger than {MAX_MESSAGE}")
    try:
        pipe.write(len(data).to_bytes(LENGTH_BYTES, "big"))
        pipe.write(data)
        pipe.flush()
    except OSError as error:
        raise PipeBroken("the other end has gone") from error


def receive(pipe: BinaryIO) -> dict[str, Any]:
    """Read one message. Raises `PipeBroken`."""
    size = int.from_bytes(_exactly(pipe, LENGTH_BYTES), "big")
    if size > MAX_MESSAGE:
        raise PipeBroken(f"a message of {size} bytes is announced; {MAX_MESSAGE} is the limit")
    try:
        message = msgpack.unpackb(_exactly(pipe, size), raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise PipeBroken(f"a message is no msgpack: {error}") from error
    if not isinstance(message, dict):
        raise PipeBroken("a message is no map")
    return message


def _exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise PipeBroken("the other end has gone")
    return data
