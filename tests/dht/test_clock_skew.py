"""Clock skew: the median, which a minority of liars cannot move beyond what an honest peer said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.clock_skew import MAX_ROUND_TRIP_US, Sample, Skew, skew_of

US = st.integers(-3_000_000, 3_000_000)
TRIP = st.integers(0, MAX_ROUND_TRIP_US)


def told(offset: int, trip: int, share: float) -> Sample:
    """A sample of a peer whose clock is `offset` ahead, of which `share` of the trip was the way there."""
    sent = 1_000_000_000
    return Sample(sent, sent + round(trip * share) + offset, sent + trip)


@given(
    honest=st.lists(st.tuples(US, TRIP, st.floats(0, 1)), min_size=1, max_size=7),
    lies=st.lists(st.integers(0, 1 << 62), max_size=6),
)
def test_a_minority_cannot_move_it_beyond_what_honest_peers_said(
    honest: list[tuple[int, int, float]], lies: list[int]
) -> None:
    lies = lies[: (len(honest) - 1) if len(honest) else 0]
    samples = [told(*one) for one in honest] + [Sample(0, lie, 1) for lie in lies]
    skew = skew_of(samples)
    assert skew is not None
    lowest = min(offset - trip / 2 for offset, trip, _ in honest)
    highest = max(offset + trip / 2 for offset, trip, _ in honest)
    assert lowest - 1 <= skew.ahead_us <= highest + 1
    assert skew.peers == len(samples)


def test_what_took_too_long_or_went_back_says_nothing() -> None:
    assert skew_of([]) is None
    assert skew_of([Sample(0, 9_000_000, MAX_ROUND_TRIP_US + 1), Sample(5, 9_000_000, 4)]) is None
    assert skew_of([Sample(0, 9_000_000, MAX_ROUND_TRIP_US)]) == Skew(8_000_000, 1)
