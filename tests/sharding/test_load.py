"""Loads follow the present: a steady stream shows its rate, what is over is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.load import BUSIEST, HORIZON_S, MARGIN, Pulse, Smoothed, saved_by_copy, wants_copy


@given(st.floats(0.2, 50.0), st.floats(1.0, 60.0))
def test_a_steady_stream_shows_its_rate_and_is_forgotten(rate: float, half_life: float) -> None:
    pulse = Pulse(half_life)
    beats = int(8 * half_life * rate) + 1
    for beat in range(beats):
        pulse.beat(beat / rate)
    end = (beats - 1) / rate
    one = 0.7 / half_life
    assert pulse.per_second(end) == pytest.approx(rate, rel=0.02, abs=one + 0.01 * rate)
    assert pulse.per_second(end + 10 * half_life) < 0.002 * (rate + one)
    assert pulse.per_second(end - half_life) <= pulse.per_second(end)  # a clock that stands still


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0.01, 1))
def test_a_smoothed_value_lies_among_those_seen(values: list[float], weight: float) -> None:
    smoothed = Smoothed(weight)
    for value in values:
        smoothed.add(value)
    assert smoothed.value is not None
    assert min(values) - 1e-9 <= smoothed.value <= max(values) + 1e-9


RATES = st.floats(0.01, 50.0)
TIMES = st.floats(0.0001, 0.1)
SHARES = st.floats(0.0, 1.0)
SIZES = st.integers(0, 10**9)


@given(RATES, TIMES, SHARES, st.integers(1, 9), SIZES, st.floats(1.0, 4.0))
def test_a_copy_saves_more_the_more_is_asked_and_the_busier_who_answers(
    rate: float, seconds: float, busy: float, copies: int, size: int, more: float
) -> None:
    saved = saved_by_copy(rate, seconds, busy, copies, size)
    assert saved > 0
    assert saved_by_copy(rate * more, seconds, busy, copies, size) >= saved * 0.999
    assert saved_by_copy(rate, seconds, min(1.0, busy * more), copies, size) >= saved * 0.999
    assert saved_by_copy(rate, seconds, busy, copies, size + 10**6) < saved
    assert saved <= rate * copies * seconds / (1 - BUSIEST) * HORIZON_S / 0.1
    assert wants_copy(saved, True) or not wants_copy(saved, False), "what is wanted stays wanted"


def test_what_nobody_asks_for_gets_no_copy_and_a_crowd_does() -> None:
    assert saved_by_copy(0.0, 0.005, 0.5, 3, 500_000) == 0.0
    assert saved_by_copy(0.01, 0.005, 0.05, 3, 500_000) < 1 / MARGIN
    assert saved_by_copy(40.0, 0.005, 0.5, 3, 500_000) > MARGIN
