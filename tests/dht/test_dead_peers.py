"""Ten thousand requests to dead peers leave nothing behind: no task, no descriptor, no memory.

Half of the dead refuse connections, the others take them and say nothing, as a stopped process does. A clock
that the test moves ends every back-off, so that each round really knocks at every door again.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from chain.identity import peer_id
from dht.errors import NetworkError
from dht.overlay.contact import make_contact
from dht.overlay.kademlia import Kademlia
from dht.wire.libp2p_network import open_libp2p_network
from dht.wire.limits import DEFAULT_LIMITS
from sim.virtual_clock import seeded_random
from tests.dht.attackers import flat_again, footprint
from tests.dht.people import MANIFEST, NETWORK_ID, NOW_US, identity, nonce_of
from tests.dht.test_libp2p_network import LOOPBACK, black_hole

pytestmark = pytest.mark.slow

DEAD = 100
ROUNDS = 100
OBJECTS = 2000
MEMORY = 24 << 20
PATIENCE = 0.02
"""Seconds that each request waits, and each dial a little longer."""


class SteppedClock:
    """A clock that the test moves, in seconds."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return NOW_US


@asynccontextmanager
async def a_node_among_the_dead(clock: SteppedClock) -> AsyncIterator[Kademlia]:
    """A node that knows verified address records of `DEAD` peers and has a table full of them."""
    limits = replace(DEFAULT_LIMITS, connect_timeout=2 * PATIENCE, attempt_delay=PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()[1]
    async with (
        black_hole() as silent,
        open_libp2p_network(identity(0).seed, [LOOPBACK], clock, limits=limits) as network,
    ):
        kademlia = Kademlia(network, identity(0), MANIFEST, nonce_of(0), 1, clock, seeded_random(1, "node 0"))
        for number in range(1, DEAD + 1):
            agent = identity(number).agent
            port = silent if number % 2 else refusing
            address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(agent)}"
            contact = make_contact(
                identity(number), NETWORK_ID, nonce_of(number), [address], 1, False, NOW_US, 3600
            )
            kademlia._members.book.learn(contact.data, NOW_US)
            kademlia._members.table.offer(contact)
        yield kademlia
        assert network.gauges()["connections"] == 0


async def ask_everybody(kademlia: Kademlia, clock: SteppedClock, rounds: int) -> int:
    """So many rounds of one request to each dead peer; how many failed as they should."""
    failed = 0

    async def ask(agent: bytes) -> None:
        nonlocal failed
        try:
            with trio.move_on_after(10 * PATIENCE):
                await kademlia.request(agent, "echo", b"x", PATIENCE)
        except NetworkError:
            failed += 1

    for _ in range(rounds):
        clock.now += 600.0
        async with trio.open_nursery() as nursery:
            for number in range(1, DEAD + 1):
                nursery.start_soon(ask, identity(number).agent)
    return failed


async def test_ten_thousand_requests_to_the_dead_leave_nothing_behind() -> None:
    clock = SteppedClock()
    async with a_node_among_the_dead(clock) as kademlia:
        await ask_everybody(kademlia, clock, ROUNDS // 10)
        before = footprint()
        failed = await ask_everybody(kademlia, clock, ROUNDS)
        await flat_again(before, OBJECTS, MEMORY)
        assert failed > ROUNDS * DEAD / 3, "those who refuse fail; the silent are given up"
        assert kademlia.counters.requests >= ROUNDS * DEAD
        assert len(kademlia._requests._open) == len(kademlia._requests._introductions) == 0
