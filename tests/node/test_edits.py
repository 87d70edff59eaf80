"""Entries that several nodes change: what all of them show, in `get` and in queries, and how soon."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from chain.cid import Cid
from chain.identity import AgentId
from crdt.entry import fold
from crdt.postings import shown
from dht.network import PeerId
from dht.records.basis import subject_basis
from dht.repair.offers import RESCAN_S, STALE_S
from node.errors import Forbidden, Gone, InvalidInput, NotFound, VersionConflict
from node.founding import REPLICATION
from node.models import Change, Delete, Edit, EntryView, NewEntry, Retag, Retract, Vote
from node.node import Node
from sim.network import open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network
from tests.node.simulated_nodes import DIM, Network, identity, override, simulate, until, vector

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
        views = [await view(node, id_) for node in network.nodes.values()]
        assert {encoded(one) for one in views} == {encoded(views[0])}
        assert {one.fingerprint for one in views} == {done.version}
        one = views[0]
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
        seen = await view(network.nodes[3], id_)
        assert (seen.deleted, seen.retracted) == (True, True)

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
            seen = await view(other, id_)
            assert seen.tags == ("old", "t0", "t1", "t2", "t3")
            lines: dict[AgentId, int] = {agent: len(heads) for agent, _, heads in seen.version}
            assert set(lines.values()) == {1}

    simulate(tmp_path, FOUR, scenario)


@dataclass
class Parted:
    """10 ms one way between all on the same side; nothing between the sides."""

    sides: dict[PeerId, int] = field(default_factory=dict)

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        return 10_000 if self.sides.get(sender, 0) == self.sides.get(receiver, 0) else None

    def part(self, *groups: Sequence[int]) -> None:
        self.sides = {identity(n).agent: side for side, group in enumerate(groups, 1) for n in group}


SEVEN = (100,) * 7


async def texts(network: Network, number: int, seed: int, *tags: str, fresh: bool = False) -> list[str]:
    """What a node finds nearest to `vector(seed)`."""
    answer = await network.nodes[number].query(None, vector(seed), 5, tags, None, fresh)
    assert answer.cost.shards_missed == 0
    return [hit.text for hit in answer.hits]


async def all_find(network: Network, seed: int, wanted: Sequence[str], *tags: str) -> None:
    for number in network.nodes:
        assert await texts(network, number, seed, *tags) == list(wanted), number


def derived(node: Node) -> list[tuple[Cid, Cid, tuple[str, ...]]]:
    """A node's postings as (entry, content record, tags)."""
    pages = node.parts.derived.all(100)
    return sorted((one.entry, one.record, one.tags) for page in pages for one in page)


async def answers_for(network: Network, number: int, record: Cid) -> bool:
    """Whether a node is one of those who are asked for the shard of a content record that it holds."""
    node = network.nodes[number]
    (found,) = node.parts.held.get_many([record])
    if found is None or found.payload is None:
        return False
    (key,) = node.parts.layout.keys([(found, node.parts.intake.content(found))])
    return node.parts.layout.tree.leaf_of(key) in await network.shards_of(number)


async def holders_that_show(network: Network, record: Cid) -> list[int]:
    """The nodes that answer for the shard of a content record and have a posting of it."""
    return [
        number
        for number, node in network.nodes.items()
        if record in {cid for _, cid, _ in derived(node)} and await answers_for(network, number, record)
    ]


async def value_away_from_its_entry(network: Network) -> tuple[Cid, Cid, list[int]]:
    """An entry, its value of the text "second", and the nodes that show that and hold nothing else of it."""
    id_ = await planted(network, 0)
    holders = await network.nodes[0].kademlia.holders(subject_basis(id_), REPLICATION)
    near = {contact.agent for contact in holders}
    for number in network.nodes:
        done = await network.nodes[number].change(
            id_, Edit(text="second", vector=vector(2), domain=str(number))
        )
        await network.settle()
        (value,) = done.records
        outside = [n for n in await holders_that_show(network, value) if identity(n).agent not in near]
        if len(outside) > 1:
            return id_, value, outside
    raise AssertionError("the value always lies with its entry")


async def rebuild_changes_nothing(network: Network) -> None:
    for number, node in network.nodes.items():
        before = derived(node)
        await node.rebuild_index()
        assert derived(node) == before, number


