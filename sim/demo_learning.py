"""The demo's second half: four of the daemons train a model together, each on its own part of the data.

Real processes again: `fl create` and one `fl run` a member, with the Flower app in `examples/digits`. Beside
the shared model's accuracy stand those of a model trained on all data in one place and of each member's
alone, for the same number of epochs. What the members ended with is compared byte by byte, and one of them
computes every round again. A promise that did not hold raises `PromiseBroken`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import trio

from sim.errors import PromiseBroken
from sim.testnet import RunningNode

if TYPE_CHECKING:
    from sim.demo import DemoView

EXAMPLE = Path(__file__).parents[1] / "examples/digits"
MEMBERS = 4
LEAST_MEMBERS = 2
ROUNDS = 8
EPOCHS = 5
"""Passes over the own data in each round."""
ALPHA = 0.5
"""How unequal the parts are; see the example."""
DEADLINE_S = 60
"""For the slowest member in a round; none should need it."""
COMMAND_TIMEOUT_S = 180.0
"""For any of the commands, the whole training among them."""
POLL_S = 0.3
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
"""Four apps on few cores: more threads of numpy's would only wait for each other."""


@dataclass(frozen=True, slots=True)
class LearningReport:
    """The figures of one training. Accuracies are shares of the test images; `alone` by member's name."""

    task: str
    members: tuple[str, ...]
    rounds: int
    epochs: int
    alpha: float
    parameters: int
    update_bytes: int
    examples: dict[str, int]
    test_examples: int
    shared: float
    central: float
    alone: dict[str, float]
    results: dict[str, str]
    identical_bytes: bool
    lost_rounds: int
    audited: int
    audit_problems: tuple[str, ...]
    seconds: float


def missing() -> str:
    """Why this half cannot be shown here; empty when it can."""
    lacking = [name for name in ("flwr", "sklearn") if importlib.util.find_spec(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed: pip install 'roseforest[fl,examples]'"
    if not (EXAMPLE / "pyproject.toml").is_file():
        return "examples/digits is part of the repository only"
    return ""


async def run_learning(nodes: Sequence[RunningNode], seed: int, view: DemoView) -> LearningReport:
    """Have the first `MEMBERS` of `nodes` train together. Raises `PromiseBroken`."""
    members = nodes[:MEMBERS]
    began = trio.current_time()
    view.phase(f"Learning: {len(members)} nodes, each with its own part of the digits", ROUNDS)
    settings = f"num-server-rounds={ROUNDS} local-epochs={EPOCHS} alpha={ALPHA} seed={seed}"
    count = str(len(members))
    made = await _command(
        members[0],
        *("fl", "create", str(EXAMPLE), "--run-config", settings, "--deadline", str(DEADLINE_S)),
        *("--min-members", count, "--max-members", count),
        # Nobody lies here, and of four with unequal data a robust rule would leave out one in four.
        *("--strategy", "fedavg"),
    )
    task = str(made["id"])
    parts: dict[str, Any] = {}
    beside: dict[str, Any] = {}

    async def take_part(number: int, node: RunningNode) -> None:
        part = ("--partition-id", str(number), "--num-partitions", count)
        arguments = ("fl", "run", str(EXAMPLE), task, *part, "--run-config", settings)
        parts[node.name] = await _command(node, *arguments)

    async def without_each_other() -> None:
        beside.update(await _alone(len(members), seed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, members[0], task, view, nursery.cancel_scope)
        async with trio.open_nursery() as working:
            working.start_soon(without_each_other)
            for number, node in enumerate(members):
                working.start_soon(take_part, number, node)
        nursery.cancel_scope.cancel()

    names = [node.name for node in members]
    view.phase("Comparing what they ended with, and computing every round again")
    blobs = [await node.blob(parts[node.name]["parameters"]) for node in members]
    audit = await members[-1].post(f"/v1/learning/tasks/{quote(task)}/audit", None)
    report = LearningReport(
        task=task,
        members=tuple(names),
        rounds=ROUNDS,
        epochs=EPOCHS,
        alpha=ALPHA,
        parameters=made["parameters"],
        update_bytes=made["bytes"],
        examples=dict(zip(names, beside["examples"], strict=True)),
        test_examples=beside["test_examples"],
        shared=_shared(parts),
        central=beside["central"],
        alone=dict(zip(names, beside["alone"], strict=True)),
        results={name: part["parameters"] for name, part in sorted(parts.items())},
        identical_bytes=len(set(blobs)) == 1,
        lost_rounds=sum(len(part["lost"]) for part in parts.values()),
        audited=len(audit["rounds"]),
        audit_problems=tuple(str(entry["problem"]) for entry in audit["rounds"] if not entry["ok"]),
        seconds=round(trio.current_time() - began, 2),
    )
    check_learning(report)
    return report


def check_learning(report: LearningReport) -> None:
    """Raise `PromiseBroken` for the first promise that the figures contradict."""
    if len(set(report.results.values())) != 1 or not report.identical_bytes:
        raise PromiseBroken(f"the members ended with different models: {report.results}")
    if report.lost_rounds:
        raise PromiseBroken(f"{report.lost_rounds} updates were lost though every member was there")
    if report.audit_problems:
        raise PromiseBroken(f"a round computed again came to something else: {report.audit_problems[0]}")
    if report.audited != report.rounds:
        raise PromiseBroken(f"{report.audited} rounds could be computed again, not {report.rounds}")
    best = max(report.alone.values())
    if report.shared <= best:
        raise PromiseBroken(
            f"the shared model's accuracy {report.shared:.3f} is no better than {best:.3f}, which a node "
            "reaches alone"
        )


def _shared(parts: dict[str, Any]) -> float:
    """The accuracy of the shared model, as every member measured it on the common test images."""
    for name, part in parts.items():
        if part["evaluation"] is None:
            raise PromiseBroken(f"{name} could not evaluate the result: {part['evaluation_problem']}")
    measured = {part["evaluation"]["accuracy"] for part in parts.values()}
    if len(measured) != 1:
        raise PromiseBroken(f"the members measure different accuracies of one model: {sorted(measured)}")
    return float(measured.pop())


async def _watch(node: RunningNode, task: str, view: DemoView, scope: trio.CancelScope) -> None:
    """Show how far the task is, and end everything when it takes too long."""
    with trio.move_on_after(COMMAND_TIMEOUT_S):
        while True:
            state = await node.get(f"/v1/learning/tasks/{quote(task)}")
            view.progress(ROUNDS if state["state"] == "finished" else max(0, state["round"] - 1))
            await trio.sleep(POLL_S)
    scope.cancel()
    raise PromiseBroken(f"{ROUNDS} rounds were not done after {COMMAND_TIMEOUT_S:g} s")


async def _command(node: RunningNode, *arguments: str) -> Any:
    """What a command on the node's home prints as JSON."""
    done = await node.command(*arguments, "--json", environment=ENVIRONMENT)
    if done.code:
        said = done.err.strip().splitlines() or ["nothing"]
        raise PromiseBroken(f"{node.name}: {' '.join(arguments[:2])} ended with code {done.code}: {said[-1]}")
    return json.loads(done.out.splitlines()[-1])


async def _alone(parts: int, seed: int) -> dict[str, Any]:
    """Accuracies without federation: on all data in one place, and on each part alone."""
    options = {"--parts": parts, "--epochs": ROUNDS * EPOCHS, "--alpha": ALPHA, "--seed": seed}
    done = await trio.run_process(
        [sys.executable, "-m", "digitsapp.alone", *(str(word) for pair in options.items() for word in pair)],
        capture_stdout=True,
        cwd=EXAMPLE,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
