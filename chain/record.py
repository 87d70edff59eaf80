"""Records: the links of a source chain, the operations that merge, and what the network stores.

A record is a signed header and a payload. The header names everything by hash; its canonical bytes (a
fixed array, see `Header`) hash to the record's CID and are what the author signs, under a domain tag so
that no other signature of the same key can be taken for it. The payload travels beside the header, so it
can be erased while the chain still verifies; it opens with a 16-byte salt, so that nobody can guess an
erased payload from its CID. Decoding checks shape and size here; whether a record is *valid* is judged on
the `validation` floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, NoReturn, TypeVar

from chain import canonical
from chain.cid import Cid, is_cid, is_raw_cid, is_record_cid, raw_cid, record_cid
from chain.errors import NonCanonicalError, OversizedError, RecordError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId, Identity, verify
from chain.kinds import KINDS_BY_RULE_VERSION

VERSION = 1
RECORD_TAG = b"roseforest/record/1\0"
SALT_SIZE = 16
MAX_DEPS = 64
MAX_KIND = 64
MAX_PAYLOAD = 1 << 20
MAX_HEADER = 4096
MAX_RECORD = MAX_PAYLOAD + MAX_HEADER + 256
MAX_INT = (1 << 63) - 1
HEADER_FIELDS = 15

_KINDS: Final = {kind: kind for kinds in KINDS_BY_RULE_VERSION.values() for kind in kinds}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Header:
    """The signed part of a record; the fields stand in the order in which they are encoded.

    `subject` is None for the record that creates its own subject. `subject_seq` counts the author's
    operations on the subject from 0 and `subject_prev` is the previous one of them. `deps` are the subject's
    heads that the author had seen, ascending. `lamport` is 1 + the greatest of prev's and deps'. `hlc` is in
    microseconds since 1970. `payload_size` is in bytes.
    """

    version: int
    network: Cid
    epoch: Cid
    author: AgentId
    seq: int
    prev: Cid | None
    subject: Cid | None
    subject_seq: int
    subject_prev: Cid | None
    deps: tuple[Cid, ...]
    lamport: int
    hlc: int
    kind: str
    payload: Cid
    payload_size: int

    def encode(self) -> bytes:
        """The canonical header bytes."""
        return canonical.encode(
            [
                self.version,
                self.network,
                self.epoch,
                self.author,
                self.seq,
                self.prev,
                self.subject,
                self.subject_seq,
                self.subject_prev,
                list(self.deps),
                self.lamport,
                self.hlc,
                self.kind,
                self.payload,
                self.payload_size,
            ]
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A header with its signature and, unless it was erased or left out, its payload.

    On its way through a node a record is judged, placed, stored and indexed, and each step wants to know what
    it says: what the payload was last read as is kept beside it (`read`). It follows from the payload, so it
    is no part of the record's value.
    """

    header: Header
    signature: bytes
    payload: bytes | None
    cid: Cid
    header_bytes: bytes = field(repr=False)
    _kept: tuple[object, Any] | None = field(default=None, init=False, repr=False, compare=False)

    def body(self) -> dict[str, Any]:
        """What the payload holds; not to be changed. Raises what `decode_payload` does, or `RecordError`."""
        kept = self._kept
        if kept is not None and kept[0] is None:
            body: dict[str, Any] = kept[1]
            return body
        if self.payload is None:
            raise RecordError("the record's payload is not here")
        return self._keep(None, decode_payload(self.payload))

    def read(self, reader: Callable[[str, dict[str, Any]], T]) -> T:
        """What `reader` makes of kind and body; asked again, its last answer, so it must be a pure function.

        Raises what `body` and `reader` raise.
        """
        kept = self._kept
        if kept is not None and kept[0] is reader:
            answer: T = kept[1]
            return answer
        return self._keep(reader, reader(self.header.kind, self.body()))

    def _keep(self, reader: object, answer: T) -> T:
        object.__setattr__(self, "_kept", (reader, answer))
        return answer

    @property
    def subject(self) -> Cid:
        """The subject's CID: the record's own for a create."""
        return self.cid if self.header.subject is None else self.header.subject

    def encode(self) -> bytes:
        """Wire and disk form: the array [header bytes, signature, payload or nil]."""
        return canonical.encode([self.header_bytes, self.signature, self.payload])

    def without_payload(self) -> Record:
        """The same record as a signed header alone."""
        return (
            self
            if self.payload is None
            else Record(self.header, self.signature, None, self.cid, self.header_bytes)
        )