@pytest.mark.slow
def test_an_edit_moves_the_posting_and_the_old_one_is_gone_everywhere(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        await all_find(network, 1, ["first"])
        await network.nodes[2].change(id_, Edit(text="second", vector=vector(2)))
        await network.settle()
        assert not await holders_that_show(network, id_)
        for seed in (1, 2):
            await all_find(network, seed, ["second"])
            await all_find(network, seed, ["second"], "old")
        await network.nodes[3].change(id_, Retag(add=("new",), remove=("old",)))
        await network.settle()
        await all_find(network, 2, ["second"], "new")
        await all_find(network, 2, [], "old")
        hit = (await network.ask(0, vector(2), tags=("new",))).hits[0]
        assert hit.tags == ("new",)
        await rebuild_changes_nothing(network)

    simulate(tmp_path, SEVEN, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("change", [Delete(), Retract()], ids=["delete", "retract"])
def test_what_is_taken_away_is_found_by_nobody_and_a_delete_can_be_undone(
    tmp_path: Path, change: Delete | Retract
) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        await network.nodes[2].change(id_, Edit(text="second", vector=vector(2)))
        await network.settle()
        await network.nodes[1].change(id_, change)
        await network.settle()
        for seed in (1, 2):
            await all_find(network, seed, [])
        await rebuild_changes_nothing(network)
        if isinstance(change, Delete):
            await network.nodes[4].change(id_, Edit(text="third", vector=vector(3)))
            await network.settle()
            await all_find(network, 2, ["third"])
            await all_find(network, 2, ["third"], "old")

    simulate(tmp_path, SEVEN, scenario)


@pytest.mark.slow
def test_two_sides_edit_while_apart_and_agree_after(tmp_path: Path) -> None:
    link = Parted()

    async def scenario(network: Network) -> None:
        id_ = await planted(network, 0)
        link.part((0, 1, 2), (3, 4, 5, 6))
        await network.nodes[1].change(id_, Edit(text="here", vector=vector(5)))
        await network.nodes[4].change(id_, Edit(text="there", vector=vector(6)))
        await network.nodes[5].change(id_, Retag(add=("far",)))
        await trio.sleep(40)
        link.part(range(7))
        await trio.sleep(STALE_S)
        await network.settle()
        assert not await holders_that_show(network, id_)
        views = [await view(node, id_) for node in network.nodes.values()]
        assert {encoded(one) for one in views} == {encoded(views[0])}
        assert views[0].conflict
        assert {one.text for one in views[0].values} == {"here", "there"}
        assert views[0].tags == ("far", "old")
        for seed in (1, 5, 6):
            for number in network.nodes:
                (text,) = await texts(network, number, seed)
                assert text in ("here", "there")
                assert await texts(network, number, seed, "far") == [text]
        await network.nodes[2].change(id_, Edit(text="both", vector=vector(7)))
        await network.settle()
        await all_find(network, 5, ["both"])
        assert not (await view(network.nodes[6], id_)).conflict
        await rebuild_changes_nothing(network)

    simulate(tmp_path, SEVEN, scenario, link)


@pytest.mark.slow
def test_holders_of_an_entry_finish_what_its_author_could_not(tmp_path: Path) -> None:
    """The author reaches one holder of the entry and dies: the postings follow all the same."""
    link = Parted()

    async def scenario(network: Network) -> None:
        id_, value, outside = await value_away_from_its_entry(network)
        holders = await network.nodes[0].kademlia.holders(subject_basis(id_), REPLICATION)
        friend = next(n for n in network.nodes if identity(n).agent == holders[0].agent)
        author = next(n for n in network.nodes if n not in outside and n != friend)
        link.part((author, friend), [n for n in network.nodes if n not in (author, friend)])
        done = await network.nodes[author].change(id_, Edit(text="third", vector=vector(3)))
        await until(lambda: network.nodes[friend].parts.held.get(done.records[0]) is not None)
        await network.crash(author)
        assert await holders_that_show(network, value)
        link.part(range(7))
        await trio.sleep(STALE_S)
        assert not await holders_that_show(network, value)
        for seed in (2, 3):
            await all_find(network, seed, ["third"])
        for number in network.nodes:
            assert (await view(network.nodes[number], id_)).fingerprint == done.version

    simulate(tmp_path, SEVEN, scenario, link)


@pytest.mark.slow
def test_an_author_that_dies_before_it_published_does_so_when_it_is_back(tmp_path: Path) -> None:
    link = Parted()

    async def scenario(network: Network) -> None:
        id_ = await planted(network, 4)
        link.part((4,), (0, 1, 2, 3, 5, 6))
        await network.nodes[4].change(id_, Edit(text="second", vector=vector(2)))
        assert network.nodes[4].status().pending
        assert [hit.text for hit in (await network.ask(4, vector(1))).hits] == ["second"]
        await network.crash(4)
        link.part(range(7))
        await all_find(network, 1, ["first"])
        node = await network.start(4)
        await network.settle()
        await all_find(network, 1, ["second"])
        assert node.status().pending == 0

    simulate(tmp_path, SEVEN, scenario, link)


@pytest.mark.slow
def test_an_entrys_holders_follow_it_up_when_the_author_does_not(tmp_path: Path) -> None:
    """No node comes or goes: what alone moves the posting is that its entry's holders heard of the edit."""

    async def scenario(network: Network) -> None:
        await trio.sleep(4 * RESCAN_S)  # until nobody looks through everything because of the beginning
        id_, value, outside = await value_away_from_its_entry(network)
        editor = next(n for n in network.nodes if n not in outside)
        override(network.nodes[editor].parts.offers, "wrote", lambda _: None)
        await network.nodes[editor].change(id_, Edit(text="third", vector=vector(3)))
        assert await holders_that_show(network, value)
        await trio.sleep(STALE_S)
        assert not await holders_that_show(network, value)
        for seed in (2, 3):
            await all_find(network, seed, ["third"])

    simulate(tmp_path, SEVEN, scenario)


def test_who_edits_keeps_what_it_edited(tmp_path: Path) -> None:
    """A node that holds nothing for others, and is alone afterwards, still shows its edit."""
    link = Parted()

    async def scenario(network: Network) -> None:
        id_ = await planted(network, 0)
        await network.nodes[3].change(id_, Edit(text="second", vector=vector(2)))
        await network.settle()
        link.part((3,), (0, 1, 2))
        seen = await view(network.nodes[3], id_)
        assert (seen.text, seen.tags) == ("second", ("old",))
        assert [hit.text for hit in (await network.ask(3, vector(2))).hits] == ["second"]

    simulate(tmp_path, (100, 100, 100, 0), scenario, link)


def test_what_a_crash_left_underived_is_derived_at_the_start(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        id_ = await planted(network)
        kept = await planted(network)
        node = network.nodes[3]

        async def nothing(*_: object) -> None:
            """The process dies after the records are durable, and before anything is made of them."""

        override(node.parts.holder, "_derive", nothing)
        await node.change(id_, Delete())
        await node.change(kept, Retag(add=("new",)))
        await network.crash(3)
        node = await network.start(3)
        assert [tags for entry, _, tags in derived(node) if entry == kept] in ([], [("new", "old")])
        assert id_ not in {entry for entry, _, _ in derived(node)}
        await network.settle()
        assert id_ not in {entry for entry, _, _ in derived(node)}
        await all_find(network, 1, ["first"], "new")
        await rebuild_changes_nothing(network)

    simulate(tmp_path, (100, 100, 100, 100), scenario)


def test_a_network_of_older_rules_knows_no_votes_and_does_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_world(1, None) as world:
            founding = found_network(identity(0), DIM)
            manifest = replace(founding.manifest, rules=1)
            founding = replace(founding, manifest=manifest, manifest_bytes=manifest.encode())
            network = Network(world, founding, tmp_path)
            await network.open((100, 100))
            id_ = await planted(network, 0)
            with pytest.raises(InvalidInput, match=r"rules \(version 1\) do not know entry.vote"):
                await network.nodes[1].change(id_, Vote(1))
            await network.nodes[1].change(id_, Edit(text="second", vector=vector(2)))
            await network.settle()
            assert (await view(network.nodes[0], id_)).text == "second"

    run_deterministic(main, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_was_done_where_all_holders_show_what_the_entries_are(tmp_path: Path, seed: int) -> None:
    """Changes at random by all nodes, together and apart; then each holder has what the whole view shows."""
    link, chance = Parted(), random.Random(seed)

    def wish() -> Change:
        number = chance.randrange(100)
        wishes: list[Change] = [
            Edit(text=f"text {number}", vector=vector(number)),
            Edit(text=f"text {number}", vector=vector(number), tags=(f"t{number % 3}",)),
            Retag(add=(f"t{number % 3}",)),
            Retag(remove=(f"t{number % 3}",)),
            Vote(number % 3 - 1),
            Delete(),
        ]
        return chance.choice(wishes)

    async def scenario(network: Network) -> None:
        ids = [await planted(network, number) for number in range(4)]
        for _ in range(4):
            sides = chance.sample(range(7), 7)
            cut = chance.randrange(8)
            link.part(sides[:cut], sides[cut:])
            for _ in range(8):
                with suppress(Gone, NotFound):
                    await network.nodes[chance.randrange(7)].change(chance.choice(ids), wish())
                await trio.sleep(chance.randrange(4))
            link.part(range(7))
            await trio.sleep(chance.randrange(20))
        await trio.sleep(STALE_S)
        await network.settle()
        for id_ in ids:
            views = [await view(node, id_) for node in network.nodes.values()]
            assert {encoded(one) for one in views} == {encoded(views[0])}
            whole = shown(id_, {record.cid: record for record in views[0].records})
            for number, node in network.nodes.items():
                here = {
                    (record, tags)
                    for entry, record, tags in derived(node)
                    if entry == id_ and await answers_for(network, number, record)
                }
                assert here <= {(cid, whole.tags) for cid, _ in whole.values}, number
            for cid, _ in whole.values:
                assert len(await holders_that_show(network, cid)) >= REPLICATION
        await rebuild_changes_nothing(network)

    simulate(tmp_path, SEVEN, scenario, link)
