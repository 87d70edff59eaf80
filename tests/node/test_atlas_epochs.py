"""An atlas epoch under way: nothing acknowledged is ever not found, and at the end all lies where it belongs.

Whole nodes over a network that loses messages, asked for everything that was acknowledged so far (k above the
number of entries, so that every shard is asked) while entries are written and deleted, one joins and one was
away.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from chain import canonical
from chain.cid import Cid, blob_cid
from dht.network import PeerId
from dht.overlay.hello import ATLAS_CHUNK, HELLO
from dht.records.layouts import ASK_S
from node.atlases import PATIENCE_S
from node.errors import InvalidInput
from node.models import Delete
from node.node import Node
from sharding.atlas_build import build_atlas
from tests.node.simulated_nodes import DIM, Network, entry, override, simulate, until, vector

LOSS = 0.01
"""Each way; a shard goes only when none of the questions about it was lost."""
EVERY_S = 20.0


def atlas(dim: int = DIM, seed: int = 1) -> bytes:
    rows = np.random.default_rng(seed).normal(size=(600, dim)).astype(np.float32)
    return build_atlas(rows, "caller-vectors", cells=64, seed=seed, learned_map=False).encode()


async def publish(node: Node, data: bytes) -> None:
    await node.governance.atlases.keep(data)
    epochs = node.governance.epochs
    await epochs.publish(epochs.sign(epochs.propose([], None, atlas=blob_cid(data))))


def lossy(sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
    return None if rng.random() < LOSS else 10_000


def moved(node: Node) -> bool:
    parts = node.parts
    return (
        parts.layouts.current.generation == 1 and not parts.layouts.moving and not parts.layouts.left_behind()
    )


async def misplaced(network: Network, entries: set[Cid]) -> list[tuple[int, Cid]]:
    """Which node lacks which of these records, although it is among the three nearest to its shard now."""
    wrong = []
    nodes = network.nodes
    for id_ in sorted(entries):
        (record, *_) = [one for n in nodes.values() for one in n.parts.find([id_]) if one and one.payload]
        basis = nodes[0].parts.layout.shard_of(record)
        assert basis is not None
        near = [contact.agent for contact in await nodes[0].kademlia.holders(basis, 3)]
        wrong += [
            (number, id_)
            for number, node in nodes.items()
            if node.agent in near and node.parts.held.lacking([(basis, id_)])[0]
        ]
    return wrong


@pytest.mark.slow
def test_no_query_loses_anything_while_an_atlas_is_replaced(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(30, [0, 1, 2])
        await network.crash(3)
        await publish(network.nodes[0], atlas())
        started, number = trio.current_time(), 100
        living, written, ended = set(network.entries), {}, set[Cid]()
        while not all(map(moved, network.nodes.values())):
            await trio.sleep(EVERY_S)
            age = trio.current_time() - started
            author = sorted(network.nodes)[number % len(network.nodes)]
            if age < ASK_S:
                number += 1
                (id_,) = await network.add(author, [entry(number)])
                written[id_] = author
            living |= {id_ for id_, by in written.items() if not network.nodes[by].parts.own.unplaced([id_])}
            if number % 6 == 0 and age < ASK_S:
                gone = sorted(living - ended)[number % 7]
                await network.nodes[author].change(gone, Delete())
                ended.add(gone)
            asker = sorted(network.nodes)[(number * 3 + 1) % len(network.nodes)]
            answer = await network.ask(asker, vector(9_000 + number), k=100, deadline_ms=20_000)
            found = {hit.id for hit in answer.hits}
            assert living - ended - found == set(), f"{age:.0f} s after the epoch, asking node {asker}"
            if number == 108:
                await network.start(4)
            assert age < 4 * ASK_S
        await network.start(3)
        with trio.fail_after(2 * ASK_S):
            await network.settle()
            await until(lambda: all(map(moved, network.nodes.values())), 2 * ASK_S, every_s=5.0)
        await network.settle()
        assert await misplaced(network, living - ended) == []
        answer = await network.ask(3, vector(1), k=100, deadline_ms=20_000)
        assert {hit.id for hit in answer.hits} == living - ended
        assert answer.cost.shards_missed == 0

    simulate(tmp_path, [100] * 4, scenario, lossy)


def test_an_atlas_that_the_network_cannot_use_is_refused_and_its_epoch_not_followed(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        node, other = network.nodes.values()
        with pytest.raises(InvalidInput, match=r"^this is no atlas: [^\n]*$"):
            await node.governance.atlases.keep(b"not one")
        foreign = atlas(DIM + 1)
        with pytest.raises(InvalidInput, match=f"in {DIM + 1} dimensions, the network's is .* in {DIM}$"):
            await node.governance.atlases.keep(foreign)

        # Stewards who do not look sign it all the same.
        atlases, epochs = node.governance.atlases, node.governance.epochs
        atlases._write(foreign)
        await epochs.publish(epochs.sign(epochs.propose([], None, atlas=blob_cid(foreign))))
        await until(lambda: bool(other.governance.atlases._refused), 60.0)
        assert {one.status().counters["epoch"] for one in (node, other)} == {0}
        await network.add(0, [entry(1)])
        await network.settle()

        await publish(node, atlas())
        await until(lambda: other.parts.layouts.current.generation == 1)

    simulate(tmp_path, [100] * 2, scenario)


def test_a_peer_that_trickles_an_atlas_gives_way_to_the_next(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        steward, liar, node = network.nodes.values()
        asked = 0

        async def trickles(_sender: bytes, _body: bytes) -> bytes:
            nonlocal asked
            asked += 1
            await trio.sleep(1.5)
            return canonical.encode([bytes(ATLAS_CHUNK)])

        handlers = liar.parts.network._handlers  # type: ignore[attr-defined]
        override(liar.parts.network, "_handlers", {**handlers, HELLO: trickles})

        class LiarFirst(random.Random):
            def sample(self, population: Any, _count: int) -> Any:  # type: ignore[override]
                return sorted(population, key=lambda agent: agent != liar.agent)

        override(node.governance.atlases, "_rng", LiarFirst(1))
        await publish(steward, atlas())
        await until(lambda: node.parts.layouts.current.generation == 1, 3 * PATIENCE_S)
        assert asked > 1

    simulate(tmp_path, [100] * 3, scenario)
