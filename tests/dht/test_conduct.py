"""A mistake is forgotten, a habit costs the peer our ear for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.conduct import HALF_LIFE, MAX_SCORE, THRESHOLD, Conduct

A = bytes([1]) * 32


def test_points_halve_and_the_threshold_is_crossed_both_ways() -> None:
    conduct = Conduct()
    for now in range(int(THRESHOLD) - 1):
        conduct.blame(A, 1.0, 0.0)
        assert not conduct.ignored(A, now)
    conduct.blame(A, 1.0, 0.0)
    assert conduct.ignored(A, 0.0)
    assert conduct.score(A, HALF_LIFE) == THRESHOLD / 2
    assert not conduct.ignored(A, 1.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1000), st.floats(0, 50)), max_size=60))
def test_scores_are_bounded_and_so_is_their_number(blames: list[tuple[int, float, float]]) -> None:
    conduct = Conduct(max_peers=3)
    now = 0.0
    for number, points, pause in blames:
        now += pause
        agent = bytes([number]) * 32
        assert 0 <= conduct.blame(agent, points, now) <= MAX_SCORE
        assert conduct.ignored(agent, now) == (conduct.score(agent, now) >= THRESHOLD)
        assert len(conduct) <= 3
    for number in range(10):
        assert not conduct.ignored(bytes([number]) * 32, now + 10 * HALF_LIFE)
