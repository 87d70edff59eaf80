"""A mistake is forgotten, a habit costs the peer our ear: first for a minute, each time for twice as long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.reputation import (
    BAN_CAP,
    BAN_FIRST,
    BANNED_FROM,
    FORGIVEN_AFTER,
    GOOD,
    HALF_LIFE,
    SLOWED_FROM,
    Misdeed,
    Reputation,
)

A, B = bytes([1]) * 32, bytes([2]) * 32


def test_points_add_up_to_slowed_and_then_to_a_ban_and_halve_meanwhile() -> None:
    reputation = Reputation()
    words = []
    for _ in range(int(BANNED_FROM)):
        reputation.blame(A, 1.0, 0.0)
        words.append(reputation.standing(A, 0.0).word)
    assert words == ["good", "slowed", "slowed", "banned"]
    assert reputation.banned_for(A, 0.0) == BAN_FIRST
    assert not reputation.standing(A, BAN_FIRST).banned
    assert reputation.standing(B, 0.0) == GOOD
    reputation.blame(B, SLOWED_FROM, 0.0)
    assert reputation.standing(B, HALF_LIFE).score == SLOWED_FROM / 2
    assert reputation.standing(B, HALF_LIFE).word == "good"


def test_each_ban_lasts_twice_as_long_and_a_good_day_is_remembered_too() -> None:
    reputation = Reputation()
    now, lengths = 0.0, []
    for _ in range(9):
        assert reputation.blame(A, BANNED_FROM, now)
        assert not reputation.blame(A, BANNED_FROM, now), "what was under way is the same offence"
        lengths.append(reputation.banned_for(A, now))
        now += lengths[-1]
    assert lengths == [min(BAN_CAP, BAN_FIRST * 2**n) for n in range(9)]
    now += FORGIVEN_AFTER + 1
    reputation.blame(A, BANNED_FROM, now)
    assert reputation.banned_for(A, now) == BAN_FIRST


def test_what_banned_is_forgotten_by_a_pardon() -> None:
    reputation = Reputation()
    assert not reputation.blame(A, Misdeed.FAILED_CHALLENGE.points, -60.0)
    assert reputation.blame(A, Misdeed.FAILED_CHALLENGE.points, 0.0), "the second one within a minute"
    assert list(reputation.known(1.0)) == [A]
    assert reputation.pardon(A)
    assert not reputation.pardon(A)
    assert reputation.standing(A, 1.0) == GOOD
    reputation.blame(A, BANNED_FROM, 2.0)
    assert reputation.banned_for(A, 2.0) == BAN_FIRST


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1000), st.floats(0, 50)), max_size=60))
def test_nothing_grows_without_bound_and_everybody_is_forgiven(
    blames: list[tuple[int, float, float]],
) -> None:
    reputation = Reputation(max_peers=3, max_banned=2)
    now = 0.0
    for number, points, pause in blames:
        now += pause
        agent = bytes([number]) * 32
        was_banned = reputation.standing(agent, now).banned
        banned = reputation.blame(agent, points, now)
        standing = reputation.standing(agent, now)
        assert banned == (standing.banned and not was_banned)
        assert 0 <= standing.score < BANNED_FROM
        assert 0 <= standing.banned_s <= BAN_CAP
        assert len(reputation) <= 5
    assert reputation.known(now + BAN_CAP + 10 * HALF_LIFE) == {}
