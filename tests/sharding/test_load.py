"""Loads follow the present: a steady stream shows its rate, what is over is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.load import Pulse, Smoothed


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
