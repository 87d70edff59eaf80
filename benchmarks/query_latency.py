"""How long a question takes the network, where the milliseconds go, and what one local index would take.

`python -m benchmarks.query_latency [--quick]` starts five real daemons and loads them with 8,000 entries (the
docstrings of the standard library; where a Python has fewer, as 3.11 with 7,701, those). It waits until every
record is on its three nodes, and asks questions over HTTP: from 1 client, from 16 clients of one daemon, and
from 16 clients spread over all five. Questions are the first sentences of entries, without their name. Beside
it, in the same run and process, interleaved by phase: one flat FAISS index of the same vectors, whose answers
are also the measure of recall. The breakdown comes from the asked daemon itself (`trace`), the holders' part
from their counters; what the client saw beyond the daemon's own milliseconds is HTTP, JSON and the signed
records in it. Clients and daemons share the cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import faiss
import numpy as np
import trio
from numpy.typing import NDArray

from benchmarks.report import RESULTS, at_least, at_most, emit, rounded
from node.corpus import CorpusEntry, entries
from node.embedding.static import StaticEmbedder
from node.query.steps import STEPS
from sim.testnet import RunningNode, TestNetwork, open_test_network

NODES = 5
ENTRIES = 8_000
K = 10
BATCH = 250
SECONDS = 60.0
CLIENTS = 16
WARM_UP = 20
LEAST_WORDS = 4
"""Words of a first sentence that is a question worth asking."""
RECALL_FLOOR = 0.95
P95_CEILING_MS = 100.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer as the client saw it: milliseconds, ids in order, the node's own milliseconds and steps."""

    ms: float
    ids: tuple[str, ...]
    node_ms: float
    steps: dict[str, float]
    shards: int
    nodes: int


class Client:
    """One kept connection to a daemon."""

    def __init__(self, node: RunningNode) -> None:
        where = urlsplit(node.started.api)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS)
        self._headers = {"authorization": f"Bearer {node.home.read_token()}"}

    def ask(self, text: str) -> Seen:
        body = json.dumps({"text": text, "k": K, "trace": True, "cache": False})
        began = time.perf_counter()
        self._connection.request("POST", "/v1/query", body, self._headers)
        response = self._connection.getresponse()
        data = response.read()
        ms = (time.perf_counter() - began) * 1_000
        if response.status != 200:
            raise RuntimeError(f"a query was answered with {response.status}: {data[:200]!r}")
        answer = json.loads(data)
        cost = answer["cost"]
        return Seen(
            ms,
            tuple(hit["id"] for hit in answer["hits"]),
            cost["ms"],
            cost["steps_ms"],
            cost["shards_contacted"],
            cost["nodes_contacted"],
        )

    def text(self, path: str) -> str:
        self._connection.request("GET", path, headers=self._headers)
        return self._connection.getresponse().read().decode()

    def close(self) -> None:
        self._connection.close()


def in_parallel(asks: Sequence[Callable[[str], Any]], questions: Sequence[str]) -> tuple[list[Any], float]:
    """Deal the questions to one thread for each of `asks`; (results in order of questions, seconds)."""
    results: list[Any] = [None] * len(questions)
    numbers = iter(range(len(questions)))
    lock = threading.Lock()

    def work(ask: Callable[[str], Any]) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            results[number] = ask(questions[number])

    threads = [threading.Thread(target=work, args=(ask,)) for ask in asks]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if None in results:
        raise RuntimeError("a client ended before its questions were answered")
    return results, took


