"""The shard tree: which leaf of a binary prefix tree holds a key.

A shard is a prefix of the key space (a prefix hash tree: Ramabhadran, Ratnasamy, Hellerstein and Shenker,
2004): where knowledge is dense a prefix splits into its two halves, where it is thin two halves merge, and
nobody has to agree on split points because there are none to choose. The tree is its list of leaves, data
like any other; `split` and `merge` return new trees. A tree that exists is a partition: every key has exactly
one leaf.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import total_ordering

from chain import canonical
from chain.errors import ChainError
from sharding.errors import ShardKeyError, TreeError
from sharding.key import KEY_BYTES

MAX_DEPTH = 48
"""The longest prefix: inside a cell, beyond it only equal meanings differ."""

GENERATION_BITS = 15
MAX_GENERATION = (1 << GENERATION_BITS) - 1
"""Of the 64 bits by which bases are compared 48 are the prefix's and one ends it; these are left."""

MAX_LEAVES = 1 << 16
MAX_TREE_BYTES = MAX_LEAVES + 16

FIRST_DEPTH = 6
"""The depth of the first release's fixed tree: 64 shards."""

FORMAT = 1


@total_ordering
@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` bits of a key, as the number `bits`. Prefixes sort by where they begin, the wider
    first.

    `generation` says by which of a network's atlases the keys are made: the number of the epoch that brought
    it, 0 for the manifest's. Raises `TreeError` for a length outside 0..48, bits that do not fit it, or a
    generation beyond `MAX_GENERATION`.
    """

    bits: int
    length: int
    generation: int = 0

    def __post_init__(self) -> None:
        if type(self.bits) is not int or type(self.length) is not int:
            raise TreeError(f"prefix ({self.bits!r}, {self.length!r}) is not made of integers")
        if not 0 <= self.length <= MAX_DEPTH:
            raise TreeError(f"a prefix of {self.length} bits: lengths are 0 to {MAX_DEPTH}")
        if not 0 <= self.bits < 1 << self.length:
            raise TreeError(f"prefix bits {self.bits} do not fit in {self.length} bits")
        if type(self.generation) is not int or not 0 <= self.generation <= MAX_GENERATION:
            raise TreeError(f"generation {self.generation!r:.40}: an atlas has 0 to {MAX_GENERATION}")

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Prefix):
            return NotImplemented
        return (self.generation, self.start, self.length) < (other.generation, other.start, other.length)

    @property
    def start(self) -> int:
        """The first 48-bit key head under this prefix."""
        return self.bits << (MAX_DEPTH - self.length)

    @property
    def end(self) -> int:
        """The 48-bit key head after the last one under this prefix."""
        return (self.bits + 1) << (MAX_DEPTH - self.length)

    def contains(self, key: bytes) -> bool:
        """Whether a 32-byte key begins with this prefix. Raises `ShardKeyError`."""
        return self.start <= key_head(key) < self.end

    def children(self) -> tuple[Prefix, Prefix]:
        """This prefix followed by 0 and by 1. Raises `TreeError` at the greatest depth."""
        if self.length == MAX_DEPTH:
            raise TreeError(f"prefix {self.text()} has the greatest depth, {MAX_DEPTH}: it cannot be divided")
        bits, length = self.bits << 1, self.length + 1
        return Prefix(bits, length, self.generation), Prefix(bits | 1, length, self.generation)

    def parent(self) -> Prefix:
        """This prefix without its last bit. Raises `TreeError` for the root."""
        if not self.length:
            raise TreeError("the empty prefix has no parent")
        return Prefix(self.bits >> 1, self.length - 1, self.generation)

    def sibling(self) -> Prefix:
        """This prefix with its last bit changed. Raises `TreeError` for the root."""
        if not self.length:
            raise TreeError("the empty prefix has no sibling")
        return Prefix(self.bits ^ 1, self.length, self.generation)

    def basis(self) -> bytes:
        """The 32-byte point of the key space whose closest peers hold this shard: the prefix, a 1, then
        zeros, with the generation in bits 49 to 63.

        So the shards of one prefix in two generations have the same holders, and nothing else in common.
        """
        point = (self.bits << 1 | 1) << (8 * KEY_BYTES - self.length - 1)
        return (point | self.generation << (8 * KEY_BYTES - 64)).to_bytes(KEY_BYTES, "big")

    def text(self) -> str:
        """The bits as "0" and "1", for people; the root is empty."""
        return f"{self.bits:0{self.length}b}" if self.length else ""

    def encode(self) -> bytes:
        """Canonical bytes of [length, bits]."""
        return canonical.encode([self.length, self.bits])

    @classmethod
    def decode(cls, data: bytes) -> Prefix:
        """The prefix in these bytes. Raises `TreeError`."""
        match _decoded(data, 16, "prefix"):
            case [int(length), int(bits)]:
                return cls(bits, length)
        raise TreeError("prefix is not [length, bits]")


@dataclass(frozen=True, slots=True)
class ShardTree:
    """The leaves of a binary prefix tree, in key order. Raises `TreeError` unless they partition the key
    space.
    """

    leaves: tuple[Prefix, ...]
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.leaves) <= MAX_LEAVES:
            raise TreeError(f"{len(self.leaves)} leaves: a tree has 1 to {MAX_LEAVES}")
        reached = 0
        for leaf in self.leaves:
            if leaf.start != reached:
                fault = "overlaps its predecessor" if leaf.start < reached else "leaves a gap before it"
                raise TreeError(f"leaf {leaf.text()!r} {fault}: leaves must partition the key space in order")
            reached = leaf.end
        if reached != 1 << MAX_DEPTH:
            raise TreeError(f"no leaf follows {self.leaves[-1].text()!r}: leaves must reach the last key")
        object.__setattr__(self, "_starts", tuple(leaf.start for leaf in self.leaves))

    @classmethod
    def fixed(cls, depth: int, generation: int = 0) -> ShardTree:
        """The tree whose leaves are all 2**depth prefixes of that length. Raises `TreeError`."""
        if not 0 <= depth < MAX_LEAVES.bit_length():
            raise TreeError(f"a full tree of depth {depth}: choose 0 to {MAX_LEAVES.bit_length() - 1}")
        return cls(tuple(Prefix(bits, depth, generation) for bits in range(1 << depth)))

    @classmethod
    def of(cls, leaves: Iterable[Prefix]) -> ShardTree:
        """The tree with these leaves, in any order."""
        return cls(tuple(sorted(leaves)))

    def leaf_of(self, key: bytes) -> Prefix:
        """The leaf under which a 32-byte key falls. Cost O(log n). Raises `ShardKeyError`."""
        return self.leaves[bisect_right(self._starts, key_head(key)) - 1]

    def __contains__(self, prefix: object) -> bool:
        return (
            isinstance(prefix, Prefix) and self.leaves[bisect_right(self._starts, prefix.start) - 1] == prefix
        )

    def encode(self) -> bytes:
        """Canonical bytes of [format, lengths of the leaves in key order, one byte each]: a partition needs
        no more.
        """
        return canonical.encode([FORMAT, bytes(leaf.length for leaf in self.leaves)])

    @classmethod
    def decode(cls, data: bytes) -> ShardTree:
        """The tree in these bytes; bounds are checked before leaves are made. Raises `TreeError`."""
        match _decoded(data, MAX_TREE_BYTES, "tree"):
            case [int(version), bytes(lengths)] if type(version) is int and version == FORMAT:
                pass
            case _:
                raise TreeError(f"tree is not [{FORMAT}, lengths]")
        if not 1 <= len(lengths) <= MAX_LEAVES:
            raise TreeError(f"tree has {len(lengths)} leaves: 1 to {MAX_LEAVES} are allowed")
        leaves: list[Prefix] = []
        reached = 0
        for length in lengths:
            if length > MAX_DEPTH or reached % (1 << (MAX_DEPTH - length)) or reached >> MAX_DEPTH:
                raise TreeError(f"leaf {len(leaves)} of length {length} does not fit behind its predecessors")
            leaves.append(Prefix(reached >> (MAX_DEPTH - length), length))
            reached += 1 << (MAX_DEPTH - length)
        return cls(tuple(leaves))


def split(tree: ShardTree, leaf: Prefix) -> ShardTree:
    """The tree in which `leaf` has become its two children. Raises `TreeError` if it is no leaf or too
    deep.
    """
    if leaf not in tree:
        raise TreeError(f"{leaf.text()!r} is no leaf of this tree: only a leaf can be split")
    at = bisect_right(tree._starts, leaf.start) - 1
    return ShardTree(tree.leaves[:at] + leaf.children() + tree.leaves[at + 1 :])


def merge(tree: ShardTree, parent: Prefix) -> ShardTree:
    """The tree in which the two children of `parent` have become one leaf. Raises `TreeError` if they are no
    leaves.
    """
    left, right = parent.children()
    if left not in tree or right not in tree:
        raise TreeError(f"the halves of {parent.text()!r} are not both leaves: only two leaves can be merged")
    at = bisect_right(tree._starts, left.start) - 1
    return ShardTree((*tree.leaves[:at], parent, *tree.leaves[at + 2 :]))


def shard_at(basis: bytes) -> Prefix | None:
    """The shard whose basis this is; None for 32 bytes that are none's. O(1)."""
    if len(basis) != KEY_BYTES or any(basis[8:]):
        return None
    point = int.from_bytes(basis[:8], "big")
    head = point >> GENERATION_BITS
    if not head:
        return None
    zeros = (head & -head).bit_length() - 1
    return Prefix(head >> (zeros + 1), MAX_DEPTH - zeros, point & MAX_GENERATION)


def key_head(key: bytes) -> int:
    """The first 48 bits of a 32-byte key, all that a tree looks at. Raises `ShardKeyError`."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        found = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise ShardKeyError(f"a key of {found}: keys are {KEY_BYTES} bytes")
    return int.from_bytes(key[: MAX_DEPTH // 8], "big")


def _decoded(data: bytes, limit: int, name: str) -> object:
    try:
        value: object = canonical.decode(data, limit)
    except ChainError as error:
        raise TreeError(f"{name} of {len(data)} bytes is not canonical: {error}") from error
    return value
