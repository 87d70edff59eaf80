"""Ten whole nodes, 500 entries, 50 queries, in virtual time; prints the trace and a digest of all answers.

Run as `python whole_nodes_workload.py SEED`, so that the same run can be compared between processes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import trio

from chain.identity import Identity
from node.models import Added, NewEntry
from node.node import Node, NodeOptions
from sim.links import LatencyLink
from sim.network import SimWorld, open_world
from sim.virtual_clock import run_deterministic, seeded_random
from sim.whole_node import found_network, start_node

NODES = 10
ENTRIES = 500
QUERIES = 50
K = 5
SETTLE_S = 600
"""Virtual seconds within which every record must be on its holders."""
SYLLABLES = ["ba", "cor", "den", "fi", "gal", "hu", "jo", "ker", "lum", "mi", "nor", "pas"]
WORDS = [one + other for one in SYLLABLES for other in SYLLABLES]


async def main(seed: int, folder: Path) -> str:
    draw = seeded_random(seed, "workload").choice
    identities = [Identity.from_seed(sha256(f"{seed}/{number}".encode()).digest()) for number in range(NODES)]
    founding = found_network(identities[0])
    async with open_world(seed, LatencyLink(seed, loss=0.001)) as world:
        nodes: list[Node] = []
        for number, identity in enumerate(identities):
            bootstrap = (world.address(identities[0].agent),) if number else ()
            options = NodeOptions(bootstrap=bootstrap)
            home = folder / str(number)
            home.mkdir()
            nodes.append(await start_node(world, identity, founding, home, seed, options))
        await until(lambda: all(node.status().peers == NODES - 1 for node in nodes))
        texts = [" ".join(draw.sample(WORDS, 6)) for _ in range(ENTRIES)]
        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(add_all, node, texts[number::NODES])
        await until(lambda: all(node.status().pending == 0 for node in nodes))
        answers = sha256()
        hits = 0
        for _ in range(QUERIES):
            answer = await draw.choice(nodes).query(" ".join(draw.sample(WORDS, 3)), None, K, (), None)
            hits += len(answer.hits)
            for hit in answer.hits:
                assert hit.verified
                answers.update(hit.id + hit.holder)
            answers.update(repr(answer.cost).encode())
        return await summary(world, answers.hexdigest(), hits)


async def add_all(node: Node, texts: list[str]) -> None:
    for start in range(0, len(texts), 10):
        added = await node.add([NewEntry(text) for text in texts[start : start + 10]])
        assert all(isinstance(outcome, Added) for outcome in added)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(SETTLE_S):
        while True:
            if condition():
                return
            await trio.sleep(0.25)


async def summary(world: SimWorld, answers: str, hits: int) -> str:
    await trio.sleep(1)
    for name, counts in world.trace.methods().items():
        print(name, counts)
    return f"{world.trace.hexdigest()} {answers} {hits} {trio.current_time():.6f}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        print(run_deterministic(main, int(sys.argv[1]), Path(home), seed=int(sys.argv[1])))
