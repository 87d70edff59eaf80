"""Content identifiers (CIDv1) of records, payloads and blobs.

A record is named by its header without the signature: CIDv1, codec messagepack (0x0201), sha2-256. A
payload, a manifest or an atlas that a signed structure points at is raw bytes: payloads and manifests with
sha2-256, blobs (large, chunked) with BLAKE3. A CID is plain `bytes` in its binary form; `to_text` gives the
multibase base32 form that people see. Only these three forms are accepted anywhere.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import TypeAlias

from blake3 import blake3

from chain.errors import CidError

Cid: TypeAlias = bytes

DIGEST_SIZE = 32
_SHA2_256 = bytes([0x12, DIGEST_SIZE])
_BLAKE3 = bytes([0x1E, DIGEST_SIZE])
_RECORD_PREFIX = bytes([0x01, 0x81, 0x04]) + _SHA2_256  # 0x0201 as an unsigned varint is 81 04
_RAW_PREFIX = bytes([0x01, 0x55]) + _SHA2_256
_BLOB_PREFIX = bytes([0x01, 0x55]) + _BLAKE3
RECORD_CID_SIZE = len(_RECORD_PREFIX) + DIGEST_SIZE
RAW_CID_SIZE = len(_RAW_PREFIX) + DIGEST_SIZE
_MAX_TEXT = 1 + 8 * RECORD_CID_SIZE // 5 + 2


def record_cid(header: bytes) -> Cid:
    """CID of a record from its canonical header bytes."""
    return _RECORD_PREFIX + sha256(header).digest()


def raw_cid(data: bytes) -> Cid:
    """CID of a payload or manifest: raw codec, sha2-256."""
    return _RAW_PREFIX + sha256(data).digest()


def blob_cid(data: bytes) -> Cid:
    """CID of bytes by BLAKE3, raw codec: of an atlas, or of the list that names a blob (`chain.blob`)."""
    return _BLOB_PREFIX + blake3(data).digest()


def is_record_cid(value: object) -> bool:
    """Whether `value` has the form of a record's CID."""
    return type(value) is bytes and len(value) == RECORD_CID_SIZE and value.startswith(_RECORD_PREFIX)


def is_raw_cid(value: object) -> bool:
    """Whether `value` has the form of a payload's or manifest's CID."""
    return type(value) is bytes and len(value) == RAW_CID_SIZE and value.startswith(_RAW_PREFIX)


def is_blob_cid(value: object) -> bool:
    """Whether `value` has the form of a blob's CID."""
    return type(value) is bytes and len(value) == RAW_CID_SIZE and value.startswith(_BLOB_PREFIX)


def is_cid(value: object) -> bool:
    """Whether `value` is a CID of any of the three forms."""
    return is_record_cid(value) or is_raw_cid(value) or is_blob_cid(value)


def digest(cid: Cid) -> bytes:
    """The 32-byte hash inside a CID; raises `CidError` for anything else."""
    if not is_cid(cid):
        raise CidError(f"not a CID of this network: {cid!r:.80}")
    return cid[-DIGEST_SIZE:]


def record_cid_of_digest(value: bytes) -> Cid:
    """The record CID that carries this 32-byte digest."""
    if len(value) != DIGEST_SIZE:
        raise CidError(f"a digest has {DIGEST_SIZE} bytes, not {len(value)}")
    return _RECORD_PREFIX + value


def blob_cid_of_digest(value: bytes) -> Cid:
    """The blob CID that carries this 32-byte digest."""
    if len(value) != DIGEST_SIZE:
        raise CidError(f"a digest has {DIGEST_SIZE} bytes, not {len(value)}")
    return _BLOB_PREFIX + value


def to_text(cid: Cid) -> str:
    """Multibase base32 (lower case, no padding): `b…`."""
    return "b" + base64.b32encode(cid).decode("ascii").rstrip("=").lower()


def from_text(text: str) -> Cid:
    """Parse the form that `to_text` writes; raises `CidError` for any other spelling."""
    if not text.startswith("b") or len(text) > _MAX_TEXT:
        raise CidError(f"not a CID: {text[:80]!r} (expected base32 starting with 'b')")
    body = text[1:].upper()
    try:
        cid = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise CidError(f"not a CID: {text[:80]!r} ({error})") from error
    if not is_cid(cid) or to_text(cid) != text:
        raise CidError(f"not a CID of this network: {text[:80]!r}")
    return cid
