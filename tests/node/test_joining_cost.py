"""What it costs that one more node comes does not grow with the size of the network, or hardly."""

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

NEWCOMERS = 4
"""What one costs hangs on where it comes to lie; what is promised is the mean of so many."""
WITHIN_S = 12.0
PLACES = 4
"""Of which a newcomer looks up who is there: its own, and where its first records lie."""


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [48, pytest.param(96, marks=pytest.mark.long)])
def test_a_node_that_joins_meets_those_of_a_few_places_and_not_everybody(nodes: int, tmp_path: Path) -> None:
    """Counted are all requests to and from newcomers in their first seconds, and their connections.

    K nodes are met at a place, so in a network of 48 it may be everybody, and in one of 96 it must not.
    """
    seen: Counter[tuple[bytes, Event]] = Counter()

    def count(event: TraceEvent) -> None:
        for peer in (event.sender, event.receiver):
            seen[peer, event.event] += 1

    async def main() -> None:
        async with open_world(1, lambda *_: 1000, Trace(count)) as world:
            network = Network(world, found_network(identity(0), DIM), tmp_path)
            for number in range(nodes - NEWCOMERS):
                await network.start(number)
                await trio.sleep(0.3)
            await until(lambda: all(node.joined for node in network.nodes.values()))
            counts: Counter[Event] = Counter()
            for number in range(nodes - NEWCOMERS, nodes):
                node = await network.start(number)
                await trio.sleep(WITHIN_S)
                assert node.joined
                assert len(node.kademlia.contacts()) >= K
                for event in (Event.REQUEST, Event.CONNECT):
                    counts[event] += seen[node.agent, event]
            assert counts[Event.CONNECT] / NEWCOMERS <= PLACES * K
            assert counts[Event.REQUEST] / NEWCOMERS <= 3 * PLACES * K

    run_deterministic(main, seed=1)
