"""Shards divide and are joined under a running network: nothing acknowledged is ever not found meanwhile.

Whole nodes over a network that loses messages, with shards of 16 at most. All entries mean nearly the same,
so that they crowd into one cell of the atlas; everything that was acknowledged so far is asked for (k above
the number of entries, so that every shard is asked) while entries are written and deleted, a node that has
something to bring elsewhere is killed in the middle and comes back, another one joins.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import trio

from chain.cid import Cid, blob_cid
from chain.identity import AgentId, Identity
from dht.errors import RequestRefused
from dht.network import PeerId
from dht.overlay.hello import Founding
from dht.records.layouts import ASK_S
from dht.shards.decisions import MAX_WAITING_EACH
from dht.shards.messages import SIGN, encode_decision
from node.founding import Terms, found
from node.models import Delete, NewEntry
from node.node import Node
from sharding.atlas_build import build_atlas
from sharding.growth import MAX_VERSION, Decision
from sharding.shard_statement import proof_of, sign_decision
from sharding.tree import Prefix
from sim.links import Link
from sim.network import open_world
from sim.virtual_clock import EPOCH_US, run_deterministic
from tests.node.simulated_nodes import DIM, Network, Scenario, identity, override, until, vector

TARGET = 16
LOSS = 0.01
EVERY_S = 45.0
MOST_S = 6 * ASK_S
MOST_ENTRIES = 60
"""One question asks for at most 100."""
CENTRE = np.random.default_rng(5).normal(size=DIM)


def crowded(number: int) -> NewEntry:
    """Entries of nearly the same meaning."""
    near = CENTRE + 0.02 * np.random.default_rng(number).normal(size=DIM)
    return NewEntry(f"entry {number}", vector=near.tolist())


def founding() -> Founding:
    rows = np.random.default_rng(1).normal(size=(600, DIM)).astype(np.float32)
    atlas = build_atlas(rows, "caller-vectors", cells=64, seed=1, learned_map=False).encode()
    terms = Terms(shard_target=TARGET)
    manifest = found("crowded", identity(0).agent, 4, DIM, EPOCH_US, terms=terms, atlas=blob_cid(atlas))
    return Founding(manifest=manifest, manifest_bytes=manifest.encode(), epochs=(), atlas_bytes=atlas)


def simulate(folder: Path, nodes: int, scenario: Scenario, link: Link | None = None) -> None:
    async def main() -> None:
        async with open_world(1, link) as world:
            network = Network(world, founding(), folder)
            await network.open([100] * nodes)
            await scenario(network)

    run_deterministic(main, seed=1)


def lossy(sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
    return None if rng.random() < LOSS else 10_000


def leaves(node: Node) -> list[str]:
    return [leaf.text() for leaf in node.parts.layouts.current.tree.leaves if leaf.length > 6]


def settled(network: Network) -> bool:
    """All have the same tree, write by it, ask nothing else and hold nothing elsewhere."""
    layouts = [node.parts.layouts for node in network.nodes.values()]
    return all(
        one.current.tree == layouts[0].current.tree == one.writes.tree
        and not one.moving
        and not one.left_behind()
        for one in layouts
    )


@dataclass
class Work:
    """Writes, deletes and asks, and knows what has to be found."""

    network: Network
    number: int = 0
    written: dict[Cid, int] = field(default_factory=dict)
    living: set[Cid] = field(default_factory=set)
    ended: set[Cid] = field(default_factory=set)
    missed: int = 0
    """Shards that the last answer says nobody answered for."""

    async def fill(self, count: int) -> None:
        for _ in range(count):
            await self.write()
        await until(lambda: self._acknowledged() == set(self.written), 600.0)
        self.living = set(self.written)

    async def write(self) -> None:
        self.number += 2
        author = sorted(self.network.nodes)[self.number % len(self.network.nodes)]
        (id_,) = await self.network.add(author, [crowded(self.number)])
        self.written[id_] = author

    async def delete(self) -> None:
        gone = sorted(self.living - self.ended)[self.number % 7]
        await self.network.nodes[sorted(self.network.nodes)[0]].change(gone, Delete())
        self.ended.add(gone)

    def _acknowledged(self) -> set[Cid]:
        nodes = self.network.nodes
        return {
            id_ for id_, by in self.written.items() if by in nodes and not nodes[by].parts.own.unplaced([id_])
        }

    async def ask(self, asker: int | None = None) -> set[Cid]:
        """Ask for everything; what had to be found and was not."""
        self.number += 1
        self.living |= self._acknowledged()
        wanted = self.living - self.ended
        nodes = sorted(self.network.nodes)
        chosen = nodes[(self.number * 3 + 1) % len(nodes)] if asker is None else asker
        answer = await self.network.ask(chosen, vector(9_000 + self.number), k=100, deadline_ms=20_000)
        self.missed = answer.cost.shards_missed
        return wanted - {hit.id for hit in answer.hits}


@pytest.mark.slow
def test_no_query_loses_anything_while_shards_divide_and_are_joined(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        work = Work(network)
        await work.fill(40)
        began = trio.current_time()
        victim: int | None = None
        while not (victim is not None and settled(network) and len(leaves(network.nodes[0])) >= 2):
            await trio.sleep(EVERY_S)
            age = trio.current_time() - began
            assert age < MOST_S, "shards of twice their size do not divide"
            if len(work.written) - len(work.ended) < MOST_ENTRIES:
                await work.write()
            if work.number % 8 == 0:
                await work.delete()
            assert await work.ask() == set(), f"{age:.0f} s after they were filled"
            moving = [
                number for number, node in network.nodes.items() if number and node.parts.migration.left
            ]
            if victim is None and leaves(network.nodes[0]) and moving:
                victim = moving[0]
                await network.crash(victim)
            if age > ASK_S and 5 not in network.nodes:
                await network.start(5)
        divided = leaves(network.nodes[0])
        await network.start(victim)  # it was away while some of this was decided
        await until(lambda: leaves(network.nodes[victim]) == divided, 120.0)
        await trio.sleep(60.0)
        assert await work.ask(victim) == set()

        for id_ in sorted(work.living - work.ended)[4:]:
            await network.nodes[0].change(id_, Delete())
            work.ended.add(id_)
        began = trio.current_time()
        while len(leaves(network.nodes[0])) >= len(divided) or not settled(network):
            await trio.sleep(EVERY_S)
            age = trio.current_time() - began
            assert age < MOST_S, "shards that hold next to nothing are not joined"
            assert await work.ask() == set(), f"{age:.0f} s after most was deleted"
        await trio.sleep(60.0)
        answer = await network.ask(5, vector(1), k=100, deadline_ms=20_000)
        assert {hit.id for hit in answer.hits} == work.living - work.ended
        assert answer.cost.shards_missed == 0

    simulate(tmp_path, 5, scenario, lossy)


async def yes(*_: object) -> bool:
    return True


@pytest.mark.slow
def test_this_finds_out_when_a_holder_drops_what_was_not_moved(tmp_path: Path) -> None:
    """What the test above would say if old holders did not see to it that the new ones have all of it."""

    async def scenario(network: Network) -> None:
        for node in network.nodes.values():
            override(node.parts.migration, "_bring", yes)
            override(node.parts.migration, "_proven", yes)
        work = Work(network)
        await work.fill(20)
        lost = set[Cid]()
        with trio.fail_after(3 * ASK_S):
            while not lost:
                await trio.sleep(EVERY_S)
                lost = await work.ask()
        assert leaves(network.nodes[0])

    simulate(tmp_path, 5, scenario)


async def nothing(*_: object) -> list[AgentId]:
    return []


def hears_nothing(node: Node) -> None:
    """Decisions about shards reach this node only by what holders answer to its questions and stores."""
    decisions = node.parts.decisions
    for name in ("_to_tell", "_who_may_confirm"):
        override(decisions, name, nothing)
    override(decisions, "_some", lambda count: [])
    override(decisions, "_note", lambda agent, digest: False)


@pytest.mark.slow
def test_who_asks_or_writes_by_an_old_tree_is_told_with_proof_and_goes_on_at_once(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        for number in (4, 5):
            await network.start(number, capacity=0)
            hears_nothing(network.nodes[number])
        asker, writer = network.nodes[4], network.nodes[5]
        work = Work(network)
        holders = dict(network.nodes)
        del network.nodes[4], network.nodes[5]
        await work.fill(24)
        with trio.fail_after(3 * ASK_S):
            await until(lambda: bool(leaves(holders[0])) and settled(network), 3 * ASK_S, every_s=1.0)
        network.nodes |= {4: asker, 5: writer}
        assert leaves(asker) == leaves(writer) == []

        assert await work.ask(4) == set()
        assert leaves(asker) == leaves(holders[0])
        answer = await network.ask(4, vector(1), k=100)
        assert answer.cost.shards_missed == 0

        (id_,) = await network.add(5, [crowded(1_000)])
        await until(lambda: writer.status().pending == 0, 60.0)
        assert leaves(writer) == leaves(holders[0])
        assert id_ in {hit.id for hit in (await network.ask(0, vector(1), k=100)).hits}

        await network.crash(1)
        again = await network.start(1)
        assert leaves(again) == leaves(holders[0]), "it is written down"

    simulate(tmp_path, 4, scenario)


def test_nobody_is_believed_about_a_shard_but_two_of_those_nearest_to_it(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.start(3, capacity=0)
        await network.settle()
        node, *others = network.nodes.values()
        decisions, network_id = node.parts.decisions, node.parts.network_id
        now = node.parts.clock.wall_us()

        def proof(decision: Decision, *numbers: int) -> bytes:
            one, two = (sign_decision(identity(n), network_id, decision).data for n in numbers)
            return proof_of((one, two)).data

        shard = Prefix(5, 6)
        strangers = proof(Decision(shard, 1, True, now), 3, 9)
        assert not await decisions.take([strangers], others[2].agent)
        assert (decisions.waiting, leaves(node)) == (1, [])
        assert not await decisions.take([proof(Decision(shard, 2, True, now + 120_000_000), 1, 2)], None)
        assert not await decisions.take([proof(Decision(Prefix(1, 5), 1, True, now), 1, 2)], None)
        one_holder = proof(Decision(shard, 1, True, now), 1, 9)
        assert not await decisions.take([one_holder], others[2].agent), "who stores nothing has no voice"
        assert await decisions.take([one_holder], others[1].agent), "a holder stands for what it serves"
        assert leaves(node) == [one.text() for one in shard.children()]
        assert node.kademlia.standing(others[1].agent).score == 0

        spoilt = bytearray(proof(Decision(shard, 3, False, now), 1, 2))
        spoilt[-1] ^= 1
        assert not await decisions.take([bytes(spoilt)], others[1].agent)
        assert node.kademlia.standing(others[1].agent).score != 0

        body = encode_decision(Decision(Prefix(9, 6), 1, True, now))
        with pytest.raises(RequestRefused, match="it holds 0 records here"):
            await others[0].kademlia.request(node.agent, SIGN, body)
        with pytest.raises(RequestRefused, match="its holders are others"):
            await others[2].kademlia.request(node.agent, SIGN, body)

    simulate(tmp_path, 3, scenario)


def test_a_holder_that_claims_too_much_gets_nobodys_signature(tmp_path: Path) -> None:
    """Who is near and holds nothing itself believes the other holders about a shard's size, not the asker."""

    async def scenario(network: Network) -> None:
        shard = Prefix(5, 6)
        liar, *others = [
            node for node in network.nodes.values() if node.parts.is_complete(shard)
        ]  # the holders of the shard
        claim = 100 * TARGET, bytes(32)
        override(liar.parts.held, "digest_of", lambda _basis: claim)
        ((count, _),) = await others[0].parts.records.digests(liar.agent, [shard.basis()])
        assert count == claim[0]
        near = {node.agent: node for node in network.nodes.values() if node is not liar}
        assert len(others) < len(near), "some are near and hold nothing of it"
        body = encode_decision(Decision(shard, 1, True, liar.parts.clock.wall_us()))
        for agent in near:
            with pytest.raises(RequestRefused, match="it holds 0 records here"):
                await liar.kademlia.request(agent, SIGN, body)

    simulate(tmp_path, 5, scenario)


