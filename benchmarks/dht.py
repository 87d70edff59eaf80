"""A put and a get in networks of 8, 32 and 64 nodes, healthy and with 30 % killed, beside others.

`python -m benchmarks.dht [--quick]` runs three systems in the same run, each in a process of its own,
over loopback: whole Rose Forest nodes, py-libp2p's `KadDHT`, and the package `kademlia` of the index. All
store the same number of values of the same size, each put by a random node and got by random other ones;
then 30 % of the nodes are closed without a word, as a killed process is, and at once the values are got
again by survivors, and new ones put. A value counts as got when the bytes are the ones that were put.

They do not do the same work, which the figures name rather than hide:

- Rose Forest: a put is over when every role of a signed record has been acknowledged by three holders,
  each of which checked signature, chain and rules and wrote it to disk with fsync; a get asks the holders
  over the network even if the asker has a copy, and checks everything again. Over Noise and Yamux, on
  TCP.
- KadDHT: a put is over when up to 20 nodes were told, and says nothing of how many took it; values are
  not signed (a validator per namespace can be set), and lie in memory. Over the same transports, by its
  default host.
- kademlia: a put is over when up to 20 nodes were told over UDP, true if one acknowledged; nothing is
  signed or encrypted, values lie in memory, and a datagram holds 8 kB.
- The other two answer a get from their own memory where they hold the value: always with 8 nodes, mostly
  with 32.

All nodes of a part share one thread, so latencies grow with their number on any machine. Nodes start one
after the other, and nothing is measured before the event loop is on time again. Each kind of call has a
bound in seconds (a put that waits five for every dead node would else decide how long all takes); how
many came to their turn stands beside it. So do the seconds of the processor that starting and each kind of
call took of the process as a whole, whatever else the machine was doing; of Rose Forest a part also prints to
stderr how many requests, lookups, probes and dials all nodes together made meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from benchmarks.report import RESULTS, ROOT, at_least, emit, rounded

SIZES = (8, 32, 64)
VALUES = 20
VALUE_BYTES = 256
KILLED = 0.3
SYSTEMS = ("rose-forest", "libp2p-kad", "kademlia")
CALL_S = 6.0
"""Longest wait for one put or get; then it has failed."""
JOIN_S = 4.0
"""Longest wait for one node to join before the next one starts."""
START_S = 60.0
"""Longest wait until all know enough others and are at rest; a slower network is measured as it is then."""
REST_S = 2.0
LATE_S = 0.05
"""A process is at rest when for `REST_S` its event loop was never later than this."""
PART_TIMEOUT_S = 600.0
OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""So many new objects start a garbage collection, in all systems: as our command line sets it."""
COUNTED = (
    "kademlia_requests_total",
    "kademlia_failures_total",
    "kademlia_lookups_total",
    "kademlia_finds_total",
    "kademlia_probes_total",
    "network_dials_total",
    "network_frames_out_total",
)
"""Counters of a node's status that a part prints, summed over all nodes."""
KNOWN = 10
"""So many others each node of ours has to know of before anything is measured."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds of a part, so that the whole ends.

    `phase_s` is the longest time for all puts or gets of one kind; what did not come to its turn by then is
    not counted. After `recover_s` seconds the survivors are asked a second time.
    """

    phase_s: float
    recover_s: float


FULL = Patience(15.0, 10.0)
QUICK = Patience(3.0, 2.0)


class System(Protocol):
    """A network of nodes in this process, by number."""

    async def start(self, nodes: int) -> None:
        """Start so many nodes that know of each other as their bootstrap lets them."""
        ...

    async def put(self, node: int, value: str) -> str | None:
        """Store a value; the key to get it by, None when that failed."""
        ...

    async def get(self, node: int, key: str) -> str | None:
        """The value, or None."""
        ...

    async def kill(self, node: int) -> None:
        """Close a node's sockets without a word to anybody."""
        ...

    def counts(self) -> Counter[str]:
        """What the living nodes have done since they started, together, as far as the system counts it."""
        ...


