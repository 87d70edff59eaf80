"""Replication by whole nodes: what was added reaches R holders, and comings and goings lose no answer.

Promise P2's second half: a record goes to R = 3 peers in every role, across crashes, restarts and growth. And
while membership changes, a holder that may lack something says so, so that answers stay exhaustive.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import dht.repair.publisher
import sim.host
from chain.record import Record
from dht.errors import RequestRefused
from dht.records.basis import author_basis
from dht.records.intake import Judged
from dht.records.placement import bases_of, roles_of
from dht.records.replies import StoreStatus
from node.founding import REPLICATION
from node.node import Node
from sim.links import LatencyLink
from tests.node.simulated_nodes import (
    SHARDS,
    FaultyLink,
    Network,
    entry,
    identity,
    override,
    shown,
    simulate,
    until,
    vector,
)

GUEST = 4
QUERIES = [vector(seed) for seed in range(3_000, 3_004)]


def bases(node: Node, record: Record) -> list[bytes]:
    """Every basis at which a record must lie."""
    shards = node.parts.publisher.shard_bases([record])
    return [basis for _, basis in bases_of(record, roles_of(record.header.kind), shards.get(record.cid))]


def holders(network: Network, basis: bytes, record: Record) -> list[int]:
    return [
        number
        for number, node in sorted(network.nodes.items())
        if record.cid in node.parts.held.cids_at(basis, None, 10_000)
    ]


def assert_replicated(network: Network, copies: int) -> None:
    """Every record of every running node lies at `copies` nodes or more at each of its bases."""
    for node in network.nodes.values():
        for record in node.chain_log(0, 1_000):
            for basis in bases(node, record):
                assert len(holders(network, basis, record)) >= copies


async def assert_exhaustive_for(network: Network, asker: int, seconds: float) -> None:
    """At every moment of the next while, a query finds everything."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        for wanted in QUERIES:
            answer = await network.ask(asker, wanted, k=20)
            assert answer.cost.shards_missed > 0 or shown(answer) == network.best(wanted, 20), (
                trio.current_time()
            )
        await trio.sleep(0.02)


