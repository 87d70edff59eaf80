"""How long a question takes the network, where the milliseconds go, and what others take for the same.

`python -m benchmarks.query_latency [--quick]` starts eight real daemons and loads them with 30,000
definitions of WordNet. It waits until every record is on its three nodes, asks some questions while shards
that have grown too full divide (`dividing`), and waits until those have settled. Then it asks over HTTP: from
1 client, from 16 clients of one daemon, and from 16 clients spread over all. Questions are example sentences
and definitions of glosses that are not stored, each asked once. Beside it, in the same run and interleaved by
phase: one flat FAISS index of the same vectors, whose answers are also the measure of recall, and, where they
are installed (the extra `bench`), Chroma and Qdrant in their embedded modes with the same vectors. Those
three run in the benchmark's own process, without a network, signatures or copies. The breakdown comes from
the asked daemon itself (`trace`), the holders' part from their counters; what the client saw beyond the
daemon's own milliseconds is HTTP, JSON and the signed records in it. Clients and daemons share the cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import trio

from benchmarks.corpora import WORDNET, Corpus, NoCorpus, wordnet
from benchmarks.peers import FAISS, peers_here
from benchmarks.report import RESULTS, at_least, at_most, document, emit, rounded
from node.api.server import KEEP_ALIVE_SECONDS
from node.query.steps import STEPS
from sim.testnet import RunningNode, TestNetwork, open_test_network

NODES = 8
ENTRIES = 30_000
QUICK_ENTRIES = 2_000
K = 10
BATCH = 250
SECONDS = 60.0
IDLE_S = KEEP_ALIVE_SECONDS / 3
CLIENTS = 16
WARM_UP = 20
DIVIDING = 100
"""Questions asked while shards divide."""
LOADED_WITHIN_S = 900
SETTLED_WITHIN_S = 1_800
QUIET_S = 150.0
"""So long no former shard has to have been asked: longer than a holder takes to see that one is too full."""
RECALL_FLOOR = 0.95
P50_CEILING_MS = 25.0
P50_CEILING_MS = 25.0
P95_CEILING_MS = 60.0


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
        self._used = time.perf_counter()

    def ask(self, text: str) -> Seen:
        body = json.dumps({"text": text, "k": K, "trace": True, "cache": False})
        self._reopen_if_idle()
        began = time.perf_counter()
        self._connection.request("POST", "/v1/query", body, self._headers)
        response = self._connection.getresponse()
        data = response.read()
        self._used = time.perf_counter()
        ms = (self._used - began) * 1_000
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
        self._reopen_if_idle()
        self._connection.request("GET", path, headers=self._headers)
        data = self._connection.getresponse().read()
        self._used = time.perf_counter()
        return data.decode()

    def _reopen_if_idle(self) -> None:
        """A connection that has rested may be closed at the daemon's end; the next request would break."""
        if time.perf_counter() - self._used > IDLE_S:
            self._connection.close()

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


def questions_of(corpus: Corpus, count: int) -> list[str]:
    """`count` different questions, sentences and definitions by turns. Raises `NoCorpus` for too few."""
    unique = list(dict.fromkeys(chain.from_iterable(zip(*corpus.questions.values(), strict=True))))
    if len(unique) < count:
        raise NoCorpus(f"{len(unique)} questions can be asked, {count} are needed")
    return unique[:count]


