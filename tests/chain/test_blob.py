"""A blob's CID names its chunk list, by one rule for every size, and a list is checked before it is used."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.blob import (
    CHUNK,
    MAX_BLOB,
    BlobError,
    MalformedBlobError,
    OversizedBlobError,
    WrongChunkListError,
    chunk_list,
    count_chunks,
    max_list,
    open_chunk_list,
)
from chain.cid import blob_cid

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 77]


def content(size: int) -> bytes:
    return blake3(size.to_bytes(8, "big")).digest(length=size)


@pytest.mark.parametrize("size", SIZES)
def test_a_list_says_what_each_chunk_is_and_nothing_else_passes_for_it(size: int) -> None:
    data = content(size)
    chunks = chunk_list(data)
    parts = [data[at : at + CHUNK] for at in range(0, size, CHUNK)]
    assert chunks.encode() == canonical.encode([size, [blake3(part).digest() for part in parts]])
    assert len(chunks) == count_chunks(size) == len(parts)
    for index, part in enumerate(parts):
        assert chunks.matches(index, part)
        assert not chunks.matches(index, part + b"\0")
        assert not chunks.matches(index, part[:-1])
        assert not chunks.matches(index, bytes([part[0] ^ 1]) + part[1:])
    assert open_chunk_list(chunks.encode(), chunks.cid, size) == chunks
    assert len(chunks.encode()) <= max_list(size)


def test_a_blob_of_one_chunk_is_named_by_its_list_too() -> None:
    assert chunk_list(b"x").cid != blob_cid(b"x")
    assert chunk_list(chunk_list(b"x").encode()).cid != chunk_list(b"x").cid


def test_a_list_that_the_cid_does_not_name_is_the_senders_lie() -> None:
    with pytest.raises(WrongChunkListError):
        open_chunk_list(chunk_list(b"other").encode(), chunk_list(b"this").cid, MAX_BLOB)


@pytest.mark.parametrize("limit", [0, CHUNK])
def test_what_is_over_the_readers_limit_is_refused_by_its_size(limit: int) -> None:
    chunks = chunk_list(content(limit + 1))
    with pytest.raises(OversizedBlobError, match=f"{limit + 1} bytes is over the limit of {limit}"):
        open_chunk_list(chunks.encode(), chunks.cid, limit)


def test_a_list_that_claims_a_terabyte_is_refused() -> None:
    data = canonical.encode([1 << 40, [bytes(32)] * 100])
    with pytest.raises(OversizedBlobError):
        open_chunk_list(data, blob_cid(data), 1 << 50)


_LISTS = st.tuples(st.integers(-2, 4 * CHUNK), st.lists(st.binary(min_size=31, max_size=33), max_size=5))
_VALUES = st.recursive(
    st.none() | st.integers(-2, 1 << 40) | st.binary(max_size=40) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(_VALUES | _LISTS)
def test_anything_else_that_a_cid_may_name_is_refused_or_is_a_list(value: object) -> None:
    data = canonical.encode(value)
    try:
        chunks = open_chunk_list(data, blob_cid(data), MAX_BLOB)
    except BlobError:
        return
    assert chunks.encode() == data
    assert len(chunks) == count_chunks(chunks.size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        canonical.encode([CHUNK + 1, [bytes(32)]]),
        canonical.encode([1, [bytes(32)] * 2]),
        canonical.encode([1, [bytes(31)]]),
        canonical.encode([True, [bytes(32)]]),
        canonical.encode([-1, []]),
        canonical.encode([1, [bytes(32)], 0]),
    ],
)
def test_a_malformed_list_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedBlobError):
        open_chunk_list(data, blob_cid(data), MAX_BLOB)
