"""A blob being written: bytes arrive in any portions, its CID is known at the end.

Chunks go to a temporary file as they fill up, with their digests, so that memory holds one chunk at most; the
finished file is synced and handed to the store, which gives it its name. What was reserved of the quota on
the way is given back when the draft ends, one way or the other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from chain.blob import CHUNK, MAX_BLOB, ChunkList, check_size, chunk_digest
from dht.blobs.blob_store import BlobInfo
from node.storage.errors import disk_error


class DraftStore(Protocol):
    """What a draft needs of its store."""

    def reserve(self, more: int) -> None:
        """Make room."""
        ...

    def release(self, count: int) -> None:
        """Give room back."""
        ...

    def take_in(self, path: Path, chunks: ChunkList, pin: bool) -> BlobInfo:
        """Make the finished file a blob."""
        ...


class Draft:
    """The `BlobDraft` port on a temporary file. Not for several threads at once."""

    def __init__(self, store: DraftStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._size = 0
        self._reserved = 0
        self._digests: list[bytes] = []
        self._tail = bytearray()
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (closed by finish or abandon)
        except OSError as error:
            raise disk_error(path, error) from error

    def write(self, data: bytes) -> None:
        """Append. Raises `OversizedBlobError`, `BlobsFull`, `DiskFull`."""
        check_size(self._size + len(data), MAX_BLOB)
        self._size += len(data)
        self._tail += data
        while len(self._tail) >= CHUNK:
            self._write_chunk(CHUNK)

    def finish(self, *, pin: bool) -> BlobInfo:
        """Make it durable and name it."""
        if self._tail:
            self._write_chunk(len(self._tail))
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise disk_error(self._path, error) from error
        self._give_back()
        return self._store.take_in(self._path, ChunkList(self._size, tuple(self._digests)), pin)

    def abandon(self) -> None:
        """Forget what was written; after `finish` there is nothing left to forget."""
        self._file.close()
        self._give_back()
        self._path.unlink(missing_ok=True)

    def _write_chunk(self, size: int) -> None:
        self._store.reserve(size)
        self._reserved += size
        with memoryview(self._tail) as tail, tail[:size] as chunk:
            self._digests.append(chunk_digest(chunk))
            try:
                written = 0
                while written < size:
                    written += self._file.write(chunk[written:])
            except OSError as error:
                raise disk_error(self._path, error) from error
        del self._tail[:size]

    def _give_back(self) -> None:
        self._store.release(self._reserved)
        self._reserved = 0
