"""What a round of learning costs beyond the averaging itself: four real daemons, models of three sizes.

Four daemons on this machine run a task for each size (5 k, 1 M and 10 M float32 parameters) and form: the
plain mean of whole models, and what `fl create` makes, the default rule from int8 updates. Nothing is
trained: every member's update is a blob that its node has before the round, so that a round is what the
network makes of it: commit, reveal, fetching the three other updates, checking them, combining them on every
node, signatures, and the new model in place. A round is timed from the first hand-in to the moment when the
last of the four nodes names the next one. Beside it, in the same run and process: the same rule on the same
four updates in memory, and NumPy's mean in floating point. Bytes are what the daemons' counters say came in,
against the least that all-to-all needs, three updates a member. Memory is the kernel's word on each daemon,
the most of all: resident, which counts pages of mapped files, and anonymous alone, sampled. Clients and
daemons share the cores.

A part of `benchmarks.federated`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import trio

from benchmarks.report import Target, at_least, at_most, rounded
from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.learning_task import FEDAVG, INT8, NO_COMPRESSION, Array, Task
from federated.compression import is_compressed, quantise
from federated.robust import round_model
from federated.update import encode, views
from node.api_client import ApiClient
from node.errors import NodeError
from sim.testnet import RunningNode, open_test_network

MEMBERS = 4
FORMS = {"mean": (FEDAVG, NO_COMPRESSION), "default": (ROBUST, INT8)}
"""Strategy and form of updates: whole models and their mean; what `fl create` makes."""
SIZES = {"5k": 5_000, "1M": 1_000_000, "10M": 10_000_000}
ROUNDS = {"5k": 9, "1M": 7, "10M": 3}
QUICK_ROUNDS = {"5k": 3, "1M": 3}
DEADLINE_MS = 120_000
SECONDS = 300.0
LOOK_S = 0.02
RESET_PEAK = "5"
"""Written to a process's clear_refs: its peak begins anew (Linux)."""
MODELS = 5.5
"""Memory that a round of a daemon takes, in models: the mean's sums are 64 bits wide, which is two, then come
the quotient, its bytes, and a copy on the way to the disk.
"""
BYTES_CEILING = 1.15
"""Bytes that came in over the three updates that have to."""


def bare(task: Task, base: bytes, updates: Sequence[bytes], repeats: int) -> tuple[float, float]:
    """Median seconds in memory: of the task's rule, and of NumPy's weighted mean of float32."""
    named = [(blob_cid(update), update, 10 + number) for number, update in enumerate(updates)]
    weights = np.array([weight for _, _, weight in named], np.float32)
    shares = weights / weights.sum()
    (whole,) = views(task.arrays, base)
    rows = [whole + np.float32(number) for number in range(MEMBERS)]

    def floating() -> None:
        total = rows[0] * shares[0]
        for row, share in zip(rows[1:], shares[1:], strict=True):
            total += row * share
        total.tobytes()

    return timed(lambda: round_model(task, base, named), repeats), timed(floating, repeats)


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of some calls."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def terms(arrays: Sequence[Array], strategy: str, compression: str) -> Task:
    """The terms that the task has over HTTP, for the rule in memory."""
    return Task(
        name="overhead",
        arrays=tuple(arrays),
        parameters=blob_cid(b""),
        rounds=1,
        min_members=MEMBERS,
        max_members=MEMBERS,
        commit_ms=DEADLINE_MS,
        reveal_ms=DEADLINE_MS,
        result_ms=DEADLINE_MS,
        max_examples=1_000_000,
        max_abs=1_000,
        config={},
        strategy=strategy,
        compression=compression,
    )


async def counter(node: RunningNode, name: str) -> int:
    """A counter of a daemon's adapter."""
    client = ApiClient(node.home)
    text = await trio.to_thread.run_sync(lambda: client._exchange("GET", "/metrics", None, 30.0)[1].decode())
    for line in text.splitlines():
        if line.startswith(f"roseforest_network_{name}_total "):
            return int(float(line.split()[1]))
    raise LookupError(f"no counter network_{name}_total")


