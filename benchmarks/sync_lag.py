"""How long after a write is acknowledged others have it, and how long until R of them have signed for it.

`python -m benchmarks.sync_lag [--quick]` starts real daemons on loopback, over libp2p. First two: for 60 s 50
entries a second are added at one, evenly, whether the earlier ones are answered or not; an entry is visible
at the other one when its posting lies in that node's own database, from which it answers queries (read from
the file every `LOOK_S`, without a request). `dht_sync_lag` is the time from the acknowledgement to that.
Then ten: entries are added one at a time, and `validation_receipts_complete_time` is the time from the
acknowledgement until R = 3 distinct nodes have signed that they judged and hold it in full. Names are those
of Holochain's Wind Tunnel; its own results stand beside for scale, as published, **not measured here**.
Beside it in the same run: what one synced commit of SQLite takes on this disk, of which an entry needs one at
each end. All daemons and the benchmark share the cores of one machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sqlite3
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import trio

from benchmarks.report import RESULTS, at_most, emit, rounded
from chain.cid import to_text
from node.corpus import entries
from sim.testnet import RunningNode, TestNetwork, open_test_network

RATE = 50
SECONDS = 60.0
WRITERS = 8
"""Connections of the writing client: a slow answer must not slow the others down."""
WARM_UP_S = 5.0
PEERS = 10
R = 3
RECEIPTS = 100
LOOK_S = 0.005
LATE_S = 120.0
"""An entry that has not come after so long is lost, and the benchmark says so."""
PATIENCE_S = 10.0
"""How long receipts are waited for; then they count as short. Where an author is itself one of the nearest to
an entry and to its shard, fewer than R others may be asked to hold it."""
LAG_CEILING_S = 2.0
RECEIPTS_CEILING_S = 1.0
PUBLISHED = {
    "holochain_dht_sync_lag_mean_s": 32.9,
    "holochain_validation_receipts_complete_time_s": 9.8,
    "holochain_source": "fixtures of Holochain's Wind Tunnel (5 receipts), a literature figure, not measured",
}


class Client:
    """One kept connection to a daemon."""

    def __init__(self, node: RunningNode) -> None:
        where = urlsplit(node.started.api)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=LATE_S)
        self._headers = {"authorization": f"Bearer {node.home.read_token()}"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, self._headers)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        if response.status >= 400:
            raise RuntimeError(f"{method} {path} was answered with {response.status}: {answer}")
        return answer

    def close(self) -> None:
        self._connection.close()

    def add(self, text: str) -> str:
        identifier: str = self.call("POST", "/v1/entries", {"text": text})["id"]
        return identifier


@dataclass
class Watch:
    """When entries became visible at a node, by id; read from its database by a thread of its own."""

    path: Path
    seen: dict[str, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, ids: Collection[str]) -> None:
        """Until all of these are visible, or `LATE_S` are over."""
        end = time.perf_counter() + LATE_S
        while not self.seen.keys() >= set(ids) and time.perf_counter() < end:
            time.sleep(LOOK_S)

    def run(self) -> None:
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=LATE_S)
        last = 0
        while not self.stop.is_set():
            rows = connection.execute(
                "SELECT number, entry FROM postings WHERE number > ? ORDER BY number", (last,)
            ).fetchall()
            now = time.perf_counter()
            for number, entry in rows:
                last = number
                self.seen.setdefault(to_text(entry), now)
            time.sleep(LOOK_S)
        connection.close()


@dataclass
class Writes:
    """What the writing client saw: when each entry was acknowledged, by id, and how long that took."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    late: int = 0
    """Writes begun more than 100 ms after their time: then the rate was not kept."""


