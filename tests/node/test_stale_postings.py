"""Postings that should have ended: what finds them out, what they cost, and lies about an entry's tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from chain.cid import Cid
from dht.records.basis import subject_basis
from node.founding import REPLICATION
from node.models import Answer, Delete, Edit, NewEntry, Retag, Vote
from node.node import Node
from sharding.tree import Prefix
from tests.node.simulated_nodes import Network, override, simulate, vector
from tests.node.test_liars import GUEST, LIAR, THREE_AND_A_GUEST, Lie, Reply, Stage, favourable_link, lie

SEVEN = (100,) * 7


async def planted(network: Network, author: int = 0, *tags: str) -> Cid:
    (id_,) = await network.add(author, [NewEntry("first", tags, vector=vector(1))])
    await network.settle()
    return id_


async def never(*_: object) -> None:
    """In place of following an entry's operations."""


async def ask(network: Network, number: int, seed: int, *tags: str, fresh: bool = False) -> Answer:
    return await network.nodes[number].query(None, vector(seed), 5, tags, None, fresh)


def texts(answer: Answer) -> list[str]:
    return [hit.text for hit in answer.hits]


def shard_of(node: Node, id_: Cid) -> Prefix:
    (record,) = node.parts.find([id_])
    assert record is not None
    (key,) = node.parts.layout.keys([(record, node.parts.intake.content(record))])
    return node.parts.layout.tree.leaf_of(key)


def test_fresh_finds_out_a_holder_that_serves_what_was_overwritten(tmp_path: Path) -> None:
    """Without it such a holder is believed, as one is that conceals a posting; the price is said."""

    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        override(network.nodes[LIAR].parts.holder, "_refresh", never)
        await network.nodes[0].change(id_, Edit(text="second", vector=vector(2)))
        await network.settle()
        answer = await ask(network, GUEST, 1)
        assert texts(answer) == ["first"]
        assert (answer.cost.heads_checked, answer.cost.heads_changed) == (0, 0)
        answer = await ask(network, GUEST, 1, fresh=True)
        assert texts(answer) == ["second"]
        assert (answer.cost.heads_checked, answer.cost.heads_changed) == (1, 1)
        assert answer.cost.hits_outdated == 1
        assert answer.cost.nodes_contacted == 3
        await network.nodes[0].change(id_, Delete())
        await network.settle()
        answer = await ask(network, GUEST, 1, fresh=True)
        assert texts(answer) == []
        assert answer.cost.heads_checked == 1
        (plain,) = await network.add(2, [NewEntry("plain", vector=vector(9))])
        await network.settle()
        answer = await network.nodes[GUEST].query(None, vector(9), 1, (), None, True)
        assert [hit.id for hit in answer.hits] == [plain]
        assert (answer.cost.heads_checked, answer.cost.heads_changed) == (1, 0)

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


def complete_only_for(shards: Sequence[Prefix]) -> Lie:
    def lie_(reply: Reply, stage: Stage) -> None:
        reply[0] = [place for place, shard in enumerate(stage.request.shards) if shard in shards]

    return lie_


@pytest.mark.slow
def test_a_hit_that_another_one_overwrites_is_dropped(tmp_path: Path) -> None:
    """One holder of a shard serves the old value, another one of another shard the new: that is a proof."""

    async def scenario(network: Network) -> None:
        author, liar = network.nodes[0], network.nodes[LIAR]
        honest = liar.parts.holder._refresh
        for _ in range(4):  # until old and new lie in different shards, as they nearly always do
            override(liar.parts.holder, "_refresh", honest)
            id_ = await planted(network)
            override(liar.parts.holder, "_refresh", never)
            await author.change(id_, Edit(text="second", vector=vector(2)))
            (now,) = author.parts.derived.of_entry(id_)
            if shard_of(author, now.record) != shard_of(author, id_):
                break
            await author.change(id_, Delete())
        await network.settle()
        lie(liar, complete_only_for([shard_of(author, id_)]))
        answer = await ask(network, GUEST, 1)
        assert [hit.text for hit in answer.hits if hit.id == id_] == ["second"]
        assert answer.cost.hits_outdated == 1

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


