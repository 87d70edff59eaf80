"""Frames survive any way of cutting the stream, and nothing else passes for a frame."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.canonical import encode
from dht.errors import FrameError
from dht.network import MAX_BODY, MAX_METHOD_CHARS
from dht.wire.frames import (
    LENGTH_SIZE,
    MAX_CODE,
    MAX_FRAME,
    MAX_ID,
    Frame,
    FrameDecoder,
    Refusal,
    Request,
    Response,
    encode_frame,
)

IDS = st.integers(0, MAX_ID)
BODIES = st.binary(max_size=400)
METHODS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_METHOD_CHARS)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Request, IDS, METHODS, BODIES),
    st.builds(Response, IDS, BODIES),
    st.builds(Refusal, IDS, st.integers(0, MAX_CODE), st.text(st.characters(codec="utf-8"), max_size=256)),
)


def framed(value: object) -> bytes:
    data = encode(value)
    return len(data).to_bytes(LENGTH_SIZE, "big") + data


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_of_any_sequence_decodes_equal(frames: list[Frame], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    stream = b"".join(map(encode_frame, frames))
    assert [frame for piece in pieces(stream, cuts) for frame in decoder.feed(piece)] == frames
    assert decoder.buffered == 0


@given(st.lists(FRAMES, min_size=1, max_size=3))
def test_byte_by_byte_decodes_equal(frames: list[Frame]) -> None:
    decoder = FrameDecoder()
    stream = b"".join(map(encode_frame, frames))
    assert [frame for byte in stream for frame in decoder.feed(bytes([byte]))] == frames


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_whatever_garbage_decodes_to_re_encodes_to_itself(garbage: bytes, cuts: list[int]) -> None:
    """Random bytes are refused, incomplete, or by chance exactly a frame: never a second spelling of one."""
    decoder = FrameDecoder(limit=200)
    taken = b""
    try:
        for piece in pieces(garbage, cuts):
            taken += b"".join(map(encode_frame, decoder.feed(piece)))
    except FrameError:
        return
    assert garbage.startswith(taken)
    assert len(garbage) - len(taken) == decoder.buffered


@given(st.binary(min_size=1, max_size=60))
def test_framed_garbage_is_refused(body: bytes) -> None:
    data = len(body).to_bytes(LENGTH_SIZE, "big") + body
    try:
        frames = FrameDecoder().feed(data)
    except FrameError:
        return
    assert b"".join(map(encode_frame, frames)) == data


@given(st.lists(FRAMES, max_size=4), st.integers(1, 64), st.integers(100, 5000))
def test_memory_never_exceeds_the_bound(frames: list[Frame], limit: int, size: int) -> None:
    decoder = FrameDecoder(limit=limit)
    stream = b"".join(map(encode_frame, frames)) + b"\xff" * size
    for start in range(0, len(stream), 7):
        try:
            decoder.feed(stream[start : start + 7])
        except FrameError:
            assert decoder.buffered == 0
            break
        assert decoder.buffered <= limit + LENGTH_SIZE
    else:
        pytest.fail("an endless run of 0xff bytes was accepted")


@settings(max_examples=20)
@given(st.integers(MAX_FRAME + 1, 2**32 - 1))
def test_oversized_length_is_refused_before_its_body_comes(length: int) -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameError, match=str(length)):
        decoder.feed(length.to_bytes(LENGTH_SIZE, "big"))
    assert decoder.buffered == 0


def test_a_broken_stream_stays_broken() -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameError):
        decoder.feed(b"\0\0\0\0")
    with pytest.raises(FrameError, match="drop the stream"):
        decoder.feed(encode_frame(Response(1, b"")))


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1, 0, "ask"],
        [1, 0, "ask", b"", b""],
        {"id": 1},
        [1, 0, "ask", "text"],
        [1, 0, "ask", [b""]],
        [-1, 0, "ask", b""],
        [MAX_ID + 1, 0, "ask", b""],
        [True, 0, "ask", b""],
        [1, 3, "ask", b""],
        [1, False, "ask", b""],
        [1, 0, "", b""],
        [1, 0, "x" * (MAX_METHOD_CHARS + 1), b""],
        [1, 0, "caf\u00e9", b""],
        [1, 0, "a\nb", b""],
        [1, 0, 7, b""],
        [1, 1, 1, b""],
        [1, 1, "ask", b""],
        [1, 1, False, b""],
        [1, 2, MAX_CODE + 1, b""],
        [1, 2, "ask", b""],
        [1, 2, 1, b"\xff"],
        [1, 2, 1, b"x" * 2000],
        [1, 0, "ask", b"x" * (MAX_BODY + 1)],
    ],
)
def test_misshapen_frames_are_refused(value: object) -> None:
    with pytest.raises(FrameError):
        FrameDecoder().feed(framed(value))


def test_only_canonical_bytes_are_a_frame() -> None:
    spelled_long = b"\x94\xcc\x01\x01\x00\xc4\x00"
    assert msgpack.unpackb(spelled_long) == [1, 1, 0, b""]
    with pytest.raises(FrameError, match="canonical"):
        FrameDecoder().feed(len(spelled_long).to_bytes(LENGTH_SIZE, "big") + spelled_long)


def test_a_megabyte_of_nested_arrays_is_refused_without_building_it() -> None:
    """The same frame costs a decoder that builds it a million objects; one with a look first, none."""
    bomb = b"\x94\x01\x00\x91" + b"\x91" * (MAX_FRAME - 4)
    with pytest.raises(FrameError, match="not an array of id"):
        FrameDecoder().feed(len(bomb).to_bytes(LENGTH_SIZE, "big") + bomb)


@pytest.mark.parametrize(
    "frame",
    [
        Request(MAX_ID + 1, "ask", b""),
        Request(0, "", b""),
        Request(0, "ask", b"x" * (MAX_BODY + 1)),
        Response(-1, b""),
        Refusal(0, MAX_CODE + 1, ""),
        Refusal(0, 1, "x" * 2000),
    ],
)
def test_what_no_peer_would_accept_is_not_encoded(frame: Frame) -> None:
    with pytest.raises(FrameError):
        encode_frame(frame)


def test_the_largest_body_passes() -> None:
    frame = Request(MAX_ID, "x" * MAX_METHOD_CHARS, bytes(MAX_BODY))
    assert FrameDecoder().feed(encode_frame(frame)) == [frame]
