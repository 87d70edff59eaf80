"""Content archives (CARv1): a header that names roots, then blocks, each of which is named by its hash.

The format is IPLD's Content Addressable aRchive, version 1: a length and a DAG-CBOR map `{roots, version}`,
then for each block its length, its CID and its bytes; lengths are unsigned LEB128. It fits our CIDs as they
are: a record's CID is the hash of its header's bytes, so the header is the block, and payloads and manifests
are raw blocks. Of DAG-CBOR only that one map is needed, so it is written and read here, in the one form that
the specification allows. `CarDecoder` is fed bytes in any portions and holds one block at most; what it gives
back was hashed and is what its CID says. It knows nothing of records: see `chain.archive_parts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from chain.cid import (
    RAW_CID_SIZE,
    RECORD_CID_SIZE,
    Cid,
    is_blob_cid,
    is_raw_cid,
    is_record_cid,
    raw_cid,
    record_cid,
    to_text,
)
from chain.errors import ChainError
from chain.record import MAX_PAYLOAD

MAX_ROOTS: Final = 1024
MAX_BLOCK: Final = MAX_PAYLOAD
"""Bytes of one block; no record's part is larger."""
_MAX_HEADER: Final = 64 * 1024
_MAX_LENGTH_BYTES: Final = 4
_BEGIN: Final = b"\xa2\x65roots"  # map of 2, text of 5
_END: Final = b"\x67version\x01"  # text of 7, unsigned 1
_CID_TAG: Final = b"\xd8\x2a\x58"  # tag 42, byte string whose length follows in one byte


class ArchiveError(ChainError):
    """A file is not the archive that it should be; the message says where and why, in one line."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block whose bytes hash to its CID. `at` is the place of its length in the archive, in bytes."""

    cid: Cid
    data: bytes
    at: int


def encode_header(roots: Sequence[Cid]) -> bytes:
    """The archive's first bytes; raises `ArchiveError` for no root or more than `MAX_ROOTS`."""
    if not 0 < len(roots) <= MAX_ROOTS:
        raise ArchiveError(f"an archive has 1 to {MAX_ROOTS} roots, not {len(roots)}")
    links = b"".join(_CID_TAG + bytes([len(cid) + 1, 0]) + cid for cid in roots)
    body = _BEGIN + _array_head(len(roots)) + links + _END
    return _varint(len(body)) + body


def encode_block(cid: Cid, data: bytes) -> bytes:
    """One block, with its length and CID; raises `ArchiveError` above `MAX_BLOCK`."""
    if len(data) > MAX_BLOCK:
        raise ArchiveError(f"a block has {len(data)} bytes, the limit is {MAX_BLOCK}")
    return _varint(len(cid) + len(data)) + cid + data


class CarDecoder:
    """Reads an archive as it comes. Memory: what was fed last, and one block."""

    def __init__(self) -> None:
        self.roots: tuple[Cid, ...] = ()
        self.header: bytes = b""
        """The archive's first bytes, once they are here."""
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> Iterator[Block]:
        """The blocks that are complete with `data`; to be exhausted before the next call.

        Raises `ArchiveError` for anything that is no archive of this network's kinds of CIDs, for a length
        over the limits before anything of that length was kept, and for bytes that do not hash to their CID.
        """
        self._buffer += data
        done = 0
        while (found := self._section(done)) is not None:
            start, end = found
            section = bytes(self._buffer[start:end])
            at = self._at + done
            if self.roots:
                yield _block(section, at)
            else:
                self.header = bytes(self._buffer[done:end])
                self.roots = _roots(section)
            done = end
        del self._buffer[:done]
        self._at += done

    def end(self) -> None:
        """Say that nothing follows; raises `ArchiveError` if that is amid a block."""
        if self._buffer or not self.roots:
            what = "amid a block" if self.roots else "before its header does"
            raise ArchiveError(f"the archive ends {what}, at byte {self._at + len(self._buffer)}")

    def _section(self, start: int) -> tuple[int, int] | None:
        """Where the next section's bytes stand in the buffer, if they are all here."""
        length = 0
        at = self._at + start
        for place in range(_MAX_LENGTH_BYTES):
            if start + place >= len(self._buffer):
                return None
            byte = self._buffer[start + place]
            length |= (byte & 0x7F) << (7 * place)
            if byte & 0x80:
                continue
            if place and not byte:
                raise ArchiveError(f"at byte {at}: a length is not written in its shortest form")
            most = RECORD_CID_SIZE + MAX_BLOCK if self.roots else _MAX_HEADER
            if not 0 < length <= most:
                raise ArchiveError(f"at byte {at}: a length of {length} bytes, expected 1 to {most}")
            begin = start + place + 1
            return None if begin + length > len(self._buffer) else (begin, begin + length)
        raise ArchiveError(f"at byte {at}: a length of more than {_MAX_LENGTH_BYTES} bytes")


def _block(section: bytes, at: int) -> Block:
    record, raw = section[:RECORD_CID_SIZE], section[:RAW_CID_SIZE]
    if is_record_cid(record):
        cid, data = record, section[RECORD_CID_SIZE:]
        good = record_cid(data) == cid
    elif is_raw_cid(raw):
        cid, data = raw, section[RAW_CID_SIZE:]
        good = raw_cid(data) == cid
    else:
        what = (
            "a blob's CID, which no archive holds" if is_blob_cid(raw) else "no CID of this network's forms"
        )
        raise ArchiveError(f"at byte {at}: a block begins with {what}")
    if len(data) > MAX_BLOCK:
        raise ArchiveError(f"at byte {at}: a block has {len(data)} bytes, the limit is {MAX_BLOCK}")
    if not good:
        raise ArchiveError(f"at byte {at}: the block {to_text(cid)} has other bytes than its CID says")
    return Block(cid, data, at)


def _roots(body: bytes) -> tuple[Cid, ...]:
    """The roots in the archive's header: only the bytes that `encode_header` writes are accepted."""
    fault = "at byte 0: not the header of an archive (CARv1 with roots)"
    place = len(_BEGIN) + 1
    head = body[len(_BEGIN) : place]
    if head in (b"\x98", b"\x99"):
        place += head[0] - 0x97
    roots: list[Cid] = []
    while body[place : place + 3] == _CID_TAG and len(roots) < MAX_ROOTS:
        size = body[place + 3] if place + 3 < len(body) else 0
        cid = body[place + 5 : place + 4 + size]
        if not (is_record_cid(cid) or is_raw_cid(cid)):
            raise ArchiveError(f"{fault}: root {len(roots)} is no CID of this network's forms")
        roots.append(cid)
        place += 4 + size
    if not roots or encode_header(roots) != _varint(len(body)) + body:
        raise ArchiveError(fault)
    return tuple(roots)


def _array_head(count: int) -> bytes:
    if count < 24:
        return bytes([0x80 + count])
    return bytes([0x98, count]) if count < 256 else b"\x99" + count.to_bytes(2, "big")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
