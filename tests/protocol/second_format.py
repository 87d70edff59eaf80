"""Bytes of the protocol (§1 to §6, §8), written from docs/protocol.md alone, without a line of the project.

The tests beside this hold it against the project: where the page is wrong or silent, the two differ.
Nothing here is careful about cost, and it reads no more of a value than its tests need.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import msgpack
from blake3 import blake3
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

RAW, MESSAGEPACK = b"\x01\x55", b"\x01\x81\x04"
SHA2_256, BLAKE3 = b"\x12\x20", b"\x1e\x20"
OPENING = ("chain.genesis", "chain.membrane", "chain.profile")
SUBJECT, AUTHOR, SHARD, WANTS_RECEIPT = 1, 2, 4, 128


class Refused(Exception):
    """Bytes that the page forbids, or a signature or proof that does not hold."""


# 1. Canonical encoding


def canonical(value: Any) -> bytes:
    """The one encoding of a value."""
    containers = elements = 0

    def write(value: Any, level: int) -> bytes:
        nonlocal containers, elements
        match value:
            case None | bool() | int() | str() | bytes():
                packed: bytes = msgpack.packb(value, use_bin_type=True)
                return packed
            case list() | tuple() | dict():
                containers += 1
                elements += len(value)
                if level > 16 or containers > 16_384 or elements > 65_536:
                    raise Refused("too deep, or too much")
                packer = msgpack.Packer(use_bin_type=True)
                if not isinstance(value, dict):
                    return packer.pack_array_header(len(value)) + b"".join(write(i, level + 1) for i in value)
                if not all(isinstance(key, str) for key in value):
                    raise Refused("a key that is no string")
                pairs = (write(key, 0) + write(value[key], level + 1) for key in sorted(value))
                return packer.pack_map_header(len(value)) + b"".join(pairs)
        raise Refused(f"no {type(value).__name__}")

    try:
        return write(value, 1)
    except (OverflowError, UnicodeError) as error:
        raise Refused(str(error)) from None


def value_of(data: bytes) -> Any:
    """What canonical bytes say."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise Refused(str(error)) from None
    if canonical(value) != data:
        raise Refused("another encoding of the same value")
    return value


# 2. Names, and signatures


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def record_cid(header: bytes) -> bytes:
    return MESSAGEPACK + SHA2_256 + sha256(header)


def raw_cid(data: bytes) -> bytes:
    return RAW + SHA2_256 + sha256(data)


def blob(data: bytes) -> tuple[bytes, bytes]:
    """The chunk list of a blob, and its CID."""
    chunks = [data[at : at + 2**18] for at in range(0, len(data), 2**18)]
    listed = canonical([len(data), [blake3(chunk).digest() for chunk in chunks]])
    return listed, blob_cid(listed)


def blob_cid(data: bytes) -> bytes:
    return RAW + BLAKE3 + blake3(data).digest()


def digest_of(cid: bytes) -> bytes:
    return cid[-32:]


def cid_of(text: str) -> bytes:
    return base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))


