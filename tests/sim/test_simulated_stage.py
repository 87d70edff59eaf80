"""Scenarios played in virtual time: what the file asserts is checked, and what must fail does fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.assertions import RUN_METRICS, STEP_METRICS
from sim.errors import ScenarioFailed
from sim.liars import LIES
from sim.result import Result
from sim.scenario import load_scenario, parse_scenario, scaled, shipped
from sim.simulated_stage import play

ROOT = Path(__file__).parents[2]
TINY = """
about = "Four nodes, one of them killed and back."
assert = [
    "pending == 0", "retrieved == 1", "load.fetch_lag.count >= 1", "stale_count == 0", "ask.recall == 1",
]
[topology]
nodes = 4
[[workload]]
do = "add"
name = "load"
entries = 12
batch = 4
from = "node-2"
readers = "node-3"
[[workload]]
do = "edit"
name = "edit"
entries = 2
at_s = 3
[[faults]]
kind = "crash"
at_s = 5
nodes = "node-2"
return_after_s = 5
[[workload]]
do = "ask"
name = "ask"
at_s = 20
queries = 3
[[workload]]
do = "get"
name = "get"
at_s = 20
entries = 3
"""


class Quiet:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.advanced = 0

    def phase(self, title: str, total: int | None = None) -> None:
        self.phases.append(title)

    def advance(self, by: int = 1) -> None:
        self.advanced += by

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(text: str, folder: Path, view: Quiet | None = None) -> Result:
    return play(parse_scenario(text, "x.toml"), folder, view or Quiet())


LARGER = frozenset({"cold-start", "flash-crowd", "slow-peers"})
"""Shipped scenarios that take over ten seconds in a small size, too."""


def command(*arguments: str, hash_seed: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "node", "sim", "run", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    try:
        return [json.loads(process.communicate(timeout=600)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_a_run_adds_edits_asks_kills_and_fetches(tmp_path: Path) -> None:
    view = Quiet()
    result = run(TINY, tmp_path, view)
    assert [str(verdict) for verdict in result.verdicts if not verdict.held] == []
    assert result.ok
    assert view.notes == ["node-2 is killed", "node-2 is back"]
    steps = result.metrics["steps"]
    assert steps["load"]["entry_created_count"] == result.metrics["checked_count"] == 12
    assert steps["edit"]["edited_count"] == 2
    assert steps["ask"]["recv_count"] == 3 * 10
    assert steps["get"]["recv_count"] == 3
    assert result.metrics["sync_lag"]["count"] == 12
    assert view.advanced == 4 + 12 + 2 + 3 + 3 + 12


@pytest.mark.slow
def test_an_assertion_that_does_not_hold_ends_the_command_with_code_13(tmp_path: Path) -> None:
    file = tmp_path / "hopeless.toml"
    file.write_text(TINY.replace('"pending == 0"', '"pending == 0", "load.acknowledge_ms.p50 < 0"'))
    process = command(str(file), "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 13
    said = err.splitlines()[-1]
    assert said.startswith("roseforest: hopeless: load.acknowledge_ms.p50 < 0 does not hold: ")
    value = json.loads(out)
    assert value["ok"] is False
    assert [one["assert"] for one in value["assertions"] if not one["ok"]] == ["load.acknowledge_ms.p50 < 0"]
    shown = command(str(file))
    assert "FAILS  load.acknowledge_ms.p50 < 0  (" in shown.communicate(timeout=120)[0]
    assert shown.returncode == 13


@pytest.mark.slow
def test_the_trace_shows_every_message_in_order(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    process = command(str(file), "--json", "--trace")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    lines = [line.split() for line in err.splitlines()]
    assert len(lines) == json.loads(out)["events"]
    times = [float(line[0]) for line in lines]
    assert times == sorted(times)
    assert {line[1] for line in lines} >= {"CONNECT", "DISCONNECT", "REQUEST", "REPLY"}
    assert {line[4] for line in lines} >= {"peer.find", "record.store", "shard.search"}


@pytest.mark.slow
def test_what_cannot_be_played_is_one_line_and_a_code(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(TINY.replace("nodes = 4", "nodes = -4"))
    process = command(str(file))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"roseforest: {file}: topology.nodes: -4: ")


def test_a_network_that_does_not_come_to_stand_says_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioFailed, match=r"4 of 4 nodes, node-1 among them, had not joined within 4 s"):
        run(TINY.replace("nodes = 4", "nodes = 4\nloss = 1.0\nready_within_s = 4"), tmp_path)


@pytest.mark.slow
def test_a_network_cut_in_two_for_good_never_comes_to_rest(tmp_path: Path) -> None:
    """The assertions would notice: what one side acknowledged, the other cannot fetch."""
    cut = """
about = "Cut at once, and for longer than the run."
[topology]
nodes = 6
[[faults]]
kind = "loss"
at_s = 0
nodes = "1/2"
loss = 1.0
[[workload]]
do = "add"
name = "load"
at_s = 5
entries = 30
batch = 1
[finish]
settle_within_s = 30
"""
    metrics = run(cut, tmp_path).metrics
    assert metrics["retrieved"] < 1
    assert metrics["replicas_equal"] == 0
    assert metrics["copies_gone"] == 0
    assert "settle_s" not in metrics


@pytest.mark.slow
def test_the_example_of_the_documentation_is_complete_and_holds(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "simulator.md").read_text("utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    result = run(example, tmp_path)
    assert [(str(one.assertion), one.value) for one in result.verdicts if not one.held] == []
    assert len(result.verdicts) == 7


def test_the_documentation_names_every_scenario_metric_and_fault() -> None:
    text = (ROOT / "docs" / "simulator.md").read_text("utf-8")
    steps = [name for metrics in STEP_METRICS.values() for name in metrics]
    names = [
        *shipped(),
        *RUN_METRICS,
        *steps,
        "partition",
        "crash",
        "leave",
        "churn",
        "slow",
        "bandwidth",
        "loss",
        "skew",
        "liar",
        *LIES,
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [  # strangers: see test_fault_suite
        pytest.param(name, marks=[pytest.mark.long] if name in LARGER else [])
        for name in sorted(shipped().keys() - {"strangers"})
    ],
)
def test_every_shipped_scenario_holds_in_a_small_size(name: str, tmp_path: Path) -> None:
    result = play(scaled(load_scenario(name), 0.3), tmp_path, Quiet())
    assert [(str(one.assertion), one.value) for one in result.verdicts if not one.held] == []


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["0.2", pytest.param("1", marks=pytest.mark.long)])
def test_whole_nodes_leave_equal_traces_in_two_processes_and_another_seed_another(scale: str) -> None:
    """Up to fifty whole nodes, a thousand entries, a hundred queries."""
    arguments = ("cold-start", "--json", "--scale", scale)
    one, same = results(*(command(*arguments, hash_seed=number) for number in (1, 2)))
    assert one == same  # trace, events, and every metric
    assert one["ok"], one["assertions"]
    part = float(scale)
    assert (one["nodes"], one["metrics"]["entry_created_count"]) == (50 * part, 1000 * part)
    assert one["metrics"]["steps"]["questions"]["query_count"] > 0
    seeds = [command("cold-start", "--json", "--scale", "0.1", "--seed", seed) for seed in ("1", "2")]
    small, other = results(*seeds)
    assert small["trace"] != other["trace"]
    assert small["ok"]
    assert other["ok"]
