"""The fault suite at full length: the scenario `strangers` with 200 nodes for an hour of virtual time.

`python -m benchmarks.fault_suite [--nodes N] [--minutes M] [--seed S] [--quick]` stretches what the packaged
scenario does: 30 % of the nodes an hour are killed and return with their disks, 5 % of the messages are lost,
half of the network is cut off for ten minutes (for a third of a shorter run), and a tenth lies, in every way.
Every figure is the scenario's own; targets are what it asserts. `make test-long` runs it, and it fails when a
target is missed. Time is virtual, so figures do not depend on the machine; `cpu_s` does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from benchmarks.report import RESULTS, Target, emit
from sim.result import Result
from sim.scenario import Scenario, load_scenario, parse_scenario
from sim.simulated_stage import play

NODES = 200
MINUTES = 60.0
QUICK = (12, 3.0)
PER_HOUR = 0.3
ENTRIES_PER_MINUTE = 12
CUT_S = 600.0

TEXT = """
about = "{nodes} nodes for {minutes:g} minutes; a tenth lies, nodes come and go, half is cut off."
seed = {seed}
assert = {asserted}
[topology]
nodes = {nodes}
start_over_s = 30
[[faults]]
kind = "loss"
at_s = 0
for_s = {seconds}
nodes = "all"
loss = 0.05
[[faults]]
kind = "liar"
at_s = 0
nodes = "1/10"
lies = ["forger", "pusher", "forker", "accuser", "hollow", "dropper", "garbage", "slow"]
[[faults]]
kind = "churn"
at_s = 0
for_s = {seconds}
nodes = "storing"
per_hour = {per_hour}
down_s = 60
[[faults]]
kind = "skew"
at_s = 0
for_s = {seconds}
nodes = ["node-7", "node-8"]
ahead_s = 20
[[faults]]
kind = "partition"
at_s = {cut_at}
for_s = {cut_s}
sides = ["1/2"]
[[workload]]
do = "add"
name = "load"
over_s = {seconds}
entries = {entries}
batch = 4
from = "storing"
[[workload]]
do = "ask"
name = "during"
at_s = 30
over_s = {asking_s}
queries = {queries}
from = "storing"
[finish]
settle_within_s = 600
"""


class Progress:
    """A `sim.timeline.View`: a line for each part on stderr, with the virtual time and what it took."""

    def phase(self, title: str, total: int | None = None) -> None:
        self.note(title)

    def advance(self, by: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        minutes, cpu_s = trio.current_time() / 60, time.process_time()
        print(f"{minutes:6.2f} min  {cpu_s:6.0f} s of CPU  {text}", file=sys.stderr, flush=True)


def scenario(nodes: int, minutes: float, seed: int) -> Scenario:
    """The suite at this size; what it asserts is what the packaged scenario does."""
    seconds = 60 * minutes
    cut_s = min(CUT_S, seconds / 3)
    text = TEXT.format(
        nodes=nodes,
        minutes=minutes,
        seed=seed,
        asserted=list(load_scenario("strangers").must),
        seconds=seconds,
        per_hour=PER_HOUR,
        cut_at=seconds / 3,
        cut_s=cut_s,
        entries=round(ENTRIES_PER_MINUTE * minutes),
        asking_s=seconds - 60,
        queries=max(4, round(minutes)),
    )
    return parse_scenario(text, "the fault suite")


def flat(metrics: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Metrics of metrics by names with dots."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, "" if name == "steps" else f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def targets(result: Result) -> list[Target]:
    """The assertions as targets; one that was not measured is missed."""
    return [
        Target(
            one.assertion.metric,
            f"{one.assertion.relation} {one.assertion.bound:g}",
            float("nan") if one.value is None else one.value,
            one.held,
        )
        for one in result.verdicts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The fault suite at full length.")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of virtual time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="12 nodes, three minutes, not kept")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    nodes, minutes = QUICK if arguments.quick else (arguments.nodes, arguments.minutes)
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="roseforest-faults-") as folder:
        result = play(scenario(nodes, minutes, arguments.seed), Path(folder), Progress())
    figures = {
        "nodes": nodes,
        "minutes": minutes,
        "cpu_s": round(time.process_time() - began),
        **flat(result.metrics),
        "trace": result.trace,
    }
    emit("fault_suite", figures, targets(result), None if arguments.quick else RESULTS / "fault_suite.json")
    sys.exit(0 if result.ok else 1)


if __name__ == "__main__":
    main()
