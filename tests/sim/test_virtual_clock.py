"""Virtual time is exact and a seed decides every order."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.virtual_clock import (
    EPOCH_US,
    InlineBlocking,
    SimClock,
    deterministic_scheduling,
    inline_blocking,
    run_deterministic,
    seeded_random,
    virtual_us,
)


async def finishing_order(tasks: int) -> list[int]:
    """The order in which tasks that all wake at the same moments finish."""
    order: list[int] = []

    async def step(number: int) -> None:
        for _ in range(3):
            await trio.sleep(1)
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(step, number)
    return order


def test_canary_trio_still_orders_simultaneous_tasks_by_our_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", False)  # Hypothesis sets it too
    orders = [run_deterministic(finishing_order, 20, seed=seed) for seed in range(5)]
    again = [run_deterministic(finishing_order, 20, seed=seed) for seed in range(5)]
    assert orders == again
    assert len({tuple(order) for order in orders}) == 5


def test_trio_is_left_as_it_was() -> None:
    internals = vars(trio._core._run)
    allowed, state = internals["_ALLOW_DETERMINISTIC_SCHEDULING"], internals["_r"].getstate()

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_deterministic(fail, seed=3)
    assert internals["_ALLOW_DETERMINISTIC_SCHEDULING"] is allowed
    assert internals["_r"].getstate() == state


def test_a_trio_without_the_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trio._core._run, "_r")
    with pytest.raises(RuntimeError, match=trio.__version__), deterministic_scheduling(1):
        pass


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=20))
def test_sleeping_takes_exactly_its_time_and_no_real_time(naps_us: list[int]) -> None:
    async def nap() -> int:
        for nap_us in naps_us:
            await trio.sleep(nap_us / 1_000_000)
        return virtual_us()

    assert abs(run_deterministic(nap, seed=0) - sum(naps_us)) <= len(naps_us)


def test_the_wall_clock_starts_at_the_epoch_and_follows_virtual_time() -> None:
    async def read() -> list[int]:
        clock = SimClock()
        readings = [clock.wall_us() - EPOCH_US, SimClock(lambda: -5).wall_us() - EPOCH_US]
        await trio.sleep(90.25)
        return [*readings, clock.wall_us() - EPOCH_US, round(clock.monotonic() * 100)]

    assert run_deterministic(read, seed=0) == [0, -5, 90_250_000, 9025]


def test_blocking_calls_run_in_place_after_their_delay() -> None:
    async def calls() -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []
        fsync = InlineBlocking(delay=0.004)
        for blocking in (inline_blocking, fsync, fsync):
            value = await blocking(int.__add__, len(done), 1)
            done.append((value, virtual_us()))
        return done

    assert run_deterministic(calls, seed=0) == [(1, 0), (2, 4_000), (3, 8_000)]


def test_a_blocking_call_cancelled_while_it_waits_has_never_started() -> None:
    async def cancelled() -> list[int]:
        calls: list[int] = []
        with trio.move_on_after(0.003):
            await InlineBlocking(delay=0.004)(calls.append, 1)
        await InlineBlocking(delay=0.004)(calls.append, 2)
        return calls

    assert run_deterministic(cancelled, seed=0) == [2]


def test_a_blocking_call_passes_its_error_on() -> None:
    async def fail() -> None:
        await inline_blocking(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        run_deterministic(fail, seed=0)


def test_seeded_randomness_repeats_and_its_streams_are_independent() -> None:
    first, second = seeded_random(7, "node 1"), seeded_random(7, "node 1")
    second.choice.random()
    assert first.random_bytes(32) == second.random_bytes(32)
    assert first.choice.random() != second.choice.random()
    streams = {seeded_random(seed, name).random_bytes(16) for seed in (7, 8) for name in ("a", "b")}
    assert len(streams) == 4
    assert isinstance(first.choice, random.Random)
