"""Whether daemons that run for long keep their memory, their descriptors and their threads.

`python -m benchmarks.soak [--quick] [--minutes M | --hours H] [--nodes N]` starts real daemons and lets each
be written to and asked, at a steady pace. Every few seconds it reads from the system what each process
occupies. At the end a straight line is laid through the latter half of the samples (the first is growing into
its caches) by least squares: growth an hour of resident memory, of descriptors and of threads, and the growth
of memory by a thousand more records held. The pace of writing is low on purpose: what is looked for is what
is lost without being used. Latencies of the first and the last fifth are set side by side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import psutil
import trio

from benchmarks.report import RESULTS, at_most, emit, rounded
from node.api_client import ApiError
from node.corpus import entries
from sim.testnet import RunningNode, open_test_network

NODES = 5
MINUTES = 12.0
QUICK_MINUTES = 0.7
WRITES_PER_S = 2.0
"""Entries a second, dealt to the daemons in turn."""
QUERIES_PER_S = 4.0
SAMPLE_S = 5.0
K = 5
MB = 1 << 20
MAX_MB_PER_1000 = 8.0
"""MB of resident memory that a daemon may grow for each thousand records that it comes to hold."""
MAX_DESCRIPTORS_PER_H = 20.0


@dataclass(slots=True)
class Samples:
    """What one daemon occupied, at which second."""

    at: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Soaked:
    """Everything that was seen; milliseconds in order of time."""

    samples: dict[str, Samples] = field(default_factory=dict)
    write_ms: list[float] = field(default_factory=list)
    query_ms: list[float] = field(default_factory=list)
    failures: int = 0


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the line of least squares through points."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return (
        0.0 if not spread else sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    )


def latter(values: Sequence[float]) -> Sequence[float]:
    return values[len(values) // 2 :]


async def _sample(node: RunningNode, samples: Samples, began: float) -> None:
    process = psutil.Process(node.process.pid)
    while True:
        status = await node.get("/v1/status")
        samples.at.append(time.perf_counter() - began)
        samples.rss_mb.append(process.memory_info().rss / MB)
        samples.descriptors.append(process.num_fds())
        samples.threads.append(process.num_threads())
        samples.held.append(status["records"] + status["held"])
        await trio.sleep(SAMPLE_S)


async def _write(nodes: Sequence[RunningNode], soaked: Soaked, began: float) -> None:
    corpus = list(entries())
    for number in range(1 << 40):
        await trio.sleep_until(began + number / WRITES_PER_S)
        text = f"{corpus[number % len(corpus)].text} ({number})"
        started = time.perf_counter()
        try:
            await nodes[number % len(nodes)].post("/v1/entries", {"text": text})
        except ApiError:
            soaked.failures += 1
        soaked.write_ms.append((time.perf_counter() - started) * 1_000)


async def _ask(nodes: Sequence[RunningNode], soaked: Soaked, began: float) -> None:
    corpus = list(entries())
    for number in range(1 << 40):
        await trio.sleep_until(began + number / QUERIES_PER_S)
        words = corpus[number * 7 % len(corpus)].text.split()[:8]
        started = time.perf_counter()
        try:
            question = {"text": " ".join(words), "k": K, "cache": False}
            await nodes[number % len(nodes)].post("/v1/query", question)
        except ApiError:
            soaked.failures += 1
        soaked.query_ms.append((time.perf_counter() - started) * 1_000)


async def soak(count: int, seconds: float) -> Soaked:
    """Run the daemons for so long."""
    soaked = Soaked()
    async with open_test_network(count) as network:
        nodes, began, now = list(network.nodes), time.perf_counter(), trio.current_time()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    samples = soaked.samples[node.name] = Samples()
                    nursery.start_soon(_sample, node, samples, began)
                nursery.start_soon(_write, nodes, soaked, now)
                nursery.start_soon(_ask, nodes, soaked, now)
    return soaked


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and descriptors of daemons that run for long.")
    parser.add_argument("--quick", action="store_true", help="under a minute, not kept")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--hours", type=float, help="in place of --minutes")
    parser.add_argument("--nodes", type=int, default=NODES)
    arguments = parser.parse_args()
    minutes = QUICK_MINUTES if arguments.quick else arguments.minutes
    if arguments.hours is not None:
        minutes = 60 * arguments.hours
    soaked = trio.run(soak, arguments.nodes, 60 * minutes)
    every = list(soaked.samples.values())
    hour = 3_600.0

    def worst(name: str) -> float:
        return max(slope(latter(one.at), latter(getattr(one, name))) * hour for one in every)

    per_thousand = max(slope(latter(one.held), latter(one.rss_mb)) * 1_000 for one in every)
    fifth_w, fifth_q = len(soaked.write_ms) // 5 or 1, len(soaked.query_ms) // 5 or 1
    figures = {
        "minutes": rounded(minutes),
        "daemons": arguments.nodes,
        "writes": len(soaked.write_ms),
        "queries": len(soaked.query_ms),
        "failures": soaked.failures,
        "records_a_daemon": round(median(one.held[-1] for one in every)),
        "rss_mb_first": rounded(median(one.rss_mb[0] for one in every)),
        "rss_mb_last": rounded(median(one.rss_mb[-1] for one in every)),
        "rss_mb_per_hour_worst": rounded(worst("rss_mb")),
        "rss_mb_per_1000_records_worst": rounded(per_thousand),
        "descriptors_last": round(median(one.descriptors[-1] for one in every)),
        "descriptors_per_hour_worst": rounded(worst("descriptors")),
        "threads_last": round(median(one.threads[-1] for one in every)),
        "threads_per_hour_worst": rounded(worst("threads")),
        "write_ms_first_fifth": rounded(median(soaked.write_ms[:fifth_w])),
        "write_ms_last_fifth": rounded(median(soaked.write_ms[-fifth_w:])),
        "query_ms_first_fifth": rounded(median(soaked.query_ms[:fifth_q])),
        "query_ms_last_fifth": rounded(median(soaked.query_ms[-fifth_q:])),
    }
    targets = [
        at_most("failures", 0, soaked.failures),
        at_most("rss_mb_per_1000_records_worst", MAX_MB_PER_1000, rounded(per_thousand)),
        at_most("descriptors_per_hour_worst", MAX_DESCRIPTORS_PER_H, rounded(worst("descriptors"))),
    ]
    emit("soak", figures, targets, None if arguments.quick else RESULTS / "soak.json")


if __name__ == "__main__":
    main()