def test_who_serves_made_up_decisions_holds_up_nobody_and_crowds_nobody_out(tmp_path: Path) -> None:
    """Strangers sign what nobody near stands for, and looking up who is near never ends: others are heard."""
    strangers = [Identity.from_seed(bytes([number]) * 32) for number in (200, 201)]

    async def scenario(network: Network) -> None:
        node, liar, honest = (network.nodes[number] for number in range(3))
        decisions, at_us = node.parts.decisions, node.parts.clock.wall_us()
        network_id = node.parts.network_id
        signers = [identity(number) for number in (1, 2)]

        def proof(prefix: Prefix, by: Sequence[Identity], version: int = 1, earlier_us: int = 0) -> bytes:
            decision = Decision(prefix, version, True, at_us - earlier_us)
            one, other = (sign_decision(signer, network_id, decision).data for signer in by)
            return proof_of((one, other)).data

        made_up = [proof(Prefix(number, 6), strangers) for number in range(60)]
        made_up += [proof(Prefix(number, 6), strangers, earlier_us=1) for number in range(10)]
        slow = {Prefix(number, 6).basis() for number in range(60)}
        look_up = node.kademlia.holders

        async def holders(basis: bytes, count: int, *, steady: int = 0) -> object:
            if basis in slow:
                await trio.sleep_forever()
            return await look_up(basis, count, steady=steady)

        override(node.kademlia, "holders", holders)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(decisions.take, made_up, liar.agent)
            await trio.sleep(1)
            with trio.fail_after(5):
                assert await decisions.take([proof(Prefix(63, 6), signers)], honest.agent)
            nursery.cancel_scope.cancel()
        assert Prefix(63, 6) in node.parts.layouts.growth.decisions
        slow.clear()
        assert not await decisions.take(made_up, liar.agent)
        assert decisions.waiting == MAX_WAITING_EACH
        too_soon = proof(Prefix(63, 6), signers, MAX_VERSION)
        assert not await decisions.take([too_soon], honest.agent)
        assert node.parts.layouts.growth.decisions[Prefix(63, 6)].version == 1

    simulate(tmp_path, 3, scenario)
