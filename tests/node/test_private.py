"""Private entries: their owner reads, finds, edits and erases them; nobody else gets more than a header."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chain.errors import RecordError
from dht.records.basis import author_basis, subject_basis
from dht.records.bundle import Item
from node.embedding.caller import CallerVectors
from node.errors import Gone, InvalidInput
from node.models import Delete, Edit, NewEntry, Retag, Vote
from sharding.tree import ShardTree
from tests.node.simulated_nodes import DIM, Network, identity, simulate, until, vector

FOUR = (100, 100, 100, 100)
PHRASE = "the key to the shed lies under the third flower pot"
NEXT = "the key to the shed hangs behind the door"


def clear_in(network: Network, *words: str) -> list[str]:
    files = [one for one in sorted(network.folder.rglob("*")) if one.is_file()]
    return [one.name for one in files if any(word.encode() in one.read_bytes() for word in words)]


@pytest.mark.slow
def test_only_the_owner_sees_a_private_entry_and_nothing_of_it_lies_in_clear(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, (0, 2), seed=50)
        owner, hostile = network.nodes[1], network.nodes[3]
        id_ = await owner.private.add(NewEntry(PHRASE, ("keys",), "house", 5, ("c",), vector(1)))
        await network.settle()
        view = await owner.get(id_)
        assert view is not None
        assert (view.text, view.tags, view.domain, view.private) == (PHRASE, ("keys",), "house", True)
        hits = (await owner.query(None, vector(1), 3, (), None)).hits
        assert [(hit.id, hit.private) for hit in hits[:1]] == [(id_, True)]
        assert len(hits) == 3
        assert [hit.id for hit in (await owner.query(None, vector(1), 3, ("keys",), None)).hits] == [id_]

        # A hostile asker: by text, by id, by the author's basis, by every shard, at the owner and at all.
        assert await hostile.get(id_) is None
        assert id_ not in [hit.id for hit in (await hostile.query(None, vector(1), 13, (), None)).hits]
        assert (
            owner.parts.holder.search(
                ShardTree.fixed(6).leaves, CallerVectors("", DIM).quantise(vector(1)), 20, ("keys",)
            )
            == []
        )
        for number in (0, 1, 2):
            agent = identity(number).agent
            for basis in (author_basis(owner.agent), subject_basis(id_)):
                page = await hostile.parts.records.at(agent, basis, None)
                for item in page.bundle.items:
                    assert isinstance(item, Item)
                    assert item.record.cid != id_ or item.record.payload is None
            fetched = await hostile.parts.records.fetch(agent, [id_])
            assert all(isinstance(i, Item) and i.record.payload is None for i in fetched.items)
        assert any(node.holds(id_) for n, node in network.nodes.items() if n != 1), "the header is held"

        done = await owner.change(id_, Edit(text=NEXT, vector=vector(2)))
        assert len(done.records) == 1
        await owner.change(id_, Retag(add=("shed",), remove=("keys",)))
        with pytest.raises(InvalidInput, match="nobody else sees"):
            await owner.change(id_, Vote(1))
        record = owner.parts.own.get(done.records[0])
        assert record is not None
        assert record.header.subject is None, "nobody can tell what it edits"
        await network.settle()
        assert not clear_in(network, PHRASE, NEXT, "shed")

        await network.crash(1)
        owner = await network.start(1)
        await network.settle()
        (listed,) = await owner.private.page(None, 10)
        assert (listed.id, listed.text, listed.tags) == (id_, NEXT, ("shed",))
        assert [hit.id for hit in (await owner.query(None, vector(2), 1, (), None)).hits] == [id_]
        await owner.change(id_, Delete())
        assert await owner.private.page(None, 10) == []
        with pytest.raises(Gone):
            await owner.change(id_, Edit(text=PHRASE))
        assert id_ not in [hit.id for hit in (await owner.query(None, vector(2), 20, (), None)).hits]
        await owner.purge(id_)
        with pytest.raises(RecordError):
            owner.private._opened(owner.parts.own.get(id_))  # type: ignore[arg-type]
        await until(lambda: not owner.parts.erasing.pending, 60)
        assert (await owner.verify_chain()).length == owner.status().records

    simulate(tmp_path, FOUR, scenario)


@pytest.mark.slow
def test_a_sealed_backup_comes_back_from_the_network_and_is_purged_there(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.crash(1)
        shutil.copytree(network.folder / "1", tmp_path / "old")
        owner = await network.start(1)
        await network.settle()
        id_ = await owner.private.add(NewEntry(PHRASE, ("keys",), vector=vector(1), backup=True))
        lost = await owner.private.add(NewEntry("without a backup", vector=vector(3)))
        await owner.change(id_, Edit(text=NEXT, vector=vector(2)))
        await network.settle()
        assert not clear_in(network, PHRASE, NEXT), "sealed wherever it lies"
        others = [n for n in (0, 2, 3) if (kept := network.nodes[n].parts.held.get(id_)) and kept.payload]
        assert len(others) >= 2
        assert id_ not in [
            hit.id for hit in (await network.nodes[0].query(None, vector(2), 9, (), None)).hits
        ]

        await network.crash(1)
        shutil.rmtree(network.folder / "1")
        shutil.copytree(tmp_path / "old", network.folder / "1")
        owner = await network.start(1)
        await until(lambda: owner.frozen is None and id_ in owner.private, 300)
        view = await owner.get(id_)
        assert view is not None
        assert (view.text, view.tags) == (NEXT, ("keys",))
        assert lost not in owner.private
        await network.settle()

        await owner.purge(id_)
        await network.settle()
        for number in others:
            held = network.nodes[number].parts.held.get(id_)
            assert held is not None
            assert held.payload is None
        assert (await owner.verify_chain()).length == owner.status().records

    simulate(tmp_path, FOUR, scenario)
