"""Pace: nobody gets more than the burst and the rate, and waiting pays every debt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.wire.pace import Pace, Rate

STEPS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), min_size=1, max_size=60)


@given(STEPS, st.floats(0.5, 100), st.floats(1, 100))
def test_whoever_waits_as_told_stays_within_burst_and_rate(
    steps: list[tuple[float, int]], per_second: float, burst: float
) -> None:
    pace: Pace[str] = Pace(Rate(per_second, burst), 4)
    now = taken = 0.0
    for pause, count in steps:
        now += pause
        taken += count
        now += pace.delay("peer", count, now)
        assert taken <= burst + per_second * now + 1e-6


@given(st.lists(st.floats(0, 2), max_size=80))
def test_admitted_are_at_most_the_burst_and_what_came_since(pauses: list[float]) -> None:
    pace: Pace[str] = Pace(Rate(3.0, 5.0), 4)
    now, admitted = 0.0, 0
    for pause in pauses:
        now += pause
        admitted += pace.admit("peer", now)
        assert admitted <= 5 + 3 * now + 1e-6


def test_one_key_does_not_pay_for_another_and_idle_time_is_not_saved_up() -> None:
    pace: Pace[str] = Pace(Rate(1.0, 2.0), 4)
    assert pace.delay("eager", 12, 0.0) == pytest.approx(10.0)
    assert pace.delay("calm", 2, 0.0) == 0.0
    assert pace.delay("calm", 2, 1000.0) == 0.0
    assert pace.delay("calm", 1, 1000.0) == pytest.approx(1.0)


def test_the_number_of_buckets_is_bounded_and_the_longest_unused_goes() -> None:
    pace: Pace[int] = Pace(Rate(0.001, 1.0), 3)
    assert all(pace.admit(key, 0.0) for key in range(3))
    assert not pace.admit(0, 1.0)
    assert pace.admit(3, 1.0)
    assert len(pace) == 3
    assert not pace.admit(0, 1.0), "used lately, so still remembered"
    assert pace.admit(1, 1.0), "forgotten, so as good as new"
