"""CIDs: the three forms, their text, and what is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import (
    blob_cid,
    digest,
    from_text,
    is_blob_cid,
    is_cid,
    is_raw_cid,
    is_record_cid,
    raw_cid,
    record_cid,
    record_cid_of_digest,
    to_text,
)
from chain.errors import ChainError, CidError
from tests.chain.samples import damage

MAKERS = (record_cid, raw_cid, blob_cid)
cids = st.builds(lambda make, data: make(data), st.sampled_from(MAKERS), st.binary(max_size=40))


@given(cid=cids)
def test_text_round_trips_and_each_cid_has_one_form(cid: bytes) -> None:
    assert from_text(to_text(cid)) == cid
    assert [is_record_cid(cid), is_raw_cid(cid), is_blob_cid(cid)].count(True) == 1
    assert is_cid(cid)
    if is_record_cid(cid):
        assert record_cid_of_digest(digest(cid)) == cid


@given(data=st.binary(max_size=60))
def test_an_independent_reader_reads_the_same(data: bytes) -> None:
    """py-cid and py-multihash parse all three forms, and hash to the same digest where hashlib can."""
    cid = pytest.importorskip("cid")
    multihash = pytest.importorskip("multihash")
    for make, codec, name in (
        (record_cid, "messagepack", "sha2-256"),
        (raw_cid, "raw", "sha2-256"),
        (blob_cid, "raw", "blake3"),
    ):
        ours = make(data)
        theirs = cid.make_cid(to_text(ours))
        assert (theirs.version, str(theirs.codec), theirs.buffer) == (1, codec, ours)
        hashed = multihash.decode(theirs.multihash)
        assert hashed.name == name
        assert hashed.digest == digest(ours)
        if name == "sha2-256":
            assert cid.make_cid(1, codec, multihash.digest(data, name).encode()).buffer == ours


@given(data=st.data(), cid=cids)
def test_damaged_cids_are_refused_or_are_other_cids(data: st.DataObject, cid: bytes) -> None:
    damaged = data.draw(damage(cid))
    if not is_cid(damaged):
        with pytest.raises(CidError):
            digest(damaged)
    text = data.draw(damage(to_text(cid).encode())).decode("latin-1")
    for candidate in (text, data.draw(st.text(max_size=80))):
        try:
            found = from_text(candidate)
        except ChainError:
            continue
        assert to_text(found) == candidate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        to_text(raw_cid(b"x")).upper(),
        "B" + to_text(raw_cid(b"x"))[1:],
        to_text(raw_cid(b"x")) + "=",
        to_text(raw_cid(b"x")) + "a",
        " " + to_text(raw_cid(b"x")),
        to_text(raw_cid(b"x")) + "\n",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        "zb2rhZhfZ71VE6u6BX78cmaNKsLmDde9EYyrY9dsRVLJWr9oW",
        "b" + "a" * 1_000_000,
        "bﬀ",
    ],
    ids=lambda text: text[:12],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(CidError):
        from_text(text)


@pytest.mark.parametrize("value", [None, 7, "text", b"", bytes(36), bytes(37), bytearray(raw_cid(b"x")), [1]])
def test_what_is_not_bytes_of_a_cid_is_none(value: object) -> None:
    assert not is_cid(value)


def test_a_digest_of_another_size_makes_no_cid() -> None:
    with pytest.raises(CidError, match="32 bytes, not 31"):
        record_cid_of_digest(bytes(31))


def test_hash_and_codec_keep_the_forms_apart() -> None:
    assert len({make(b"same") for make in MAKERS}) == 3
