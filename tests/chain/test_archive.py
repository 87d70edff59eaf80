"""Archives: framing that any reader of CARv1 understands, and nothing hostile gets past or costs memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import archive
from chain.archive import ArchiveError, CarDecoder, encode_block, encode_header
from chain.cid import blob_cid, raw_cid, record_cid

ROOT = raw_cid(b"root")
# Independently, from the specification: map(2) "roots" [tag 42 (bytes: 0, CID)] "version" 1.
ONE_ROOT = bytes.fromhex("38" + "a2" + "65726f6f7473" + "81" + "d82a5825" + "00") + ROOT
ONE_ROOT = bytes([len(ONE_ROOT) - 1 + 9]) + ONE_ROOT[1:] + bytes.fromhex("67" + "76657273696f6e" + "01")


def read(data: bytes, portion: int = 1 << 16) -> tuple[tuple[bytes, ...], list[tuple[bytes, bytes]]]:
    decoder = CarDecoder()
    blocks = [
        (block.cid, block.data)
        for start in range(0, len(data), portion)
        for block in decoder.feed(data[start : start + portion])
    ]
    decoder.end()
    return decoder.roots, blocks


def test_the_header_is_the_dag_cbor_of_the_specification() -> None:
    assert encode_header([ROOT]) == ONE_ROOT


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=5),
    st.integers(1, 400),
)
def test_what_is_written_is_read_in_any_portions(
    count: int, parts: list[tuple[bool, bytes]], portion: int
) -> None:
    roots = tuple((raw_cid if place % 2 else record_cid)(b"%d" % place) for place in range(count))
    blocks = [((raw_cid if raw else record_cid)(data), data) for raw, data in parts]
    data = encode_header(roots) + b"".join(encode_block(*block) for block in blocks)
    assert read(data, portion) == (roots, blocks)


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (b"\xff\xff\xff\x7f", "at byte 59: a length of 268435455 bytes"),
        (b"\xff\xff\xff\xff\x0f", "more than 4 bytes"),
        (b"\x00", "a length of 0 bytes"),
        (b"\x80\x00", "not written in its shortest form"),
        (b"\x05hello", "no CID of this network's forms"),
        (encode_block(blob_cid(b"x"), b"x"), "a blob's CID"),
        (encode_block(ROOT, b"rot"), "other bytes than its CID says"),
        (encode_block(ROOT, b"root")[:-1], "ends amid a block"),
    ],
)
def test_hostile_blocks_are_named_in_one_line(tail: bytes, why: str) -> None:
    with pytest.raises(ArchiveError, match=why) as told:
        read(ONE_ROOT + tail)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x00",
        b"\x03abc",
        ONE_ROOT.replace(b"version\x01", b"version\x02"),
        ONE_ROOT.replace(b"\x81\xd8", b"\x82\xd8"),
        ONE_ROOT.replace(b"\x81\xd8", b"\x98\xd8"),
        ONE_ROOT.replace(b"\x58\x25\x00", b"\x58\x25\x01"),
        b"\xff\xff\x7f",
    ],
)
def test_another_header_is_refused(head: bytes) -> None:
    with pytest.raises(ArchiveError):
        read(head)


def test_a_long_archive_is_read_in_the_memory_of_a_block() -> None:
    data = bytes(archive.MAX_BLOCK)
    block = encode_block(raw_cid(data), data)
    decoder = CarDecoder()
    assert list(decoder.feed(ONE_ROOT)) == []
    tracemalloc.start()
    try:
        for _ in range(12):
            for start in range(0, len(block), 1 << 16):
                for _found in decoder.feed(block[start : start + (1 << 16)]):
                    del _found
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 6 * archive.MAX_BLOCK
