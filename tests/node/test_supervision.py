"""Background loops: who fails begins again, who fails too often ends the node, and a full disk does not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from dht.ports import SystemClock
from node.counting import counters_of
from node.storage.errors import DatabaseUnavailable, DiskFull
from node.supervision import PAUSE_FIRST_S, PAUSE_MOST_S, WINDOW_S, Supervisor
from sim.virtual_clock import run_deterministic
from tests.node.simulated_nodes import Network, override, shown, simulate, until, vector


class Broken(Exception):
    """What no loop should raise."""


async def lasted(allowed: int, pauses: list[float]) -> tuple[list[float], int, bool]:
    """A loop that fails after each pause, then ends: when it began, failures survived, whether it raised."""
    began: list[float] = []
    supervisor = Supervisor(SystemClock(), allowed)

    async def work() -> None:
        began.append(trio.current_time())
        if len(began) <= len(pauses):
            await trio.sleep(pauses[len(began) - 1])
            raise Broken

    try:
        await supervisor.keep(work)
    except ExceptionGroup:
        return began, supervisor.failed, True
    return began, supervisor.failed, False


@given(st.integers(0, 4), st.lists(st.sampled_from([0.0, 1.0, 200.0, WINDOW_S + 1]), max_size=8))
def test_no_loop_fails_more_often_than_is_allowed_in_any_window(allowed: int, pauses: list[float]) -> None:
    async def main() -> None:
        began, failed, raised = await lasted(allowed, pauses)
        failures = [at + pause for at, pause in zip(began, pauses, strict=False)]
        for at in failures[: len(failures) - raised]:
            assert sum(at - WINDOW_S <= one <= at for one in failures) <= allowed
        if raised:
            assert sum(one >= failures[-1] - WINDOW_S for one in failures) == allowed + 1
        else:
            assert len(began) == len(pauses) + 1
        assert failed == len(failures) - raised
        for at, again in zip(failures, began[1:], strict=False):
            assert PAUSE_FIRST_S <= again - at <= PAUSE_MOST_S

    run_deterministic(main, seed=1)


async def test_a_disk_ends_the_work_or_is_waited_for_and_neither_counts(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(SystemClock())
    errors = [
        DatabaseUnavailable("locked"),
        DatabaseUnavailable("locked"),
        DiskFull(Path("held.db"), "no space left"),
    ]

    async def work() -> None:
        async with trio.open_nursery() as nursery:  # what loops raise comes in groups
            nursery.start_soon(fail)

    async def fail() -> None:
        raise errors.pop(0)

    with caplog.at_level(logging.WARNING):
        await supervisor.keep(work)
    assert not errors
    assert supervisor.failed == 0
    assert "goes on read-only: cannot write held.db: no space left" in caplog.text


def test_a_node_outlives_the_failure_of_one_of_its_loops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(6, authors=(1, 2))
        node = network.nodes[0]
        look, failures, looks = node.parts.repairer.look, [Broken(), Broken()], 0

        async def failing(everything: bool) -> None:
            nonlocal looks
            if failures:
                raise failures.pop()
            await look(everything)
            looks += 1

        override(node.parts.supervisor, "_allowed", 2)
        override(node.parts.repairer, "look", failing)
        await network.crash(2)
        await until(lambda: looks > 0)
        assert counters_of(node.parts)["background_failures_total"] == 2
        assert shown(await network.ask(1, vector(1))) == network.best(vector(1), 10)

    simulate(tmp_path, (100, 100, 100), scenario)
    assert caplog.text.count("Repairer.run failed, and begins again") == 2
    assert "Broken" in caplog.text
