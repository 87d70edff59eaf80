"""Entries that several nodes change: what all of them show, in `get` and in queries, and how soon."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain.cid import Cid
from chain.identity import AgentId
from crdt.entry import fold
from node.errors import Forbidden, Gone, InvalidInput, NotFound, VersionConflict
from node.models import Delete, Edit, EntryView, NewEntry, Retag, Retract, Vote
from node.node import Node
from tests.node.simulated_nodes import Network, identity, simulate, vector

FOUR = (100, 100, 100, 100)


async def view(node: Node, id_: Cid) -> EntryView:
    found = await node.get(id_)
    assert found is not None
    return found


def encoded(found: EntryView) -> bytes:
    """The canonical bytes of what a node shows of an entry."""
    folded = fold(found.records)
    assert folded is not None
    return folded.encode()


async def planted(network: Network, author: int = 1) -> Cid:
    (id_,) = await network.add(author, [NewEntry("first", ("old",), "garden", 5, ("c",), vector(1))])
    await network.settle()
    return id_


def test_an_edit_by_another_reaches_every_node_and_keeps_what_it_does_not_name(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        done = await network.nodes[2].change(id_, Edit(text="second", vector=vector(2), tags=("new",)))
        assert len(done.records) == 1
        await network.settle()
        shown = [await view(node, id_) for node in network.nodes.values()]
        assert {encoded(one) for one in shown} == {encoded(shown[0])}
        assert {one.fingerprint for one in shown} == {done.version}
        one = shown[0]
        assert (one.text, one.tags, one.domain, one.confidence, one.citations) == (
            "second",
            ("new", "old"),
            "garden",
            5,
            ("c",),
        )
        assert one.author == identity(1).agent

    simulate(tmp_path, FOUR, scenario)


def test_votes_of_all_are_counted_once_each(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        for number, value in ((0, 1), (2, -1), (3, 1), (2, 1), (3, 0)):
            await network.nodes[number].change(id_, Vote(value, f"by {number}"))
        await network.settle()
        for node in network.nodes.values():
            votes = (await view(node, id_)).votes
            assert {(one.agent, one.value, one.reason) for one in votes} == {
                (identity(0).agent, 1, "by 0"),
                (identity(2).agent, 1, "by 2"),
            }

    simulate(tmp_path, FOUR, scenario)


def test_what_may_not_be_done_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        node = network.nodes[2]
        version = (await view(node, id_)).fingerprint
        await network.nodes[1].change(id_, Retag(add=("more",)))
        await network.settle()
        before = node.status().records
        with pytest.raises(VersionConflict, match=f"changed since {version}: entry.tag by"):
            await node.change(id_, Edit(text="x", vector=vector(3)), version)
        with pytest.raises(Forbidden):
            await node.change(id_, Retract())
        with pytest.raises(NotFound, match="no tag 'unknown'"):
            await node.change(id_, Retag(remove=("unknown",)))
        with pytest.raises(NotFound, match="no entry"):
            await node.change(b"\x01\x81\x04\x12\x20" + bytes(32), Delete())
        with pytest.raises(InvalidInput, match="65 tags, the limit is 64"):
            await node.change(id_, Retag(add=tuple(f"t{n:02}" for n in range(63))))
        await network.nodes[1].change(id_, Delete())
        await network.settle()
        with pytest.raises(Gone, match="an edit brings it back"):
            await node.change(id_, Vote(1))
        assert node.status().records == before
        await network.nodes[1].change(id_, Retract())
        await network.settle()
        with pytest.raises(Gone, match="for good"):
            await node.change(id_, Edit(text="x", vector=vector(3)))
        assert node.status().records == before
        shown = await view(network.nodes[3], id_)
        assert (shown.deleted, shown.retracted) == (True, True)

    simulate(tmp_path, FOUR, scenario)


def test_two_changes_at_once_by_one_node_follow_each_other(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        node = network.nodes[2]
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(node.change, id_, Retag(add=(f"t{number}",)))
        await network.settle()
        for other in network.nodes.values():
            shown = await view(other, id_)
            assert shown.tags == ("old", "t0", "t1", "t2", "t3")
            lines: dict[AgentId, int] = {agent: len(heads) for agent, _, heads in shown.version}
            assert set(lines.values()) == {1}

    simulate(tmp_path, FOUR, scenario)