def main() -> None:
    """Run all parts, or one (`--part`, for the process that does it)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 nodes, few values; writes no file")
    parser.add_argument("--part", nargs=3, metavar=("SYSTEM", "NODES", "VALUES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        system, nodes, values = options.part
        print(json.dumps(_part(system, int(nodes), int(values), QUICK if options.quick else FULL)))
        return
    sizes, values = ((8,), 10) if options.quick else (SIZES, VALUES)
    figures: dict[str, Any] = {
        "values": values,
        "value_bytes": VALUE_BYTES,
        "killed_share": KILLED,
        "load average before": round(os.getloadavg()[0], 1),
    }
    for nodes in sizes:
        for system in SYSTEMS:
            for name, value in _run_part(system, nodes, values, options.quick).items():
                figures[f"{system} {nodes} {name}"] = value
    targets = [
        at_least(f"rose-forest {nodes} {name}", 1.0, figures.get(f"rose-forest {nodes} {name}") or 0.0)
        for nodes in sizes
        for name in ("put success", "get success", "get success after a pause, 30 % killed")
    ]
    emit("dht", figures, targets, None if options.quick else RESULTS / "dht.json")


def _run_part(system: str, nodes: int, values: int, quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.dht", "--part", system, str(nodes), str(values)]
    command += ["--quick"] * quick
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PART_TIMEOUT_S,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        print(f"{system} {nodes}: did not end within {PART_TIMEOUT_S:g} s", file=sys.stderr, flush=True)
        return {"ended": False}
    if done.returncode != 0:  # its traceback is above; the others are still worth their time
        return {"ended": False}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    figures["part_s"] = rounded(time.perf_counter() - began)
    print(f"{system} {nodes}: {figures}", flush=True)
    return figures


def _part(name: str, nodes: int, values: int, patience: Patience) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    if name == "kademlia":
        import asyncio

        return asyncio.run(_measure(_Kademlia(), nodes, values, patience, _asyncio_timeout, asyncio.sleep))
    import trio

    return trio.run(_in_trio, name, nodes, values, patience)


async def _in_trio(name: str, nodes: int, values: int, patience: Patience) -> dict[str, Any]:
    import trio

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        nursery = await stack.enter_async_context(trio.open_nursery())
        system = _RoseForest(nursery, Path(folder)) if name == "rose-forest" else _LibP2P(nursery)
        figures = await _measure(system, nodes, values, patience, _trio_timeout, trio.sleep)
        nursery.cancel_scope.cancel()
    return figures


async def _until(holds: Callable[[], bool], every_s: float = 0.02) -> None:
    import trio

    for _ in count():
        if holds():
            return
        await trio.sleep(every_s)


def _knows(node: Any, others: int) -> bool:
    return len(node.kademlia.contacts()) >= others


async def _rest() -> None:
    """Return when the event loop has been on time for a while."""
    import trio

    on_time = 0.0
    while on_time < REST_S:
        at = trio.current_time()
        await trio.sleep(LATE_S)
        on_time = on_time + LATE_S if trio.current_time() - at < 2 * LATE_S else 0.0


async def _trio_timeout(call: Callable[[], Awaitable[str | None]]) -> str | None:
    import trio

    with trio.move_on_after(CALL_S):
        return await call()
    return None


async def _asyncio_timeout(call: Callable[[], Awaitable[str | None]]) -> str | None:
    import asyncio

    try:
        return await asyncio.wait_for(call(), CALL_S)
    except TimeoutError:
        return None


Timeout = Callable[[Callable[[], Awaitable[str | None]]], Awaitable[str | None]]


async def _measure(
    system: System,
    nodes: int,
    values: int,
    patience: Patience,
    within: Timeout,
    sleep: Callable[[float], Awaitable[None]],
) -> dict[str, Any]:
    rng = random.Random(f"dht {nodes}")
    began = time.perf_counter()
    await system.start(nodes)
    gc.freeze()  # else a collection walks the heap of all nodes while every one of them waits
    figures: dict[str, Any] = {"started_s": rounded(time.perf_counter() - began)}
    figures["started cpu_s"] = rounded(time.process_time())
    _tell(began, figures, system.counts())
    alive = list(range(nodes))
    kept: dict[str, tuple[str, int]] = {}

    async def put_all(label: str, wanted: int) -> None:
        times: list[float] = []
        before = time.process_time(), system.counts()
        asked, until = 0, time.perf_counter() + patience.phase_s
        while asked < wanted and time.perf_counter() < until:
            node, value = rng.choice(alive), _value(label, asked)
            asked += 1
            at = time.perf_counter()
            key = await within(partial(system.put, node, value))
            if key is not None:
                times.append(time.perf_counter() - at)
                kept[key] = (value, node)
        record(f"put{label}", times, asked, *before)

    async def get_all(label: str, keys: Sequence[str]) -> None:
        times: list[float] = []
        before = time.process_time(), system.counts()
        asked, until = 0, time.perf_counter() + patience.phase_s
        while asked < len(keys) and time.perf_counter() < until:
            key = keys[asked]
            asked += 1
            value, author = kept[key]
            node = rng.choice([one for one in alive if one != author])
            at = time.perf_counter()
            if await within(partial(system.get, node, key)) == value:
                times.append(time.perf_counter() - at)
        record(f"get{label}", times, asked, *before)

    def record(name: str, times: Sequence[float], asked: int, cpu_s: float, counts: Counter[str]) -> None:
        told = _figures(name, times, asked)
        told[f"{name} cpu_s"] = rounded(time.process_time() - cpu_s)
        figures.update(told)
        _tell(began, told, system.counts() - counts)

    await put_all("", values)
    healthy = list(kept)
    await get_all("", healthy)
    for node in rng.sample(alive, round(KILLED * nodes)):
        alive.remove(node)
        await system.kill(node)
    await get_all(" at once, 30 % killed", healthy)
    await put_all(" at once, 30 % killed", values // 2)
    await sleep(patience.recover_s)
    await get_all(" after a pause, 30 % killed", rng.sample(list(kept), min(len(kept), values)))
    return figures


def _tell(began: float, told: dict[str, Any], counts: Counter[str]) -> None:
    counted = f" {dict(counts)}" if counts else ""
    print(f"  {time.perf_counter() - began:6.1f} s: {told}{counted}", file=sys.stderr, flush=True)


def _value(label: str, number: int) -> str:
    text = f"value {number}{label} "
    return (text * (VALUE_BYTES // len(text) + 1))[:VALUE_BYTES]


def _figures(name: str, times: Sequence[float], asked: int) -> dict[str, float | None]:
    ordered = sorted(times)
    return {
        f"{name} p50 ms": rounded(1000 * ordered[math.ceil(0.5 * len(ordered)) - 1]) if ordered else None,
        f"{name} p95 ms": rounded(1000 * ordered[math.ceil(0.95 * len(ordered)) - 1]) if ordered else None,
        name.replace("put", "put success", 1).replace("get", "get success", 1): rounded(len(ordered) / asked)
        if asked
        else None,
        f"{name} asked": asked,
    }


# Rose Forest: whole nodes with real sockets, disks and fsync.


@dataclass(slots=True)
class _Running:
    node: Any
    scope: Any


class _RoseForest:
    def __init__(self, nursery: Any, folder: Path) -> None:
        self._nursery = nursery
        self._folder = folder
        self._nodes: dict[int, _Running] = {}

    async def start(self, nodes: int) -> None:
        import trio

        from chain.identity import Identity
        from node.founding import ground_for
        from sim.whole_node import found_network

        identities = [Identity.from_seed(number.to_bytes(32, "big")) for number in range(1, nodes + 1)]
        founding = found_network(identities[0], 8)
        ground = ground_for(founding)
        bootstrap: tuple[str, ...] = ()
        for number, identity in enumerate(identities):
            running = await self._nursery.start(self._run, number, identity, founding, ground, bootstrap)
            self._nodes[number] = running
            bootstrap = bootstrap or running.node.status().addresses
            with trio.move_on_after(JOIN_S if number else 0):  # all at once would keep each other waiting
                await _until(partial(getattr, running.node, "joined"))
        with trio.move_on_after(START_S):
            for running in self._nodes.values():
                await _until(partial(_knows, running.node, min(nodes - 1, KNOWN)))
            await _rest()

    async def _run(
        self,
        number: int,
        identity: Any,
        founding: Any,
        ground: Any,
        bootstrap: tuple[str, ...],
        task_status: Any,
    ) -> None:
        import trio

        from dht.ports import SystemClock, ThreadedBlocking, system_random
        from dht.wire.libp2p_network import open_libp2p_network
        from node.node import open_node
        from node.options import NodeOptions, NodePaths

        folder = self._folder / str(number)
        folder.mkdir()
        clock = SystemClock()
        with trio.CancelScope() as scope:
            async with (
                open_libp2p_network(identity.seed, ["/ip4/127.0.0.1/tcp/0"], clock) as network,
                open_node(
                    identity=identity,
                    founding=founding,
                    paths=NodePaths(folder / "chain.db", folder / "held.db", folder / "derived.db"),
                    network=network,
                    clock=clock,
                    random=system_random(),
                    run_blocking=ThreadedBlocking(1),
                    write_blocking=ThreadedBlocking(1),
                    options=NodeOptions(bootstrap=bootstrap),
                    ground=ground,
                ) as node,
            ):
                task_status.started(_Running(node, scope))
                await trio.sleep_forever()

    async def put(self, node: int, value: str) -> str | None:
        from chain.cid import to_text
        from node.models import Added, NewEntry

        author = self._nodes[node].node
        vector = random.Random(value).choices(range(-9, 10), k=8)
        (added,) = await author.add([NewEntry(value, vector=[one + 0.5 for one in vector])])
        if not isinstance(added, Added):
            return None
        await _until(lambda: added.id not in author.unplaced(1000), 0.002)
        return to_text(added.id)

    async def get(self, node: int, key: str) -> str | None:
        from chain.cid import from_text

        found = await self._nodes[node].node.get(from_text(key))
        return None if found is None else str(found.text)

    async def kill(self, node: int) -> None:
        self._nodes.pop(node).scope.cancel()

    def counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for running in self._nodes.values():
            counters = running.node.status().counters
            total.update({name: counters[name] for name in COUNTED})
        return total


# py-libp2p's KadDHT, with the host that its documentation makes.


class _LibP2P:
    def __init__(self, nursery: Any) -> None:
        self._nursery = nursery
        self._nodes: dict[int, _Running] = {}

    async def start(self, nodes: int) -> None:
        import trio

        first: Any = None
        for number in range(nodes):
            self._nodes[number] = await self._nursery.start(self._run, number, first)
            if first is None:
                host = self._nodes[0].node.host
                first = (host.get_id(), host.get_addrs())
        with trio.move_on_after(START_S):
            for running in self._nodes.values():
                await running.node.refresh_routing_table()
            await _rest()

    async def _run(self, number: int, first: Any, task_status: Any) -> None:
        import trio
        from libp2p import new_host
        from libp2p.crypto.ed25519 import create_new_key_pair
        from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
        from libp2p.network.config import ConnectionConfig
        from libp2p.peer.peerinfo import PeerInfo
        from libp2p.tools.anyio_service import background_trio_service
        from multiaddr import Multiaddr

        quiet = ConnectionConfig(min_connections=0, low_watermark=0)
        host = new_host(key_pair=create_new_key_pair(number.to_bytes(32, "big")), connection_config=quiet)
        with trio.CancelScope() as scope:
            async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
                dht = KadDHT(host, DHTMode.SERVER)
                async with background_trio_service(dht):
                    if first is not None:
                        peer, addresses = first
                        await host.connect(PeerInfo(peer, addresses))
                        await dht.add_peer(peer)
                    task_status.started(_Running(dht, scope))
                    await trio.sleep_forever()

    async def put(self, node: int, value: str) -> str | None:
        key = f"key {random.Random(value).getrandbits(128):x}"
        await self._nodes[node].node.put_value(key, value.encode())
        return key

    async def get(self, node: int, key: str) -> str | None:
        found = await self._nodes[node].node.get_value(key)
        return None if found is None else bytes(found).decode()

    async def kill(self, node: int) -> None:
        self._nodes.pop(node).scope.cancel()

    def counts(self) -> Counter[str]:
        return Counter()


# The package `kademlia`, over asyncio and UDP.


class _Kademlia:
    def __init__(self) -> None:
        self._nodes: dict[int, Any] = {}

    async def start(self, nodes: int) -> None:
        from kademlia.network import Server

        for number in range(nodes):
            server = self._nodes[number] = Server()
            await server.listen(0, interface="127.0.0.1")
            if number:
                await server.bootstrap([self._nodes[0].transport.get_extra_info("sockname")])

    async def put(self, node: int, value: str) -> str | None:
        key = f"key {random.Random(value).getrandbits(128):x}"
        return key if await self._nodes[node].set(key, value) else None

    async def get(self, node: int, key: str) -> str | None:
        found = await self._nodes[node].get(key)
        return None if found is None else str(found)

    async def kill(self, node: int) -> None:
        self._nodes.pop(node).stop()

    def counts(self) -> Counter[str]:
        return Counter()


if __name__ == "__main__":
    main()
