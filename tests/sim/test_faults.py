"""Faults: what a plan says is the same whenever it is asked, and what it says is what messages meet."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise, product

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import NetworkError
from sim.faults import (
    MAX_QUEUE_US,
    OVERHEAD_BYTES,
    SECOND_US,
    Down,
    FaultPlan,
    FaultyLink,
    HostEvent,
    Lossy,
    Narrow,
    Partition,
    Skewed,
    Slow,
    Span,
    churn,
)
from sim.links import LatencyLink
from sim.network import open_world
from sim.virtual_clock import run_deterministic

NAMES = ("a", "b", "c", "d", "e")
TIMES = st.integers(0, 1_000)
SPANS = st.tuples(TIMES, TIMES).map(lambda two: Span(min(two), max(two) + 1))
PARTITIONS = st.builds(
    Partition, SPANS, st.lists(st.frozensets(st.sampled_from(NAMES)), min_size=1, max_size=3).map(tuple)
)
DOWNS = st.lists(st.builds(Down, SPANS, st.sampled_from(NAMES)), max_size=12)
STEADY = LatencyLink(0, (10_000, 10_000), 0)
ONE, OTHER, THIRD = (bytes([number]) * 32 for number in (1, 2, 3))
KNOWN = {ONE: "a", OTHER: "b", THIRD: "c"}


def link_at(now: Callable[[], int], *faults: object, rate: int | None = None) -> FaultyLink:
    return FaultyLink(STEADY, FaultPlan(faults), KNOWN, rate, now)  # type: ignore[arg-type]


@given(st.lists(PARTITIONS, max_size=3), TIMES)
def test_a_partition_is_symmetric_and_cuts_nobody_from_its_own_side(
    partitions: list[Partition], now: int
) -> None:
    plan = FaultPlan(tuple(partitions))
    for one, other in product(NAMES, repeat=2):
        assert plan.cut(now, one, other) == plan.cut(now, other, one)
        assert not plan.cut(now, one, one)
    if len(partitions) == 1 and plan.cut(now, "a", "b"):
        assert plan.cut(now, "a", "c") or plan.cut(now, "b", "c")  # c is on one side at most


@given(PARTITIONS, TIMES)
def test_a_partition_ends_when_its_span_does(partition: Partition, now: int) -> None:
    plan = FaultPlan((partition,))
    if now not in partition.span:
        assert not any(plan.cut(now, one, other) for one, other in product(NAMES, repeat=2))


@given(DOWNS)
def test_kills_and_starts_take_turns_and_cover_exactly_the_spans(downs: list[Down]) -> None:
    events = FaultPlan(tuple(downs)).host_events()
    assert events == sorted(events, key=lambda event: event.at_us)
    for name in NAMES:
        mine = [event for event in events if event.node == name]
        assert [event.up for event in mine] == [number % 2 == 1 for number in range(len(mine))]
        assert all(one.at_us < later.at_us for one, later in pairwise(mine))
        for now in range(0, 1_002, 37):
            past = [event for event in mine if event.at_us <= now]
            is_down = bool(past) and not past[-1].up
            assert is_down == any(now in down.span for down in downs if down.node == name)


def test_a_node_whose_spells_touch_is_killed_once() -> None:
    plan = FaultPlan((Down(Span(5, 9), "a"), Down(Span(9, 12), "a", True), Down(Span(6), "b", True)))
    assert plan.host_events() == [
        HostEvent(5, "a", False),
        HostEvent(6, "b", False, in_order=True),
        HostEvent(12, "a", True),
    ]


@given(st.integers(), st.floats(0.5, 60), st.floats(0.5, 60))
def test_churn_repeats_by_its_seed_and_leaves_everybody_up(seed: int, up_s: float, down_s: float) -> None:
    span = Span(SECOND_US, 300 * SECOND_US)
    one, same = (churn(NAMES, span, up_s, down_s, random.Random(seed)) for _ in range(2))
    assert one == same
    assert all(span.start_us <= down.span.start_us < down.span.end_us <= span.end_us for down in one)


def test_churn_comes_and_goes_at_its_rates() -> None:
    span = Span(0, 40_000 * SECOND_US)
    downs = churn(NAMES, span, 30, 10, random.Random(1))
    away_s = sum(down.span.end_us - down.span.start_us for down in downs) / SECOND_US
    assert abs(away_s / (5 * 40_000) - 10 / 40) < 0.02
    assert abs(len(downs) / (5 * 40_000 / 40) - 1) < 0.05


def test_slow_nodes_delay_what_they_send_and_get_and_only_while_they_are_slow() -> None:
    now = [0]
    link = link_at(lambda: now[0], Slow(Span(100, 200), frozenset("ab"), 7_000))
    rng = random.Random(1)
    for moment, expected in ((99, 10_000), (100, 24_000), (199, 24_000), (200, 10_000)):
        now[0] = moment
        assert link(ONE, OTHER, 5, rng) == link(OTHER, ONE, 5, rng) == expected
    now[0] = 150
    assert link(THIRD, ONE, 5, rng) == 17_000
    assert link(bytes(32), THIRD, 5, rng) == 10_000  # a peer without a name


def test_lossy_nodes_lose_their_share() -> None:
    link = link_at(lambda: 0, Lossy(Span(), frozenset("a"), 0.25), Lossy(Span(), frozenset("b"), 0.5))
    rng = random.Random(2)
    lost = sum(link(ONE, THIRD, 5, rng) is None for _ in range(20_000))
    both = sum(link(ONE, OTHER, 5, rng) is None for _ in range(20_000))
    assert abs(lost / 20_000 - 0.25) < 0.01
    assert abs(both / 20_000 - (1 - 0.75 * 0.5)) < 0.01


def test_a_clock_is_wrong_while_it_is_and_only_where() -> None:
    plan = FaultPlan((Skewed(Span(100, 200), frozenset("a"), 7), Skewed(Span(150, 200), frozenset("ab"), -9)))
    assert [plan.skew_us(now, "a") for now in (99, 100, 150, 199, 200)] == [0, 7, -2, -2, 0]
    assert [plan.skew_us(now, "b") for now in (149, 150)] == [0, -9]


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 900)), min_size=1, max_size=30))
def test_a_narrow_link_keeps_the_order_and_never_exceeds_its_rate(sends: list[tuple[int, int]]) -> None:
    rate, clock = 100_000, [0]
    jittery = LatencyLink(0, (1_000, 1_000), 5_000)
    link = FaultyLink(jittery, FaultPlan(), KNOWN, rate, lambda: clock[0])
    rng = random.Random(3)
    arrivals, sent = [], 0
    for pause, size in sends:
        clock[0] += pause
        delay = link(ONE, OTHER, size, rng)
        assert delay is not None
        arrivals.append(clock[0] + delay)
        sent += size + OVERHEAD_BYTES
        assert arrivals[-1] >= sends[0][0] + sent * SECOND_US // rate + 1_000  # all of it went over first
        assert link(OTHER, ONE, 0, rng) is not None  # the other direction has a queue of its own
    assert arrivals == sorted(arrivals)


def test_a_narrow_link_that_is_idle_again_owes_nothing_and_a_full_queue_loses() -> None:
    clock = [0]
    link = link_at(lambda: clock[0], Narrow(Span(), frozenset("a"), 1_000), rate=10_000)
    rng = random.Random(4)
    assert link(ONE, OTHER, 900, rng) == SECOND_US + 10_000  # the narrower of both limits
    assert link(OTHER, THIRD, 900, rng) == SECOND_US // 10 + 10_000
    clock[0] = 5 * SECOND_US
    assert link(ONE, OTHER, 900, rng) == SECOND_US + 10_000
    fates = [link(ONE, OTHER, 900, rng) for _ in range(40)]
    kept = [fate for fate in fates if fate is not None]
    assert fates[: len(kept)] == kept
    assert len(kept) < 40
    assert max(kept) <= MAX_QUEUE_US + SECOND_US + 10_000


@pytest.mark.parametrize("connected_before", [True, False])
def test_what_a_partition_stopped_gets_through_once_it_has_healed(connected_before: bool) -> None:
    async def main() -> list[str]:
        story: list[str] = []

        async def echo(_peer: bytes, body: bytes) -> bytes:
            return body

        plan = FaultPlan((Partition(Span(10 * SECOND_US, 13 * SECOND_US), (frozenset("a"),)),))
        async with open_world(1, FaultyLink(STEADY, plan, KNOWN)) as world:
            one, other = await world.join(ONE), await world.join(OTHER)
            other.register("echo", echo)
            one.learn(OTHER, [world.address(OTHER)])
            if connected_before:
                story.append((await one.request(OTHER, "echo", b"before", 1)).decode())
            await trio.sleep_until(10.5)
            try:
                story.append((await one.request(OTHER, "echo", b"during", 1)).decode())
            except NetworkError as error:
                story.append(type(error).__name__)
            await trio.sleep(2)
            story.append((await one.request(OTHER, "echo", b"after", 8)).decode())
        return story

    before = ["before"] if connected_before else []
    assert run_deterministic(main, seed=1) == [*before, "RequestTimeout", "after"]


def test_a_packet_of_a_handshake_is_sent_again_until_the_partition_has_healed() -> None:
    async def main() -> float:
        plan = FaultPlan((Partition(Span(0, 2 * SECOND_US), (frozenset("a"),)),))
        async with open_world(1, FaultyLink(STEADY, plan, KNOWN)) as world:
            one, _other = await world.join(ONE), await world.join(OTHER)
            assert await one.dial(world.address(OTHER), 9) == OTHER  # first sent at 0 s, again at 1 s and 3 s
            return trio.current_time()

    assert run_deterministic(main, seed=1) == pytest.approx(3.04)