class LocalIndex:
    """The peer: the same embedder and one flat FAISS index of the same vectors, called in place."""

    def __init__(self, texts: Sequence[str]) -> None:
        faiss.omp_set_num_threads(1)
        self._embedder = StaticEmbedder()
        self._index = faiss.IndexFlatIP(self._embedder.dim)
        self._index.add(self._unit(texts))

    def ask(self, text: str) -> tuple[float, list[int]]:
        """(milliseconds, places of the best entries)."""
        began = time.perf_counter()
        _, places = self._index.search(self._unit([text]), K)
        return (time.perf_counter() - began) * 1_000, places[0].tolist()

    def _unit(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = self._embedder.embed(list(texts)).astype(np.float32)
        return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def questions_of(corpus: Sequence[CorpusEntry], count: int) -> list[str]:
    """`count` first sentences of entries, in an order that is the same each time."""
    found = []
    for entry in corpus:
        lines = [line.strip() for line in entry.text.splitlines() if line.strip()]
        sentence = lines[1].split(". ")[0] if len(lines) > 1 else ""
        if len(sentence.split()) >= LEAST_WORDS:
            found.append(sentence)
    unique = sorted(set(found))
    random.Random(0).shuffle(unique)
    return [unique[number % len(unique)] for number in range(count)]


async def load(network: TestNetwork, corpus: Sequence[CorpusEntry]) -> dict[str, int]:
    """Add entry i through node i mod 5; the place in the corpus by id, once all lie where they belong."""
    places: dict[str, int] = {}

    async def add(node: RunningNode, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            body = {"entries": [{"text": corpus[number].text} for number in part]}
            answer = await node.post("/v1/entries/batch", body, SECONDS)
            for number, result in zip(part, answer["results"], strict=True):
                places[result["id"]] = number

    async with trio.open_nursery() as nursery:
        for index, node in enumerate(network.nodes):
            nursery.start_soon(add, node, range(index, len(corpus), len(network.nodes)))
    with trio.fail_after(300):
        while True:
            states = [await node.get("/v1/status") for node in network.nodes]
            if not any(state["pending"] for state in states):
                return places
            await trio.sleep(0.2)


async def counters(network: TestNetwork) -> dict[str, float]:
    """What the holders have counted so far, over all nodes."""
    wanted = ("searches_served", "searches_waited_us", "searches_answered_us")
    sums = dict.fromkeys(wanted, 0.0)
    for node in network.nodes:
        text = await trio.to_thread.run_sync(Client(node).text, "/metrics")
        for name in wanted:
            sums[name] += sum(
                float(line.split()[1])
                for line in text.splitlines()
                if line.startswith(f"roseforest_{name}_total ")
            )
    return sums


def percentile(values: Sequence[float], share: float) -> float:
    return rounded(float(np.percentile(values, share * 100)))


async def measure(quick: bool, folder: Path | None) -> dict[str, Any]:
    single, many = (150, 480) if quick else (400, 1_280)
    corpus = await trio.to_thread.run_sync(lambda: list(entries())[:ENTRIES])
    questions = questions_of(corpus, WARM_UP + single + many)
    figures: dict[str, Any] = {"nodes": NODES, "entries": len(corpus), "k": K}
    async with open_test_network(NODES, folder) as network:
        places = await load(network, corpus)
        local = await trio.to_thread.run_sync(LocalIndex, [entry.text for entry in corpus])
        clients = [Client(network.nodes[index % NODES]) for index in range(CLIENTS)]
        alone = [Client(network.nodes[0]) for _ in range(CLIENTS)]
        asked, crowd = questions[WARM_UP : WARM_UP + single], questions[WARM_UP + single :]

        async def run(asks: Sequence[Callable[[str], Any]], what: Sequence[str]) -> tuple[list[Any], float]:
            return await trio.to_thread.run_sync(in_parallel, asks, what)

        await run([clients[0].ask], questions[:WARM_UP])
        before = await counters(network)
        answers, took = await run([clients[0].ask], asked)
        after = await counters(network)
        exact, exact_took = await run([local.ask], asked)
        figures |= latency("1_client", answers, took) | steps("1_client", answers)
        figures |= held("1_client", before, after)
        figures["shards_contacted_median"] = median(seen.shards for seen in answers)
        figures["nodes_contacted_median"] = median(seen.nodes for seen in answers)
        figures |= peer("1_client", exact, exact_took)
        for name, asks in (("16_clients_1_node", alone), ("16_clients_5_nodes", clients)):
            before = await counters(network)
            answers, took = await run([client.ask for client in asks], crowd)
            after = await counters(network)
            figures |= latency(name, answers, took) | steps(name, answers) | held(name, before, after)
        exact_crowd, crowd_took = await run([local.ask] * CLIENTS, crowd)
        figures |= peer("16_clients", exact_crowd, crowd_took)
        for client in (*clients, *alone):
            client.close()
        hits = [
            len({places[one] for one in seen.ids} & set(best))
            for seen, (_, best) in zip(answers, exact_crowd, strict=True)
        ]
        figures["recall_at_10"] = rounded(sum(hits) / (K * len(hits)), 4)
        figures["p50_to_faiss_p50_1_client"] = rounded(
            figures["1_client_p50_ms"] / figures["faiss_1_client_p50_ms"]
        )
    return figures


def latency(name: str, answers: Sequence[Seen], took: float) -> dict[str, Any]:
    times = [seen.ms for seen in answers]
    return {
        f"{name}_p50_ms": percentile(times, 0.5),
        f"{name}_p95_ms": percentile(times, 0.95),
        f"{name}_queries_per_s": rounded(len(answers) / took),
    }


def steps(name: str, answers: Sequence[Seen]) -> dict[str, Any]:
    """Median milliseconds of each step, over all and over the slowest twentieth.

    `http` is what the client waited beyond all of them.
    """

    def medians(some: Sequence[Seen]) -> dict[str, float]:
        shown = {step: rounded(median(seen.steps.get(step, 0.0) for seen in some)) for step in STEPS}
        beyond = median(seen.ms - seen.node_ms - seen.steps["embed"] for seen in some)
        return {**shown, "http": rounded(beyond)}

    slowest = sorted(answers, key=lambda seen: seen.ms)[-max(1, len(answers) // 20) :]
    return {
        f"{name}_steps_median_ms": medians(answers),
        f"{name}_steps_slowest_5_percent_ms": medians(slowest),
    }


def held(name: str, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """Mean milliseconds of one search that a holder serves: waiting for its turn, and answering."""
    served = max(1.0, after["searches_served"] - before["searches_served"])
    return {
        f"{name}_holder_mean_ms": {
            what: rounded((after[key] - before[key]) / served / 1_000)
            for what, key in (("turn", "searches_waited_us"), ("answering", "searches_answered_us"))
        }
    }


def peer(name: str, answers: Sequence[tuple[float, list[int]]], took: float) -> dict[str, Any]:
    times = [ms for ms, _ in answers]
    return {
        f"faiss_{name}_p50_ms": percentile(times, 0.5),
        f"faiss_{name}_p95_ms": percentile(times, 0.95),
        f"faiss_{name}_queries_per_s": rounded(len(answers) / took),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency of a question, and where it goes.")
    parser.add_argument("--quick", action="store_true", help="about a minute, not kept")
    parser.add_argument("--folder", type=Path, help="for the daemons' homes; kept (default: a temporary one)")
    arguments = parser.parse_args()
    figures = trio.run(measure, arguments.quick, arguments.folder)
    targets = [
        at_least("recall_at_10", RECALL_FLOOR, figures["recall_at_10"]),
        at_most("1_client_p95_ms", P95_CEILING_MS, figures["1_client_p95_ms"]),
    ]
    emit("query_latency", figures, targets, None if arguments.quick else RESULTS / "query_latency.json")


if __name__ == "__main__":
    main()
