"""One failure is enough to be suspected, waiting adapts within bounds, and everything is forgiven in time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.liveness import (
    BACKOFF_CAP,
    BACKOFF_FIRST,
    BROKEN_PROMISES,
    DEPARTED_FOR,
    FADE_AFTER,
    HISTORY,
    LAG_CAP,
    LAG_MARGIN,
    MARGIN,
    MIN_HISTORY,
    SLOW_STRIKES,
    TIMEOUT_CAP,
    TIMEOUT_FLOOR,
    WORK_FLOOR,
    Liveness,
)

A, B = bytes([1]) * 32, bytes([2]) * 32


@given(st.lists(st.floats(0, 5), max_size=3 * HISTORY))
def test_the_timeout_follows_recent_answers_within_its_bounds(times: list[float]) -> None:
    liveness = Liveness()
    for seconds in times:
        liveness.answered(A, "m", seconds, 0.0)
    waits = liveness.timeout(A, "m")
    if len(times) < MIN_HISTORY:
        assert waits == TIMEOUT_CAP
    else:
        # with so few samples the 99th percentile is the greatest
        assert waits == min(TIMEOUT_CAP, max(TIMEOUT_FLOOR, MARGIN * max(times[-HISTORY:])))


def test_of_a_peer_without_a_history_what_others_take_is_expected() -> None:
    liveness = Liveness()
    assert liveness.timeout(B, "m") == TIMEOUT_CAP
    for number in range(10, 10 + MIN_HISTORY):
        liveness.answered(bytes([number]) * 32, "m", 0.2, 0.0)
    assert liveness.timeout(B, "other") == pytest.approx(0.2 * MARGIN), "connecting included"
    for _ in range(HISTORY):
        liveness.answered(A, "m", 0.12, 0.0)
    liveness.answered(B, "other", 0.01, 0.0)
    assert liveness.timeout(B, "m") == pytest.approx(0.12 * MARGIN), "who answered before needs not connect"
    assert liveness.hedge(B, "m") < liveness.timeout(B, "m")
    for failures in range(1, 4):
        liveness.unreachable(B, failures, failures)
        assert liveness.timeout(B, "m") == pytest.approx(min(TIMEOUT_CAP, 0.12 * MARGIN * 2**failures))
    assert liveness.timeout(B, "new") == TIMEOUT_CAP, "nobody has answered that yet"
    assert liveness.timeout(B, "m", most=60) == WORK_FLOOR * 2**3, "each failure doubles that, too"
    assert liveness.timeout(B, "new", most=60) == 60, "work is given longer"
    assert liveness.hedge(bytes(32), "m") == 0.2


def test_when_our_own_machine_is_late_everybody_gets_more_time_until_it_no_longer_is() -> None:
    liveness = Liveness()
    for _ in range(MIN_HISTORY):
        liveness.answered(A, "m", 0.01, 0.0)
    liveness.lagged(0.5)
    assert liveness.timeout(A, "m") == TIMEOUT_FLOOR + LAG_MARGIN * 0.5
    assert liveness.timeout(B, "m") == TIMEOUT_CAP + LAG_MARGIN * 0.5
    liveness.lagged(600.0)
    assert liveness.timeout(A, "m") == TIMEOUT_FLOOR + LAG_CAP
    for _ in range(60):
        liveness.lagged(0.0)
    assert liveness.timeout(A, "m") == pytest.approx(TIMEOUT_FLOOR)


def test_a_timeout_gives_the_next_request_more_time() -> None:
    liveness = Liveness()
    for _ in range(HISTORY):
        liveness.answered(A, "m", 0.01, 0.0)
    given = [liveness.timeout(A, "m")]
    for now in range(1, 5):
        liveness.timed_out(A, "m", given[-1], now, now)
        given.append(liveness.timeout(A, "m"))
    assert given == [TIMEOUT_FLOOR, TIMEOUT_FLOOR * MARGIN, TIMEOUT_CAP, TIMEOUT_CAP, TIMEOUT_CAP]


def test_who_was_alive_a_moment_ago_is_suspected_with_the_first_failure() -> None:
    liveness = Liveness()
    liveness.answered(A, "m", 0.01, 10.0)
    assert not liveness.is_suspect(A)
    assert liveness.timed_out(A, "m", 0.3, 10.1, 10.4)
    assert liveness.is_suspect(A)
    assert liveness.suspects() == [A]
    assert liveness.backoff(A, 10.4) == BACKOFF_FIRST
    assert liveness.answered(A, "ping", 0.01, 11.0), "an answer ends the suspicion, and says so"
    assert not liveness.is_suspect(A)
    assert liveness.backoff(A, 11.0) == 0


def test_requests_under_way_together_count_as_one_failure() -> None:
    liveness = Liveness()
    new = [liveness.unreachable(A, 1.0, 2.0 + number / 100) for number in range(50)]
    assert new == [True] + [False] * 49
    assert liveness.failures(A) == 1
    assert liveness.backoff(A, 2.0) == BACKOFF_FIRST


def test_back_off_doubles_with_every_failed_probe_up_to_its_cap() -> None:
    liveness = Liveness()
    now, waits = 0.0, []
    for _ in range(12):
        liveness.unreachable(A, now, now)
        waits.append(liveness.backoff(A, now))
        now += waits[-1]
        assert liveness.backoff(A, now) == 0
    assert waits == [min(BACKOFF_CAP, BACKOFF_FIRST * 2**n) for n in range(12)]


def test_slow_in_one_method_while_answering_others_is_not_dead_at_first() -> None:
    liveness = Liveness()
    for strike in range(1, SLOW_STRIKES + 1):
        now = 10.0 * strike
        liveness.answered(A, "ping", 0.01, now - 0.1)
        assert liveness.timed_out(A, "slow", 1.0, now - 1.0, now) == (strike == SLOW_STRIKES)


def test_an_answer_from_before_the_wait_does_not_excuse() -> None:
    liveness = Liveness()
    liveness.answered(A, "ping", 0.01, 9.1)
    assert liveness.timed_out(A, "slow", 1.0, 9.0, 10.0)


@pytest.mark.parametrize(("pause", "expected"), [(1.0, 4), (FADE_AFTER + 1, 1)])
def test_old_failures_fade(pause: float, expected: int) -> None:
    liveness = Liveness()
    for now in (1.0, 2.0, 3.0):
        liveness.unreachable(A, now, now)
    liveness.heard(A, 4.0)
    liveness.unreachable(A, 3.0 + pause, 3.0 + pause)
    assert liveness.failures(A) == expected


def test_what_arrives_after_a_good_bye_is_no_return_unless_the_peer_introduces_itself() -> None:
    liveness = Liveness()
    liveness.departed(A, 5.0)
    assert liveness.backoff(A, 5.0) == DEPARTED_FOR
    assert not liveness.heard(A, 6.0)
    assert liveness.is_suspect(A)
    assert liveness.heard(A, 6.0, anew=True)
    assert not liveness.is_suspect(A)


def test_who_speaks_is_trusted_until_that_proved_wrong_twice_and_then_only_probed() -> None:
    liveness = Liveness()
    now, trusted = 0.0, []
    for _ in range(5):
        now += 100
        liveness.unreachable(A, now, now)
        trusted.append(liveness.heard(A, now + 0.01))
        assert liveness.backoff(A, now + 0.01) == 0, "in any case it may be probed at once"
    assert trusted == [True] * BROKEN_PROMISES + [False] * 3
    assert liveness.answered(A, "m", 0.1, now + 1)
    liveness.unreachable(A, now + 2, now + 2)
    assert liveness.heard(A, now + 3), "an answer wins the trust back"


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ahtud")), max_size=80))
def test_any_story_leaves_bounded_and_consistent_state(story: list[tuple[int, str]]) -> None:
    liveness = Liveness(max_peers=4)
    last: dict[bytes, str] = {}
    for now, (number, event) in enumerate(story):
        agent = bytes([number]) * 32
        match event:
            case "a":
                liveness.answered(agent, "m", 0.1, now)
            case "h":
                liveness.heard(agent, now)
            case "t":
                liveness.timed_out(agent, "m", 0.1, now, now)
            case "u":
                liveness.unreachable(agent, now, now)
            case _:
                liveness.departed(agent, now)
        last.pop(agent, None)
        last[agent] = event
        if len(last) > 4:
            del last[next(iter(last))]
        assert len(liveness) == len(last)
        assert {a for a, seen in last.items() if seen == "a"}.isdisjoint(liveness.suspects())
        assert {a for a, seen in last.items() if seen in "tud"} <= set(liveness.suspects()) <= set(last)
        assert 0 <= liveness.backoff(agent, now) <= DEPARTED_FOR
        assert TIMEOUT_FLOOR <= liveness.timeout(agent, "m") <= TIMEOUT_CAP


def test_latency_is_smoothed_and_methods_are_bounded() -> None:
    liveness = Liveness()
    assert liveness.latency(A) is None
    liveness.answered(A, "m", 1.0, 0.0)
    liveness.answered(A, "m", 2.0, 0.0)
    smoothed = liveness.latency(A)
    assert smoothed is not None
    assert 1.0 < smoothed < 1.5
    for number in range(1000):
        for _ in range(MIN_HISTORY):
            liveness.answered(A, f"method {number}", 0.01, 0.0)
    assert liveness.timeout(A, "method 999") == TIMEOUT_FLOOR
    assert liveness.timeout(A, "method 1") == TIMEOUT_CAP, "the methods used least recently are forgotten"


def test_the_more_gets_lost_the_more_failures_it_takes_to_be_gone() -> None:
    """And a crash is no loss: who stays silent for long does not make the others harder to lose."""
    rng = random.Random(1)
    for share, wanted in ((0.0, {2}), (0.05, {3, 4}), (0.2, {5})):
        liveness, now, gone = Liveness(), 0.0, 0
        for _ in range(20_000):
            now += 1.0
            if rng.random() >= share:
                liveness.answered(A, "m", 0.01, now)
                continue
            liveness.timed_out(A, "m", 0.3, now, now)
            gone += liveness.is_gone(A)
        assert liveness.gone_after in wanted
        assert gone <= 20
        for number in range(100):
            other = bytes([number]) * 32
            liveness.timed_out(other, "m", 0.3, now, now)
            liveness.timed_out(other, "m", 0.3, now + 1, now + 1)
            now += 60
            liveness.answered(other, "m", 0.01, now)
        assert liveness.gone_after <= max(wanted)


def test_one_lost_message_makes_a_suspect_and_two_or_a_refused_connection_make_it_gone() -> None:
    liveness = Liveness()
    liveness.answered(A, "m", 0.01, 10.0)
    liveness.timed_out(A, "m", 0.3, 10.1, 10.4)
    assert liveness.is_suspect(A)
    assert not liveness.is_gone(A)
    liveness.timed_out(A, "m", 0.3, 10.2, 10.5)
    assert not liveness.is_gone(A), "that one was under way when the first was given up"
    liveness.timed_out(A, "ping", 0.3, 10.7, 11.0)
    assert liveness.is_gone(A)
    liveness.heard(A, 12.0)
    assert not liveness.is_gone(A)
    liveness.timed_out(A, "m", 0.3, 20.0, 20.3)
    assert not liveness.is_gone(A), "what was before it showed life does not count"
    liveness.unreachable(B, 1.0, 1.0)
    assert liveness.is_gone(B)
    liveness.answered(B, "m", 0.01, 2.0)
    liveness.departed(B, 3.0)
    assert liveness.is_gone(B)
