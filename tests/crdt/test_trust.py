"""Trust: one voice an agent, strangers bounded together, and the same score whatever the order."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.agent_life import Rotation
from chain.behalf import Behalf
from chain.cid import record_cid
from crdt.ballots import Assessment, Ballot
from crdt.entry import fold
from crdt.entry_view import Entry
from crdt.operations import Vote
from crdt.standing import CLEAR, Standing, successors_of
from crdt.trust import STRANGERS, VOTE, Trust, Voice, interval, trust_of, voices, weigh
from tests.crdt.histories import (
    ALICE,
    BOB,
    MALLORY,
    SIGNED,
    Choose,
    History,
    histories,
    history,
    seen,
    shuffled,
)

KEYS = tuple(bytes([number]) * 32 for number in range(10))
A, B, C, CLIENT = KEYS[:4]
SOME = record_cid(b"a record")
BLANK = seen(history(lambda n: 0, 0).state())

parts = st.sampled_from([0, 1, VOTE // 3, VOTE // 2, VOTE]) | st.integers(0, VOTE)
evidence = st.tuples(parts, parts).map(lambda pair: (pair[0], min(pair[1], VOTE - pair[0])))
weights = st.dictionaries(st.sampled_from(KEYS[:5]), parts)
opinions = st.dictionaries(st.sampled_from(KEYS), st.tuples(st.booleans(), evidence))
few = settings(max_examples=40)


def heard(said: dict[bytes, tuple[bool, tuple[int, int]]]) -> list[Voice]:
    return [Voice(key, firsthand, *one) for key, (firsthand, one) in said.items()]


def entry(*votes: Ballot, sure: tuple[Assessment, ...] = ()) -> Entry:
    return replace(BLANK, votes=votes, assessments=sure)


def vote(agent: bytes, value: int, behalf: Behalf | None = None, confidence: int | None = None) -> Ballot:
    return Ballot(agent, SOME, Vote(value, None, confidence, behalf))


def signed(key: bytes, name: str = "a crawler") -> Behalf:
    return Behalf(name, key, bytes(64))


@few
@given(told=histories(), root=weights)
def test_neither_order_nor_repetition_of_records_shows(
    told: tuple[History, Choose], root: dict[bytes, int]
) -> None:
    story, choose = told
    standing = Standing({MALLORY.agent: choose(3)} if choose(2) else {}, {ALICE.agent: BOB.agent})
    root |= {BOB.agent: VOTE, ALICE.agent: VOTE // 2}
    records = story.records + story.records[: choose(3)]
    first, second = (fold(one, standing) for one in (records, shuffled(choose, records)))
    assert first is not None
    assert second is not None
    backwards = dict(reversed(root.items()))
    assert trust_of(first, root, standing) == trust_of(second, backwards, standing)
    assert {one.key for one in voices(first, standing)} <= {BOB.agent, MALLORY.agent, SIGNED[0].key}
    if standing.first.get(MALLORY.agent) == 0:
        assert MALLORY.agent not in {one.key for one in voices(first, standing)}


@few
@given(said=opinions, root=weights, order=st.randoms(use_true_random=False))
def test_the_order_of_voices_does_not_show_and_bounds_enclose_the_score(
    said: dict[bytes, tuple[bool, tuple[int, int]]], root: dict[bytes, int], order: random.Random
) -> None:
    some = heard(said)
    trust = weigh(some, root)
    order.shuffle(some)
    assert weigh(some, root) == trust
    assert 0 <= trust.low <= trust.score <= trust.high <= VOTE


@given(
    said=opinions,
    root=weights,
    crowd=st.integers(1, 3000),
    opinion=evidence,
)
def test_no_crowd_of_fresh_keys_moves_the_score_by_more_than_the_stated_bound(
    said: dict[bytes, tuple[bool, tuple[int, int]]],
    root: dict[bytes, int],
    crowd: int,
    opinion: tuple[int, int],
) -> None:
    fresh = [Voice(b"fresh" + number.to_bytes(27, "big"), True, *opinion) for number in range(crowd)]
    before, after = weigh(heard(said), root), weigh(heard(said) + fresh, root)
    by_root = weigh([one for one in heard(said) if root.get(one.key) and one.firsthand], root)
    votes = by_root.up + by_root.down + 5 * VOTE
    assert abs(after.score - before.score) <= STRANGERS * VOTE // votes + 2
    assert after.high - after.low >= 4 * VOTE * VOTE // votes - 2
    assert after.up + after.down <= by_root.up + by_root.down + STRANGERS


def test_the_bound_is_reached_where_nobody_of_the_root_spoke() -> None:
    crowd = [Voice(record_cid(bytes([number])), True, VOTE, 0) for number in range(40)]
    assert (weigh(crowd, {}).score, weigh([], {}).score) == (600_000, 500_000)
    against = [replace(one, up=0, down=VOTE) for one in crowd]
    assert weigh(against, {}).score == 400_000


@few
@given(said=opinions, root=weights, key=st.sampled_from(KEYS), up=parts, less=parts)
def test_who_speaks_better_of_an_entry_never_lowers_its_score(
    said: dict[bytes, tuple[bool, tuple[int, int]]], root: dict[bytes, int], key: bytes, up: int, less: int
) -> None:
    better, worse = (said | {key: (True, (one, VOTE - one))} for one in (max(up, less), min(up, less)))
    high, low = weigh(heard(better), root), weigh(heard(worse), root)
    assert (high.score, high.low + 2, high.high + 2) >= (low.score, low.low, low.high)


@given(up=st.integers(0, 10**9), down=st.integers(0, 10**9))
@few
def test_the_interval_is_wilsons(up: int, down: int) -> None:
    """It is where a true part p is two standard deviations from what was heard: n (x - p)² = 4 p (1 - p)."""
    score, low, high = interval(up, down)
    n = Fraction(up + down, VOTE)
    heard_up = Fraction(up, VOTE)
    for bound in (low, high):
        near = [
            (heard_up - n * p) ** 2 - 4 * n * p * (1 - p)
            for p in (Fraction(bound - 4, VOTE), Fraction(bound + 4, VOTE))
        ]
        assert n == 0 or near[0] * near[1] <= 0
    assert score == (up + 2 * VOTE) * VOTE // (up + down + 4 * VOTE)
    assert interval(0, 0) == (500_000, 0, VOTE)
    assert interval(0, 3 * VOTE)[1] == 0  # where rounding would go below


ballot = st.builds(
    vote,
    st.sampled_from(KEYS[:4]),
    st.sampled_from([1, -1]),
    st.sampled_from([None, Behalf("a crawler"), Behalf("two", CLIENT), signed(CLIENT), signed(B, "b")]),
    st.sampled_from([None, 0, VOTE // 3]),
)


@few
@given(votes=st.lists(ballot), sure=st.lists(st.tuples(st.sampled_from(KEYS[:4]), parts)))
def test_each_key_has_one_voice_of_at_most_one_vote(
    votes: list[Ballot], sure: list[tuple[bytes, int]]
) -> None:
    said = entry(*votes, sure=tuple(Assessment(agent, SOME, one) for agent, one in sure))
    found = voices(said)
    assert [one.key for one in found] == sorted({one.key for one in found})
    assert all(one.up + one.down <= VOTE for one in found)
    everybody = dict.fromkeys(KEYS, VOTE)
    trust = trust_of(said, everybody)
    assert trust.up + trust.down <= len(found) * VOTE
    assert (trust.rooted, trust.strangers) == (
        sum(one.firsthand for one in found),
        sum(not one.firsthand for one in found),
    )


def test_a_vote_and_an_assessment_of_one_agent_are_one_voice() -> None:
    said = entry(vote(A, 1, confidence=400_000), sure=(Assessment(A, SOME, 900_000),))
    assert voices(said) == (Voice(A, True, 650_000, 50_000),)


def test_votes_for_others_count_separately_only_where_those_signed_them() -> None:
    root = {A: VOTE}
    one = trust_of(entry(vote(A, 1)), root)
    unsigned = [vote(A, -1, Behalf(f"client {number}", KEYS[number])) for number in range(4, 9)]
    assert trust_of(entry(vote(A, 1), *unsigned), root) == one  # its own word comes first
    alone = trust_of(entry(*unsigned), root)
    assert (alone.rooted, alone.strangers, alone.down) == (0, 1, VOTE // 2)  # and lends them no weight
    beside = trust_of(entry(vote(A, 1), vote(A, -1, signed(CLIENT))), root)
    assert (beside.rooted, beside.strangers, beside.up, beside.down) == (1, 1, VOTE, VOTE // 2)
    light = trust_of(entry(*unsigned), {A: VOTE // 10})  # nor more than it would have itself
    assert (light.rooted, light.strangers, light.down) == (0, 1, VOTE // 10)
    declared = trust_of(entry(vote(A, 1), vote(B, -1, signed(CLIENT))), root | {CLIENT: VOTE})
    assert (declared.rooted, declared.up, declared.down) == (2, VOTE, VOTE)


def test_keys_that_an_agent_goes_on_under_are_one_voice_and_keep_its_weight() -> None:
    rotated = Standing({}, successors_of([Rotation(A, B, 5, SOME)], {}))
    said = entry(vote(A, 1), sure=(Assessment(B, SOME, 0),))
    assert voices(said, rotated) == (Voice(B, True, VOTE // 2, VOTE // 2),)
    assert voices(entry(vote(B, 1), sure=(Assessment(A, SOME, 0),)), rotated) == voices(said, rotated)
    assert trust_of(said, {A: VOTE}, rotated).rooted == 1
    assert voices(entry(vote(C, 1, signed(A))), rotated) == (Voice(B, True, VOTE, 0),)
    assert voices(entry(vote(C, 1, signed(A)), vote(B, -1)), rotated) == (Voice(B, True, 0, VOTE),)
    assert trust_of(said, {A: VOTE, B: 0}, rotated) == trust_of(entry(), {})  # the later key's weight counts


def test_an_old_signed_vote_passed_on_again_and_again_counts_once() -> None:
    old = [vote(agent, 1, signed(CLIENT)) for agent in KEYS[4:]]
    assert voices(entry(vote(A, -1, signed(CLIENT)), *old)) == (Voice(CLIENT, True, VOTE // 2, VOTE // 2),)


def test_an_offender_is_not_heard_through_others_either() -> None:
    said = entry(vote(A, 1, signed(CLIENT)))
    assert trust_of(said, {CLIENT: VOTE}).rooted == 1
    assert voices(said, CLEAR.doubting({CLIENT: 7})) == ()


FOR, AGAINST = 1, -1


@pytest.mark.parametrize(
    ("reader", "votes", "score", "low"),
    [
        (A, {}, 500_000, 0),
        (A, {B: FOR}, 555_555, 111_110),
        (A, {B: FOR, C: FOR}, 600_000, 200_000),
        (A, {A: FOR, B: FOR, C: FOR}, 666_666, 333_332),
        (B, {A: FOR, B: FOR, C: FOR}, 692_307, 384_614),
        (A, {A: AGAINST, B: FOR, C: FOR}, 500_000, 91_752),
        (B, {A: AGAINST, B: FOR, C: FOR}, 538_461, 149_257),
        (C, {A: FOR, B: AGAINST}, 545_454, 125_563),
    ],
)
def test_three_agents_of_a_new_network(reader: bytes, votes: dict[bytes, int], score: int, low: int) -> None:
    """A founded it; each reader's root is the founder and itself, as it is unless something else is set."""
    trust = trust_of(entry(*(vote(agent, value) for agent, value in votes.items())), {A: VOTE, reader: VOTE})
    assert isinstance(trust, Trust)
    assert (trust.score, trust.low) == (score, low)
