"""What is written is read; anything else is a `FrameError`, whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from dht.errors import FrameError
from dht.overlay.contact import MAX_RECORD
from dht.overlay.peer_messages import (
    MAX_FOUND,
    check_empty,
    decode_exchange,
    decode_find,
    decode_found,
    encode_exchange,
    encode_find,
    encode_found,
)

records = st.binary(max_size=200)
READERS: list[Callable[[bytes], object]] = [
    decode_exchange,
    decode_find,
    decode_found,
    lambda body: check_empty(body, "m"),
]


@given(st.binary(min_size=32, max_size=32), st.lists(records, max_size=MAX_FOUND))
def test_messages_round_trip(target: bytes, several: list[bytes]) -> None:
    assert decode_found(encode_found(several)) == several
    for record in several:
        assert decode_exchange(encode_exchange(record)) == record
        assert decode_find(encode_find(target, record)) == (target, record)


def test_the_largest_legal_messages_pass_and_one_more_byte_or_record_does_not() -> None:
    largest = bytes(MAX_RECORD)
    assert decode_found(encode_found([largest] * MAX_FOUND)) == [largest] * MAX_FOUND
    assert decode_find(encode_find(bytes(32), largest))[1] == largest
    for bad in ([largest + b"\0"], [b""] * (MAX_FOUND + 1)):
        with pytest.raises(FrameError):
            decode_found(canonical.encode(bad))
    assert len(encode_found([b"x"] * 100)) == len(encode_found([b"x"] * MAX_FOUND))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "value", [None, 0, "text", b"bytes", {}, [1], ["x"], [b"x", 1], [None] * 3, [b"", [b""]]]
)
def test_other_shapes_are_refused(reader: Callable[[bytes], object], value: object) -> None:
    with pytest.raises(FrameError):
        reader(canonical.encode(value))


@given(st.sampled_from(READERS), st.binary(min_size=1, max_size=60))
def test_garbage_never_raises_anything_else(reader: Callable[[bytes], object], body: bytes) -> None:
    try:
        reader(body)
    except FrameError:
        return
    assert canonical.encode(canonical.decode(body, 60)) == body