def test_every_record_reaches_r_holders_in_every_role(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(30, authors=range(6))
        assert_replicated(network, REPLICATION)
        author = network.nodes[5]
        assert author.status().held == 0
        for record in author.chain_log(3, 100):  # the opening was placed while the network grew
            for basis in bases(author, record):
                nearest = [c.agent for c in await author.kademlia.holders(basis, REPLICATION)]
                found = [network.nodes[number].agent for number in holders(network, basis, record)]
                assert sorted(found) == sorted(nearest)

    simulate(tmp_path, (100, 100, 100, 100, 100, 0), scenario)


def test_a_node_without_capacity_holds_nothing_and_says_so(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, authors=range(3))
        guest = network.nodes[2]
        assert (guest.status().held, guest.status().shards_held) == (0, 0)
        for node in (network.nodes[0], network.nodes[1]):
            assert guest.agent not in [contact.agent for contact in node.kademlia.contacts()]
            with pytest.raises(RequestRefused, match="stores nothing"):
                await node.kademlia.request(guest.agent, "record.store", b"\x93\x90\x90\x90")

    simulate(tmp_path, (100, 100, 0), scenario)


def test_pending_follows_the_size_of_the_network(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(10, authors=(0,))
        founder = network.nodes[0]
        assert founder.status().pending == 0
        await network.start(1)
        await network.start(2)
        await until(lambda: founder.status().pending == 13)
        await network.settle()
        assert_replicated(network, 3)
        await network.start(3)
        await network.settle()
        assert founder.status().pending == 0

    simulate(tmp_path, (100,), scenario)


def test_without_anybody_who_stores_records_wait(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        guest = await network.start(0, capacity=0)
        await network.add(0, [entry(1)])
        await trio.sleep(5)
        assert guest.status().pending == 4
        await network.start(1)
        await until(lambda: guest.status().pending == 0)
        assert_replicated(network, 1)
        assert shown(await network.ask(1, QUERIES[0])) == network.best(QUERIES[0], 1)

    simulate(tmp_path, (), scenario)


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.06])
@pytest.mark.slow
def test_an_author_that_crashes_while_publishing_goes_on_after_its_restart(
    tmp_path: Path, after_s: float
) -> None:
    async def scenario(network: Network) -> None:
        await network.add(1, [entry(number) for number in range(40)])
        await trio.sleep(after_s)
        assert network.nodes[1].status().pending > 0
        await network.crash(1)
        await trio.sleep(1)
        author = await network.start(1)
        await network.settle()
        assert author.status().records == 43
        assert_replicated(network, REPLICATION)
        for number in network.nodes:
            assert shown(await network.ask(number, QUERIES[0])) == network.best(QUERIES[0], 10)

    simulate(tmp_path, (100, 100, 100, 100), scenario)


def test_a_holder_that_crashes_while_it_stores_is_made_up_for(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.add(0, [entry(number) for number in range(40)])
        await trio.sleep(0.03)
        await network.crash(2)
        await until(lambda: all(node.status().pending == 0 for node in network.nodes.values()))
        assert_replicated(network, REPLICATION - 1)
        await network.start(2)  # what it had acknowledged counts, and is still there
        await network.settle()
        assert_replicated(network, REPLICATION)

    simulate(tmp_path, (100, 100, 100, 100), scenario)


def test_records_arrive_through_a_network_that_loses_messages(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.add(0, [entry(number) for number in range(20)])
        await until(lambda: network.nodes[0].status().pending == 0, 600)
        assert_replicated(network, REPLICATION)

    simulate(tmp_path, (100, 100, 100, 100), scenario, LatencyLink(3, loss=0.02))


def test_a_node_that_joins_later_comes_to_hold_everything(tmp_path: Path) -> None:
    """Also what its authors will not send again, because it is at R holders or they are gone."""

    async def scenario(network: Network) -> None:
        await network.fill(60, authors=(0, 1, 2))
        await network.crash(2)
        newcomer = await network.start(3)
        await until(lambda: newcomer.status().shards_held == 64)
        assert newcomer.status().counters["records_caught_up_total"] == 60
        await network.crash(0)
        await network.crash(1)
        for wanted in QUERIES:
            answer = await network.ask(3, wanted)
            assert shown(answer) == network.best(wanted, 10)
            assert answer.cost.shards_missed == 0

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.parametrize("newcomers", [1, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_answers_stay_exhaustive_while_nodes_join(tmp_path: Path, newcomers: int) -> None:
    """Six at once take whole shards over from all their former holders."""

    async def scenario(network: Network) -> None:
        await network.fill(60, authors=(0, 1, 2))
        await network.start(GUEST, capacity=0)
        await network.settle()
        async with trio.open_nursery() as nursery:
            for number in range(5, 5 + newcomers):
                nursery.start_soon(network.start, number)
            await assert_exhaustive_for(network, GUEST, seconds=2)
        await network.settle()
        for wanted in QUERIES:
            answer = await network.ask(GUEST, wanted, k=60)
            assert shown(answer) == network.best(wanted, 60)
            assert answer.cost.shards_missed == 0

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.parametrize("restarted", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_restarted_holder_is_silent_about_what_it_missed_until_it_caught_up(
    tmp_path: Path, restarted: int
) -> None:
    """The founder, who has nobody to join, no less than the others."""

    async def scenario(network: Network) -> None:
        await network.fill(30, authors=(0, 1, 2, 3))
        await network.crash(restarted)
        await trio.sleep(1)
        new = await network.add(2, [entry(number) for number in range(100, 140)])
        rest = sorted(set(range(4)) - {2, restarted})
        await until(lambda: all(None not in network.nodes[n].parts.held.get_many(new) for n in rest))
        await network.crash(2)  # its author cannot bring it what it missed
        node = await network.start(restarted)
        for _ in range(40):
            for wanted in QUERIES[:1]:
                answer = await network.ask(GUEST, wanted, k=20)
                assert shown(answer) == network.best(wanted, 20), trio.current_time()
        await until(lambda: node.status().shards_held == 64)
        assert None not in node.parts.held.get_many(new)
        assert node.status().counters["records_caught_up_total"] > 0
        assert shown(await network.ask(restarted, QUERIES[0])) == network.best(QUERIES[0], 10)

    others = {identity(number).agent: 20_000 for number in range(5) if number != restarted}
    simulate(tmp_path, (100, 100, 100, 100, 0), scenario, FaultyLink(slow_us=others))  # it is asked first


def assert_indexed(node: Node) -> None:
    """What this node keeps with content, its own or for others, is what its index knows."""
    kept = {record.cid for record in node.chain_log(3, 1_000)}
    for shard in SHARDS:
        kept.update(node.parts.held.cids_at(shard.basis(), None, 10_000))
    assert len(node.parts.holder) == len(kept)


def test_what_a_holder_keeps_is_found_even_if_the_sender_hangs_up(tmp_path: Path) -> None:
    """At whatever moment the connection goes: what is durable is indexed."""

    async def scenario(network: Network) -> None:
        for attempt in range(24):
            author = await network.start(1, capacity=0)
            await until(lambda author=author: author.joined and author.status().pending == 0)  # type: ignore[misc]
            await network.add(1, [entry(attempt)])
            await trio.sleep(attempt * 0.0005)
            await network.crash(1)
            await trio.sleep(0.5)
            assert_indexed(network.nodes[0])
        assert 0 < network.nodes[0].status().counters["postings"] <= 24

    simulate(tmp_path, (100,), scenario, FaultyLink())


def test_what_is_in_the_chain_is_found_even_if_the_caller_gives_up(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        node = network.nodes[0]
        added = 0
        for attempt in range(24):
            with trio.move_on_after(attempt * 0.0005):
                await node.add([entry(attempt)])
                added += 1
            await trio.sleep(0.5)
            assert_indexed(node)
        assert 0 < added == node.status().records - 3 < 24

    simulate(tmp_path, (100,), scenario, FaultyLink())


def test_holders_of_an_authors_activity_alone_get_headers_alone(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(30, authors=[0])
        headers = 0
        for cid in network.entries:
            (record,) = network.nodes[0].parts.own.get_many([cid])
            assert record is not None
            activity = author_basis(record.header.author)
            for number, node in network.nodes.items():
                at = {basis for basis in bases(node, record) if number in holders(network, basis, record)}
                if at:
                    kept = node.parts.held.get(cid)
                    assert kept is not None
                    assert (kept.payload is None) == (at == {activity})
                    headers += kept.payload is None
        assert headers, "nobody holds the activity alone"

    simulate(tmp_path, (100,) * 6, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("status", [StoreStatus.PENDING, StoreStatus.PARKED])
def test_what_a_holder_puts_off_is_pending_until_it_holds_it(tmp_path: Path, status: StoreStatus) -> None:
    async def scenario(network: Network) -> None:
        author, holder = network.nodes[0], network.nodes[1]
        intake = holder.parts.intake
        honest = intake.judge
        override(intake, "judge", lambda bundle: [Judged(status)] * len(bundle.items))
        await network.add(0, [entry(1)])
        await trio.sleep(60)
        assert author.status().pending == 1
        override(intake, "judge", honest)
        await network.settle()
        assert_replicated(network, 2)

    simulate(tmp_path, (100, 100), scenario)


def test_a_holder_that_refuses_valid_records_is_counted_whatever_rule_it_names(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author, holder = network.nodes[0], network.nodes[1]
        invented = (f"rule {number}" for number in range(1 << 20))
        override(
            holder.parts.intake,
            "judge",
            lambda bundle: [Judged(StoreStatus.INVALID, next(invented)) for _ in bundle.items],
        )
        await network.add(0, [entry(1)])
        await trio.sleep(20)
        assert author.status().pending == 1
        assert author.status().counters["own_records_refused_total"] > 1

    simulate(tmp_path, (100, 100), scenario)


def test_records_that_bring_more_headers_than_a_message_takes_are_sent_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote the heads that a record names decides how large they are."""
    for module in (sim.host, dht.repair.publisher):
        monkeypatch.setattr(module, "MAX_BODY", 50_000)

    async def scenario(network: Network) -> None:
        await network.add(0, [entry(number) for number in range(150)])
        await until(lambda: network.nodes[0].status().pending == 0)
        assert not network.nodes[0].standings(), "nobody is blamed for it"

    simulate(tmp_path, (100,) * 3, scenario)
