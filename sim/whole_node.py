"""Whole nodes on simulated hosts: the composition that the daemon runs, over virtual network, clock and disk.

Databases are real SQLite files, called in place; what a commit waits for the disk is a virtual delay. All
randomness of a node comes from the world's seed and the node's key, so that a world of whole nodes takes the
same steps each time.
"""

from __future__ import annotations

from pathlib import Path

import trio

from chain.identity import Identity
from dht.network import Network
from dht.overlay.hello import Founding
from node.embedding.packaged import packaged_atlas
from node.founding import Ground, found
from node.node import Node, open_node
from node.options import NodeOptions, NodePaths
from sim.network import SimWorld
from sim.virtual_clock import EPOCH_US, InlineBlocking, SimClock, seeded_random

FSYNC_S = 0.001
"""Virtual seconds that a blocking call takes: about one fsync of an NVMe disk."""
JOIN_BITS = 4
"""Hashcash of simulated networks: found at once, and still a real nonce."""


def found_network(founder: Identity, vectors_dim: int | None = None) -> Founding:
    """A new network: in the built-in embedder's space, or for caller's vectors of that dimension."""
    manifest = found("simulated", founder.agent, JOIN_BITS, vectors_dim, EPOCH_US)
    atlas = None if manifest.atlas is None else packaged_atlas()
    return Founding(manifest=manifest, manifest_bytes=manifest.encode(), epochs=(), atlas_bytes=atlas)


async def start_node(
    world: SimWorld,
    identity: Identity,
    founding: Founding,
    folder: Path,
    seed: int,
    options: NodeOptions,
    ground: Ground | None = None,
    clock: SimClock | None = None,
) -> Node:
    """Start a node on a host of its own, with its databases in `folder`, which exists.

    It runs until its host crashes or the world ends; starting it again in the same folder is a restart, for
    which it remembers its peers. `ground`, when nodes share it, saves each its embedder and atlas; `clock` is
    for one that is wrong.
    Raises `HostError` when the host is up.
    """
    host = await world.join(identity.agent)
    node: Node = await host.nursery.start(
        _live, identity, founding, folder, host, seed, options, ground, clock or SimClock()
    )
    return node


async def _live(
    identity: Identity,
    founding: Founding,
    folder: Path,
    network: Network,
    seed: int,
    options: NodeOptions,
    ground: Ground | None,
    clock: SimClock,
    task_status: trio.TaskStatus[Node],
) -> None:
    async with open_node(
        identity=identity,
        founding=founding,
        paths=NodePaths(
            folder / "chain.db", folder / "held.db", folder / "derived.db", peers=folder / "peers.json"
        ),
        network=network,
        clock=clock,
        random=seeded_random(seed, identity.agent.hex()),
        run_blocking=InlineBlocking(FSYNC_S),
        options=options,
        ground=ground,
    ) as node:
        task_status.started(node)
        await trio.sleep_forever()
