"""Purging: what an author erases is gone from every node's files, answers and views, and stays gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain.cid import Cid
from chain.kinds import CREATE, PURGE
from chain.record import Record
from crdt import drafts
from crdt.entry import fold
from dht.records.basis import subject_basis
from dht.records.bundle import Item, open_bundle
from dht.records.placement import Role
from dht.records.replies import StoreStatus
from node.errors import Forbidden, InvalidInput
from node.founding import REPLICATION
from node.models import Edit, NewEntry, Retag, Vote
from node.node import Node
from tests.node.simulated_nodes import Network, identity, override, shown, simulate, until, vector

FIVE = (100, 100, 100, 100, 100)
PHRASE = "the heron stands where the reeds are thin"
NEXT = "the heron has moved to the far bank"


def files_with(network: Network, phrase: str, number: int) -> list[str]:
    """The files of a node's folder that hold these bytes, logs and all."""
    folder = network.folder / str(number)
    return [
        one.name for one in sorted(folder.rglob("*")) if one.is_file() and phrase.encode() in one.read_bytes()
    ]


def nowhere(network: Network, phrase: str) -> bool:
    return not any(files_with(network, phrase, number) for number in range(len(FIVE)))


async def planted(network: Network, author: int = 1) -> Cid:
    (id_,) = await network.add(author, [NewEntry(PHRASE, ("grey",), "birds", 5, ("c",), vector(1))])
    await network.fill(20, (0, 2), seed=100)
    return id_


def holders(network: Network, id_: Cid) -> list[int]:
    return [n for n, node in network.nodes.items() if node.replica(subject_basis(id_))[0]]


async def is_erased(node: Node, id_: Cid) -> bool:
    view = await node.get(id_)
    return view is not None and view.is_erased and [one.record for one in view.erased] == [id_]