def decode_header(data: bytes) -> Header:
    """Decode canonical header bytes.

    Raises:
        EncodingError: not canonical, truncated or larger than `MAX_HEADER`.
        RecordError: a field has the wrong type, size or range.
    """
    fields = canonical.decode(data, MAX_HEADER)
    if type(fields) is not list or len(fields) != HEADER_FIELDS:
        raise RecordError(f"a header is an array of {HEADER_FIELDS} fields")
    (
        version,
        network,
        epoch,
        author,
        seq,
        prev,
        subject,
        subject_seq,
        subject_prev,
        deps,
        lamport,
        hlc,
        kind,
        payload,
        payload_size,
    ) = fields
    # Almost all headers are well-formed: one condition decides, and only what fails it is looked at by name.
    if not (
        type(version) is int
        and version == VERSION
        and is_raw_cid(network)
        and (epoch == network or is_cid(epoch))
        and type(author) is bytes
        and len(author) == AGENT_ID_SIZE
        and type(seq) is type(subject_seq) is type(lamport) is type(hlc) is type(payload_size) is int
        and 0 <= seq <= MAX_INT
        and 0 <= subject_seq <= MAX_INT
        and 0 <= lamport <= MAX_INT
        and 0 <= hlc <= MAX_INT
        and 0 <= payload_size <= MAX_INT
        and (prev is None or is_record_cid(prev))
        and (subject is None or is_record_cid(subject))
        and (subject_prev is None or is_record_cid(subject_prev))
        and type(deps) is list
        and len(deps) <= MAX_DEPS
        and _ascend(deps)
        and type(kind) is str
        and 0 < len(kind) <= MAX_KIND
        and kind.isascii()
        and kind.isprintable()
        and is_raw_cid(payload)
    ):
        _refuse(fields)
    fields[9] = tuple(deps)
    if epoch == network:  # one object for both, and for each kind: there are many headers in memory
        fields[2] = network
    fields[12] = _KINDS.get(kind, kind)
    return Header(*fields)


def _ascend(cids: list[Any]) -> bool:
    """Whether these are CIDs of records, ascending and unique."""
    before = b""
    for cid in cids:
        if not is_record_cid(cid) or cid <= before:
            return False
        before = cid
    return True


def _refuse(fields: list[Any]) -> NoReturn:
    """Raise `RecordError` naming the first field of a header that is wrong."""
    version, network, epoch, author, seq, prev, subject, subject_seq, subject_prev = fields[:9]
    deps, lamport, hlc, kind, payload, payload_size = fields[9:]
    if version != VERSION or type(version) is not int:
        raise RecordError(
            f"header version {version!r:.40} is not supported; this node reads version {VERSION}"
        )
    _require(is_raw_cid(network), "network", network)
    _require(is_cid(epoch), "epoch", epoch)
    _require(type(author) is bytes and len(author) == AGENT_ID_SIZE, "author", author)
    for name, number in (
        ("seq", seq),
        ("subject_seq", subject_seq),
        ("lamport", lamport),
        ("hlc", hlc),
        ("payload_size", payload_size),
    ):
        _require(type(number) is int and 0 <= number <= MAX_INT, name, number)
    for name, cid in (("prev", prev), ("subject", subject), ("subject_prev", subject_prev)):
        _require(cid is None or is_record_cid(cid), name, cid)
    _require(type(deps) is list and len(deps) <= MAX_DEPS and all(map(is_record_cid, deps)), "deps", deps)
    _require(
        all(a < b for a, b in zip(deps, deps[1:], strict=False)), "deps (ascending, no duplicates)", deps
    )
    _require(
        type(kind) is str and 0 < len(kind) <= MAX_KIND and kind.isascii() and kind.isprintable(),
        "kind",
        kind,
    )
    _require(is_raw_cid(payload), "payload", payload)
    raise RecordError("header is malformed")


