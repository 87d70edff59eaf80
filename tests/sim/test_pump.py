"""The pump runs each action once, at its time, in order."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.pump
from sim.errors import PumpOverflow
from sim.pump import Pump
from sim.virtual_clock import run_deterministic, virtual_us


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(0, 3_000_000)), max_size=30))
def test_actions_run_at_their_time_in_order_of_due_time_and_scheduling(plan: list[tuple[int, int]]) -> None:
    """Each item is scheduled at its first time, for its second later."""

    async def main() -> list[tuple[int, int]]:
        ran: list[tuple[int, int]] = []
        async with trio.open_nursery() as nursery:
            pump = Pump()
            nursery.start_soon(pump.run)
            for index, (at_us, delay_us) in enumerate(plan):
                await trio.sleep_until(at_us / 1_000_000)
                pump.after(delay_us, lambda index=index: ran.append((virtual_us(), index)))  # type: ignore[misc]
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        return ran

    plan.sort()
    expected = sorted((at_us + delay_us, index) for index, (at_us, delay_us) in enumerate(plan))
    assert run_deterministic(main, seed=1) == expected


def test_actions_may_schedule_actions() -> None:
    async def main() -> list[int]:
        times: list[int] = []
        pump = Pump()

        def chain() -> None:
            times.append(virtual_us())
            if len(times) < 5:
                pump.after(len(times) % 2 * 10, chain)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            pump.after(0, chain)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        return times

    assert run_deterministic(main, seed=1) == [0, 10, 10, 20, 20]


def test_a_sender_without_bounds_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.pump, "MAX_PENDING", 10)

    async def main() -> None:
        pump = Pump()
        for _ in range(11):
            pump.after(1, lambda: None)

    with pytest.raises(PumpOverflow):
        run_deterministic(main, seed=1)
