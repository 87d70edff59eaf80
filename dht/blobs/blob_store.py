"""The storage port for blobs: what fetching and serving them need of a disk.

`node.storage.blob_files` implements it on files. Every verb is a plain blocking call, safe from any thread,
to be run through `RunBlocking`. What a store gives out has been checked against the blob's chunk list, every
time; what does not match any more is not given out and counts as missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Protocol

from chain.blob import ChunkList
from chain.cid import Cid
from dht.errors import DhtError


class BitmapError(DhtError):
    """A bitmap that does not fit the blob."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob at a glance; `size` in bytes. Until it is `complete`, some chunks are missing here."""

    cid: Cid
    size: int
    complete: bool
    pinned: bool


class BlobDraft(Protocol):
    """A blob that is being written without knowing its CID yet; to be finished or abandoned."""

    def write(self, data: bytes) -> None:
        """Append. Raises what the store raises when there is no room, and `OversizedBlobError`."""
        ...

    def finish(self, *, pin: bool) -> BlobInfo:
        """Make it durable and name it; idempotent for content that is here already."""
        ...

    def abandon(self) -> None:
        """Forget what was written; does nothing after `finish`."""
        ...


class BlobStore(Protocol):
    """Blobs of this node, whole and in part, within a quota."""

    def info(self, cid: Cid) -> BlobInfo | None:
        """The blob, if any of it is here."""
        ...

    def infos(self) -> list[BlobInfo]:
        """All blobs, least recently used first."""
        ...

    def size(self) -> int:
        """Bytes that count against the quota."""
        ...

    def chunk_list(self, cid: Cid) -> ChunkList | None:
        """The chunk list of a blob, if any of it is here."""
        ...

    def missing(self, cid: Cid) -> frozenset[int] | None:
        """Indexes of the chunks that are not here; None for an unknown blob. May read a partial blob."""
        ...

    def chunk(self, cid: Cid, index: int) -> bytes | None:
        """One chunk that matches the list; None when it is not here (any more)."""
        ...

    def begin(self, chunks: ChunkList) -> frozenset[int]:
        """Make room for a blob and say which chunks are missing. It is not evicted before `end`.

        Raises the store's own error when the blob does not fit beside what is pinned or under way.
        """
        ...

    def keep(self, cid: Cid, index: int, data: bytes) -> bool:
        """Keep a chunk of a blob that was begun; False when it does not match. The last one completes it,
        durably."""
        ...

    def end(self, cid: Cid) -> None:
        """Undo one `begin`: whatever is here stays, until it is evicted."""
        ...

    def draft(self) -> BlobDraft:
        """Begin to write a blob of our own."""
        ...

    def read(self, cid: Cid) -> bytes | None:
        """A whole blob; None unless all of it is here."""
        ...

    def map(self, cid: Cid) -> mmap | bytes | None:
        """A whole blob mapped read-only (b"" for an empty one); None unless all of it is here.

        It was checked once, before this returns, and stays readable when the blob is evicted.
        """
        ...

    def pin(self, cid: Cid, pinned: bool) -> bool:
        """Pin (never evicted) or unpin; False for an unknown blob."""
        ...

    def delete(self, cid: Cid) -> bool:
        """Delete a blob, pinned or not; False for an unknown one."""
        ...

    def close(self) -> None:
        """Nothing more is written after this."""
        ...


def bitmap(count: int, missing: Sequence[int] | frozenset[int]) -> bytes:
    """One bit a chunk, lowest first, set where the chunk is here; b"" when all are."""
    if not missing:
        return b""
    bits = (1 << count) - 1
    for index in missing:
        bits &= ~(1 << index)
    return bits.to_bytes(-(-count // 8), "little")


def read_bitmap(count: int, data: bytes) -> frozenset[int] | None:
    """The indexes in a `bitmap`; None when all are there. Raises `BitmapError` for another shape."""
    if not data:
        return None
    bits = int.from_bytes(data, "little")
    if len(data) != -(-count // 8) or bits >> count:
        raise BitmapError(f"a bitmap of {len(data)} bytes does not fit {count} chunks")
    return frozenset(index for index in range(count) if bits >> index & 1)
