"""Errors of the node's databases, one tree under `StorageError`.

Each message names the file, what was found and what to do. A database that cannot be trusted is refused and
left exactly as it is: nothing here ever overwrites one, except derived state when its owner asks for it.
"""

from __future__ import annotations

import errno
from pathlib import Path


class StorageError(Exception):
    """Anything that the databases raise on purpose."""


class DatabaseCorrupt(StorageError):
    """A file is not the database it should be, or its content contradicts itself."""

    def __init__(self, path: Path, detail: str, recovery: str) -> None:
        super().__init__(f"{path} is damaged: {detail}; it was left as it is: {recovery}")
        self.path = path
        self.detail = detail


class SchemaTooNew(StorageError):
    """A newer release of this program wrote the file."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"{path} has schema version {found}, this release reads up to {known}; install a newer roseforest"
        )
        self.path = path


class ForeignChain(StorageError):
    """The chain in the file was written with another key, or for another network."""


class DatabaseUnavailable(StorageError):
    """The file cannot be opened or locked: permissions, a missing folder, or another process."""


class DiskFull(StorageError):
    """The disk is full or failing; nothing of the transaction was kept and the database is now read-only."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"cannot write {path}: {detail}; free some space (or check the disk) and restart")
        self.path = path


class ReadOnly(StorageError):
    """The database accepts no writes; `reason` says since what."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is read-only: {reason}")
        self.reason = reason


class StorageClosed(StorageError):
    """The database was closed; whether a write that was under way was kept is not known."""


class StorageLimit(StorageError):
    """A request exceeds a limit of the storage interface, such as the length of a key."""


class BlobsFull(StorageError):
    """A blob does not fit the quota beside the blobs that are pinned or under way."""


class BlobGone(StorageError):
    """A blob was deleted while something was being written to it."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def disk_error(path: Path, error: OSError) -> StorageError:
    """The system's error about a file as one of ours."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return DiskFull(path, reason)
    return DatabaseUnavailable(f"cannot use {path}: {reason}")
