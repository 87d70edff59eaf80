"""Holders of an author's activity see its whole chain: gaps are filled, and what breaks it is proven."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from chain import canonical
from chain.kinds import CLOSE
from chain.membrane import find_nonce
from chain.record import Record
from chain.source_chain import Draft
from dht.overlay.kademlia import Kademlia
from dht.records.basis import author_basis
from dht.records.bundle import Item, bundle_value
from dht.records.placement import Role
from dht.records.replies import StoreStatus, read_statuses
from node.node import Node
from sim.virtual_clock import SimClock, seeded_random
from tests.dht.authors import Author
from tests.node.simulated_nodes import Network, identity, simulate, until

CODES = b"\x7f" + bytes(7)
SENDER = identity(7)

pytestmark = pytest.mark.slow


async def member(network: Network) -> Kademlia:
    """Somebody let in who holds nothing, and passes on what an author wrote."""
    manifest = network.founding.manifest
    host = await network.world.join(SENDER.agent)
    nonce = find_nonce(manifest.network_id, SENDER.agent, manifest.join_bits)
    sender = Kademlia(host, SENDER, manifest, nonce, 0, SimClock(), seeded_random(1, "sender"))
    await sender.join([network.world.address(node.agent) for node in network.nodes.values()])
    return sender


async def pass_on(sender: Kademlia, node: Node, author: Author, records: Sequence[Record]) -> None:
    """Store records as activity, each with the header that it names as prev, as publishers do."""
    before = {record.cid: record for record in author.records}
    headers = [before[record.header.prev].without_payload() for record in records if record.header.prev]
    items = [
        Item(record if record.header.seq < 3 else record.without_payload(), int(Role.AUTHOR))
        for record in records
    ]
    body = canonical.encode(bundle_value([author.opening], headers, items))
    reply = await sender.request(node.agent, "record.store", body)
    assert [status for status, _ in read_statuses(reply, len(items))] == [StoreStatus.HELD] * len(items)


def test_a_gap_is_filled_from_another_holder(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = Author(1, network.founding.manifest, SimClock().wall_us())
        for number in range(12):
            author.create(f"entry {number}", CODES)
        sender = await member(network)
        whole, partly = network.nodes[1], network.nodes[0]
        await pass_on(sender, whole, author, author.records)
        await until(lambda: whole.parts.activity.verified_to(author.agent) == 14)
        await pass_on(sender, partly, author, [*author.records[:5], *author.records[9:]])
        await until(lambda: partly.status().chains["gaps"] == 1)
        assert partly.parts.activity.verified_to(author.agent) == 4
        await until(lambda: partly.parts.activity.verified_to(author.agent) == 14)
        assert partly.status().chains["gaps"] == 0
        partly.parts.activity.dropped(author_basis(author.agent))
        assert partly.parts.activity.verified_to(author.agent) is None
        assert partly.parts.activity.filled == 3  # the one before came along as a header

    simulate(tmp_path, (100, 100), scenario)


def test_what_follows_a_close_is_proven_although_only_its_successor_was_shown(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = Author(1, network.founding.manifest, SimClock().wall_us())
        author.create("the last word", CODES)
        author.append(Draft(CLOSE, {}))
        shown = list(author.records)
        ghost = author.create("from beyond", CODES)
        second = author.create("and on", CODES)
        sender, node = await member(network), network.nodes[0]
        await pass_on(sender, node, author, shown)
        await until(lambda: node.parts.activity.verified_to(author.agent) == 4)
        await pass_on(sender, node, author, [second])
        await until(lambda: node.status().chains["broken"] == 1)
        for one in network.nodes.values():
            await until(lambda one=one: one.status().counters["agents_excluded"] == 1)  # type: ignore[misc]
            assert one.governance.ledger.earliest(author.agent) == ghost.header.seq

    simulate(tmp_path, (100, 100, 100), scenario)
