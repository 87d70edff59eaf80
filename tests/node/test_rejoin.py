"""Returning after a long absence: what moves is what changed, found by comparing ranges.

Whole nodes in virtual time; nobody is restarted but the one that was away, which has its disk.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from dht.comparison import RANGES
from tests.node.simulated_nodes import Network, entry, simulate, until
from tests.node.test_repair import (
    DROPPED_WITHIN_S,
    comes_in_order,
    holdings,
    in_order,
    nearest,
)

BEFORE, CHANGED = 700, 1_200
COMPARES = (RANGES, "record.digests", "record.lacks", "record.cids", "record.prove")
MOVES = ("record.store", "record.fetch")


def carried(network: Network, methods: tuple[str, ...]) -> int:
    """Bytes of requests and replies of these methods so far."""
    counts = network.world.trace.methods()
    return sum(counts[m].request_bytes + counts[m].reply_bytes for m in methods if m in counts)


def lacking_bytes(network: Network, number: int) -> tuple[int, int]:
    """Records that a node should hold and does not, at all or at some basis, and their bytes."""
    wanted = {
        cid
        for basis, by in holdings(network).items()
        if number in nearest(network, basis)
        for cid in frozenset().union(*by.values()) - by.get(number, frozenset())
    }
    found = {}
    for node in network.nodes.values():
        for record in node._held.get_many(sorted(wanted)):
            if record is not None:
                found[record.cid] = len(record.header_bytes) + len(record.payload or b"") + 64
    return len(wanted), sum(found.values())


async def add_many(network: Network, count: int, authors: tuple[int, ...], seed: int) -> None:
    for start in range(0, count, 100):
        for place, author in enumerate(authors):
            await network.add(author, [entry(seed + start + n) for n in range(place, 100, len(authors))])
        await trio.sleep(5)
    await until(lambda: not any(node.status().pending for node in network.nodes.values()))


@pytest.mark.slow
def test_after_a_long_absence_little_more_moves_than_what_changed(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await add_many(network, BEFORE, (0, 1, 2), 0)
        await comes_in_order(network, DROPPED_WITHIN_S)
        await network.crash(3)
        await add_many(network, CHANGED, (0, 1, 2), 10_000)
        await comes_in_order(network, DROPPED_WITHIN_S)
        await trio.sleep(3600)
        before = {methods: carried(network, methods) for methods in (COMPARES, MOVES)}
        await network.start(3)
        records, size = lacking_bytes(network, 3)
        has = network.nodes[3]._held.count()
        assert records > CHANGED / 3
        await until(lambda: in_order(network, exactly=False), 600, every_s=5)
        compared, moved = (carried(network, methods) - before[methods] for methods in (COMPARES, MOVES))
        print(records, size, has, compared, moved)
        assert moved < 2.0 * size
        assert compared < 0.3 * size

    simulate(tmp_path, (100,) * 6, scenario)
