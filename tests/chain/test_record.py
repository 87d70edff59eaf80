"""Records: what decodes, what does not, and that a CID and a signature cover every bit of the header."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.cid import blob_cid, raw_cid, record_cid
from chain.errors import ChainError, EncodingError, NonCanonicalError, OversizedError, RecordError
from chain.record import (
    HEADER_FIELDS,
    MAX_DEPS,
    MAX_HEADER,
    MAX_INT,
    MAX_PAYLOAD,
    MAX_RECORD,
    RECORD_TAG,
    Header,
    Record,
    check_payload,
    decode_header,
    decode_payload,
    decode_record,
    encode_payload,
    sign_record,
    verify_signature,
)
from tests.chain.samples import ALICE, BOB, bodies, damage, records

NAMES = [field.name for field in fields(Header)]


@given(record=records(), bare=st.booleans())
def test_round_trip(record: Record, bare: bool) -> None:
    record = record.without_payload() if bare else record
    again = decode_record(record.encode())
    assert again == record
    assert again.encode() == record.encode()
    assert decode_header(record.header_bytes) == record.header
    assert verify_signature(again)
    assert again.subject == (record.header.subject or record.cid)


@given(salt=st.binary(min_size=16, max_size=16), body=bodies)
def test_payloads_round_trip(salt: bytes, body: dict[str, Any]) -> None:
    assert decode_payload(encode_payload(salt, body)) == body


@given(data=st.data(), record=records())
def test_damaged_records_are_refused_or_no_longer_the_authors(data: st.DataObject, record: Record) -> None:
    wire = record.encode()
    damaged = data.draw(damage(wire))
    try:
        found = decode_record(damaged)
    except ChainError:
        return
    assert found.encode() == damaged
    assert damaged == wire or not verify_signature(found)


@given(noise=st.binary(max_size=100))
def test_noise_is_refused_with_an_error_of_this_floor(noise: bytes) -> None:
    for read in (decode_record, decode_header, decode_payload):
        with pytest.raises(ChainError):
            read(noise)


@given(data=st.data(), record=records())
def test_any_change_of_a_field_changes_cid_and_voids_the_signature(
    data: st.DataObject, record: Record
) -> None:
    other = data.draw(records())
    name = data.draw(st.sampled_from(NAMES))
    header = replace(record.header, **{name: getattr(other.header, name)})
    found = Record(header, record.signature, None, record_cid(header.encode()), header.encode())
    assert (found.cid == record.cid) == (header == record.header) == verify_signature(found)


def test_the_header_holds_exactly_the_documented_fields() -> None:
    assert len(NAMES) == HEADER_FIELDS
    assert "signature" not in NAMES


def sample() -> Record:
    payload = encode_payload(bytes(16), {"text": "x"})
    header = Header(
        1, raw_cid(b"n"), raw_cid(b"n"), ALICE.agent, 4, record_cid(b"p"), None, 0, None, (), 4, 5,
        "entry.create", raw_cid(payload), len(payload),
    )  # fmt: skip
    return sign_record(ALICE, header, payload)


BAD_FIELDS: list[tuple[str, Any]] = [
    ("version", 0),
    ("version", 2),
    ("version", True),
    ("version", None),
    ("network", record_cid(b"x")),
    ("network", blob_cid(b"x")),
    ("network", None),
    ("epoch", b"x"),
    ("epoch", None),
    ("author", bytes(31)),
    ("author", bytes(33)),
    ("author", "a" * 32),
    ("seq", -1),
    ("seq", MAX_INT + 1),
    ("seq", False),
    ("seq", None),
    ("prev", raw_cid(b"x")),
    ("prev", 0),
    ("subject", raw_cid(b"x")),
    ("subject", b""),
    ("subject_seq", -1),
    ("subject_seq", "0"),
    ("subject_prev", blob_cid(b"x")),
    ("subject_prev", []),
    ("deps", None),
    ("deps", {}),
    ("deps", [raw_cid(b"x")]),
    ("deps", [None]),
    ("deps", sorted((record_cid(b"x"), record_cid(b"y")), reverse=True)),
    ("deps", [record_cid(b"x")] * 2),
    ("deps", sorted(record_cid(bytes([n])) for n in range(MAX_DEPS + 1))),
    ("lamport", -1),
    ("lamport", MAX_INT + 1),
    ("hlc", -1),
    ("hlc", True),
    ("kind", ""),
    ("kind", "k" * 65),
    ("kind", "entry.créate"),
    ("kind", "entry\n"),
    ("kind", b"entry.create"),
    ("kind", None),
    ("payload", record_cid(b"x")),
    ("payload", blob_cid(b"x")),
    ("payload", None),
    ("payload_size", -1),
    ("payload_size", "3"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_a_malformed_field_is_refused(name: str, value: Any) -> None:
    row = canonical.decode(sample().header_bytes, MAX_HEADER)
    row[NAMES.index(name)] = value
    with pytest.raises(RecordError, match=name):
        decode_header(canonical.encode(row))


def test_every_field_has_a_malformed_example() -> None:
    assert {name for name, _ in BAD_FIELDS} == set(NAMES)


@pytest.mark.parametrize(
    "row", [None, {}, [], [1] * (HEADER_FIELDS - 1), [1] * (HEADER_FIELDS + 1), "header"]
)
def test_a_header_of_another_shape_is_refused(row: Any) -> None:
    with pytest.raises(RecordError, match="array of 15 fields"):
        decode_header(canonical.encode(row))


def wire(*parts: Any) -> bytes:
    return canonical.encode(list(parts))


def test_a_record_of_another_shape_is_refused() -> None:
    record = sample()
    header, signature, payload = record.header_bytes, record.signature, record.payload
    assert decode_record(wire(header, signature, payload)) == record
    for bad in (
        wire(header, signature),
        wire(header, signature, payload, None),
        wire("header", signature, payload),
        wire(header, signature[:-1], payload),
        wire(header, None, payload),
        wire(header, signature, "payload"),
        wire(header, signature, b""),
        wire(header, signature, payload + b"\0" if payload else None),
        wire(header, signature, bytes(len(payload or b""))),
        canonical.encode({"header": header}),
    ):
        with pytest.raises(RecordError):
            decode_record(bad)
    with pytest.raises(NonCanonicalError):
        decode_record(wire(header + b"\0", signature, payload))
    with pytest.raises(EncodingError):
        decode_record(wire(header[:-1], signature, payload))


def test_sizes_are_bounded() -> None:
    record = sample()
    with pytest.raises(OversizedError):
        decode_header(bytes(MAX_HEADER + 1))
    with pytest.raises(OversizedError):
        decode_record(bytes(MAX_RECORD + 1))
    with pytest.raises(OversizedError):
        decode_payload(bytes(MAX_PAYLOAD + 1))
    with pytest.raises(OversizedError):
        encode_payload(bytes(16), {"text": "x" * MAX_PAYLOAD})
    big = bytes(MAX_PAYLOAD + 1)
    with pytest.raises(OversizedError):
        check_payload(replace(record.header, payload_size=len(big), payload=raw_cid(big)), big)
    with pytest.raises(OversizedError):
        sign_record(ALICE, replace(record.header, kind="k" * MAX_HEADER), b"")
    with pytest.raises(RecordError, match="16 bytes, not 15"):
        encode_payload(bytes(15), {})


def test_the_largest_header_fits() -> None:
    cid = record_cid(b"x")
    deps = tuple(sorted(record_cid(bytes([n])) for n in range(MAX_DEPS)))
    header = replace(
        sample().header, epoch=cid, seq=MAX_INT, prev=cid, subject=cid, subject_seq=MAX_INT, subject_prev=cid,
        deps=deps, lamport=MAX_INT, hlc=MAX_INT, kind="k" * 64, payload_size=MAX_INT,
    )  # fmt: skip
    assert decode_header(sign_record(ALICE, header, b"").header_bytes) == header


@pytest.mark.parametrize(
    "payload", [b"", b"\xc0", b"\x90", b"\x91\xc4\x10" + bytes(16), b"\x92\xc0\x80", b"\x92\xc4\x01\0\x80"]
)
def test_a_payload_of_another_shape_is_refused(payload: bytes) -> None:
    with pytest.raises(ChainError):
        decode_payload(payload)
    with pytest.raises(NonCanonicalError, match="a map"):
        decode_payload(canonical.encode([bytes(16), [1]]))


def test_a_payload_is_read_once_and_what_it_says_is_no_part_of_the_value() -> None:
    read: list[str] = []

    def reader(kind: str, body: dict[str, Any]) -> list[Any]:
        read.append(kind)
        return [kind, body]

    record = sample()
    assert record.read(reader) == ["entry.create", {"text": "x"}] == record.read(reader)
    assert len(read) == 1
    assert record == decode_record(record.encode())
    # Another payload, as a liar makes one, is read anew, and without one there is nothing to read.
    other = replace(record, payload=encode_payload(bytes(16), {"text": "y"}))
    assert other.read(reader) == ["entry.create", {"text": "y"}]
    with pytest.raises(RecordError):
        record.without_payload().read(reader)


def test_only_the_author_signs() -> None:
    record = sample()
    with pytest.raises(RecordError, match="not the header's author"):
        sign_record(BOB, record.header, b"")
    assert not verify_signature(replace(record, signature=BOB.sign(b"x")))
    naked = ALICE.sign(record.header_bytes)
    assert not verify_signature(replace(record, signature=naked))
    assert RECORD_TAG.endswith(b"\0")
