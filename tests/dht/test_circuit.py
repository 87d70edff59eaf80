from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dht.repair.circuit import (
    FAILURES,
    GROWS,
    PASSES,
    REST_FIRST_S,
    REST_MOST_S,
    Circuit,
    Gate,
    decorrelated,
)
from dht.repair.throttle import BURST, RATE, Bucket

DRAWS = st.floats(0.0, 1.0, exclude_max=True)


class Circuits(RuleBasedStateMachine):
    """Requests asked, under way and ended in any order, against what a plain account of them says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.circuit = Circuit()
        self.under_way: list[tuple[int, int]] = []
        """(permission, era in which it was given) of each."""
        self.era = 0
        self.in_a_row = 0
        self.gate = Gate.CLOSED
        self.until = 0.0
        self.last_s = 0.0

    @rule(seconds=st.floats(0.0, 2 * REST_MOST_S))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def turn(self, gate: Gate) -> None:
        self.gate, self.era, self.in_a_row = gate, self.era + 1, 0

    @rule()
    def ask(self) -> None:
        self.circuit, number = self.circuit.asked(self.now)
        if self.gate is Gate.OPEN and self.now >= self.until:
            self.turn(Gate.HALF_OPEN)
            expected = True
        else:
            tried = any(era == self.era for _, era in self.under_way)
            expected = self.gate is Gate.CLOSED or (self.gate is Gate.HALF_OPEN and not tried)
        assert (number is not None) == expected
        if number is not None:
            self.under_way.append((number, self.era))

    def end(self, data: st.DataObject) -> tuple[int, bool]:
        at = data.draw(st.integers(0, len(self.under_way) - 1))
        number, era = self.under_way.pop(at)
        return number, era == self.era

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number, counts = self.end(data)
        self.circuit = self.circuit.answered(number)
        if counts and self.gate is Gate.CLOSED:
            self.in_a_row = 0
        elif counts:
            self.in_a_row += 1
            if self.in_a_row == PASSES:
                self.turn(Gate.CLOSED)
                self.last_s = 0.0

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), draw=DRAWS)
    def fail(self, data: st.DataObject, draw: float) -> None:
        number, counts = self.end(data)
        self.circuit = self.circuit.failed(number, self.now, draw)
        if not counts:
            return
        self.in_a_row += 1
        if self.gate is Gate.HALF_OPEN or self.in_a_row == FAILURES:
            self.turn(Gate.OPEN)
            self.until = self.circuit.until
            rest_s = self.circuit.rest_s
            assert self.until == self.now + rest_s
            assert REST_FIRST_S <= rest_s <= min(REST_MOST_S, GROWS * max(self.last_s, REST_FIRST_S))
            self.last_s = rest_s

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        number, _ = self.end(data)
        self.circuit = self.circuit.abandoned(number)

    @rule()
    def hurry(self) -> None:
        self.circuit = self.circuit.hurried()
        if self.gate is Gate.OPEN:
            self.until = 0.0

    @invariant()
    def gate_is_as_accounted(self) -> None:
        assert self.circuit.gate is self.gate


TestCircuits = Circuits.TestCase


@given(st.lists(DRAWS, min_size=300, max_size=300), st.floats(0.0, 10.0))
def test_who_always_fails_is_asked_a_bounded_number_of_times(draws: list[float], took_s: float) -> None:
    """By one who asks as often as it may, whenever each failure takes so long."""
    circuit, now = Circuit(), 0.0
    for asked, draw in enumerate(draws, start=1):
        circuit, number = circuit.asked(now)
        assert number is not None
        assert asked <= FAILURES + now / REST_FIRST_S + 1
        now += took_s
        circuit = circuit.failed(number, now, draw)
        now = max(now, circuit.until)


def test_after_some_failures_it_is_asked_three_times_a_minute() -> None:
    """Draws spread evenly: the mean pause is far from both ends, so those who began together part."""
    pauses, last_s = list[float](), 0.0
    for number in range(1_000):
        last_s = decorrelated(last_s, number * 0.618034 % 1.0, REST_FIRST_S, REST_MOST_S)
        pauses.append(last_s)
    assert 15.0 < sum(pauses[10:]) / len(pauses[10:]) < REST_MOST_S
    assert len({round(pause_s, 3) for pause_s in pauses}) > 250


@given(
    st.lists(st.tuples(st.integers(1, 800_000), st.floats(0.0, 2.0), st.booleans()), min_size=1, max_size=60)
)
def test_no_more_goes_through_a_bucket_than_its_rate_and_burst(
    sends: list[tuple[int, float, bool]],
) -> None:
    """(size, pause before it, urgent): whoever is not urgent waits, the largest message is one beyond."""
    bucket, now = Bucket(at=0.0), 0.0
    went: list[tuple[float, int]] = []
    urgent_bytes = 0
    for size, pause_s, urgent in sends:
        now += pause_s
        if not urgent:
            now += bucket.wait_s(now)
        bucket = bucket.spent(size, now)
        went.append((now, size))
        urgent_bytes += size if urgent else 0
        assert bucket.wait_s(now) <= (urgent_bytes + 800_000) / RATE
    for start, (since, _) in enumerate(went):
        for end in range(start, len(went)):
            until, last = went[end]
            if not any(urgent for _, _, urgent in sends[start : end + 1]):
                total = sum(size for _, size in went[start : end + 1])
                assert total <= BURST + RATE * (until - since) + last + 1e-3