def decode_record(data: bytes) -> Record:
    """Decode a record from its wire form and compute its CID; the signature is not verified here.

    Raises `EncodingError` or `RecordError`. A payload that is present matches the header's CID and size.
    """
    fields = canonical.decode(data, MAX_RECORD)
    if type(fields) is not list or len(fields) != 3:
        raise RecordError("a record is the array [header, signature, payload]")
    header_bytes, signature, payload = fields
    _require(type(header_bytes) is bytes, "header", header_bytes)
    _require(type(signature) is bytes and len(signature) == SIGNATURE_SIZE, "signature", signature)
    _require(payload is None or type(payload) is bytes, "payload", payload)
    header = decode_header(header_bytes)
    if payload is not None:
        check_payload(header, payload)
    return Record(header, signature, payload, record_cid(header_bytes), header_bytes)


def assembled(header: Header, signature: bytes, payload: bytes | None) -> Record:
    """The record of these parts, whose shapes the caller vouches for; computes header bytes and CID."""
    header_bytes = header.encode()
    return Record(header, signature, payload, record_cid(header_bytes), header_bytes)


def check_payload(header: Header, payload: bytes) -> None:
    """Raise `RecordError` unless `payload` is the one that `header` names."""
    if len(payload) != header.payload_size:
        raise RecordError(f"payload has {len(payload)} bytes, its header says {header.payload_size}")
    if len(payload) > MAX_PAYLOAD:
        raise OversizedError(f"payload has {len(payload)} bytes, the limit is {MAX_PAYLOAD}")
    if raw_cid(payload) != header.payload:
        raise RecordError("payload does not hash to the CID in its header")


def sign_record(identity: Identity, header: Header, payload: bytes) -> Record:
    """Sign `header` as its author; raises `RecordError` when key and author differ."""
    if identity.agent != header.author:
        raise RecordError("the signing key is not the header's author")
    header_bytes = header.encode()
    if len(header_bytes) > MAX_HEADER:
        raise OversizedError(f"header has {len(header_bytes)} bytes, the limit is {MAX_HEADER}")
    signature = identity.sign(RECORD_TAG + sha256(header_bytes).digest())
    return Record(header, signature, payload, record_cid(header_bytes), header_bytes)


def verify_signature(record: Record) -> bool:
    """Whether the author signed this header (Ed25519 over `RECORD_TAG` ‖ sha256(header))."""
    return verify(record.header.author, RECORD_TAG + sha256(record.header_bytes).digest(), record.signature)


def encode_payload(salt: bytes, body: dict[str, Any]) -> bytes:
    """Payload bytes: the array [salt, body]; `salt` is 16 fresh random bytes."""
    if len(salt) != SALT_SIZE:
        raise RecordError(f"a payload's salt has {SALT_SIZE} bytes, not {len(salt)}")
    payload = canonical.encode([salt, body])
    if len(payload) > MAX_PAYLOAD:
        raise OversizedError(f"payload has {len(payload)} bytes, the limit is {MAX_PAYLOAD}")
    return payload


def decode_payload(payload: bytes) -> dict[str, Any]:
    """The body of a payload; raises `EncodingError` or `RecordError`."""
    fields = canonical.decode(payload, MAX_PAYLOAD)
    if type(fields) is not list or len(fields) != 2:
        raise RecordError("a payload is the array [salt, body]")
    salt, body = fields
    _require(type(salt) is bytes and len(salt) == SALT_SIZE, "salt", salt)
    if type(body) is not dict:
        raise NonCanonicalError("a payload's body is a map")
    return body


def _require(condition: bool, name: str, value: object) -> None:
    if not condition:
        raise RecordError(f"{name} is malformed: {value!r:.80}")
