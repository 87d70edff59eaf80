"""When a shard divides and when two become one: what a holder proposes, and what it signs of others'.

A shard that holds more than B records divides, two halves that together hold fewer than B/2 become one, and
what lies between stays, so that a shard at the edge does not go back and forth (hysteresis). A signer counts
on its own, and replicas are never quite equal while records come in, so it is content with somewhat less.

A change costs work, and while it settles a query asks both the old places and the new ones. So around each
prefix there is rest after a decision, and at most every fourth shard, or a few, settles at a time; a
holder that goes by this sees only what it has heard, so the bound is met roughly. Depth ends at 48 bits, and
where all keys agree in those nothing divides. Pure: counts and the time are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sharding.growth import MAX_DECISIONS, MAX_VERSION, Decision, Growth
from sharding.tree import MAX_DEPTH, Prefix, ShardTree

REST_US = 600_000_000
"""Between two decisions about a prefix, or about one and its halves: longer than one takes to settle."""
SETTLES_US = 480_000_000
"""So long a decision is counted as settling; most take 420 s (`dht.records.layouts`)."""
SETTLING_SHARE = 4
SETTLING_LEAST = 8
"""At most one leaf in `SETTLING_SHARE` settles at a time, or this many."""
SKEW_US = 60_000_000
"""By so much the clocks of two signers may differ."""
STEP_US = REST_US - 2 * SKEW_US
"""So far apart the times of two decisions are at least of which one takes the other: each is signed by two
whose clocks say that it is time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A change that a holder would make: `prefix` divides, or its two halves become one."""

    prefix: Prefix
    divided: bool


def outgrown(count: int, target: int) -> bool:
    """Whether a shard of so many records is to divide."""
    return count > target


def too_thin(counts: Iterable[int], target: int) -> bool:
    """Whether two halves of so many records are to become one shard."""
    return 2 * sum(counts) < target


def wanted(
    tree: ShardTree, growth: Growth, least_depth: int, counts: Mapping[Prefix, int], target: int, now_us: int
) -> list[Wanted]:
    """The changes of which it is time, by how many records lie at each leaf, as far as that is known.

    Fullest first, then thinnest; as many as there is room for. O(leaves counted * log).
    """
    room = room_for(tree, growth, now_us)
    full = sorted(
        (leaf for leaf, count in counts.items() if outgrown(count, target) and leaf in tree),
        key=lambda leaf: (-counts[leaf], leaf),
    )
    found = [Wanted(leaf, True) for leaf in full if may_change(tree, growth, least_depth, leaf, True, now_us)]
    thin: list[tuple[int, Prefix]] = []
    for leaf in counts:
        if leaf.length > least_depth and not leaf.bits & 1 and leaf.sibling() in counts:
            both = counts[leaf], counts[leaf.sibling()]
            if too_thin(both, target):
                thin.append((sum(both), leaf.parent()))
    found += [
        Wanted(parent, False)
        for _, parent in sorted(thin)
        if may_change(tree, growth, least_depth, parent, False, now_us)
    ]
    return found[:room]


def room_for(tree: ShardTree, growth: Growth, now_us: int) -> int:
    """How many changes more may settle now."""
    settling = sum(now_us - one.at_us < SETTLES_US for one in growth.decisions.values())
    return max(0, max(SETTLING_LEAST, len(tree.leaves) // SETTLING_SHARE) - settling)


def may_change(
    tree: ShardTree, growth: Growth, least_depth: int, prefix: Prefix, divided: bool, now_us: int
) -> bool:
    """Whether a prefix can divide, or become one shard, by the shape of the tree and the rest it needs."""
    if prefix.generation != tree.leaves[0].generation or prefix.length < least_depth:
        return False
    if prefix.length == MAX_DEPTH or next_version(growth, prefix) > MAX_VERSION:
        return False
    fits = prefix in tree if divided else all(half in tree for half in prefix.children())
    if not fits:
        return False
    if prefix not in growth.decisions and len(growth.decisions) >= MAX_DECISIONS:
        return False
    about = (prefix, *prefix.children(), *((prefix.parent(),) if prefix.length else ()))
    decided = (growth.decisions[one].at_us for one in about if one in growth.decisions)
    return all(now_us - at_us >= REST_US for at_us in decided)


def may_have_come(decision: Decision, founded_us: int, least_depth: int) -> bool:
    """Whether a network founded then can have come to this decision by rest after rest.

    A decision of version v took v - 1 before it about its prefix, and one about each prefix that it lies in.
    So two signers who lie cannot decide for ever, by a version that none can follow: what comes after the
    highest that passes here passes `STEP_US` later. Hangs on the decision alone, so all nodes agree about it.
    """
    steps = decision.version - 1 + max(0, decision.prefix.length - least_depth)
    return decision.at_us + SKEW_US >= founded_us + steps * STEP_US


def next_version(growth: Growth, prefix: Prefix) -> int:
    """The version of the next decision about a prefix."""
    last = growth.decisions.get(prefix)
    return 1 if last is None else last.version + 1


def signs(
    tree: ShardTree,
    growth: Growth,
    least_depth: int,
    decision: Decision,
    counts: tuple[int, ...],
    target: int,
    now_us: int,
) -> str | None:
    """Why a holder that counts so many records does not sign this decision, or None where it does.

    `counts`: of the prefix where it is to divide, of its two halves where they are to become one.
    """
    prefix = decision.prefix
    if abs(decision.at_us - now_us) > SKEW_US:
        return "its time is not now"
    if decision.version != next_version(growth, prefix):
        return "its version is not the next"
    if not may_change(tree, growth, least_depth, prefix, decision.divided, now_us - SKEW_US):
        return "this prefix cannot change so now"
    if not room_for(tree, growth, now_us):
        return "too many shards are settling"
    if decision.divided and 8 * sum(counts) <= 7 * target:
        return f"it holds {sum(counts)} records here"
    if not decision.divided and 8 * sum(counts) >= 5 * target:
        return f"its halves hold {sum(counts)} records here"
    return None


def divisible(heads: Iterable[int], prefix: Prefix) -> bool:
    """Whether keys with these 48-bit heads, all under `prefix`, fall apart somewhere below it."""
    first: int | None = None
    for head in heads:
        if first is None:
            first = head
        elif head != first:
            return prefix.length < MAX_DEPTH
    return False
