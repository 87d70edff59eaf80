"""A holder that was passed over while it was slow gets what it missed, and `pending` is honest about it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from chain.identity import AgentId, Identity
from dht.errors import RequestTimeout
from dht.records.bundle import MAX_ITEMS
from dht.records.placement import Role
from dht.repair.catch_up import CatchUp
from dht.repair.publisher import IN_FLIGHT_PER_PEER, Got, Publisher
from node.models import NewEntry
from node.node import Node
from node.options import NodeOptions
from sim.links import LatencyLink
from sim.network import open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node
from tests.node.simulated_nodes import Network, override, simulate, until

DIM = 8
SLOW_US = 60_000_000


def lacking(nodes: list[Node]) -> int:
    """How many records nodes lack in shards of which they say that they hold everything."""
    found = 0
    for shard in nodes[0].parts.layout.tree.leaves:
        held = [set(node.parts.held.cids_at(shard.basis(), None, 10_000)) for node in nodes]
        everything = set().union(*held)
        found += sum(
            len(everything - own)
            for node, own in zip(nodes, held, strict=True)
            if node.parts.catch_up.is_complete(shard)
        )
    return found


def suspicions(nodes: list[Node]) -> int:
    """How many pairs of nodes there are of which one takes the other for dead."""
    return sum(one.kademlia.is_suspect(other.agent) for one in nodes for other in nodes if one is not other)


async def publish_past_a_slow_holder(folder: Path, seed: int) -> list[int]:
    """What complete holders lacked, at each moment when nothing was pending and nobody was suspected."""
    ids = [Identity.from_seed(bytes([seed + 1, number + 1]) * 16) for number in range(5)]
    usual, slow, late = LatencyLink(seed), ids[2].agent, False

    def link(sender: bytes, receiver: bytes, size: int, rng: random.Random) -> int | None:
        delay = usual(sender, receiver, size, rng)
        return delay + SLOW_US if delay is not None and late and slow in (sender, receiver) else delay

    lacks: list[int] = []
    async with open_world(seed, link) as world:
        founding = found_network(ids[0], DIM)
        nodes: list[Node] = []
        for number, identity in enumerate(ids):
            home = folder / str(number)
            home.mkdir()
            bootstrap = (world.address(ids[0].agent),) if number else ()
            nodes.append(
                await start_node(world, identity, founding, home, seed, NodeOptions(bootstrap=bootstrap))
            )
        await until(lambda: all(node.status().peers == len(ids) - 1 for node in nodes))
        await trio.sleep(70)
        late = True
        rng = random.Random(seed)
        async with trio.open_nursery() as nursery:
            for number in (0, 1, 3, 4):
                entries = [
                    NewEntry(f"{number}/{i}", vector=[rng.gauss(0, 1) for _ in range(DIM)]) for i in range(60)
                ]
                nursery.start_soon(nodes[number].add, entries)
        await trio.sleep(13)
        late = False
        for _ in range(60):
            if not any(node.status().pending for node in nodes) and not suspicions(nodes):
                lacks.append(lacking(nodes))
            await trio.sleep(0.5)
    return lacks


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, pytest.param(7, marks=pytest.mark.slow)])
def test_once_nothing_is_pending_complete_holders_lack_nothing(tmp_path: Path, seed: int) -> None:
    lacks = run_deterministic(publish_past_a_slow_holder, tmp_path, seed, seed=seed)
    assert lacks, "everything must have been placed within 30 virtual seconds"
    assert set(lacks) == {0}


@pytest.mark.slow
@pytest.mark.long
def test_without_the_hand_over_they_do_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Publisher, "_note_detours", lambda *_: None)
    monkeypatch.setattr(CatchUp, "note_stored", lambda *_: None)
    for seed in (18, *range(1, 17)):  # where nodes lie, and so who is passed over, depends on the seed
        folder = tmp_path / str(seed)
        folder.mkdir()
        if any(run_deterministic(publish_past_a_slow_holder, folder, seed, seed=seed)):
            return
    pytest.fail("the scenario no longer provokes what it guards against")


def test_a_creditor_that_goes_while_another_is_paid_costs_nothing_but_its_copies(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        debtor, *creditors = (network.nodes[number] for number in range(3))
        record = debtor.chain_log(0, 1)[0]
        publisher = debtor.parts.publisher
        publisher._detours = {node.agent: {record.cid: int(Role.AUTHOR)} for node in creditors}
        paid: list[AgentId] = []

        async def send_all(agent: AgentId, *_: object) -> None:
            paid.append(agent)
            (other,) = (node.agent for node in creditors if node.agent != agent)
            debtor.kademlia._members.departed(other)
            debtor.kademlia._members.book.forget(other)
            assert debtor.status().pending == 1, "only the one that is still there"

        override(publisher, "_send_all", send_all)
        await publisher._pay_detours()
        assert paid == [min(node.agent for node in creditors)]

    simulate(tmp_path, (100, 100, 100), scenario)


def test_a_holder_that_stores_nothing_any_more_is_owed_nothing(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        debtor, former = network.nodes[0], network.nodes[1]
        record = debtor.chain_log(0, 1)[0]
        debtor.parts.publisher._detours = {former.agent: {record.cid: int(Role.AUTHOR)}}
        assert debtor.status().pending == 1
        former.kademlia.update_self(capacity=0)
        await until(lambda: former.agent not in [peer.agent for peer in debtor.peers()])
        assert debtor.status().pending == 0

    simulate(tmp_path, (100, 100, 100), scenario)


def test_one_failure_is_enough_to_leave_a_holder_alone_until_the_next_round(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        publisher, holder = network.nodes[0].parts.publisher, network.nodes[1].agent
        records = network.nodes[0].chain_log(0, 1) * (10 * MAX_ITEMS)
        asked: list[AgentId] = []

        async def fail(agent: AgentId, *_: object) -> None:
            asked.append(agent)
            await trio.sleep(1)
            raise RequestTimeout("no answer")

        override(publisher, "send", fail)
        await publisher._send_all(holder, [(record, int(Role.AUTHOR)) for record in records], {}, Got())
        assert asked == [holder] * IN_FLIGHT_PER_PEER

    simulate(tmp_path, (100, 100), scenario)
