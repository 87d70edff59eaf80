"""The XOR metric is a metric, and every order and bound derived from it agrees with brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.distance import (
    FARTHEST,
    KEY_BITS,
    as_int,
    bucket_index,
    closest,
    distance,
    key_in_bucket,
    least_distance_beyond,
    prefix_length,
)

keys = st.binary(min_size=32, max_size=32)
BITS = 6
small = st.integers(0, (1 << BITS) - 1)


@given(keys, keys, keys)
def test_distance_is_a_metric_without_ties(a: bytes, b: bytes, c: bytes) -> None:
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert (distance(a, b) == distance(a, c)) == (b == c)


@given(keys, keys)
def test_prefix_length_counts_shared_leading_bits(a: bytes, b: bytes) -> None:
    bits_a, bits_b = f"{as_int(a):0256b}", f"{as_int(b):0256b}"
    shared = next((i for i in range(KEY_BITS) if bits_a[i] != bits_b[i]), KEY_BITS)
    assert prefix_length(a, b) == shared
    if a != b:
        assert bucket_index(a, b) == shared


@given(keys, st.lists(keys, max_size=30), st.integers(0, 35))
def test_closest_is_the_head_of_the_sorted_list(target: bytes, items: list[bytes], n: int) -> None:
    assert closest(target, items, bytes, n) == sorted(items, key=lambda item: distance(target, item))[:n]


@given(keys, st.integers(0, KEY_BITS - 1), keys)
def test_a_key_in_a_bucket_belongs_to_that_bucket_and_keeps_the_noise(
    own: bytes, index: int, noise: bytes
) -> None:
    found = key_in_bucket(own, index, noise)
    assert bucket_index(own, found) == index
    assert (as_int(found) ^ as_int(noise)) >> (KEY_BITS - 1 - index) << (KEY_BITS - 1 - index) == as_int(
        found
    ) ^ as_int(noise), "the bits after the prefix are the noise's"


@given(small, small)
def test_least_distance_beyond_a_radius_is_exact(radius: int, offset: int) -> None:
    beyond = [y ^ offset for y in range(radius + 1, 1 << BITS)]
    found = least_distance_beyond(radius, offset)
    if beyond:
        assert found == min(beyond)
    else:
        assert found >= 1 << BITS


@given(keys)
def test_nothing_is_beyond_the_whole_space(offset: bytes) -> None:
    assert least_distance_beyond(FARTHEST, as_int(offset)) > FARTHEST


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        distance(bytes(size), bytes(32))


def test_our_own_position_has_no_bucket() -> None:
    with pytest.raises(ValueError, match="no bucket"):
        bucket_index(bytes(32), bytes(32))
    with pytest.raises(ValueError, match="outside"):
        key_in_bucket(bytes(32), KEY_BITS, bytes(32))
