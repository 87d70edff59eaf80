"""A chain goes on only where nothing of it is missing: whole nodes, whose homes are put back and copied."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.cid import Cid
from dht.evidence.claims import WINDOW_S
from node.errors import Forbidden
from node.node import Node
from node.options import NodeOptions
from node.storage.errors import ReadOnly
from sim.whole_node import start_node
from tests.node.simulated_nodes import Network, entry, identity, simulate, until

pytestmark = pytest.mark.slow

COPY = "this home is a copy"


async def start(network: Network, number: int, options: NodeOptions) -> Node:
    world = network.world
    options = replace(options, bootstrap=(world.address(identity(0).agent),))
    network.nodes[number] = await start_node(
        world, identity(number), network.founding, network.folder / str(number), number, options
    )
    return network.nodes[number]


async def forget_payload(node: Node, cid: Cid) -> None:
    sql = "UPDATE records SET payload = NULL WHERE cid = ?"
    await node.parts.held._writer.submit(lambda connection: connection.execute(sql, (cid,)).rowcount)


def branches(network: Network, number: int) -> int:
    """The most records that any node holds for one seq of this author."""
    most = 0
    for node in network.nodes.values():
        seqs = [r.header.seq for r in node.parts.held.of_author(identity(number).agent)]
        most = max([most, *(seqs.count(seq) for seq in seqs)])
    return most


def test_an_old_state_fetches_what_it_lacks_before_it_writes(tmp_path: Path) -> None:
    noted: list[int] = []

    async def scenario(network: Network) -> None:
        await network.add(3, [entry(n) for n in range(5)])
        await network.settle()
        await network.crash(3)
        old = tmp_path / "old"
        shutil.copytree(tmp_path / "3", old)
        await network.start(3)
        later = await network.add(3, [entry(n) for n in range(5, 9)])
        await network.settle()
        await network.crash(3)
        for node in network.nodes.values():  # nobody has what one of the later entries said
            await forget_payload(node, later[0])

        # Put back and noticed: it waits, is made whole, and goes on by itself.
        shutil.rmtree(tmp_path / "3")
        shutil.copytree(old, tmp_path / "3")
        node = await start(network, 3, NodeOptions(why_frozen=lambda records: COPY, confirmed=noted.append))
        with pytest.raises(ReadOnly, match=r"copy;.*--force"):
            await node.add([entry(100)])
        await until(lambda: node.frozen is None)
        assert noted == [3 + 9]
        assert "3 holders" in node.status().chain
        assert node.guard.refetched == 4
        assert [record.cid for record in node.without_payload(10)] == [later[0]]
        assert (await node.verify_chain()).length == 12
        found = await node.query(None, entry(7).vector, 1, [], None)
        assert found.hits[0].id == later[2], "what came back is found again"
        shown = await node.get(later[0])
        assert shown is None or shown.text is None
        await network.add(3, [entry(9)])
        await network.settle()
        assert branches(network, 3) == 1
        await network.crash(3)

        # Put back and not noticed (an image of the whole disk): the first record waits for the holders' word.
        shutil.rmtree(tmp_path / "3")
        shutil.copytree(old, tmp_path / "3")
        node = await start(network, 3, NodeOptions())
        with pytest.raises(ReadOnly, match="longer than it is here"):
            await node.add([entry(101)])
        await until(lambda: node.frozen is None)
        assert [r.header.seq for r in node.chain_log(0, 100)] == list(range(13))
        await network.add(3, [entry(10)])
        await network.settle()
        assert branches(network, 3) == 1

    simulate(tmp_path, [100] * 4, scenario)


def test_a_node_without_its_network_writes_on_and_a_copy_without_it_waits(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.add(1, [entry(1)])
        await network.settle()
        await network.crash(1)
        await network.crash(0)
        began = trio.current_time()
        node = await start(network, 1, NodeOptions())
        await node.add([entry(2)])
        assert trio.current_time() - began < 3.0, "a restart waits for nobody for long"
        await network.crash(1)
        copy = await start(network, 1, NodeOptions(why_frozen=lambda records: COPY))
        await trio.sleep(120)
        assert "copy; its holders were not asked yet" in str(copy.frozen)
        await network.start(0)
        await until(lambda: copy.frozen is None)
        assert "1 holders" in copy.status().chain, "in a network of two the other one is enough"
        await copy.add([entry(3)])
        await network.settle()
        assert branches(network, 1) == 1
        await network.crash(1)
        forced = await start(network, 1, NodeOptions(forced=True))
        await forced.add([entry(4)])

    simulate(tmp_path, [100] * 2, scenario)


def test_a_forked_chain_stays_read_only_and_says_so(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.add(3, [entry(1)])
        await network.settle()
        await network.crash(3)
        old = tmp_path / "old"
        shutil.copytree(tmp_path / "3", old)
        await network.start(3)
        await network.add(3, [entry(2), entry(3)])
        await network.settle()
        await network.crash(3)
        shutil.rmtree(tmp_path / "3")
        shutil.copytree(old, tmp_path / "3")
        forced = await start(network, 3, NodeOptions(forced=True))
        await forced.add([entry(4)])
        await network.settle()
        assert branches(network, 3) == 2
        await network.crash(3)
        node = await start(network, 3, NodeOptions())
        await until(lambda: node.frozen is not None)
        await trio.sleep(2 * WINDOW_S)
        assert "two branches" in str(node.frozen)
        assert "forked" in node.status().chain
        with pytest.raises((ReadOnly, Forbidden)):  # a warrant says it too by now
            await node.add([entry(5)])

    simulate(tmp_path, [100] * 4, scenario)


def test_only_one_of_two_running_homes_writes(tmp_path: Path) -> None:
    """A second process with the same key is another session at the holders; here one node plays both."""

    async def scenario(network: Network) -> None:
        await network.add(3, [entry(1)])
        await network.settle()
        node = network.nodes[3]
        await until(lambda: "confirm" in node.status().chain or "know nothing" in node.status().chain)
        guard, mine = node.guard, node.guard._session
        await trio.sleep(2 * WINDOW_S)
        assert node.frozen is None
        # Another home of this agent started, as if in the home that wrote last, and took the lease over.
        for other in (0, 1, 2):
            network.nodes[other].parts.heads._claims.claim(node.agent, b"o" * 16, True, trio.current_time())
        await until(lambda: node.frozen is not None)
        assert "stop one of them" in str(node.frozen)
        assert guard._session == mine
        await until(lambda: node.frozen is None, 3 * WINDOW_S)
        await network.add(3, [entry(2)])

    simulate(tmp_path, [100] * 4, scenario)
