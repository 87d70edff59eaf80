"""What a round of learning costs beyond the averaging itself: four real daemons, models of three sizes.

`python -m benchmarks.fl_overhead [--quick]` starts four daemons on this machine and lets them run a task for
each size (5 k, 1 M and 10 M float32 parameters; `--quick`: the first two). Nothing is trained: every member's
update is a blob that its node has before the round, so that a round is what the network makes of it: commit,
reveal, fetching the three other updates, checking them, averaging on every node, signatures, and the new
model in place. A round is timed from the first hand-in to the moment when the last of the four nodes names
the next one. Beside it, in the same run and process: the same average of the same four updates in memory, by
our fixed-point code and by NumPy in floating point. Bytes are what the daemons' counters say came in, against
the least that all-to-all needs, three updates a member. Clients and daemons share the cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import trio

from benchmarks.report import RESULTS, Target, at_most, emit, rounded
from chain.cid import blob_cid
from chain.learning_task import Array, Task
from federated.aggregation import average
from federated.update import encode, views
from node.api_client import ApiClient
from node.errors import NodeError
from sim.testnet import RunningNode, open_test_network

MEMBERS = 4
SIZES = {"5k": 5_000, "1M": 1_000_000, "10M": 10_000_000}
ROUNDS = {"5k": 9, "1M": 7, "10M": 3}
DEADLINE_MS = 120_000
SECONDS = 300.0
BYTES_CEILING = 1.15
"""Bytes that came in over the three updates that have to."""


def bare(arrays: Sequence[Array], updates: Sequence[bytes], repeats: int) -> tuple[float, float]:
    """Median seconds of averaging in memory: fixed point, and NumPy's weighted mean in float32."""
    task = terms(arrays)
    pairs = [(update, 10 + number) for number, update in enumerate(updates)]
    weights = np.array([weight for _, weight in pairs], np.float32)
    shares = weights / weights.sum()

    def floating() -> None:
        rows = [views(arrays, update)[0] for update in updates]
        total = rows[0] * shares[0]
        for row, share in zip(rows[1:], shares[1:], strict=True):
            total += row * share
        total.tobytes()

    return timed(lambda: average(task, pairs), repeats), timed(floating, repeats)


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of some calls."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def terms(arrays: Sequence[Array]) -> Task:
    """The terms that the task has over HTTP, for the average in memory."""
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
    )


async def counter(node: RunningNode, name: str) -> int:
    """A counter of a daemon's adapter."""
    client = ApiClient(node.home)
    text = await trio.to_thread.run_sync(lambda: client._exchange("GET", "/metrics", None, 30.0)[1].decode())
    for line in text.splitlines():
        if line.startswith(f"roseforest_network_{name}_total "):
            return int(float(line.split()[1]))
    raise LookupError(f"no counter network_{name}_total")


async def run_task(nodes: Sequence[RunningNode], label: str, figures: dict[str, Any]) -> None:
    """One task of `ROUNDS[label]` rounds; its figures."""
    arrays = (Array("w", "<f4", (SIZES[label],)),)
    rng = np.random.default_rng(7)
    updates = [encode(arrays, [rng.uniform(-1, 1, SIZES[label]).astype("<f4")]) for _ in range(MEMBERS)]
    clients = [ApiClient(node.home) for node in nodes]

    async def blob(number: int, data: bytes) -> str:
        reply = await trio.to_thread.run_sync(lambda: clients[number].post_blob(data, SECONDS))
        return str(reply["cid"])

    began = time.perf_counter()
    cids: list[str] = [""] * MEMBERS
    for number, update in enumerate(updates):
        cids[number] = await blob(number, update)
    posting_s = (time.perf_counter() - began) / MEMBERS
    body = {
        "name": f"overhead {label}",
        "arrays": [{"name": "w", "dtype": "<f4", "shape": [SIZES[label]]}],
        "parameters": cids[0],
        "rounds": ROUNDS[label],
        "min_members": MEMBERS,
        "max_members": MEMBERS,
        "deadline_ms": DEADLINE_MS,
        "strategy": "fedavg",
    }
    task = (await nodes[0].post("/v1/learning/tasks", body, SECONDS))["id"]
    path = f"/v1/learning/tasks/{task}"
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
    for number in range(1, ROUNDS[label] + 1):
        assert all((one["state"], one["round"]) == ("train", number) for one in states), states
        before = [await counter(node, "bytes_in") for node in nodes]

        async def hand_in_and_wait(member: int, number: int = number) -> dict[str, Any]:
            update = {"blob": cids[member], "examples": 10 + member, "metrics": {"loss": 0.5}}
            await nodes[member].post(f"{path}/rounds/{number}/update", update, SECONDS)
            return await work(member)

        # Another update each round, so that nothing is there from the last one.
        if number > 1:
            shift = np.float32(number) / 100
            updates = [encode(arrays, [views(arrays, update)[0] + shift]) for update in updates]
            for member, update in enumerate(updates):
                cids[member] = await blob(member, update)
            before = [await counter(node, "bytes_in") for node in nodes]
        began = time.perf_counter()
        states = await each(hand_in_and_wait)
        seconds.append(time.perf_counter() - began)
        after = [await counter(node, "bytes_in") for node in nodes]
        arrived.append(sum(b - a for a, b in zip(before, after, strict=True)) / MEMBERS)
    fixed_s, floating_s = bare(arrays, updates, 9 if label != "10M" else 3)
    least = (MEMBERS - 1) * len(updates[0])
    figures[f"{label}_round_ms"] = rounded(1_000 * median(seconds))
    figures[f"{label}_bare_fixed_point_ms"] = rounded(1_000 * fixed_s)
    figures[f"{label}_bare_numpy_float_ms"] = rounded(1_000 * floating_s)
    figures[f"{label}_round_over_bare"] = rounded(median(seconds) / fixed_s)
    figures[f"{label}_round_over_numpy"] = rounded(median(seconds) / floating_s)
    figures[f"{label}_mb_in_per_peer"] = rounded(median(arrived) / 1e6)
    figures[f"{label}_bytes_over_least"] = rounded(median(arrived) / least, 4)
    parts = await phases(nodes[0], path)
    figures.update((f"{label}_{name}", value) for name, value in parts.items())
    figures[f"{label}_posting_one_update_ms"] = rounded(1_000 * posting_s)
    audit = await nodes[1].post(f"{path}/audit?round=1", None, SECONDS)
    figures[f"{label}_audit_ok"] = audit["rounds"][0]["ok"]


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


async def run(labels: Sequence[str]) -> dict[str, Any]:
    """All sizes, one after the other, on the same daemons."""
    figures: dict[str, Any] = {"members": MEMBERS}
    async with open_test_network(MEMBERS) as network:
        for label in labels:
            await run_task(network.nodes, label, figures)
    return figures


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="without the largest model")
    parser.add_argument("--out", type=Path, default=None, help="where to write the JSON")
    options = parser.parse_args()
    labels = [label for label in SIZES if not (options.quick and label == "10M")]
    figures = trio.run(run, labels)
    targets: list[Target] = [
        at_most(f"{label}_bytes_over_least", BYTES_CEILING, figures[f"{label}_bytes_over_least"])
        for label in labels
        if label != "5k"
    ]
    default = None if options.quick else RESULTS / "fl_overhead.json"
    emit("fl_overhead", figures, targets, options.out or default)


if __name__ == "__main__":
    main()