async def load(network: TestNetwork, texts: Sequence[str]) -> dict[str, int]:
    """Add text i through node i mod 8; the place of each text by id, once all lie where they belong."""
    places: dict[str, int] = {}

    async def add(node: RunningNode, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            body = {"entries": [{"text": texts[number]} for number in part]}
            answer = await node.post("/v1/entries/batch", body, SECONDS)
            for number, result in zip(part, answer["results"], strict=True):
                places[result["id"]] = number

    async with trio.open_nursery() as nursery:
        for index, node in enumerate(network.nodes):
            nursery.start_soon(add, node, range(index, len(texts), len(network.nodes)))
    with trio.fail_after(LOADED_WITHIN_S):
        while True:
            states = [await node.get("/v1/status") for node in network.nodes]
            if not any(state["pending"] for state in states):
                return places
            await trio.sleep(0.2)


async def settle(network: TestNetwork) -> float:
    """Wait until shards have divided and nothing lies where it did; seconds that took."""
    began = trio.current_time()
    with trio.fail_after(SETTLED_WITHIN_S):
        last = began
        while trio.current_time() - last < QUIET_S:
            for node in network.nodes:
                if (await node.get("/v1/status"))["counters"]["former_shards_asked"]:
                    last = trio.current_time()
            await trio.sleep(2.0)
    return last - began


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


async def measure(corpus: Corpus, quick: bool, folder: Path | None) -> dict[str, Any]:
    single, many = (100, 160) if quick else (400, 1_280)
    texts = corpus.stored[: QUICK_ENTRIES if quick else ENTRIES]
    dividing = WARM_UP if quick else DIVIDING
    questions = questions_of(corpus, WARM_UP + dividing + single + 2 * many)
    first, later = questions[WARM_UP : WARM_UP + dividing], questions[WARM_UP + dividing :]
    asked, crowds = later[:single], later[single:]
    figures: dict[str, Any] = {"nodes": NODES, "entries": len(texts), "k": K}
    async with open_test_network(NODES, folder) as network:
        began = time.perf_counter()
        places = await load(network, texts)
        figures["loaded_entries_per_s"] = rounded(len(texts) / (time.perf_counter() - began))
        peers = await trio.to_thread.run_sync(peers_here, texts)
        figures["peers"] = {peer.name: peer.version for peer in peers}
        clients = [Client(network.nodes[index % NODES]) for index in range(CLIENTS)]
        alone = [Client(network.nodes[0]) for _ in range(CLIENTS)]

        async def run(asks: Sequence[Callable[[str], Any]], what: Sequence[str]) -> tuple[list[Any], float]:
            return await trio.to_thread.run_sync(in_parallel, asks, what)

        async def ours(name: str, asks: Sequence[Client], what: Sequence[str]) -> list[Seen]:
            before = await counters(network)
            answers, took = await run([client.ask for client in asks], what)
            after = await counters(network)
            figures.update(latency(name, answers, took) | steps(name, answers) | held(name, before, after))
            return answers

        async def theirs(name: str, count: int, what: Sequence[str]) -> dict[str, list[list[int]]]:
            found: dict[str, list[list[int]]] = {}
            for peer in peers:
                answers, took = await run([peer.ask] * count, what)
                figures.update(beside(f"{peer.name}_{name}", [ms for ms, _ in answers], took))
                found[peer.name] = [best for _, best in answers]
            return found

        await run([clients[0].ask], questions[:WARM_UP])
        for peer in peers:
            await run([peer.ask], questions[:WARM_UP])
        await ours("dividing_1_client", clients[:1], first)
        if not quick:
            figures["divided_within_s"] = rounded(await settle(network))
            await run([clients[0].ask], questions[:WARM_UP])
        answers = await ours("1_client", clients[:1], asked)
        figures["shards_contacted_median"] = median(seen.shards for seen in answers)
        figures["nodes_contacted_median"] = median(seen.nodes for seen in answers)
        found = await theirs("1_client", 1, asked)
        figures["recall_at_10"] = recall(
            [[places[one] for one in seen.ids] for seen in answers], found[FAISS]
        )
        for peer in peers[1:]:
            figures[f"{peer.name}_recall_at_10"] = recall(found[peer.name], found[FAISS])
        await ours("16_clients_1_node", alone, crowds[:many])
        await ours(f"16_clients_{NODES}_nodes", clients, crowds[many:])
        await theirs("16_clients", CLIENTS, crowds[many:])
        for client in (*clients, *alone):
            client.close()
        for peer in peers:
            ratio = figures["1_client_p50_ms"] / figures[f"{peer.name}_1_client_p50_ms"]
            figures[f"p50_to_{peer.name}_p50_1_client"] = rounded(ratio)
    return figures


def recall(answers: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> float:
    """The mean share of the `K` right places that were answered."""
    hits = [len(set(some) & set(best)) for some, best in zip(answers, right, strict=True)]
    return rounded(sum(hits) / (K * len(hits)), 4)


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


def beside(name: str, times: Sequence[float], took: float) -> dict[str, Any]:
    return {
        f"{name}_p50_ms": percentile(times, 0.5),
        f"{name}_p95_ms": percentile(times, 0.95),
        f"{name}_queries_per_s": rounded(len(times) / took),
    }


def table(figures: dict[str, Any]) -> Iterator[str]:
    """Lines of the tables of docs/sharding.md, as Markdown."""
    yield "| | 1 client: p50 / p95 ms, a second | 16 clients: p50 / p95 ms, a second | recall@10 |"
    yield "|---|---|---|---|"

    def row(name: str, one: str | None, many: str | None, recall: float | str) -> str:
        cells = [
            f"{figures[f'{at}_p50_ms']} / {figures[f'{at}_p95_ms']}, {figures[f'{at}_queries_per_s']}"
            if at
            else ""
            for at in (one, many)
        ]
        return f"| {name} | {cells[0]} | {cells[1]} | {recall} |"

    count = figures["nodes"]
    ours = figures["recall_at_10"]
    yield row(f"{count} daemons, one asked", "1_client", "16_clients_1_node", ours)
    yield row(f"{count} daemons, one asked while shards divide", "dividing_1_client", None, "")
    yield row(f"{count} daemons, all asked", None, f"16_clients_{count}_nodes", ours)
    for name in figures["peers"]:
        found = figures.get(f"{name}_recall_at_10", 1.0)
        yield row(name, f"{name}_1_client", f"{name}_16_clients", found)
    yield ""
    shown = {step: ms for step, ms in figures["1_client_steps_median_ms"].items() if ms}
    slow = figures["1_client_steps_slowest_5_percent_ms"]
    yield "| ms of a question from 1 client, by step | " + " | ".join(shown) + " |"
    yield "|---|" + "---|" * len(shown)
    yield "| median | " + " | ".join(map(str, shown.values())) + " |"
    yield "| slowest twentieth | " + " | ".join(str(slow[step]) for step in shown) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Latency of a question, and where it goes.")
    parser.add_argument("--quick", action="store_true", help="under a minute, not kept")
    parser.add_argument("--folder", type=Path, help="for the daemons' homes; kept (default: a temporary one)")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder with data.noun …")
    arguments = parser.parse_args()
    try:
        corpus = wordnet(arguments.wordnet)
        figures = trio.run(measure, corpus, arguments.quick, arguments.folder)
    except NoCorpus as error:
        print(error, file=sys.stderr)
        return 2
    targets = [
        at_least("recall_at_10", RECALL_FLOOR, figures["recall_at_10"]),
        at_most("1_client_p50_ms", P50_CEILING_MS, figures["1_client_p50_ms"]),
        at_most("1_client_p50_ms", P50_CEILING_MS, figures["1_client_p50_ms"]),
        at_most("1_client_p95_ms", P95_CEILING_MS, figures["1_client_p95_ms"]),
    ]
    print(*table(figures), sep="\n")
    if not arguments.quick:
        document("query_latency", table(figures))
    emit("query_latency", figures, targets, None if arguments.quick else RESULTS / "query_latency.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
