"""What a simulated network costs: whole nodes in virtual time, and the event kernel at scale.

`python -m benchmarks.sim [--quick] [--nodes N]`. Whole nodes: the scenario `cold-start` played to its end
(events a second are messages and connections that the trace saw), and idle networks of two sizes, whose
difference in peak memory is the memory of a node. The kernel: a filled network of 10,000 nodes (`--nodes
100000` takes 4 GB and some minutes), lookups with all nodes alive and with a third of them silently dead.
Where letting every node join is quick, the same after real joins, so that the filled tables can be compared
with grown ones. Each part runs in a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, at_least, at_most, emit, in_own_process, rounded

IDLE = """
about = "Nodes that only keep their place."
[topology]
nodes = {nodes}
ready_within_s = 600
[finish]
settle_within_s = 30
"""
DEAD = 1 / 3


class Silent:
    """A view that shows nothing."""

    def phase(self, title: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, by: int = 1) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def play_scenario(scale: float) -> dict[str, Any]:
    """The scenario `cold-start`, so many times its size."""
    from sim.scenario import load_scenario, scaled
    from sim.simulated_stage import play

    scenario = scaled(load_scenario("cold-start"), scale)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = play(scenario, Path(folder), Silent())
        seconds = time.perf_counter() - began
    return {
        "nodes": scenario.topology.nodes,
        "entries": result.metrics["entry_created_count"],
        "events": result.events,
        "seconds": round(seconds, 2),
        "events_per_s": rounded((result.events or 0) / seconds),
        "virtual_s": result.metrics["virtual_s"],
        "peak_mb": rounded(peak_mb()),
        "ok": result.ok,
    }


def idle(nodes: int) -> dict[str, Any]:
    """A network of so many whole nodes that have met and do nothing."""
    from sim.scenario import parse_scenario
    from sim.simulated_stage import play

    with tempfile.TemporaryDirectory() as folder:
        result = play(parse_scenario(IDLE.format(nodes=nodes), "idle"), Path(folder), Silent())
    return {"nodes": nodes, "virtual_s": result.metrics["virtual_s"], "peak_mb": peak_mb()}


def kernel(nodes: int, lookups: int, joined: bool) -> dict[str, Any]:
    """Lookups in a kernel of so many nodes, healthy and with a third dead."""
    from sim.kernel import Kernel, summary

    before, began = peak_mb(), time.perf_counter()
    network = Kernel(nodes, 1)
    if joined:
        network.join_all()
    else:
        network.fill()
    grown = time.perf_counter() - began
    memory = (peak_mb() - before) * 1024 / nodes
    began, events = time.perf_counter(), network.events
    healthy = summary(network.lookups(lookups))
    network.kill(DEAD)
    dead = summary(network.lookups(lookups))
    seconds = time.perf_counter() - began
    return {
        "nodes": nodes,
        "grown_s": round(grown, 2),
        "kb_per_node": rounded(memory),
        "events_per_s": rounded((network.events - events) / seconds),
        "healthy": healthy,
        "third_dead": dead,
    }


def peak_mb() -> float:
    """This process's greatest memory so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20


PARTS: dict[str, Callable[..., dict[str, Any]]] = {"scenario": play_scenario, "idle": idle, "kernel": kernel}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller networks, under a minute")
    parser.add_argument("--nodes", type=int, help="nodes of the filled kernel")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        name, *values = json.loads(arguments.part)
        print(json.dumps(PARTS[name](*values)))
        return
    quick = arguments.quick
    nodes = arguments.nodes or (2_000 if quick else 10_000)
    lookups = 200 if quick else 1_000
    few, many = (5, 15) if quick else (20, 100)

    scenario = in_own_process("sim", "scenario", 0.2 if quick else 1.0)
    small, large = in_own_process("sim", "idle", few), in_own_process("sim", "idle", many)
    per_node = (large["peak_mb"] - small["peak_mb"]) / (many - few)
    filled = in_own_process("sim", "kernel", nodes, lookups, False)
    compared = 300 if quick else 1_000
    grown, same = (
        in_own_process("sim", "kernel", compared, lookups, True),
        in_own_process("sim", "kernel", compared, lookups, False),
    )
    figures = {
        "whole_nodes": scenario,
        "whole_node_mb": rounded(per_node),
        "whole_process_mb": rounded(large["peak_mb"] - many * per_node),
        "whole_nodes_per_gb": int(1024 / per_node),
        "idle": [small, large],
        "kernel": filled,
        "kernel_joined": grown,
        "kernel_filled_same_size": same,
        "kernel_over_whole_events": rounded(filled["events_per_s"] / scenario["events_per_s"]),
    }
    targets = [
        at_least("kernel.healthy.holders_exact", 0.999, filled["healthy"]["holders_exact"]),
        at_least("kernel.third_dead.holders_exact", 0.99, filled["third_dead"]["holders_exact"]),
        at_most("kernel.healthy.hops_mean", 4, filled["healthy"]["hops_mean"]),
        at_most("whole_node_mb", 10, rounded(per_node)),
    ]
    emit("sim", figures, targets, None if quick else RESULTS / "sim.json")


if __name__ == "__main__":
    main()
