"""What it costs that one more node comes grows with the logarithm of the network, not with its size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio

from dht.overlay.routing_table import K
from sim.network import open_world
from sim.trace import Event, Trace, TraceEvent
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network
from tests.node.simulated_nodes import DIM, Network, identity, until

SMALL, LARGE = 24, 48
"""Nodes when the last newcomer has come: twice as many."""
NEWCOMERS = 4
"""What one costs hangs on where it comes to lie; what is promised is the mean of so many."""
WITHIN_S = 12.0


@pytest.mark.slow
def test_a_node_that_joins_meets_its_neighbours_and_a_few_others_and_not_everybody(tmp_path: Path) -> None:
    """Counted are all requests to and from newcomers in their first seconds, and their connections."""
    seen: Counter[tuple[bytes, Event]] = Counter()

    def count(event: TraceEvent) -> None:
        for peer in (event.sender, event.receiver):
            seen[peer, event.event] += 1

    async def main() -> None:
        async with open_world(1, lambda *_: 1000, Trace(count)) as world:
            network = Network(world, found_network(identity(0), DIM), tmp_path)
            messages: dict[int, float] = {}
            connections: dict[int, float] = {}
            for size in (SMALL, LARGE):
                for number in range(len(network.nodes), size - NEWCOMERS):
                    await network.start(number)
                    await trio.sleep(0.3)
                await until(lambda: all(node.joined for node in network.nodes.values()))
                counts: Counter[Event] = Counter()
                for number in range(size - NEWCOMERS, size):
                    node = await network.start(number)
                    await trio.sleep(WITHIN_S)
                    assert node.joined
                    assert len(node.kademlia.contacts()) >= K
                    for event in (Event.REQUEST, Event.CONNECT):
                        counts[event] += seen[node.agent, event]
                messages[size] = counts[Event.REQUEST] / NEWCOMERS
                connections[size] = counts[Event.CONNECT] / NEWCOMERS
            # One bucket more, and whoever sees the network grow looks up anew what it had looked up before.
            assert messages[LARGE] <= 1.75 * messages[SMALL] <= 1.75 * 9 * K
            assert connections[LARGE] <= 0.9 * (LARGE - 1), "not everybody"

    run_deterministic(main, seed=1)
