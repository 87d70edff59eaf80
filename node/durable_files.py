"""Small files that are there whole or not at all, and secrets that only their owner can read.

A file is written under a temporary name, synced, and put in its place by a rename (which replaces) or a link
(which refuses to), and the folder is synced: after a crash there are the old bytes or the new ones. Reading
is bounded, and every failure is one line that ends with what to do.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from node.errors import HomeDamaged, HomeError, HomeMissing

MAX_SMALL_FILE = 64 * 1024
"""Bytes read of a key, token or manifest; a longer file is damaged."""


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a crash leaves the old bytes or the new ones; durable on return."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_durably(temporary, data, mode)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HomeError(f"cannot write {path}: {error.strerror}") from error


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Like `write_atomically`, but never replaces a file: the link fails when one is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_durably(temporary, data, mode)
        os.link(temporary, path)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise HomeError(f"{path} exists already and is not overwritten") from error
    except OSError as error:
        raise HomeError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_durably(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, limit: int, recovery: str) -> bytes:
    """A file's bytes; raises `HomeMissing`, or `HomeDamaged` when it is empty, over `limit` or unreadable."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise HomeMissing(f"{path} is missing: {recovery}") from error
    except OSError as error:
        raise HomeDamaged(f"{path} cannot be read ({error.strerror}): {recovery}") from error
    if not data or len(data) > limit:
        raise HomeDamaged(f"{path} is {'empty' if not data else f'longer than {limit} bytes'}: {recovery}")
    return data


def read_secret(path: Path, recovery: str) -> str:
    """A small ASCII file that only its owner can read; raises as `read_bounded`."""
    data = read_bounded(path, MAX_SMALL_FILE, recovery)
    require_private(path)
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise HomeDamaged(f"{path} is damaged (byte {error.start} is not text): {recovery}") from error


def require_private(path: Path) -> None:
    """Raise `HomeDamaged` when others than its owner may read a file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise HomeDamaged(f"{path} can be read by others (mode {mode:04o}): run chmod 600 {path}")
