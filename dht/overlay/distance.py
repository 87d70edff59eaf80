"""The XOR metric (Maymounkov and Mazières, "Kademlia", 2002): who is close to what.

The distance of two 256-bit keys is their exclusive or, read as an integer. It is symmetric, satisfies the
triangle inequality, and for every key and distance there is exactly one other key, so an order by distance
from a key has no ties among different keys: every node that sees the same candidates names the same holders.
Everything here is pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

KEY_SIZE = 32
KEY_BITS = 8 * KEY_SIZE
FARTHEST = (1 << KEY_BITS) - 1
"""The greatest distance there is."""


def as_int(key: bytes) -> int:
    """A 32-byte key as an integer; raises `ValueError` on another length."""
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key has {KEY_SIZE} bytes, not {len(key)}")
    return int.from_bytes(key, "big")


def distance(a: bytes, b: bytes) -> int:
    """The XOR distance of two 32-byte keys."""
    return as_int(a) ^ as_int(b)


def prefix_length(a: bytes, b: bytes) -> int:
    """How many leading bits two keys share: 0 … 256."""
    return KEY_BITS - distance(a, b).bit_length()


def bucket_index(own: bytes, other: bytes) -> int:
    """The bucket of `other` in the table of `own`: the bits they share, 0 (half of the space) … 255.

    Raises `ValueError` for our own key, which belongs in no bucket.
    """
    shared = prefix_length(own, other)
    if shared == KEY_BITS:
        raise ValueError("a node's own position has no bucket in its table")
    return shared


def key_in_bucket(own: bytes, index: int, noise: bytes) -> bytes:
    """The key that shares exactly `index` bits with `own` and takes the bits after those from `noise`.

    It is a target for refreshing that bucket. Raises `ValueError` for an index outside 0 … 255.
    """
    if not 0 <= index < KEY_BITS:
        raise ValueError(f"bucket {index} is outside 0 … {KEY_BITS - 1}")
    free = KEY_BITS - 1 - index
    top = (as_int(own) >> free) ^ 1
    return ((top << free) | (as_int(noise) & ((1 << free) - 1))).to_bytes(KEY_SIZE, "big")


def least_distance_beyond(radius: int, offset: int) -> int:
    """How close to `b` a key can be that is farther than `radius` from `t`, where `offset` = distance(t, b).

    The minimum of y ^ offset over all y > radius: going down the bits, y must follow radius + 1 until a bit
    that is 0 there and 1 in `offset` lets it rise above and equal `offset` from then on. Above
    `FARTHEST` when there is no such key.
    """
    floor = radius + 1
    rise = (offset & ~floor).bit_length()
    return ((floor ^ offset) >> rise) << rise


def closest(target: bytes, items: Iterable[T], key: Callable[[T], bytes], n: int) -> list[T]:
    """The `n` items whose 32-byte `key` is closest to `target`, nearest first. O(items · log n)."""
    origin = as_int(target)
    return heapq.nsmallest(n, items, key=lambda item: origin ^ int.from_bytes(key(item), "big"))