@pytest.mark.slow
def test_a_purged_entry_is_gone_from_all_files_and_comes_back_by_no_way(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        kept = network.nodes[1].parts.own.get(id_)
        assert kept is not None
        assert kept.payload is not None
        at = [n for n in holders(network, id_) if n != 1]
        assert len(at) >= 2
        assert all(files_with(network, PHRASE, n) for n in (1, *at))
        away, *_ = at
        await network.crash(away)

        done = await network.nodes[1].purge(id_)
        assert len(done.records) == 1
        assert not (await network.nodes[1].purge(id_)).records, "it is purged already"
        await until(lambda: not any(files_with(network, PHRASE, n) for n in network.nodes), 60)
        assert files_with(network, PHRASE, away), "it was away"
        await network.start(away)
        await network.settle()
        await until(lambda: nowhere(network, PHRASE), 90)
        replicas = {network.nodes[n].replica(subject_basis(id_)) for n in holders(network, id_)}
        assert len(replicas) == 1

        for number, node in network.nodes.items():
            assert await is_erased(node, id_), number
            hits = (await network.ask(number, vector(1), 21)).hits
            assert id_ not in [hit.id for hit in hits]
            assert len(hits) == 20
        assert (await network.nodes[1].verify_chain()).length == network.nodes[1].status().records

        # Somebody who has kept the payload sends it around, in every role.
        item = Item(kept, int(Role.SUBJECT | Role.AUTHOR | Role.SHARD))
        for number in (0, 2, 3, 4):
            statuses, _ = await network.nodes[1].parts.records.store(identity(number).agent, [item])
            assert statuses == [StoreStatus.HELD]
        for number in at:
            assert not files_with(network, PHRASE, number), "a holder keeps no payload that comes late"
        await until(lambda: nowhere(network, PHRASE), 90)  # who was none hears of it when it compares
        for number in network.nodes:
            assert id_ not in [hit.id for hit in (await network.ask(number, vector(1), 21)).hits]
            assert await is_erased(network.nodes[number], id_)

        # A node that comes new takes the header with the purge, also when the author is gone.
        await network.crash(1)
        gone = next(n for n in holders(network, id_) if n)  # newcomers join through node 0
        await network.crash(gone)
        basis = subject_basis(id_)
        for number in range(5, 25):
            newcomer = await network.start(number)
            await trio.sleep(10)
            if newcomer.agent in [one.agent for one in await newcomer.kademlia.holders(basis, REPLICATION)]:
                break
        await until(lambda: newcomer.replica(basis)[0] == 2, 400)
        assert await is_erased(newcomer, id_)

    simulate(tmp_path, FIVE, scenario)


@pytest.mark.slow
def test_a_purged_edit_brings_back_nothing_and_leaves_what_others_said(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        await network.nodes[2].change(id_, Edit(text=NEXT, vector=vector(2), tags=("seen",)))
        await network.nodes[1].change(id_, Vote(1, "a vote with words"))
        await network.settle()
        await network.nodes[3].change(id_, Edit(text="the heron is gone", vector=vector(3)))
        await network.settle()
        (edit,) = [r for r in network.nodes[2].chain_log(3, 50) if r.subject == id_ and r.cid != id_]
        await network.nodes[2].purge(edit.cid)
        await network.settle()
        await until(lambda: nowhere(network, NEXT), 60)
        for number, node in network.nodes.items():
            view = await node.get(id_)
            assert view is not None
            assert (view.text, view.tags, view.conflict) == ("the heron is gone", ("grey",), False), number
            assert [one.record for one in view.erased] == [edit.cid]
            for wanted in (1, 2):
                answer = await network.ask(number, vector(wanted), 21)
                assert [score for id_hit, score in shown(answer) if id_hit == id_] != [1_000_000]
            assert (await network.ask(number, vector(3), 1)).hits[0].text == "the heron is gone"

        # The creator's own words go too, the vote's among them; the text of node 3 is not theirs to erase.
        await network.nodes[1].purge(id_)
        await network.settle()
        await until(lambda: nowhere(network, PHRASE) and nowhere(network, "a vote with words"), 90)
        for node in network.nodes.values():
            view = await node.get(id_)
            assert view is not None
            assert (view.text, view.tags, view.up, view.is_erased) == ("the heron is gone", (), 0, False)
        await network.nodes[3].purge(id_)
        await network.settle()
        assert all([(await node.get(id_)).is_erased for node in network.nodes.values()])  # type: ignore[union-attr]

    simulate(tmp_path, FIVE, scenario)


@pytest.mark.slow
def test_nobody_purges_what_another_said(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        mallory = network.nodes[2]
        with pytest.raises(Forbidden, match="only they can purge"):
            await mallory.purge(id_)
        await mallory.change(id_, Retag(add=("mine",)))
        (tag,) = [r for r in mallory.chain_log(3, 50) if r.subject == id_]
        with pytest.raises(InvalidInput, match="nothing that could be purged"):
            await mallory.purge(mallory.chain_log(2, 1)[0].cid)
        await network.settle()

        # A liar signs one all the same, of the create together with a word of its own.
        seen = await mallory.get(id_)
        assert seen is not None
        entry = fold(seen.records)
        assert entry is not None
        override(mallory.parts.own, "fault_of", lambda record, before: None)
        await mallory.parts.append(drafts.draft_purge(entry, mallory.agent, [id_, tag.cid]))
        purge = mallory.parts.own.at(mallory.parts.own.count() - 1)
        assert purge is not None
        assert purge.header.kind == PURGE
        item = Item(purge, int(Role.SUBJECT | Role.AUTHOR))
        for number in (0, 1, 3, 4):
            bare = Item(_create(network, id_).without_payload(), int(Role.SUBJECT))
            value, sent = mallory.parts.records.pack([bare, item], 100_000, True)
            assert sent == 2
            judged = network.nodes[number].parts.intake.judge(open_bundle(value))
            assert [one.rule for one in judged] == ["payload-missing", "purge-own"]
        for number in (0, 1, 3, 4):
            view = await network.nodes[number].get(id_)
            assert view is not None
            assert (view.text, view.erased) == (PHRASE, ())
            assert (await network.ask(number, vector(1), 1)).hits[0].id == id_

    simulate(tmp_path, FIVE, scenario)


def _create(network: Network, id_: Cid) -> Record:
    record = network.nodes[1].parts.own.get(id_)
    assert record is not None
    assert record.header.kind == CREATE
    return record
