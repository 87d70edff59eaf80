"""Returning after a long absence: what moves is what changed, found by comparing ranges.

Whole nodes in virtual time; nobody is restarted but the one that was away, which has its disk.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from dht.errors import RequestRefused
from dht.records.basis import author_basis
from dht.repair.comparison import RANGES
from dht.repair.frontiers import FRONTIERS
from sim.host import SimNetwork
from tests.node.simulated_nodes import Network, entry, simulate, until
from tests.node.test_repair import (
    DROPPED_WITHIN_S,
    comes_in_order,
    holdings,
    nearest,
)

BEFORE, CHANGED = 300, 500
COMPARES = (RANGES, FRONTIERS, "record.digests", "record.lacks", "record.cids", "record.prove")
MOVES = ("record.store", "record.fetch")
ITEM_BYTES = 64
"""A signature, and what frames an item."""


def carried(network: Network, methods: tuple[str, ...]) -> int:
    """Bytes of requests and replies of these methods so far."""
    counts = network.world.trace.methods()
    return sum(counts[m].request_bytes + counts[m].reply_bytes for m in methods if m in counts)


def missed(network: Network, number: int) -> tuple[int, int]:
    """How many copies (a record at a basis) a node should have and has not, and their bytes."""
    copies = size = 0
    others = [node for n, node in network.nodes.items() if n != number]
    for basis, by in holdings(network).items():
        if number in nearest(network, basis):
            wanted = sorted(frozenset().union(*by.values()) - by.get(number, frozenset()))
            found = [
                next(filter(None, one))
                for one in zip(*(n.parts.held.get_many(wanted) for n in others), strict=True)
            ]
            copies += len(found)
            for record in found:
                whole = basis != author_basis(record.header.author)
                size += ITEM_BYTES + len(record.header_bytes) + len(record.payload or b"") * whole
    return copies, size


async def add_many(network: Network, count: int, authors: tuple[int, ...], seed: int) -> None:
    for start in range(0, count, 100):
        for place, author in enumerate(authors):
            await network.add(author, [entry(seed + start + n) for n in range(place, 100, len(authors))])
        await trio.sleep(5)
    await until(lambda: not any(node.status().pending for node in network.nodes.values()))


@pytest.mark.slow
def test_after_a_long_absence_little_more_moves_than_what_changed(tmp_path: Path) -> None:
    """One author writes it all, so that its chain is a long one, which the absent one should hold.

    One of the others knows no ranges yet.
    """

    async def scenario(network: Network) -> None:
        host = network.nodes[4].parts.network
        assert isinstance(host, SimNetwork)
        del host._handlers[RANGES], host._handlers[FRONTIERS]
        await add_many(network, BEFORE, (0,), 0)
        await comes_in_order(network, DROPPED_WITHIN_S)
        by_author = nearest(network, author_basis(network.nodes[0].agent))
        away = next(number for number in by_author if number not in (0, 4))
        other = next(number for number in network.nodes if number not in (0, 4, away))
        await network.crash(away)
        await add_many(network, CHANGED, (0,), 10_000)
        await comes_in_order(network, DROPPED_WITHIN_S)
        await trio.sleep(3600)
        before = {methods: carried(network, methods) for methods in (COMPARES, MOVES)}
        exchanges = network.nodes[other].parts.repairer.exchanges
        await network.start(away)
        copies, size = missed(network, away)
        assert copies > CHANGED
        await comes_in_order(network, 120)
        compared, moved = (carried(network, methods) - before[methods] for methods in (COMPARES, MOVES))
        assert network.world.trace.methods()[FRONTIERS].replies > 0
        assert moved < 1.7 * size
        assert compared < 2.5 * size
        assert network.nodes[other].parts.repairer.exchanges > exchanges

    simulate(tmp_path, (100,) * 6, scenario)


@pytest.mark.parametrize("body", [b"", b"\x61\x00\x00\x07", bytes(70_000)])
def test_what_is_no_message_is_refused_and_counted(tmp_path: Path, body: bytes) -> None:
    async def scenario(network: Network) -> None:
        with pytest.raises(RequestRefused, match="bad_request"):
            await network.nodes[1].kademlia.request(network.nodes[0].agent, RANGES, body)
        assert network.nodes[0].status().counters["kademlia_bad_answers_total"] == 1

    simulate(tmp_path, (100, 0), scenario)
