"""Blobs: content too large for a record, named by the list of its chunks.

A blob is cut into chunks of `CHUNK` bytes, the last one shorter. Its chunk list is the canonical array
[size, [BLAKE3 digest of each chunk]], and its CID is the blob CID of that list. This is the one rule for
blobs of every size: one of a single byte has a list of one chunk, an empty one an empty list, so that no CID
can mean two things. (A flat hash list instead of a tree, as in Git's packs rather than BitTorrent's Merkle
torrents: at these sizes the whole list is smaller than one chunk.) Whoever holds the CID can check the list,
and with the list every single chunk, whoever sent them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, blob_cid, to_text
from chain.errors import ChainError, EncodingError

CHUNK = 256 * 1024
"""Bytes of every chunk but the last."""
MAX_BLOB = 1 << 30
"""Largest blob in bytes."""
_HEAD = 16
_DIGEST_ITEM = DIGEST_SIZE + 2


class BlobError(ChainError):
    """What was to be a blob, or a part of one, is not."""


class WrongChunkListError(BlobError):
    """The bytes are not the chunk list that the CID names: whoever sent them sent something else."""


class MalformedBlobError(BlobError):
    """The CID names something that is no chunk list: whoever made the CID is to blame."""


class OversizedBlobError(BlobError):
    """The blob is larger than the reader, or than any blob, may be."""


@dataclass(frozen=True, slots=True)
class ChunkList:
    """`size` in bytes, and the BLAKE3 digest of each chunk, in order."""

    size: int
    digests: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The canonical bytes, about 34 for each chunk."""
        return canonical.encode([self.size, list(self.digests)])

    @property
    def cid(self) -> Cid:
        """The blob's CID. O(chunks)."""
        return blob_cid(self.encode())

    def __len__(self) -> int:
        return len(self.digests)

    def length(self, index: int) -> int:
        """Bytes of the chunk with this index."""
        return min(CHUNK, self.size - index * CHUNK)

    def matches(self, index: int, data: bytes | memoryview) -> bool:
        """Whether `data` is the chunk with this index."""
        return len(data) == self.length(index) and chunk_digest(data) == self.digests[index]


def chunk_digest(data: bytes | memoryview) -> bytes:
    """The digest by which a list names a chunk."""
    return blake3(data).digest()


def count_chunks(size: int) -> int:
    """Chunks of a blob of `size` bytes."""
    return -(-size // CHUNK)


def max_list(size: int) -> int:
    """Bytes of the longest chunk list of a blob of at most `size` bytes."""
    return _HEAD + count_chunks(size) * _DIGEST_ITEM


def chunk_list(data: bytes | memoryview) -> ChunkList:
    """The chunk list of a blob in memory; raises `OversizedBlobError`."""
    check_size(len(data), MAX_BLOB)
    view = memoryview(data)
    return ChunkList(
        len(data), tuple(chunk_digest(view[at : at + CHUNK]) for at in range(0, len(data), CHUNK))
    )


def check_size(size: int, limit: int) -> None:
    """Raise `OversizedBlobError` when `size` is over `limit` bytes."""
    if size > limit:
        raise OversizedBlobError(f"a blob of {size} bytes is over the limit of {limit}")


def open_chunk_list(data: bytes, cid: Cid, size_limit: int) -> ChunkList:
    """Read the chunk list of the blob `cid`, of at most `size_limit` bytes. O(len(data)).

    Nothing is allocated by what the list claims. Raises `WrongChunkListError` when `data` does not hash to
    `cid`, else `OversizedBlobError` or `MalformedBlobError`.
    """
    if blob_cid(data) != cid:
        raise WrongChunkListError(f"{len(data)} bytes are not the chunk list of the blob {to_text(cid)}")
    try:
        value = canonical.decode(data, max_list(MAX_BLOB))
    except EncodingError as error:
        raise MalformedBlobError(f"{to_text(cid)} is no blob's: it names no chunk list ({error})") from error
    if type(value) is not list or len(value) != 2 or type(value[0]) is not int or type(value[1]) is not list:
        raise MalformedBlobError(f"{to_text(cid)} is no blob's: a chunk list is [size, digests]")
    size, digests = value
    check_size(size, min(size_limit, MAX_BLOB))
    if size < 0 or len(digests) != count_chunks(size):
        raise MalformedBlobError(
            f"{to_text(cid)} is no blob's: its list has {len(digests)} digests for {size} bytes"
        )
    if not all(type(one) is bytes and len(one) == DIGEST_SIZE for one in digests):
        raise MalformedBlobError(f"{to_text(cid)} is no blob's: a digest has {DIGEST_SIZE} bytes")
    return ChunkList(size, tuple(digests))
