"""A ClientApp's `Context.state` on disk, so that a member that was killed goes on where it was.

Beside the state after the last message lies the one before it, with the message's name: when the same message
comes again, because the process died before its answer was on record, the app begins it from the same state.
So a message changes the state once, however often it is answered. An app that raises leaves the state as it
was, as with Flower. A file is replaced as a whole, after an fsync.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgpack

T = TypeVar("T")

MAX_STATE = 64 << 20
"""Bytes of a state that is kept on disk."""
MAX_FILES = 64
"""Tasks whose states are kept; beyond it the one that was written to the longest ago goes."""
SUFFIX = ".state"


def state_file(folder: Path, task: str, suffix: str = SUFFIX) -> Path:
    """Where the state of a task lies; makes the folder, and room in it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{task}{suffix}"
    others = sorted(
        (one for one in folder.glob(f"*{suffix}") if one != file), key=lambda one: one.stat().st_mtime
    )
    for old in others[: max(0, len(others) - MAX_FILES + 1)]:
        old.unlink(missing_ok=True)
    return file


class ClientState:
    """The state of one context; without a file it lasts as long as the process."""

    def __init__(self, context: Any, file: Path | None) -> None:
        """Fills the context with what is on disk. A file that cannot be read is said, and not used."""
        self._context = context
        self._file = file
        self._message = ""
        self._before = self._after = _packed(context.state)
        found = None if file is None else _read(file)
        if found is not None:
            self._message, self._before, self._after = found
            self._restore(self._after)

    def during(self, message: str, run: Callable[[], T]) -> T:
        """Run the app on a message; what it did to the state is on disk when this returns."""
        begun = self._before if message == self._message else self._after
        if begun != self._after:
            self._restore(begun)
        try:
            result = run()
        except BaseException:
            self._restore(self._after)
            raise
        after = _packed(self._context.state)
        if after != begun or message == self._message:
            self._message, self._before, self._after = message, begun, after
            self._write()
        return result

    def _restore(self, state: bytes) -> None:
        self._context.state = _unpacked(state)

    def _write(self) -> None:
        if self._file is None:
            return
        if max(len(self._before), len(self._after)) > MAX_STATE:
            print(f"the app's state is over {MAX_STATE} bytes and lasts no longer than it", file=sys.stderr)
            self._file.unlink(missing_ok=True)
            return
        data = msgpack.packb({"message": self._message, "before": self._before, "after": self._after})
        write_whole(self._file, data)


def write_whole(target: Path, data: bytes) -> None:
    """Replace a file as a whole, or leave it as it was."""
    fresh = target.with_name(f"{target.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, target)


def _read(file: Path) -> tuple[str, bytes, bytes] | None:
    with suppress(FileNotFoundError):
        try:
            found = msgpack.unpackb(file.read_bytes(), raw=False)
            states = str(found["message"]), bytes(found["before"]), bytes(found["after"])
            _unpacked(states[1]), _unpacked(states[2])
        except (OSError, ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            if isinstance(error, FileNotFoundError):
                raise
            print(f"{file} is damaged, the app begins without a state: {error}", file=sys.stderr)
            return None
        return states
    return None


def _packed(state: Any) -> bytes:
    from flwr.common.serde import recorddict_to_proto

    data: bytes = recorddict_to_proto(state).SerializeToString(deterministic=True)
    return data


def _unpacked(data: bytes) -> Any:
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict
    from google.protobuf.message import DecodeError

    try:
        return recorddict_from_proto(RecordDict.FromString(data))
    except DecodeError as error:
        raise ValueError(str(error)) from error
