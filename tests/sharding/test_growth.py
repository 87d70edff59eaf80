"""The same decisions make the same tree, in whatever order they come, and every key always has one leaf."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import raw_cid
from chain.identity import Identity
from sharding.errors import ShardStatementError, TreeError
from sharding.growth import MAX_VERSION, Decision, Growth, overlap, with_leaf, within
from sharding.shard_life import (
    REST_US,
    SETTLING_LEAST,
    SKEW_US,
    STEP_US,
    divisible,
    may_change,
    may_have_come,
    next_version,
    room_for,
    signs,
    wanted,
)
from sharding.shard_statement import open_decision, open_proof, proof_of, sign_decision
from sharding.tree import MAX_DEPTH, Prefix, ShardTree

BIRTH = ShardTree.fixed(1)
TARGET = 100
NOW = 10 * REST_US


@st.composite
def near_prefixes(draw: st.DrawFn, most: int = 5) -> Prefix:
    length = draw(st.integers(1, most))
    return Prefix(draw(st.integers(0, (1 << length) - 1)), length, draw(st.sampled_from([0, 0, 0, 1])))


decisions = st.builds(Decision, near_prefixes(), st.integers(1, 3), st.booleans(), st.integers(0, 9))
many = st.lists(decisions, max_size=24)


@given(many, st.randoms(use_true_random=False), st.integers(0, 9))
def test_any_order_with_repetitions_gives_the_same_tree(
    told: list[Decision], random: object, before_us: int
) -> None:
    one = Growth().told(told)
    other = Growth()
    shuffled = told + told[: len(told) // 2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for decision in shuffled:
        other = other.told([decision])
    assert other.decisions == one.decisions
    assert other.tree(BIRTH) == one.tree(BIRTH)
    assert other.tree(BIRTH, before_us) == one.tree(BIRTH, before_us)
    assert other.former(BIRTH) == one.former(BIRTH)


@given(many, many, st.randoms(use_true_random=False), st.integers(1, 6))
def test_where_there_is_no_room_for_all_any_order_keeps_the_same(
    a: list[Decision], b: list[Decision], random: object, most: int
) -> None:
    shuffled = [*a, *b, *a[: len(a) // 2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Growth().told(a, most).joined(Growth().told(b, most), most), Growth()
    for decision in shuffled:
        fits = other.has_room(decision.prefix, most)
        told = other.told([decision], most)
        assert (decision.prefix in told.decisions) == fits
        other = told
    assert other.decisions == one.decisions == Growth().told(shuffled, most).decisions
    assert len(other.decisions) <= most


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2 * SKEW_US), st.integers(-SKEW_US, SKEW_US)), max_size=12
    )
)
def test_whatever_honest_signers_decide_may_have_come(moves: list[tuple[int, int, int]]) -> None:
    """They go down a path of prefixes and back, each as soon as it may or later, by clocks that differ."""
    growth, now = Growth(), NOW
    for choice, later, skew in moves:
        tree = growth.tree(BIRTH)
        prefix = next(leaf for leaf in tree.leaves if leaf.bits == 0)
        divided = choice > 0 or prefix.length == 1
        prefix = prefix if divided else prefix.parent()
        now = max([now, *(one.at_us + REST_US for one in growth.decisions.values())]) + later
        decision = Decision(prefix, next_version(growth, prefix), divided, now + skew)
        counts = (TARGET + 1,) if divided else (0, 0)
        if signs(tree, growth, 1, decision, counts, TARGET, now) is None:
            assert may_have_come(decision, NOW, 1)
            growth = growth.told([decision])


def test_no_two_signers_decide_for_ever() -> None:
    """The highest version that passes can be followed after a rest; a higher one is never believed."""
    prefix, founded, now = Prefix(0, 3), NOW, NOW + 1_000 * STEP_US
    highest = max(
        version
        for version in (*range(1, 2_000), MAX_VERSION)
        if may_have_come(Decision(prefix, version, True, now + SKEW_US), founded, 1)
    )
    assert highest < 1_002
    follower = Decision(prefix, highest + 1, False, now + SKEW_US + STEP_US)
    assert may_have_come(follower, founded, 1)


@given(many, many, many)
def test_what_two_know_is_joined_as_a_semilattice(
    a: list[Decision], b: list[Decision], c: list[Decision]
) -> None:
    one, two, three = (Growth().told(part) for part in (a, b, c))
    assert one.joined(two).decisions == two.joined(one).decisions
    assert one.joined(two).joined(three).decisions == one.joined(two.joined(three)).decisions
    assert one.joined(one) is one
    assert one.joined(two).joined(one).decisions == one.joined(two).decisions


@given(decisions, decisions)
def test_the_highest_version_stands_and_a_tie_divides(one: Decision, other: Decision) -> None:
    other = replace(other, prefix=one.prefix)
    stands = Growth().told([one, other]).decisions[one.prefix]
    assert stands.version == max(one.version, other.version)
    if one.version == other.version:
        assert stands.divided == (one.divided or other.divided)


@given(many, st.binary(min_size=32, max_size=32), st.integers(0, 9))
def test_leaves_always_partition_the_key_space(told: list[Decision], key: bytes, before_us: int) -> None:
    growth = Growth().told(told)
    for birth in (BIRTH, ShardTree.fixed(2, 1)):
        for tree in (growth.tree(birth), growth.tree(birth, before_us)):  # a tree that exists is a partition
            assert [leaf for leaf in tree.leaves if leaf.contains(key)] == [tree.leaf_of(key)]
            assert all(
                within(birth, leaf) and within(birth, leaf)[0].length <= leaf.length for leaf in tree.leaves
            )


@given(many)
def test_what_was_ever_a_leaf_is_one_or_is_a_former_one(told: list[Decision]) -> None:
    """Whatever way the tree grew, who wrote by an earlier tree is looked for where it wrote."""
    growth = Growth()
    ever = set(BIRTH.leaves)
    for decision in told:
        growth = growth.told([decision])
        ever |= set(growth.tree(BIRTH).leaves)
        former = growth.former(BIRTH)
        tree = growth.tree(BIRTH)
        assert ever <= set(tree.leaves) | former.keys()
        assert not former.keys() & set(tree.leaves)
        assert all(any(overlap(one, leaf) for leaf in tree.leaves) for one in former)


@given(many, st.integers(0, 9))
def test_a_tree_before_its_youngest_decisions_has_leaves_that_now_are_leaves_or_former(
    told: list[Decision], before_us: int
) -> None:
    growth = Growth().told(told)
    now, former = growth.tree(BIRTH), growth.former(BIRTH)
    for leaf in growth.tree(BIRTH, before_us).leaves:
        assert leaf in now or former[leaf] > before_us


@given(many, near_prefixes())
def test_a_tree_can_be_given_any_leaf(told: list[Decision], prefix: Prefix) -> None:
    tree = Growth().told(told).tree(BIRTH)
    if prefix.generation:
        with pytest.raises(TreeError):
            with_leaf(tree, prefix)
    else:
        made = with_leaf(tree, prefix)
        assert prefix in made
        assert {leaf for leaf in tree.leaves if not overlap(leaf, prefix)} <= set(made.leaves)


# -- when --

counts = st.integers(0, 2 * TARGET)


@given(counts, counts, counts)
def test_what_divides_does_not_become_one_again_at_once_nor_the_other_way_round(
    left: int, right: int, more: int
) -> None:
    growth, leaf = Growth(), Prefix(0, 1)
    (change,) = wanted(BIRTH, growth, 1, {leaf: TARGET + 1 + more}, TARGET, NOW)
    assert (change.prefix, change.divided) == (leaf, True)
    growth = growth.told([Decision(leaf, 1, True, NOW)])
    tree = growth.tree(BIRTH)
    halves = {leaf.children()[0]: left, leaf.children()[1]: right}
    assert wanted(tree, growth, 1, halves, TARGET, NOW + REST_US - 1) == [], "there is rest"
    later = wanted(tree, growth, 1, halves, TARGET, NOW + REST_US)
    merges = [one for one in later if not one.divided]
    assert [one.prefix for one in merges] == ([leaf] if 2 * (left + right) < TARGET else [])
    if left + right > TARGET // 2:
        assert not merges, "what just divided has more than that"


@given(st.lists(st.integers(0, 4 * TARGET), min_size=32, max_size=32), st.integers(0, 30))
def test_only_so_many_settle_at_a_time_the_fullest_first(filled: list[int], settling: int) -> None:
    tree = ShardTree.fixed(5)
    growth = Growth().told([Decision(tree.leaves[one], 2, False, NOW) for one in range(settling)])
    found = wanted(tree, growth, 5, dict(zip(tree.leaves, filled, strict=True)), TARGET, NOW + 1)
    assert len(found) <= room_for(tree, growth, NOW + 1) <= max(0, SETTLING_LEAST - settling)
    sizes = [filled[one.prefix.bits] for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size > TARGET for size in sizes)


@given(counts, st.integers(-2 * SKEW_US, 2 * SKEW_US), st.integers(1, 3))
def test_a_holder_signs_only_what_it_would_nearly_propose_now(count: int, skew: int, version: int) -> None:
    decision = Decision(Prefix(1, 1), version, True, NOW + skew)
    why = signs(BIRTH, Growth(), 1, decision, (count,), TARGET, NOW)
    assert (why is None) == (version == 1 and abs(skew) <= SKEW_US and 8 * count > 7 * TARGET)
    assert signs(BIRTH, Growth(), 1, replace(decision, divided=False), (0, 0), TARGET, NOW) is not None


def test_nothing_divides_below_the_greatest_depth_nor_joins_above_the_first_shards() -> None:
    deep = with_leaf(BIRTH, Prefix(0, MAX_DEPTH))
    assert not may_change(deep, Growth(), 1, Prefix(0, MAX_DEPTH), True, NOW)
    assert may_change(deep, Growth(), 1, Prefix(0, MAX_DEPTH - 1), False, NOW)
    assert not may_change(ShardTree.fixed(2), Growth(), 2, Prefix(0, 1), False, NOW)
    with pytest.raises(TreeError):
        Decision(Prefix(0, MAX_DEPTH), 1, True, 0)
    assert not divisible([7] * 9, Prefix(0, 6))
    assert divisible([7, 7, 8], Prefix(0, 6))
    assert not divisible([], Prefix(0, 6))


# -- who said it --

ALICE, BOB = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
NETWORK = raw_cid(b"a network")


@settings(max_examples=15)
@given(decisions)
def test_two_who_say_the_same_make_a_proof_and_nothing_else_does(decision: Decision) -> None:
    one, two = sign_decision(ALICE, NETWORK, decision).data, sign_decision(BOB, NETWORK, decision).data
    made = proof_of((two, one))
    assert (made.network, made.decision) == (NETWORK, decision)
    assert made.signers == tuple(sorted([ALICE.agent, BOB.agent]))
    assert open_proof(made.data) == made
    assert open_decision(one) == (ALICE.agent, NETWORK, decision)
    other = replace(decision, version=decision.version + 1)
    for bad in ((one, one), (one, sign_decision(BOB, NETWORK, other).data)):
        with pytest.raises(ShardStatementError):
            proof_of(bad)
    for at in range(0, len(made.data), 7):
        spoilt = bytearray(made.data)
        spoilt[at] ^= 1
        with pytest.raises(ShardStatementError):
            open_proof(bytes(spoilt))
