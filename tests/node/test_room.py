"""A node without room: it refuses, says so, and costs neither answers nor copies; a flood hides nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import dht.records.methods
import node.entry_reader
from chain.cid import digest
from dht.overlay import kademlia
from dht.records.room import Quota
from dht.repair import publisher
from node.models import Retag, Retract
from sharding.tree import Prefix
from tests.node.simulated_nodes import Network, entry, override, shown, simulate, until, vector

SMALL = 2


@pytest.mark.slow
def test_a_full_node_refuses_says_so_and_others_take_its_place(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(20, authors=[0])
        small = network.nodes[SMALL]
        quota = Quota(store=small.parts.held.used_bytes())
        override(small.parts.room, "_quota", quota)
        await network.add(0, [entry(number) for number in range(1_000, 1_300)])
        await until(lambda: small.status().full)
        await until(lambda: network.nodes[0].status().pending == 0)
        assert small.parts.held.used_bytes() < network.nodes[1].parts.held.used_bytes() / 2
        assert small.status().counters["records_refused_full_total"] > 0
        await until(lambda: any(peer.full for peer in network.nodes[0].peers() if peer.agent == small.agent))
        for asker in (0, 1, SMALL):
            for seed in range(5_000, 5_005):
                answer = await network.ask(asker, vector(seed), k=10)
                assert shown(answer) == network.best(vector(seed), 10)
                assert answer.cost.shards_missed == 0
        override(small.parts.room, "_quota", Quota())
        await until(lambda: not small.status().full)  # it looks although nothing comes
        await network.settle()
        held_by: dict[Prefix, list[int]] = {}
        for number in network.nodes:
            for shard in await network.shards_of(number):
                held_by.setdefault(shard, []).append(number)
        mine = [shard for shard, numbers in held_by.items() if SMALL in numbers]
        assert mine
        for shard in mine:  # what was refused came later
            assert len({network.nodes[number].replica(shard.basis()) for number in held_by[shard]}) == 1

    simulate(tmp_path, (100, 100, 100, 100), scenario)


def test_who_is_refused_by_more_nodes_than_a_lookup_finds_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kademlia, "K", 8)
    monkeypatch.setattr(publisher, "K", 8)

    async def scenario(network: Network) -> None:
        for one in network.nodes.values():
            override(one.parts.room, "_quota", Quota(store=1))
        await network.add(0, [entry(1)])
        await trio.sleep(20.0)
        assert network.nodes[0].status().pending > 0
        assert network.nodes[0].parts.publisher.refused == 0

    simulate(tmp_path, (100,) * 8, scenario)


@pytest.mark.slow
def test_what_everybody_refused_is_offered_again(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        for one in network.nodes.values():
            override(one.parts.room, "_quota", Quota(store=1))
        await network.add(0, [entry(1)])
        await until(lambda: network.nodes[1].status().counters["records_refused_full_total"] > 0)
        await trio.sleep(60)
        assert network.nodes[0].status().pending > 0
        for one in network.nodes.values():
            override(one.parts.room, "_quota", Quota())
        await until(lambda: network.nodes[0].status().pending == 0, within_s=400)

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.slow
def test_what_is_lost_with_a_node_is_made_again_where_there_is_room_however_far(tmp_path: Path) -> None:
    """Five of nine nodes are full, so that often all the nearest ones are."""

    async def scenario(network: Network) -> None:
        for number in (4, 5, 6, 7, 8):
            override(network.nodes[number].parts.room, "_quota", Quota(store=1))
            network.nodes[number].parts.look_at_room()
        await trio.sleep(10.0)
        ids = await network.add(0, [entry(number) for number in range(8)])
        await until(lambda: network.nodes[0].status().pending == 0)
        await network.crash(1)
        left = [network.nodes[number] for number in (0, 2, 3)]
        await until(lambda: all(node.replica(digest(id_))[0] == 1 for node in left for id_ in ids))
        await until(lambda: not any(node.status().under_replicated for node in network.nodes.values()))

    simulate(tmp_path, (100,) * 9, scenario)


def test_one_author_cannot_take_the_others_room(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        for one in network.nodes.values():
            override(one.parts.room, "_quota", Quota(author=40_000))
        (first,) = await network.add(1, [entry(1)])
        for start in range(1_000, 1_200, 20):
            await network.add(0, [entry(number) for number in range(start, start + 20)])
            await trio.sleep(1.0)  # frames under way are judged by what is held before them
        for number in (1, 2):
            assert network.nodes[number].status().counters["records_refused_quota_total"] > 0
            usage = network.nodes[number].parts.held.usage_of([network.nodes[0].agent])
            assert 30_000 < usage[network.nodes[0].agent].bytes <= 40_000
        (last,) = await network.add(1, [entry(2)])
        await until(lambda: network.nodes[2].holds(last))
        view = await network.nodes[2].get(first)
        assert view is not None

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.slow
def test_a_creator_has_its_say_however_much_others_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dht.records.methods, "MAX_AT", 8)
    monkeypatch.setattr(node.entry_reader, "MAX_PAGES", 2)

    async def scenario(network: Network) -> None:
        (cid,) = await network.add(0, [entry(1)])
        await network.settle()
        for number in range(40):
            await network.nodes[1].change(cid, Retag(add=(f"t{number}",)))
        await network.nodes[0].change(cid, Retract())
        await network.settle()
        view = await network.nodes[3].get(cid)
        assert view is not None
        assert view.retracted

    simulate(tmp_path, (100, 100, 100, 0), scenario)
