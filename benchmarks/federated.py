"""Learning together, measured: against Flower's FedAvg, against p2pfl, against the bare sums, and in bytes.

    python -m benchmarks.federated [--quick] [--only PART[,PART]]

The parts, each a module with the same promise (`measure(quick)` gives its figures and targets):

- `accuracy` (`benchmarks.fl_accuracy`): ten peers, three kinds of parts, beside flwr's own strategy;
- `p2pfl` (`benchmarks.fl_p2pfl`): four nodes and five rounds, beside four nodes of p2pfl on this machine;
- `overhead` (`benchmarks.fl_overhead`): what a round costs beyond the sums, up to 10 million parameters;
- `traffic` (`benchmarks.fl_traffic`): bytes that reach a peer in a round, for each topology.

All go into results/federated.json. With `--only` the other parts stay in that file as they were, each with
the commit it was measured at. What is measured elsewhere is named in it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Target, commit, emit

PARTS = ("accuracy", "p2pfl", "overhead", "traffic")
ELSEWHERE = {
    "attacks.json": "liars: 5 of 20 all to all, 10 % in groups of 16, and the table of all attacks",
    "groups.json": "24 members in two groups and in three, and what liars can do there, by exact chances",
    "robust.json": "what robust rules cost, in processor time and memory",
    "compression.json": "int8 and top-k, by the mean and by the default rule",
    "gate.json": "what a member's own gate saves it from, and how often it is a false alarm",
    "churn.json": "64 simulated peers in groups, of which 30 % go and come back",
    "churn_gossip.json": "the same in gossip",
    "gossip.json": "gossip beside rounds of all to all, and with liars among those drawn",
}
"""Results of other benchmarks on learning together, in the same folder."""
RESULT = RESULTS / "federated.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.federated", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a minute for all parts; writes nothing")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PARTS", help="of " + ", ".join(PARTS))
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    if not set(chosen) <= set(PARTS):
        parser.error(f"--only: there are the parts {', '.join(PARTS)}")
    figures, targets = ({}, []) if options.quick else kept(RESULT, chosen)
    for part in chosen:
        print(f"{part} …", file=sys.stderr, flush=True)
        found, promises = importlib.import_module(f"benchmarks.fl_{part}").measure(options.quick)
        figures[part] = {"commit": commit(), **found}
        targets += [promise._replace(figure=f"{part}: {promise.figure}") for promise in promises]
    ordered: dict[str, Any] = {part: figures[part] for part in PARTS if part in figures}
    ordered["elsewhere"] = ELSEWHERE
    targets.sort(key=lambda target: PARTS.index(target.figure.partition(":")[0]))
    emit("federated", ordered, targets, None if options.quick else RESULT)
    return 0 if all(target.met for target in targets) else 1


def kept(result: Path, chosen: Sequence[str]) -> tuple[dict[str, Any], list[Target]]:
    """Figures and targets of the parts that are not measured now, from an earlier result."""
    if not result.exists():
        return {}, []
    before = json.loads(result.read_text(encoding="utf-8"))
    others = [part for part in PARTS if part not in chosen]
    figures = {part: before["figures"][part] for part in others if part in before["figures"]}
    targets = [Target(**one) for one in before["targets"]]
    return figures, [target for target in targets if target.figure.partition(":")[0] in others]


if __name__ == "__main__":
    sys.exit(main())
