"""What it costs that one more node comes grows with the logarithm of the network, not with its size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio

from dht.overlay.kademlia import FEW
from dht.overlay.routing_table import K
from sim.network import open_world
from sim.trace import Event, Trace, TraceEvent
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network
from tests.node.simulated_nodes import DIM, DRAWN, Network, identity, until

SMALL, LARGE = 23, 47
"""Nodes that are there; twice as many when the newcomer is counted."""
WITHIN_S = 20.0


@pytest.mark.slow
def test_a_node_that_joins_meets_its_neighbours_and_a_few_others_and_not_everybody(tmp_path: Path) -> None:
    """Counted are all requests to and from a newcomer in its first 20 seconds, and its connections."""
    seen: Counter[tuple[bytes, Event]] = Counter()

    def count(event: TraceEvent) -> None:
        for peer in (event.sender, event.receiver):
            seen[peer, event.event] += 1

    async def main() -> None:
        async with open_world(1, lambda *_: 1000, Trace(count)) as world:
            network = Network(world, found_network(identity(0), DIM, DRAWN), tmp_path)
            cost: dict[int, tuple[int, int]] = {}
            for others in (SMALL, LARGE):
                for number in range(len(network.nodes), others):
                    await network.start(number)
                    await trio.sleep(0.3)
                await until(lambda: all(node.joined for node in network.nodes.values()))
                node = await network.start(others)
                await trio.sleep(WITHIN_S)
                assert node.joined
                assert len(node.kademlia.contacts()) >= K
                cost[others] = (seen[node.agent, Event.REQUEST], seen[node.agent, Event.CONNECT])
            (messages, connections), (more_messages, more_connections) = cost[SMALL], cost[LARGE]
            assert max(messages, more_messages) <= 6 * K
            assert connections <= SMALL + 2, "in a small network they are all its neighbours, or nearly"
            # one bucket more; and whoever sees the network grow looks up anew what it had looked up before
            assert more_connections <= connections + FEW + 8, "twice the network"

    run_deterministic(main, seed=1)