async def run_task(
    nodes: Sequence[RunningNode], label: str, form: str, rounds: int, figures: dict[str, Any]
) -> None:
    """One task; its figures."""
    arrays = (Array("w", "<f4", (SIZES[label],)),)
    task = terms(arrays, *FORMS[form])
    rng = np.random.default_rng(7)
    clients = [ApiClient(node.home) for node in nodes]

    async def post_blob(number: int, data: bytes) -> str:
        reply = await trio.to_thread.run_sync(lambda: clients[number].post_blob(data, SECONDS))
        return str(reply["cid"])

    base = encode(arrays, [rng.uniform(-1, 1, SIZES[label]).astype("<f4")])
    body = {
        "name": f"overhead {label}",
        "arrays": [{"name": "w", "dtype": "<f4", "shape": [SIZES[label]]}],
        "parameters": await post_blob(0, base),
        "rounds": rounds,
        "min_members": MEMBERS,
        "max_members": MEMBERS,
        "deadline_ms": DEADLINE_MS,
        "strategy": task.strategy,
        "compression": task.compression,
    }
    path = f"/v1/learning/tasks/{(await nodes[0].post('/v1/learning/tasks', body, SECONDS))['id']}"
    for node in nodes:
        await join(node, path)

    async def work(number: int) -> dict[str, Any]:
        while True:
            answer = await trio.to_thread.run_sync(
                lambda: clients[number].get(f"{path}/work?wait=30", SECONDS)
            )
            if answer["state"] != "wait":
                return dict(answer)

    async def each(do: Callable[[int], Any]) -> list[Any]:
        found: list[Any] = [None] * MEMBERS

        async def one(number: int) -> None:
            found[number] = await do(number)

        async with trio.open_nursery() as nursery:
            for number in range(MEMBERS):
                nursery.start_soon(one, number)
        return found

    states = await each(work)
    seconds: list[float] = []
    arrived: list[float] = []
    peaks: list[Peak] = []
    for number in range(1, rounds + 1):
        assert all((one["state"], one["round"]) == ("train", number) for one in states), states
        if number > 1:
            base = await nodes[0].blob(states[0]["parameters"])
        updates = await trio.to_thread.run_sync(moved, task, base, rng)
        cids = [await post_blob(member, update) for member, update in enumerate(updates)]

        async def hand_in_and_wait(
            member: int, number: int = number, cids: Sequence[str] = cids
        ) -> dict[str, Any]:
            update = {"blob": cids[member], "examples": 10 + member, "metrics": {"loss": 0.5}}
            await nodes[member].post(f"{path}/rounds/{number}/update", update, SECONDS)
            return await work(member)

        before = [await counter(node, "bytes_in") for node in nodes]
        async with watched([node.process.pid for node in nodes]) as peak:
            began = time.perf_counter()
            states = await each(hand_in_and_wait)
            seconds.append(time.perf_counter() - began)
        peaks.append(peak)
        after = [await counter(node, "bytes_in") for node in nodes]
        arrived.append(sum(b - a for a, b in zip(before, after, strict=True)) / MEMBERS)
    fixed_s, floating_s = bare(task, base, updates, 9 if label != "10M" else 3)
    least = (MEMBERS - 1) * len(updates[0])
    model_mb = len(base) / 1e6
    figures["round_ms"] = rounded(1_000 * median(seconds))
    figures["bare_rule_ms"] = rounded(1_000 * fixed_s)
    figures["bare_numpy_mean_ms"] = rounded(1_000 * floating_s)
    figures["round_over_bare_rule"] = rounded(median(seconds) / fixed_s)
    figures["round_over_numpy_mean"] = rounded(median(seconds) / floating_s)
    figures["mb_in_per_peer"] = rounded(median(arrived) / 1e6)
    figures["bytes_over_least"] = rounded(median(arrived) / least, 4)
    figures |= await phases(nodes[0], path)
    figures["model_mb"] = rounded(model_mb)
    figures["daemon_resident_mb_at_most"] = rounded(max(one.resident_mb for one in peaks))
    figures["daemon_anonymous_mb_at_most"] = rounded(max(one.anonymous_mb for one in peaks))
    grown = max(one.anonymous_mb - one.before_mb for one in peaks)
    figures["daemon_anonymous_models_grown"] = rounded(grown / model_mb)
    audit = await nodes[1].post(f"{path}/audit?round=1", None, SECONDS)
    figures["audit_ok"] = audit["rounds"][0]["ok"]