@pytest.mark.slow
def test_what_an_incomplete_holder_shows_counts_until_a_complete_one_answers(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        liar = network.nodes[LIAR]
        override(liar.parts.holder, "_refresh", never)
        await network.nodes[0].change(id_, Delete())
        await network.settle()
        lie(liar, complete_only_for([]))
        answer = await ask(network, GUEST, 1)
        assert texts(answer) == []
        assert (answer.cost.hits_outdated, answer.cost.shards_missed) == (1, 0)
        for number in (0, 2):
            lie(network.nodes[number], complete_only_for([]))
        answer = await ask(network, GUEST, 1)
        assert texts(answer) == ["first"]
        assert answer.cost.shards_missed == 64

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


@pytest.mark.slow
def test_an_author_who_holds_nothing_of_its_entry_does_not_find_what_was_deleted(tmp_path: Path) -> None:
    """It has its own posting for as long as nobody else shows the entry, and no longer."""

    async def scenario(network: Network) -> None:
        author, id_ = await _entry_that_its_author_does_not_hold(network)
        node = network.nodes[author]
        assert [posting.record for posting in node.parts.derived.of_entry(id_)] == [id_]
        editor = next(n for n in network.nodes if n != author)
        await network.nodes[editor].change(id_, Delete())
        await network.settle()
        answer = await ask(network, author, 1)
        assert texts(answer) == []
        assert answer.cost.hits_outdated == 1
        assert [posting.record for posting in node.parts.derived.of_entry(id_)] == [id_], "nobody told it"

    simulate(tmp_path, SEVEN, scenario)


async def _entry_that_its_author_does_not_hold(network: Network) -> tuple[int, Cid]:
    for number, node in network.nodes.items():
        id_ = await planted(network, number)
        holders: set[bytes] = set()
        for basis in (subject_basis(id_), shard_of(network.nodes[number], id_).basis()):
            holders |= {c.agent for c in await node.kademlia.holders(basis, REPLICATION)}
        if node.agent not in holders:
            return number, id_
        await node.change(id_, Delete())
    raise AssertionError("every node holds what it writes")


# Tags, which stand in other records than the value that bears them.


def without_proofs(reply: Reply, _: Stage) -> None:
    reply[1] = [row[:2] for row in reply[1]]
    reply[2][2] = reply[2][2][: len(reply[1])]


def proof_of_something_else(reply: Reply, _: Stage) -> None:
    reply[1][0][2] = [reply[1][0][0]]


def proof_not_served(reply: Reply, _: Stage) -> None:
    reply[1][0][2] = [b"\x01\x81\x04\x12\x20" + bytes(32)]


def too_many_proofs(reply: Reply, _: Stage) -> None:
    reply[1][0][2] = reply[1][0][2] * 129


def proofs_of_no_shape(reply: Reply, _: Stage) -> None:
    reply[1][0][2] = b"proofs"


def a_proof_changed(reply: Reply, _: Stage) -> None:
    raw = bytearray(reply[2][2][-1][1])
    raw[-1] ^= 1
    reply[2][2][-1][1] = bytes(raw)


LIES: list[Lie] = [
    without_proofs,
    proof_of_something_else,
    proof_not_served,
    too_many_proofs,
    proofs_of_no_shape,
    a_proof_changed,
]


@pytest.mark.slow
@pytest.mark.parametrize("how", LIES, ids=lambda how: how.__name__)
def test_a_tag_that_is_not_proven_is_not_believed(tmp_path: Path, how: Lie) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network, 0, "own")
        await network.nodes[0].change(id_, Retag(add=("given",)))
        await network.settle()
        lie(network.nodes[LIAR], how)
        answer = await ask(network, GUEST, 1, "given")
        assert [(hit.id, hit.tags) for hit in answer.hits] == [(id_, ("given", "own"))]
        assert answer.hits[0].holder != network.nodes[LIAR].agent
        assert answer.cost.shards_missed == 0

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


def test_a_tag_that_was_removed_is_not_shown_because_the_removal_is_sent_along(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network, 0, "gone", "stays")
        await network.nodes[1].change(id_, Retag(remove=("gone",)))
        await network.nodes[2].change(id_, Vote(1))
        await network.settle()
        for number in network.nodes:
            assert (await ask(network, number, 1)).hits[0].tags == ("stays",)
            assert texts(await ask(network, number, 1, "gone")) == []

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)


@pytest.mark.slow
def test_proofs_that_do_not_fit_into_the_reply_are_fetched(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        big = [NewEntry(f"{n} " + "x" * 60_000, vector=vector(n)) for n in range(15)]
        ids = await network.add(0, big)
        for id_ in ids:
            await network.nodes[0].change(id_, Retag(add=("given",)))
        await network.settle()
        answer = await network.nodes[GUEST].query(None, vector(3), 15, ("given",), None)
        assert {hit.id for hit in answer.hits} == set(ids)
        assert answer.cost.hits_refused == 0

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)
