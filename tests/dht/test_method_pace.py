"""One peer is answered as fast as its kind of work allows; a little more waits, much more is refused."""

from __future__ import annotations

import pytest

from dht.overlay.method_pace import MAX_WAIT, SLOWED, UNIT_BYTES, MethodPace, Work, work_of
from dht.overlay.reputation import BANNED_FROM, Misdeed, Reputation

A, B = bytes([1]) * 32, bytes([2]) * 32


def ask(pace: MethodPace, count: int, method: str, now: float, size: int = 0, slowed: bool = False) -> int:
    """How many of so many requests at one moment are answered at once."""
    return sum(pace.wait(A, method, size, slowed, now) == 0.0 for _ in range(count))


@pytest.mark.parametrize(
    ("method", "work"),
    [
        ("peer.find", Work.NEIGHBOURS),
        ("hello", Work.NEIGHBOURS),
        ("record.store", Work.STORE),
        ("record.fetch", Work.READ),
        ("shard.search", Work.SEARCH),
        ("shard.summary", Work.SUMMARY),
        ("blob.chunk", Work.BLOB),
        ("what.comes.later", Work.READ),
    ],
)
def test_each_kind_of_work_has_a_pace_of_its_own(method: str, work: Work) -> None:
    assert work_of(method) is work
    pace = MethodPace()
    burst = int(work.value.burst)
    assert ask(pace, burst + 50, method, 0.0) == burst
    other = "peer.ping" if work is not Work.NEIGHBOURS else "record.at"
    assert pace.wait(A, other, 0, False, 0.0) == 0.0, "another kind of work has not suffered"
    assert pace.wait(B, method, 0, False, 0.0) == 0.0, "nor another peer"
    rate = work.value.per_second
    assert ask(pace, burst, method, 1.0) == pytest.approx(rate - min(50, MAX_WAIT * rate), abs=2)


def test_a_little_too_fast_waits_much_too_fast_is_refused_and_takes_nothing() -> None:
    pace, rate = MethodPace(), Work.SEARCH.value
    waits = [pace.wait(A, "shard.search", 0, False, 0.0) for _ in range(int(rate.burst) + 500)]
    waiting = [wait for wait in waits if wait]
    assert len(waiting) == pytest.approx(MAX_WAIT * rate.per_second, abs=2)
    assert 0 < min(waiting) < max(waiting) <= MAX_WAIT
    assert waits[-400:] == [None] * 400
    assert pace.wait(A, "shard.search", 0, False, MAX_WAIT) == pytest.approx(1 / rate.per_second, abs=0.01)


def test_bodies_weigh_and_the_slowed_pay_more() -> None:
    burst = int(Work.STORE.value.burst)
    assert ask(MethodPace(), burst, "record.store", 0.0, size=9 * UNIT_BYTES) == burst // 10
    assert ask(MethodPace(), burst, "record.store", 0.0, slowed=True) == burst // SLOWED


def test_pressing_for_more_than_a_minute_bans_and_a_burst_does_not() -> None:
    pace, reputation = MethodPace(), Reputation()

    def press(now: float) -> None:
        if pace.presses(A, now):
            reputation.blame(A, Misdeed.PRESSING.points, now)

    for number in range(1000):
        press(number / 1000)
    assert reputation.standing(A, 1.0).score < 2 * Misdeed.PRESSING.points + 1e-9
    seconds = 1.0
    while not reputation.standing(A, seconds).banned:
        seconds += 1.0
        press(seconds)
    assert seconds > 60
    assert Misdeed.PRESSING.points < BANNED_FROM
