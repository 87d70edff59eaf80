"""Canonical msgpack: one value, one byte string, and nothing else gets in."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.canonical import MAX_CONTAINERS, MAX_DEPTH, MAX_ELEMENTS, decode, encode
from chain.errors import EncodingError, NonCanonicalError, OversizedError, TruncatedError
from tests.chain.samples import damage, values

LIMIT = 1 << 16


@given(value=values)
def test_round_trip(value: Any) -> None:
    data = encode(value)
    assert decode(data, LIMIT) == value
    assert encode(decode(data, LIMIT)) == data


@given(value=values)
def test_equal_values_have_equal_bytes(value: Any) -> None:
    def reversed_maps(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: reversed_maps(item[key]) for key in reversed(item)}
        return [reversed_maps(part) for part in item] if isinstance(item, list) else item

    assert encode(reversed_maps(value)) == encode(value)


@given(value=values)
def test_an_independent_reader_reads_the_same(value: Any) -> None:
    umsgpack = pytest.importorskip("umsgpack")
    assert umsgpack.unpackb(encode(value)) == value


@given(a=values, b=values)
def test_different_values_have_different_bytes(a: Any, b: Any) -> None:
    assert (encode(a) == encode(b)) == (repr_typed(a) == repr_typed(b))


def repr_typed(value: Any) -> Any:
    """A key under which True and 1 differ and map order does not count."""
    if isinstance(value, dict):
        return ("map", tuple((key, repr_typed(value[key])) for key in sorted(value)))
    if isinstance(value, list):
        return ("array", tuple(map(repr_typed, value)))
    return (type(value).__name__, value)


@given(data=st.data(), value=values)
def test_damaged_bytes_are_refused_or_are_another_value(data: st.DataObject, value: Any) -> None:
    for damaged in (data.draw(damage(encode(value))), data.draw(st.binary(max_size=40))):
        try:
            found = decode(damaged, LIMIT)
        except EncodingError:
            continue
        assert encode(found) == damaged


@given(value=values, cut=st.integers(0, 10_000))
def test_a_prefix_is_truncated(value: Any, cut: int) -> None:
    data = encode(value)
    with pytest.raises(TruncatedError):
        decode(data[: cut % len(data)], LIMIT)


NON_CANONICAL: dict[str, str] = {
    "integer 1 in two bytes": "cc01",
    "integer 200 in three bytes": "cd00c8",
    "integer -1 in two bytes": "d0ff",
    "integer 5 as a signed byte": "d005",
    "integer 2**32 - 1 in nine bytes": "cf00000000ffffffff",
    "positive integer as int64": "d30000000100000000",
    "float 0.0": "cb0000000000000000",
    "float32": "ca00000000",
    "float NaN": "cb7ff8000000000000",
    "short string as str8": "d90161",
    "empty string as str16": "da0000",
    "bytes as bin16": "c5000178",
    "bytes as bin32": "c60000000178",
    "array as array16": "dc000101",
    "map as map16": "de0001a16101",
    "map as map32": "df00000001a16101",
    "keys out of order": "82a16201a16101",
    "duplicate key": "82a16101a16102",
    "integer key": "810101",
    "nil key": "81c001",
    "bytes key": "81c4016101",
    "array key": "819001",
    "extension": "d40500",
    "timestamp": "d6ff00000000",
    "trailing byte": "c0c0",
    "string that is not UTF-8": "a1ff",
    "string with a surrogate": "a3eda080",
    "string with an overlong form": "a2c080",
}


@pytest.mark.parametrize("name", NON_CANONICAL)
def test_other_encodings_of_a_value_are_refused(name: str) -> None:
    with pytest.raises(NonCanonicalError):
        decode(bytes.fromhex(NON_CANONICAL[name]), LIMIT)


TRUNCATED: dict[str, str] = {
    "nothing": "",
    "array without items": "91",
    "array that announces 2**32 - 1 items": "ddffffffff",
    "map that announces 2**32 - 1 pairs": "dfffffffff",
    "string that announces 2**32 - 1 bytes": "dbffffffff",
    "bytes that announce 2**32 - 1": "c6ffffffff",
    "half an integer": "cd01",
    "the byte that msgpack never uses": "c1",
    "timestamp of a wrong size": "c703ff000000",
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_bytes_that_end_early_or_announce_too_much_are_refused(name: str) -> None:
    with pytest.raises((TruncatedError, NonCanonicalError)) as caught:
        decode(bytes.fromhex(TRUNCATED[name]), LIMIT)
    if name not in ("timestamp of a wrong size", "the byte that msgpack never uses"):
        assert caught.type is TruncatedError


@pytest.mark.parametrize("opener", [b"\x91", b"\x81\xa1a"])
def test_depth_is_bounded_in_both_directions(opener: bytes) -> None:
    assert encode(decode(opener * MAX_DEPTH + b"\xc0", LIMIT)) == opener * MAX_DEPTH + b"\xc0"
    for depth in (MAX_DEPTH + 1, 600, 5_000, 50_000):
        with pytest.raises(EncodingError):
            decode(opener * depth + b"\xc0", 1 << 20)
    value: Any = None
    for _ in range(5_000):
        value = [value]
    with pytest.raises(EncodingError, match="nested deeper"):
        encode(value)


@pytest.mark.parametrize("empty", [[], {}])
def test_arrays_and_maps_are_counted_in_both_directions(empty: object) -> None:
    most = [empty] * (MAX_CONTAINERS - 1)
    assert decode(encode(most), LIMIT) == most
    most.append(empty)
    with pytest.raises(OversizedError, match=str(MAX_CONTAINERS)):
        encode(most)
    with pytest.raises(OversizedError, match=str(MAX_CONTAINERS)):
        decode(msgpack.packb(most), LIMIT)


@pytest.mark.parametrize("parts", [1, 4])
def test_their_elements_are_counted_in_both_directions(parts: int) -> None:
    each = [0] * ((MAX_ELEMENTS - parts) // parts)
    most = [each] * parts
    assert decode(encode(most), 2 * LIMIT) == most
    more = [*most[1:], [*each, *[0] * (parts + 1)]]
    with pytest.raises(OversizedError, match=str(MAX_ELEMENTS)):
        encode(more)
    with pytest.raises(OversizedError, match=str(MAX_ELEMENTS)):
        decode(msgpack.packb(more), 2 * LIMIT)
    with pytest.raises(OversizedError, match=str(MAX_ELEMENTS)):
        encode({f"{key:05}": 0 for key in range(MAX_ELEMENTS + 1)})


def test_the_limit_is_in_bytes_and_comes_first() -> None:
    assert decode(b"\xc0", 1) is None
    with pytest.raises(OversizedError, match="2 bytes, the limit is 1"):
        decode(b"\xcc\x01", 1)


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        2**64,
        -(2**63) - 1,
        "\ud800",
        {1: 2},
        {b"a": 1},
        {"\ud800": 1},
        {1, 2},
        pytest.param(object(), id="object"),
        msgpack.Timestamp(0),
    ],
    ids=repr,
)
def test_values_without_an_encoding_are_refused(value: Any) -> None:
    for wrapped in (value, [value], {"a": value}):
        with pytest.raises(EncodingError):
            encode(wrapped)


def test_subclasses_of_the_allowed_types_are_refused() -> None:
    """Their behaviour under comparison and sorting is not ours to trust."""

    class Loud(str):
        pass

    with pytest.raises(EncodingError):
        encode(Loud("a"))