def cid_text(cid: bytes) -> str:
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def peer_id(agent: bytes) -> str:
    """The base58 of the identity multihash of the key's protobuf."""
    number, text = int.from_bytes(bytes.fromhex("002408011220") + agent, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[rest] + text
    return "1" + text


def signed(name: str, data: bytes) -> bytes:
    """What a signature called `name` over canonical bytes is over."""
    return f"roseforest/{name}/1\0".encode() + sha256(data)


def agent_of(key: SigningKey) -> bytes:
    return bytes(key.verify_key)


def sign(key: SigningKey, name: str, data: bytes) -> bytes:
    return key.sign(signed(name, data)).signature


def check(agent: bytes, name: str, data: bytes, signature: bytes) -> None:
    try:
        VerifyKey(agent).verify(signed(name, data), signature)
    except (BadSignatureError, ValueError) as error:
        raise Refused(f"signature: {error}") from None


# 3. Records


@dataclass(frozen=True)
class Record:
    """A record, read: `wire` is the array that it is on the wire."""

    header: bytes
    signature: bytes
    payload: bytes | None

    @classmethod
    def read(cls, wire: bytes) -> Record:
        """What its bytes say; the signature and the payload's CID are checked."""
        record = cls(*value_of(wire))
        check(record.author, "record", record.header, record.signature)
        if record.payload is not None and (
            raw_cid(record.payload) != record["payload"] or len(record.payload) != record["size"]
        ):
            raise Refused("another payload than the header says")
        return record

    def __getitem__(self, name: str) -> Any:
        fields = value_of(self.header)
        if len(fields) != len(HEADER):
            raise Refused("no header")
        return fields[HEADER.index(name)]

    @property
    def author(self) -> bytes:
        agent: bytes = self["author"]
        return agent

    @property
    def cid(self) -> bytes:
        return record_cid(self.header)

    @property
    def body(self) -> Any:
        assert self.payload is not None
        return value_of(self.payload)[1]

    @property
    def wire(self) -> bytes:
        return canonical([self.header, self.signature, self.payload])

    @property
    def bare(self) -> bytes:
        """The wire form without the payload."""
        return canonical([self.header, self.signature, None])


HEADER = [
    "version",
    "network",
    "epoch",
    "author",
    "seq",
    "prev",
    "subject",
    "subject_seq",
    "subject_prev",
    "deps",
    "lamport",
    "hlc",
]
HEADER += ["kind", "payload", "size"]


def record(
    key: SigningKey,
    network: bytes,
    kind: str,
    body: dict[str, Any],
    *,
    prev: Record | None,
    hlc: int,
    salt: bytes,
    epoch: bytes | None = None,
    subject: tuple[bytes | None, int, bytes | None] = (None, 0, None),
    deps: Sequence[Record] = (),
) -> Record:
    """A signed record after `prev`; `subject` with subject_seq and subject_prev."""
    payload = canonical([salt, body])
    before = [] if prev is None else [prev, *deps]
    header = canonical(
        [
            1,
            network,
            network if epoch is None else epoch,
            agent_of(key),
            0 if prev is None else prev["seq"] + 1,
            None if prev is None else prev.cid,
            *subject,
            sorted(one.cid for one in deps),
            1 + max(one["lamport"] for one in before) if before else 0,
            hlc,
            kind,
            raw_cid(payload),
            len(payload),
        ]
    )
    return Record(header, sign(key, "record", header), payload)


def opening(key: SigningKey, network: bytes, nonce: int, hlc: int, salts: Iterable[bytes]) -> list[Record]:
    """Genesis, membrane and profile."""
    genesis = {"network": network, "recovery": None}
    profile = {"name": "second", "software": "second implementation"}
    bodies: list[dict[str, Any]] = [genesis, {"nonce": nonce}, profile]
    chain: list[Record] = []
    for kind, body, salt in zip(OPENING, bodies, salts, strict=False):
        chain.append(record(key, network, kind, body, prev=chain[-1] if chain else None, hlc=hlc, salt=salt))
    return chain


def signed_codes(codes: bytes) -> list[int]:
    return [code - 256 if code > 127 else code for code in codes]


def score(a: bytes, b: bytes) -> int:
    """Cosine similarity of int8 codes, in ppm."""
    x, y = signed_codes(a), signed_codes(b)
    dot = sum(map(int.__mul__, x, y))
    norms = sum(map(int.__mul__, x, x)) * sum(map(int.__mul__, y, y))
    quotient = abs(dot) * 1_000_000 * 2**20 // isqrt(norms << 40) if norms else 0
    return quotient if dot >= 0 else -quotient


# 5. Membrane, positions and bases


def position(network: bytes, agent: bytes, nonce: int) -> bytes:
    return sha256(network, agent, nonce.to_bytes(8, "big"))


def pays(network: bytes, agent: bytes, nonce: int, join_bits: int) -> bool:
    stamp = sha256(b"roseforest/join/1\0", network, agent, nonce.to_bytes(8, "big"))
    return int.from_bytes(stamp, "big") >> (256 - join_bits) == 0


def mined(network: bytes, agent: bytes, join_bits: int) -> int:
    return next(nonce for nonce in range(2**63) if pays(network, agent, nonce, join_bits))


def author_basis(agent: bytes) -> bytes:
    return sha256(b"roseforest/author/1\0", agent)


def shard_of(key: bytes) -> tuple[int, int]:
    """[length, bits] of the shard of a key; without an atlas a content record's key is its digest."""
    return 6, key[0] >> 2


def shard_basis(shard: tuple[int, int]) -> bytes:
    length, bits = shard
    return ((bits << 1 | 1) << (255 - length)).to_bytes(32, "big")


def bases_of(one: Record, roles: int, key: bytes = b"") -> list[bytes]:
    """Where a content record with this shard key, or a header of any kind, lies in its roles."""
    bases = {
        SUBJECT: lambda: digest_of(one["subject"] or one.cid),
        AUTHOR: lambda: author_basis(one.author),
        SHARD: lambda: shard_basis(shard_of(key or digest_of(one.cid))),
    }
    return [basis() for role, basis in bases.items() if roles & role]


# 6. Statements


def statement(key: SigningKey, name: str, fields: list[Any]) -> bytes:
    return canonical([name, agent_of(key), fields, sign(key, name, canonical(fields))])


def fields_of(said: bytes, name: str, agent: bytes | None = None) -> list[Any]:
    """What a statement says, when it is signed by who it says."""
    spoken, author, fields, signature = value_of(said)
    if spoken != name or agent not in (None, author) or len(said) > 4_096:
        raise Refused("another statement")
    check(author, name, canonical(fields), signature)
    return list(fields)


def address(
    key: SigningKey, network: bytes, nonce: int, places: list[str], issued: int, ttl: int, capacity: int = 0
) -> bytes:
    """An address record; without `capacity` that of a node that holds nothing for others."""
    return statement(key, "address", [network, nonce, places, capacity, False, issued, ttl])


# 8. Receipts


def tree(findings: Sequence[Any]) -> list[list[bytes]]:
    """All levels of the hash tree over findings, leaves first."""
    levels = [[sha256(b"\0", canonical(finding)) for finding in findings]]
    while len(level := levels[-1]) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        levels.append([sha256(b"\1", *pair) if len(pair) == 2 else pair[0] for pair in pairs])
    return levels


def path(levels: Sequence[Sequence[bytes]], place: int) -> list[bytes]:
    """The siblings of a leaf upwards; where there is none, none."""
    siblings = []
    for level in levels[:-1]:
        if place ^ 1 < len(level):
            siblings.append(level[place ^ 1])
        place //= 2
    return siblings


def receipt(said: bytes, findings: Sequence[Any], place: int) -> bytes:
    """The receipt of one finding that stands alone."""
    return canonical([said, place, findings[place], path(tree(findings), place)])


def check_receipts(said: bytes, findings: Sequence[Any], holder: bytes, network: bytes) -> None:
    """Refuses a `receipt` statement that is not over just these findings, by this holder, in this network."""
    of, _issued, count, root = fields_of(said, "receipt", holder)
    if (of, count, root) != (network, len(findings), tree(findings)[-1][0]):
        raise Refused("a receipt over something else")
