"""Who holds no activity of an author finds out a record whose predecessor was invented, and loses no other.

The liar is a whole node that signs, with its own key, records beside its chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain import canonical
from chain.cid import Cid, raw_cid
from chain.kinds import CREATE
from chain.record import Record, decode_payload, encode_payload, sign_record
from dht.evidence.links import HOLDS
from dht.network import PeerId
from dht.records.basis import author_basis, subject_basis
from dht.records.bundle import Item, bundle_value
from dht.records.placement import Role
from dht.records.replies import StoreStatus, read_statuses
from node.models import Added
from node.node import Node
from tests.node.simulated_nodes import Network, entry, identity, override, simulate, until

LIAR = 3
REPLICATION = 3
FOUND_OUT_S = 150.0


async def outsiders(network: Network, author: int) -> list[int]:
    """The nodes that hold no activity of an author, itself left out."""
    node = network.nodes[author]
    near = await node.kademlia.holders(author_basis(node.agent), REPLICATION + 1)
    inside = [one.agent for one in near if one.agent != node.agent][:REPLICATION]
    return [n for n, one in network.nodes.items() if n != author and one.agent not in inside]


def beside_the_chain(author: Node, number: int, seq: int, by: int = LIAR) -> tuple[Record, Record]:
    """A create at `seq` of node `by`, the author, and its predecessor, which is invented, too."""
    create = next(one for one in author.chain_log(0, 100) if one.header.kind == CREATE)
    body = {**decode_payload(create.payload or b""), "text": f"invented {number}"}
    payload = encode_payload(bytes([number] * 16), body)
    said = replace(create.header, payload=raw_cid(payload), payload_size=len(payload), lamport=900 + seq)
    before = replace(said, seq=seq - 1, prev=create.cid, hlc=create.header.hlc)
    after = sign_record(identity(by), before, payload)
    last = replace(said, seq=seq, prev=after.cid, lamport=901 + seq, hlc=after.header.hlc + 1)
    return sign_record(identity(by), last, payload), after


async def show(liar: Node, to: PeerId, record: Record, before: Record) -> StoreStatus:
    """Store a record with one node alone, at its subject and its shard."""
    opening = liar.parts.own.opening()
    assert opening is not None
    items = [Item(record, int(Role.SUBJECT | Role.SHARD))]
    body = canonical.encode(bundle_value([opening], [before], items))
    ((status, _),) = read_statuses(await liar.kademlia.request(to, "record.store", body), 1)
    return status


async def finds(network: Network, number: int, wanted: Cid) -> bool:
    """Whether a node shows an entry."""
    view = await network.nodes[number].get(wanted)
    return view is not None and view.text is not None


@pytest.mark.slow
@pytest.mark.parametrize("defence", [True, False])
def test_an_invented_predecessor_shown_to_outsiders_alone_is_found_out(tmp_path: Path, defence: bool) -> None:
    async def scenario(network: Network) -> None:
        if not defence:
            for node in network.nodes.values():
                override(node.parts.links, "heard", lambda items: None)
        await network.fill(12, [LIAR, 1])
        liar = network.nodes[LIAR]
        (victim, *_) = await outsiders(network, LIAR)
        holder = network.nodes[victim]
        for number in range(20):
            beyond, before = beside_the_chain(liar, number, 90)
            near = await holder.kademlia.holders(subject_basis(beyond.cid), REPLICATION)
            if liar.agent not in [one.agent for one in near]:
                break  # a liar that is a holder of it would go on showing it to those who are not
        assert await show(liar, holder.agent, beyond, before) == StoreStatus.HELD
        assert await finds(network, victim, beyond.cid)  # held and served at once
        if not defence:
            await trio.sleep(FOUND_OUT_S)
            assert await finds(network, victim, beyond.cid)
            return
        await until(lambda: holder.governance.standing.since(liar.agent) == 90, FOUND_OUT_S)
        # Who gets it by repair finds the same a while later; all else is as it was, and confirmed.
        others = sorted(network.nodes.keys() - {LIAR})
        await trio.sleep(FOUND_OUT_S)
        for number in others:
            assert not await finds(network, number, beyond.cid)
        for number in others:
            for wanted in network.entries:
                assert await finds(network, number, wanted)
        assert holder.governance.ledger.standing.since(liar.agent) is None
        (late,) = await network.nodes[1].add([entry(700)])
        assert isinstance(late, Added)
        await network.settle()
        open_ = {one.cid for one in (beyond, before)}
        await until(lambda: all({*node.parts.links.book.open} <= open_ for node in network.nodes.values()))
        assert await finds(network, victim, late.id)
        await network.crash(victim)
        back = await network.start(victim)
        await until(lambda: back.governance.standing.since(liar.agent) == 90, FOUND_OUT_S)
        # One that is invented within the chain makes a fork where others hold the chain, and that is proven.
        within, before = beside_the_chain(liar, 200, 6)
        assert await show(liar, back.agent, within, before) == StoreStatus.HELD
        honest = [node for number, node in network.nodes.items() if number != LIAR]
        await until(
            lambda: all(node.governance.ledger.standing.since(liar.agent) in (5, 6) for node in honest),
            FOUND_OUT_S,
        )

    simulate(tmp_path, [100] * 6, scenario)


@pytest.mark.slow
def test_two_of_three_holders_that_deny_an_authors_chain_do_not_silence_it(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = network.nodes[1]
        outside = await outsiders(network, 1)
        inside = [n for n in network.nodes if n != 1 and n not in outside]
        asked: list[Cid] = []

        def denies(_author: bytes, cids: Sequence[Cid], _settled: float) -> bytes:
            asked.extend(cids)
            return canonical.encode([bytes([HOLDS]) * len(cids), None])

        for number in inside[:2]:
            override(network.nodes[number].parts.links, "_answer", denies)
        await network.add(1, [entry(number) for number in range(30)])
        await network.settle()
        await trio.sleep(FOUND_OUT_S)
        assert asked
        for number in outside:
            node = network.nodes[number]
            assert node.governance.standing.since(author.agent) is None
            assert (node.parts.links.book.unconfirmed, node.parts.links.book.doubted) == (0, 0)
            for wanted in network.entries:
                assert await finds(network, number, wanted)

    simulate(tmp_path, [100] * 6, scenario)


def test_in_a_network_of_two_the_author_itself_shows_its_chain_or_is_doubted(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author, other = network.nodes[1], network.nodes[0]
        await network.add(1, [entry(number) for number in range(3)])
        await network.settle()
        await until(lambda: not other.parts.links.book.unconfirmed)
        assert other.parts.links.book.confirmed >= 3
        beyond, before = beside_the_chain(author, 1, 90, by=1)
        assert await show(author, other.agent, beyond, before) == StoreStatus.HELD
        await until(lambda: other.governance.standing.since(author.agent) == 90, FOUND_OUT_S)
        for wanted in network.entries:
            assert await finds(network, 0, wanted)

    simulate(tmp_path, [100] * 2, scenario)


@pytest.mark.slow
def test_an_author_that_trickles_its_chain_is_doubted_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    async def scenario(network: Network) -> None:
        liar = network.nodes[LIAR]
        await network.add(LIAR, [entry(1)])
        await network.settle()
        (victim, *_) = await outsiders(network, LIAR)
        links = network.nodes[victim].parts.links
        honest = links._walk_from

        async def trickles(source: PeerId, author: PeerId) -> tuple[set[Cid], bool]:
            if source == liar.agent:
                await trio.sleep_forever()
            return await honest(source, author)

        override(links, "_walk_from", trickles)
        beyond, before = beside_the_chain(liar, 1, 90)
        assert await show(liar, network.nodes[victim].agent, beyond, before) == StoreStatus.HELD
        await until(lambda: network.nodes[victim].governance.standing.since(liar.agent) == 90, FOUND_OUT_S)
        await network.add(1, [entry(number) for number in range(10, 20)])
        await network.settle()
        await until(lambda: {*links.book.open} <= {liar.agent, beyond.cid, before.cid}, FOUND_OUT_S)

    simulate(tmp_path, [100] * 6, scenario)
