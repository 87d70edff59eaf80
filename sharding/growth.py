"""How a shard tree grows: what was decided about its prefixes, and the leaves that follow from it.

A *decision* says of one prefix that it is divided, or that it is one shard again, and has a version. Of all
decisions about a prefix the one of the highest version stands, of equal ones that which divides; so what a
node knows is a join-semilattice (Shapiro et al., "Conflict-free replicated data types", 2011), and everybody
who has seen the same decisions, in whatever order and however often, has the same tree. The leaves are read
off from above: a prefix that stands divided gives way to its halves, any other is a leaf, and what was
decided below a leaf waits until it is divided again. So leaves always partition the key space.

Only the `MAX_DECISIONS` widest prefixes of the newest generations are known of, which hangs on no order
either: a prefix that is among them in the end has been among them all the time.

The tree changes under running nodes, hence a decision has a time, and a tree can be read as it was before the
youngest ones: what a decision changes is the opposite of what it says. Prefixes that may have been leaves and
are not are *former* ones; `former` says since when. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sharding.errors import TreeError
from sharding.tree import MAX_DEPTH, MAX_LEAVES, Prefix, ShardTree

MAX_VERSION = 1 << 32
MAX_TIME_US = 1 << 62
MAX_DECISIONS = 8192
"""Prefixes of which a node knows a decision, the widest of all: 8,128 has the tree down to a depth of 12.
Each that divides makes one leaf more."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about `prefix`: that it is divided into its halves, or is one shard.

    Raises `TreeError` for a version or time out of range, and for one that divides what is too deep.
    """

    prefix: Prefix
    version: int
    divided: bool
    at_us: int

    def __post_init__(self) -> None:
        if type(self.version) is not int or not 1 <= self.version <= MAX_VERSION:
            raise TreeError(f"a decision of version {self.version!r:.40}: versions are 1 to {MAX_VERSION}")
        if type(self.at_us) is not int or not 0 <= self.at_us < MAX_TIME_US:
            raise TreeError(f"a decision at {self.at_us!r:.40} microseconds, which is no time")
        if type(self.divided) is not bool:
            raise TreeError("a decision divides a prefix or does not")
        if self.divided and self.prefix.length == MAX_DEPTH:
            raise TreeError(f"prefix {self.prefix.text()} has the greatest depth, {MAX_DEPTH}")

    def beats(self, other: Decision | None) -> bool:
        """Whether this one stands where both are known. A total order but for equal decisions."""
        return other is None or self._rank() > other._rank()

    def _rank(self) -> tuple[int, bool, int]:
        # Of two that say the same the earlier stands: everybody has to count the same time.
        return self.version, self.divided, -self.at_us


NOTHING: Mapping[Prefix, Decision] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Growth:
    """The decisions that stand, one a prefix. Values never change; `told` and `joined` make new ones."""

    decisions: Mapping[Prefix, Decision] = field(default_factory=lambda: NOTHING)

    def told(self, decisions: Iterable[Decision], most: int = MAX_DECISIONS) -> Growth:
        """With these as well, about the `most` widest prefixes. Returns itself when that changes nothing.

        O(decisions known).
        """
        known: dict[Prefix, Decision] | None = None
        for one in decisions:
            if one.beats((known or self.decisions).get(one.prefix)):
                known = dict(self.decisions) if known is None else known
                known[one.prefix] = one
        if known is None:
            return self
        if len(known) > most:
            known = {one: known[one] for one in sorted(known, key=_width)[:most]}
        return self if known == self.decisions else Growth(MappingProxyType(known))

    def joined(self, other: Growth, most: int = MAX_DECISIONS) -> Growth:
        """The least that knows what both know."""
        return self.told(other.decisions.values(), most)

    def has_room(self, prefix: Prefix, most: int = MAX_DECISIONS) -> bool:
        """Whether a decision about this prefix would be kept."""
        if prefix in self.decisions or len(self.decisions) < most:
            return True
        return _width(prefix) < max(map(_width, self.decisions))

    def tree(self, birth: ShardTree, before_us: int = MAX_TIME_US) -> ShardTree:
        """The tree that these decisions made of `birth`, younger ones than `before_us` not yet counted.

        Only decisions about prefixes of its generation at or below its leaves matter. At most `MAX_LEAVES`
        leaves: beyond them the widest that fit stay undivided. Returns `birth` itself where nothing changes.
        """
        if not any(one.prefix.generation == birth.leaves[0].generation for one in self.decisions.values()):
            return birth

        def divided(prefix: Prefix) -> bool:
            one = self.decisions.get(prefix)
            return one is not None and one.divided == (one.at_us <= before_us)

        leaves = list(_leaves(birth.leaves, divided))
        return birth if leaves == list(birth.leaves) else ShardTree(tuple(leaves))

    def former(self, birth: ShardTree) -> dict[Prefix, int]:
        """Prefixes that may have been leaves and are none, each with the time in µs since which it is none.

        That is the time of the youngest decision about it or what it lies in. O(decisions * depth).
        """
        generation, tree = birth.leaves[0].generation, self.tree(birth)
        found: dict[Prefix, int] = {}
        for prefix in self._named(generation):
            if prefix not in tree and birth.leaves[_place(birth, prefix)].length <= prefix.length:
                found[prefix] = self.changed_us(prefix)
        return found

    def changed_us(self, prefix: Prefix) -> int:
        """The time of the youngest decision about a prefix or one that it lies in; 0 where there is none."""
        times = (self.decisions[one].at_us for one in lineage(prefix) if one in self.decisions)
        return max(times, default=0)

    def _named(self, generation: int) -> set[Prefix]:
        named: set[Prefix] = set()
        for prefix in self.decisions:
            if prefix.generation == generation:
                named.add(prefix)
                if prefix.length < MAX_DEPTH:
                    named.update(prefix.children())
        return named


def _width(prefix: Prefix) -> tuple[int, int, int]:
    return -prefix.generation, prefix.length, prefix.bits


def lineage(prefix: Prefix) -> Iterator[Prefix]:
    """A prefix and all that it lies in, the longest first."""
    while True:
        yield prefix
        if not prefix.length:
            return
        prefix = prefix.parent()


def overlap(one: Prefix, other: Prefix) -> bool:
    """Whether some key begins with both; prefixes of different generations have no keys in common."""
    return one.generation == other.generation and one.start < other.end and other.start < one.end


def within(tree: ShardTree, prefix: Prefix) -> tuple[Prefix, ...]:
    """The leaves of a tree that have keys in common with a prefix of its generation, in order."""
    if tree.leaves[0].generation != prefix.generation:
        return ()
    first = _place(tree, prefix)
    last = first
    while last < len(tree.leaves) and tree.leaves[last].start < prefix.end:
        last += 1
    return tree.leaves[first:last]


def with_leaf(tree: ShardTree, prefix: Prefix) -> ShardTree:
    """The tree nearest to this one in which `prefix` is a leaf: what lies below it is joined, what it lies in
    divided. Raises `TreeError` for another generation.
    """
    inside = within(tree, prefix)
    if not inside:
        raise TreeError(f"prefix {prefix.text()!r} is of another generation than the tree")
    first = _place(tree, prefix)
    grown = [prefix]
    if inside[0].length < prefix.length:
        for one in lineage(prefix):
            if one == inside[0]:
                break
            grown.append(one.sibling())
    return ShardTree((*tree.leaves[:first], *sorted(grown), *tree.leaves[first + len(inside) :]))


def _place(tree: ShardTree, prefix: Prefix) -> int:
    """The place of the leaf in which a prefix begins."""
    low, high = 0, len(tree.leaves)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tree.leaves[middle].start <= prefix.start else (low, middle)
    return low


def _leaves(birth: Iterable[Prefix], divided: Callable[[Prefix], bool]) -> Iterator[Prefix]:
    """The leaves below those of `birth`, in key order; widest first where there is not room for all."""
    wide = list(birth)
    room = MAX_LEAVES - len(wide)
    split: set[Prefix] = set()
    while wide and room > 0:
        halves: list[Prefix] = []
        for prefix in wide:
            if prefix.length < MAX_DEPTH and room > 0 and divided(prefix):
                split.add(prefix)
                halves += prefix.children()
                room -= 1
        wide = halves
    todo = sorted(birth, reverse=True)
    while todo:
        prefix = todo.pop()
        if prefix in split:
            todo += reversed(prefix.children())
        else:
            yield prefix
