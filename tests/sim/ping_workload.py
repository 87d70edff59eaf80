"""A small simulation that prints its trace: hosts that ping each other, lose messages, crash and return.

Run as `python ping_workload.py SEED`, so that the same run can be compared between processes.
"""

from __future__ import annotations

import sys

import trio

from dht.errors import NetworkError
from sim.links import LatencyLink
from sim.network import SimNetwork, SimWorld, open_world
from sim.virtual_clock import InlineBlocking, SimClock, run_deterministic, seeded_random

HOSTS = 8
ROUNDS = 30


async def live(world: SimWorld, host: SimNetwork, peers: list[bytes], seed: int) -> None:
    random = seeded_random(seed, host.local.hex())
    write = InlineBlocking(0.002)
    seen: set[bytes] = set()

    async def ping(sender: bytes, body: bytes) -> bytes:
        await write(seen.add, sender + body)
        return SimClock().wall_us().to_bytes(8, "big") + body

    host.register("ping", ping)
    for peer in peers:
        if peer != host.local:
            host.learn(peer, [world.address(peer)])
    while True:
        for peer in random.choice.sample(peers, 3):
            try:
                await host.request(peer, "ping", random.random_bytes(8), 0.5)
            except NetworkError:
                await trio.sleep(random.choice.random())
        await trio.sleep(random.choice.random())


async def main(seed: int) -> str:
    peers = [bytes([number]) * 32 for number in range(1, HOSTS + 1)]
    faults = seeded_random(seed, "faults").choice
    async with open_world(seed, LatencyLink(seed, loss=0.02)) as world:
        for peer in peers:
            host = await world.join(peer)
            host.nursery.start_soon(live, world, host, peers, seed)
        for number in range(ROUNDS):
            await trio.sleep(1)
            victim = faults.choice(peers)
            world.crash(victim)
            await trio.sleep(faults.random())
            host = await world.join(victim)
            host.nursery.start_soon(live, world, host, peers, seed + number)
    counts = world.trace.methods()["ping"]
    return f"{world.trace.hexdigest()} {counts.requests} {counts.replies} {counts.lost}"


if __name__ == "__main__":
    print(run_deterministic(main, int(sys.argv[1]), seed=int(sys.argv[1])))
