"""Four of our nodes beside four of p2pfl 0.4.4: how long five rounds of the digits take, and how good.

Both sides train the same network (64-64-10, five local epochs) by the same NumPy code on the same parts and
batches, over loopback on this machine, in the same run, one seed after the other. Ours are four daemons and
four members as `roseforest fl run` has them, each with the app in a process of its own; theirs are four nodes
in one process (`benchmarks.p2pfl_nodes`). The clock starts when nodes and apps are up, have their data and
are connected: ours with the publication of the task, which the members then find and join, theirs with
`set_start_learning`. It stops when the last of the four has the last round's model. Beside it stands what a
user waits who types the commands: with the start of all processes but our daemons, which run anyway.

p2pfl waits by timers. **default** are its settings as they come; **tests** is `set_standalone_settings`, what
its own tests and examples take; both send models every one or two seconds. **fast** are settings that come
from us: models every tenth of a second, and no more waiting for heartbeats than it needs among four nodes.
**fastest** goes on until more brought nothing.

It runs in an environment of its own (`make p2pfl`); without one, only our side is measured.

A part of `benchmarks.federated`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import trio

from benchmarks.report import ROOT, Target, at_least, at_most, rounded
from chain.aggregation_rule import ROBUST
from chain.learning_task import FEDAVG, INT8, NO_COMPRESSION, Array
from federated.flower.app_runner import AppRunner, AppSettings
from federated.flower.participation import Report, RoundDone, take_part
from federated.flower.project import FlowerProject, read_project
from federated.flower.template import CONFIG_KEY, Template
from federated.update import decode, encode
from node.api_client import ApiClient, ApiError
from node.learning_member import Member, SystemClock, compressing
from sim.testnet import RunningNode, open_test_network

EXAMPLE = ROOT / "examples/digits"
sys.path.insert(0, str(EXAMPLE))

from digitsapp import task as digits  # noqa: E402

PYTHON = ROOT / ".venv/p2pfl/bin/python"
NODES = 4
ROUNDS = 5
EPOCHS = 5
HIDDEN = 64
RATE = 0.1
BATCH = 32
SEEDS = (1, 2, 3)
DEADLINE_MS = 60_000
SECONDS = 300.0
MAX_ABS = 1_000
FORMS = {"mean": (FEDAVG, NO_COMPRESSION), "default": (ROBUST, INT8)}
"""Our tasks: what p2pfl computes, and what `fl create` makes."""
HURRIED = {"PERIOD": 0.5, "WAIT_CONVERGENCE": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"standalone": False, "changed": {}},
    "tests": {"standalone": True, "changed": {}},
    "fast": {
        "standalone": False,
        "changed": {
            "heartbeat": HURRIED,
            "gossip": {"PERIOD": 0.01, "MODELS_PERIOD": 0.1, "MODELS_PER_ROUND": NODES},
        },
    },
    "fastest": {
        "standalone": False,
        "changed": {
            "heartbeat": HURRIED,
            "gossip": {
                "PERIOD": 0.01,
                "MODELS_PERIOD": 0.02,
                "MODELS_PER_ROUND": NODES,
                "EXIT_ON_X_EQUAL_ROUNDS": 50,
            },
        },
    },
}
ONCE = ("default", "tests")
"""Their timers hardly vary, and take half a minute."""
TIMES = "as many times as long"


class Quiet(Report):
    """Says nothing of what a member does."""

    def waiting(self, number: int) -> None:
        return

    def sits_out(self, until: int, reason: str) -> None:
        raise RuntimeError(f"an update was refused: {reason}")

    def training(self, number: int, seconds: float) -> None:
        return

    def trained(self, done: RoundDone) -> None:
        return

    def lost(self, number: int, reason: str) -> None:
        raise RuntimeError(f"round {number} was lost: {reason}")


def measure(quick: bool) -> tuple[dict[str, Any], list[Target]]:
    """Figures and targets; `quick`: one seed, no commands, and p2pfl with the settings **fast** alone."""
    seeds = SEEDS[:1] if quick else SEEDS
    found: dict[str, list[dict[str, Any]]] = {}
    trio.run(_all, seeds, quick, found)
    figures: dict[str, Any] = {"nodes": NODES, "rounds": ROUNDS, "local_epochs": EPOCHS, "seeds": len(seeds)}
    if "p2pfl fast" not in found:
        figures["p2pfl"] = "not installed: make p2pfl"
    for side, runs in found.items():
        figures[f"{side}_seconds"] = [rounded(run["seconds"]) for run in runs]
        if not quick:
            figures[f"{side}_command_seconds"] = [rounded(run["command_seconds"]) for run in runs]
        figures[f"{side}_accuracy"] = [rounded(min(run["accuracies"]), 4) for run in runs]
    return figures, _targets(found)


def _targets(found: dict[str, list[dict[str, Any]]]) -> list[Target]:
    targets: list[Target] = []
    for form in FORMS:
        ours = found[f"ours {form}"]
        for setting in ("fast", "fastest"):
            theirs = found.get(f"p2pfl {setting}")
            if not theirs:
                continue
            ratio = median(run["seconds"] for run in theirs) / median(run["seconds"] for run in ours)
            targets.append(at_least(f"p2pfl {setting} takes {TIMES} as ours, {form}", 1.0, ratio))
            lost = [
                min(their["accuracies"]) - min(our["accuracies"])
                for their, our in zip(theirs, ours, strict=True)
            ]
            targets.append(at_most(f"accuracy lost to p2pfl {setting}, {form}, mean", 0.0, mean(lost)))
    return targets


async def _all(seeds: Sequence[int], quick: bool, found: dict[str, list[dict[str, Any]]]) -> None:
    """All runs, a seed of theirs beside the same seed of ours."""
    python = os.environ.get("P2PFL_PYTHON", str(PYTHON))
    settings = SETTINGS if await trio.Path(python).exists() else {}
    async with open_test_network(NODES) as network:
        for number, seed in enumerate(seeds):
            for form, (strategy, compression) in FORMS.items():
                run = await ours(network.nodes, seed, strategy, compression, not quick)
                found.setdefault(f"ours {form}", []).append(run)
            for name, changed in settings.items():
                if (quick and name != "fast") or (number and name in ONCE):
                    continue
                run = await trio.to_thread.run_sync(theirs, python, seed, changed)
                found.setdefault(f"p2pfl {name}", []).append(run)


async def ours(
    nodes: Sequence[RunningNode], seed: int, strategy: str, compression: str, commands: bool
) -> dict[str, Any]:
    """One task of our nodes: seconds, the accuracy of each node's model, seconds by commands if wanted."""
    model = digits.new_model(HIDDEN, seed)
    arrays = [Array(name, "<f4", array.shape) for name, array in zip(digits.NAMES, model, strict=True)]
    client = ApiClient(nodes[0].home)
    body = {
        "name": "digits",
        "arrays": [{"name": one.name, "dtype": one.dtype, "shape": list(one.shape)} for one in arrays],
        "parameters": client.post_blob(encode(arrays, model), SECONDS)["cid"],
        "rounds": ROUNDS,
        "min_members": NODES,
        "max_members": NODES,
        "deadline_ms": DEADLINE_MS,
        "max_abs": MAX_ABS,
        "config": {
            CONFIG_KEY: Template(
                train_records={"config": {"server-round": 1, "learning-rate": RATE}}
            ).to_text()
        },
        "strategy": strategy,
        "compression": compression,
    }
    config = {"local-epochs": EPOCHS, "batch-size": BATCH, "alpha": 0.0, "seed": seed}
    project = read_project(str(EXAMPLE)).with_config(config)
    apps = [AppRunner(project, AppSettings(1, part + 1, node_config(part))) for part in range(NODES)]
    try:
        await _each([partial(ready, app, body, encode(arrays, model)) for app in apps])
        began = time.perf_counter()
        task = (await nodes[0].post("/v1/learning/tasks", body))["id"]

        def member(part: int) -> bytes:
            home = nodes[part].home
            one = Member(home, task, SystemClock())
            terms = joined(one)
            done = take_part(compressing(one, terms), terms, apps[part], Quiet(), SystemClock(), False)
            return ApiClient(home).get_blob(done.parameters)

        blobs = await _each([partial(member, part) for part in range(NODES)])
        seconds = time.perf_counter() - began
    finally:
        for app in apps:
            app.close()
    tests = digits.load()[1]
    accuracies = [digits.test(decode(arrays, blob, MAX_ABS), tests)[1] for blob in blobs]
    typed = await by_commands(nodes, project, body) if commands else 0.0
    return {"seconds": seconds, "accuracies": accuracies, "command_seconds": typed}


