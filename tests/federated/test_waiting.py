"""A deadline is the limit, and sooner once most are there, who leave the rest a time that follows theirs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federated.waiting import FLOOR_S, PATIENCE, Deadline

SECONDS = st.integers(0, 1_000).map(float)


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 9))
def test_the_rest_gets_its_time_after_most_and_never_more_than_the_limit(
    start: float, limit_s: float, took: float, most: int
) -> None:
    deadline = Deadline(start, limit_s)
    deadline.note(most - 1, most, start)
    assert deadline.at() == start + limit_s, "one too few"
    deadline.note(most, most, start + took)
    rest_s = max(FLOOR_S, PATIENCE * took)
    assert deadline.at() == start + min(limit_s, took + rest_s)
    deadline.note(most + 1, most, start + took + 1)
    assert deadline.at() == start + min(limit_s, took + rest_s), "who comes later gives the rest no more time"


@given(SECONDS, SECONDS, SECONDS)
def test_a_deadline_begins_anew_with_its_limit_or_another(start: float, again: float, limit_s: float) -> None:
    deadline = Deadline(start, limit_s)
    deadline.note(1, 1, start)
    deadline.again(again)
    assert deadline.at() == again + limit_s
    deadline.note(1, 1, again)
    deadline.again(again, limit_s + 1)
    assert deadline.at() == again + limit_s + 1