def moved(task: Task, base: bytes, rng: np.random.Generator) -> list[bytes]:
    """An update of every member: not far from `base`, in the task's form."""
    (values,) = views(task.arrays, base)
    whole = [
        encode(task.arrays, [values + rng.uniform(-0.01, 0.01, values.size).astype("<f4")])
        for _ in range(MEMBERS)
    ]
    if not is_compressed(task):
        return whole
    return [quantise(task.arrays, base, update, None, task.max_abs)[0] for update in whole]


@dataclass(slots=True)
class Peak:
    """Memory of the largest of some processes, in MB: anonymous at first and at most, resident at most."""

    before_mb: float = 0.0
    anonymous_mb: float = 0.0
    resident_mb: float = 0.0


@asynccontextmanager
async def watched(pids: Sequence[int]) -> AsyncIterator[Peak]:
    """What these processes held at most in this block; Linux only, zeros elsewhere."""
    peak = Peak()
    if not sys.platform.startswith("linux"):
        yield peak
        return
    for pid in pids:
        forget_peak(pid)
    peak.before_mb = peak.anonymous_mb = max(memory_mb(pid, "RssAnon") for pid in pids)

    async def look() -> None:
        while True:
            peak.anonymous_mb = max(peak.anonymous_mb, *(memory_mb(pid, "RssAnon") for pid in pids))
            await trio.sleep(LOOK_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        yield peak
        nursery.cancel_scope.cancel()
    peak.resident_mb = max(memory_mb(pid, "VmHWM") for pid in pids)


def forget_peak(pid: int) -> None:
    """Let a process's peak of resident memory begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def memory_mb(pid: int, field: str) -> float:
    """A field of a process's status that is in kB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1_024 / 1e6
    raise LookupError(f"no {field} of process {pid}")


async def phases(node: RunningNode, path: str) -> dict[str, float]:
    """Where a round's time goes, by the clocks in its records: medians over the rounds, in ms.

    From the first commit to the last, on to the last reveal, and from there (blobs, averages, signatures) to
    the result.
    """
    events = (await node.get(f"{path}/log?limit=1000"))["events"]
    times: dict[int, dict[str, list[int]]] = {}
    for event in events:
        if event["round"] is not None:
            times.setdefault(event["round"], {}).setdefault(event["event"], []).append(event["at_us"])
    parts: dict[str, list[float]] = {"commits_ms": [], "reveals_ms": [], "to_the_result_ms": []}
    for one in times.values():
        marks = (min(one["commit"]), max(one["commit"]), max(one["reveal"]), min(one["result"]))
        for name, start, end in zip(parts, marks, marks[1:], strict=False):
            parts[name].append((end - start) / 1_000)
    return {name: rounded(median(values)) for name, values in parts.items()}


async def join(node: RunningNode, path: str) -> None:
    """Join once the task has come to where the node finds it."""
    for _ in range(100):
        try:
            await node.post(f"{path}/join", None, SECONDS)
            return
        except NodeError:
            await trio.sleep(0.1)
    raise TimeoutError(f"{node.name} did not find the task")


async def run(rounds: Mapping[str, int]) -> dict[str, Any]:
    """All sizes and forms, one after the other, on the same daemons."""
    figures: dict[str, Any] = {"members": MEMBERS}
    async with open_test_network(MEMBERS) as network:
        for label, count in rounds.items():
            for form in FORMS:
                figures[f"{label} {form}"] = {"rounds": count}
                await run_task(network.nodes, label, form, count, figures[f"{label} {form}"])
    return figures


def measure(quick: bool) -> tuple[dict[str, Any], list[Target]]:
    """Figures and targets; `quick`: without the largest model."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    figures = trio.run(run, rounds)
    targets: list[Target] = []
    for label in rounds:
        for form in FORMS:
            found = figures[f"{label} {form}"]
            targets.append(at_least(f"{label} {form}: an audit agrees", 1, float(found["audit_ok"])))
            if label == "5k":
                continue  # what a round says besides its updates counts there
            targets.append(
                at_most(f"{label} {form}: bytes over the least", BYTES_CEILING, found["bytes_over_least"])
            )
            if label == "10M":
                grown = found["daemon_anonymous_models_grown"]
                targets.append(at_most(f"{label} {form}: memory of a daemon, in models", MODELS, grown))
    return figures, targets