async def by_commands(nodes: Sequence[RunningNode], project: FlowerProject, body: dict[str, Any]) -> float:
    """Seconds from typing `fl run` on all four nodes to the end of the last."""
    task = (await nodes[0].post("/v1/learning/tasks", body))["id"]
    for node in nodes:
        await trio.to_thread.run_sync(joinable, Member(node.home, task, SystemClock()))
    settings = " ".join(f"{name}={value}" for name, value in project.config.items())
    began = time.perf_counter()

    async def run(part: int) -> None:
        flags = ["--partition-id", str(part), "--num-partitions", str(NODES), "--run-config", settings]
        done = await nodes[part].command("fl", "run", str(EXAMPLE), task, *flags, "--no-evaluate")
        if done.code:
            raise RuntimeError(f"fl run: {done.err}")

    async with trio.open_nursery() as nursery:
        for part in range(NODES):
            nursery.start_soon(run, part)
    return time.perf_counter() - began


def theirs(python: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One run of p2pfl's nodes: seconds, the accuracy of each node's model, and seconds by the command."""
    images, tests = digits.load()
    parts = [digits.part_of(images, part, NODES, 0.0, seed) for part in range(NODES)]
    data: dict[str, Any] = dict(zip(digits.NAMES, digits.new_model(HIDDEN, seed), strict=True))
    data |= {f"images_{number}": part.images for number, part in enumerate(parts)}
    data |= {f"labels_{number}": part.labels for number, part in enumerate(parts)}
    data |= {"test_images": tests.images, "test_labels": tests.labels}
    run = {"nodes": NODES, "rounds": ROUNDS, "epochs": EPOCHS, "rate": RATE, "batch": BATCH, "seed": seed}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **data)
        began = time.perf_counter()
        done = subprocess.run(
            [python, "-m", "benchmarks.p2pfl_nodes", str(path), json.dumps({**settings, **run})],
            cwd=folder,  # where it writes its logs
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"p2pfl: {done.stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "command_seconds": seconds}


def ready(app: AppRunner, body: dict[str, Any], blob: bytes) -> None:
    """Start the app and have it read its data, as p2pfl's nodes have when they start learning."""
    app.open()
    app.train(body, body["config"][CONFIG_KEY], blob, 1, SECONDS)


def node_config(part: int) -> dict[str, int]:
    """What the digits' ClientApp wants to know."""
    return {"partition-id": part, "num-partitions": NODES}


def joined(member: Member) -> dict[str, Any]:
    """The task's terms, once the node has found and joined it."""
    terms = joinable(member)
    member.join()
    return terms


def joinable(member: Member) -> dict[str, Any]:
    """The task's terms, once the node has found it."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return member.terms()
        except ApiError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


async def _each(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What these give, called in threads side by side."""
    found: list[Any] = [None] * len(calls)

    async def one(number: int) -> None:
        found[number] = await trio.to_thread.run_sync(calls[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(calls)):
            nursery.start_soon(one, number)
    return found