def write_evenly(node: RunningNode, texts: Sequence[str], rate: float) -> Writes:
    """Add the texts at an even rate, each at its time."""
    done, lock = Writes(), threading.Lock()
    numbers = iter(range(len(texts)))
    began = time.perf_counter()
    failures: list[BaseException] = []

    def work() -> None:
        client = Client(node)
        while not failures:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            due = began + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            start = time.perf_counter()
            try:
                identifier = client.add(texts[number])
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(error)
                return
            now = time.perf_counter()
            with lock:
                done.acknowledged[identifier] = now
                done.took.append(now - start)
                done.late += start - due > 0.1

    threads = [threading.Thread(target=work) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError("the daemon stopped taking writes") from failures[0]
    return done


def texts_of(count: int, salt: str) -> list[str]:
    """So many texts, all different."""
    found = [entry.text for entry in entries()]
    return [f"{found[number % len(found)]} ({salt} {number})" for number in range(count)]


async def settled(network: TestNetwork) -> None:
    """Until all nodes know each other and nothing is pending."""
    with trio.fail_after(LATE_S):
        while True:
            states = [await node.get("/v1/status") for node in network.nodes]
            if all(one["peers"] == len(network.nodes) - 1 and not one["pending"] for one in states):
                return
            await trio.sleep(0.2)


async def sync_lag(seconds: float) -> dict[str, Any]:
    """Two peers: `dht_sync_lag` under `RATE` writes a second."""
    async with open_test_network(2) as network:
        await settled(network)
        writer, reader = network.nodes
        watch = Watch(reader.home.root / "derived.db")
        watching = threading.Thread(target=watch.run)
        watching.start()
        try:
            warm = texts_of(round(RATE * WARM_UP_S), "warm up")
            await trio.to_thread.run_sync(write_evenly, writer, warm, RATE)
            texts = texts_of(round(RATE * seconds), "measured")
            began = time.perf_counter()
            done = await trio.to_thread.run_sync(write_evenly, writer, texts, RATE)
            took = time.perf_counter() - began
            await trio.to_thread.run_sync(watch.wait_for, done.acknowledged.keys())
        finally:
            watch.stop.set()
            await trio.to_thread.run_sync(watching.join)
    # One that is there before its author's client has the answer has no lag.
    lags = [max(0.0, watch.seen[id_] - at) for id_, at in done.acknowledged.items() if id_ in watch.seen]
    return {
        "writes_per_s": rounded(len(texts) / took),
        "writes_late": done.late,
        "dht_sync_sent_count": len(done.acknowledged),
        "dht_sync_recv_count": len(lags),
        **spread("dht_sync_lag", lags, "s", 1),
        **spread("acknowledge", done.took, "ms", 1_000),
    }


async def receipts_time(count: int, peers: int) -> dict[str, Any]:
    """`validation_receipts_complete_time` among so many peers."""
    async with open_test_network(peers) as network:
        await settled(network)
        times: list[float] = []
        short = 0

        def one(number: int, text: str) -> bool:
            client = Client(network.nodes[number % len(network.nodes)])
            identifier = client.add(text)
            began = time.perf_counter()
            path = f"/v1/records/{identifier}/receipts?at_least={R}&timeout_s={PATIENCE_S:g}"
            answer = client.call("GET", path)
            times.append(time.perf_counter() - began)
            client.close()
            return bool(answer["reached"])

        for number, text in enumerate(texts_of(count + peers, "receipts")):
            reached = await trio.to_thread.run_sync(one, number, text)
            if number < peers:
                times.clear()  # the first at each node find connections unopened
            else:
                short += not reached
    return {
        "receipts_peers": peers,
        "receipts_required": R,
        "receipts_short": short,
        **spread("validation_receipts_complete_time", times, "s", 1),
    }


def commit_time() -> dict[str, Any]:
    """The floor: one synced commit of a kilobyte, as both ends of every write pay it."""
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (data BLOB)")
        times: list[float] = []
        for _ in range(200):
            began = time.perf_counter()
            connection.execute("INSERT INTO t VALUES (?)", (bytes(1024),))
            times.append(time.perf_counter() - began)
        connection.close()
    return spread("sqlite_commit", times, "ms", 1_000)


def spread(name: str, seconds: Sequence[float], unit: str, factor: float) -> dict[str, float]:
    """Mean, median, 95th percentile and maximum."""
    ordered = sorted(seconds) or [float("inf")]
    places = {"p50": 0.5, "p95": 0.95}
    return {
        f"{name}_mean_{unit}": rounded(fmean(ordered) * factor),
        **{
            f"{name}_{label}_{unit}": rounded(ordered[min(len(ordered) - 1, int(q * len(ordered)))] * factor)
            for label, q in places.items()
        },
        f"{name}_max_{unit}": rounded(ordered[-1] * factor),
    }


async def measure(quick: bool) -> dict[str, Any]:
    figures = commit_time()
    figures |= await sync_lag(10.0 if quick else SECONDS)
    figures |= await receipts_time(20 if quick else RECEIPTS, 6 if quick else PEERS)
    return figures | PUBLISHED


def main() -> None:
    parser = argparse.ArgumentParser(description="Lag from one peer to another, and until R have signed.")
    parser.add_argument("--quick", action="store_true", help="under a minute, not kept")
    arguments = parser.parse_args()
    figures = trio.run(measure, arguments.quick)
    targets = [
        at_most("dht_sync_lag_p95_s", LAG_CEILING_S, figures["dht_sync_lag_p95_s"]),
        at_most("entries lost", 0, figures["dht_sync_sent_count"] - figures["dht_sync_recv_count"]),
        at_most(
            "validation_receipts_complete_time_p95_s",
            RECEIPTS_CEILING_S,
            figures["validation_receipts_complete_time_p95_s"],
        ),
        at_most("receipts_short", 0, figures["receipts_short"]),
    ]
    emit("sync_lag", figures, targets, None if arguments.quick else RESULTS / "sync_lag.json")


if __name__ == "__main__":
    main()
