"""Merkle trees: one hash that stands for many, and the short path that shows one of them to be among these.

A leaf is hashed behind a zero byte and an inner node behind a one (as in RFC 6962), so no leaf passes for a
node. Levels are paired from the left and an odd last node moves up unchanged; the number of leaves fixes the
shape, so whoever signs a root signs the number too. A path holds the siblings from the leaf upwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

HASH_SIZE = 32


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return sha256(b"\0" + data).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; raises `ValueError` without any. O(n)."""
    if not leaves:
        raise ValueError("a tree has at least one leaf")
    level = list(leaves)
    while len(level) > 1:
        level = _up(level)
    return level[0]


def path_of(leaves: Sequence[bytes], place: int) -> list[bytes]:
    """The siblings that lead from the leaf at `place` to the root. O(n)."""
    if not 0 <= place < len(leaves):
        raise ValueError(f"there is no leaf {place} among {len(leaves)}")
    path: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        if place ^ 1 < len(level):
            path.append(level[place ^ 1])
        level, place = _up(level), place // 2
    return path


def root_along(leaf: bytes, place: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf hash has by a path in a tree of `count` leaves; None for a path of another shape.

    O(log n).
    """
    if not 0 <= place < count:
        return None
    node, rest = leaf, list(reversed(path))
    while count > 1:
        if place ^ 1 < count:
            if not rest:
                return None
            sibling = rest.pop()
            node = _node(sibling, node) if place & 1 else _node(node, sibling)
        place, count = place // 2, (count + 1) // 2
    return None if rest else node


def _up(level: Sequence[bytes]) -> list[bytes]:
    above = [_node(level[place], level[place + 1]) for place in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        above.append(level[-1])
    return above


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
