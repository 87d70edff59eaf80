"""Kademlia over the simulated network: who holds what, whom a dead or hostile peer costs how much."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from chain import canonical
from chain.membrane import find_nonce
from dht.errors import NetworkError, PeerUnreachable, RefusalCode, RequestRefused, RequestTimeout
from dht.overlay.contact import Contact, UnpaidContactError
from dht.overlay.distance import closest
from dht.overlay.kademlia import BootstrapError, Kademlia
from dht.overlay.liveness import BACKOFF_CAP, MIN_HISTORY, TIMEOUT_CAP
from dht.overlay.neighbourhoods import ENTRY_TTL, GROWN_TTL
from dht.overlay.peer_messages import (
    EXCHANGE,
    FIND,
    MAX_FOUND,
    PING,
    encode_exchange,
    encode_find,
    encode_found,
)
from dht.overlay.reputation import BANNED_FROM
from dht.overlay.routing_table import K
from sim.links import LatencyLink
from sim.network import SimWorld, open_world
from sim.trace import Trace
from sim.virtual_clock import EPOCH_US, SimClock, run_deterministic, seeded_random
from tests.dht.people import MANIFEST, altered, identity, key, nonce_of, poor_nonce, signed

STEADY = LatencyLink(0, (5_000, 20_000), 1_000)


class Cluster:
    """Nodes of one network; number 0 is the one that the others enter through."""

    def __init__(self, world: SimWorld, silent: set[bytes]) -> None:
        self.world = world
        self.silent = silent
        """Peers whose messages the network swallows from now on."""
        self.nodes: dict[int, Kademlia] = {}

    def address(self, number: int) -> str:
        return self.world.address(identity(number).agent)

    async def start(self, number: int, capacity: int = 1, *, join: bool = True) -> Kademlia:
        host = await self.world.join(identity(number).agent, listening=capacity > 0)
        node = Kademlia(
            host,
            identity(number),
            MANIFEST,
            nonce_of(number),
            capacity,
            SimClock(),
            seeded_random(1, f"node {number}"),
        )
        host.register("echo", node.members_only(echo))
        await host.nursery.start(run, node)
        self.nodes[number] = node
        if join:
            await node.join([self.address(0)] if number else [])
        return node

    async def grow(self, count: int) -> list[Kademlia]:
        for number in range(count):
            await self.start(number)
        return list(self.nodes.values())

    def crash(self, number: int) -> None:
        self.world.crash(identity(number).agent)
        del self.nodes[number]

    def truth(self, basis: bytes, count: int) -> list[bytes]:
        contacts = [node.self_contact() for node in self.nodes.values()]
        stores = [contact for contact in contacts if contact.stores]
        return [one.agent for one in closest(basis, stores, lambda one: one.position, count)]


async def run(node: Kademlia, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    await node.run(task_status=task_status)


async def trusts(node: Kademlia, peer: bytes, then: trio.CancelScope) -> None:
    while node.is_suspect(peer):
        await node.wait_changed(node.version)
    then.cancel()


async def echo(sender: bytes, body: bytes) -> bytes:
    return sender[:1] + body


def agents(contacts: list[Contact]) -> list[bytes]:
    return [contact.agent for contact in contacts]


def play(story: Callable[[Cluster], Awaitable[None]], seed: int = 1, trace: Trace | None = None) -> None:
    silent: set[bytes] = set()

    def link(sender: bytes, receiver: bytes, size: int, rng: random.Random) -> int | None:
        return None if silent & {sender, receiver} else STEADY(sender, receiver, size, rng)

    async def main() -> None:
        async with open_world(seed, link, trace) as world:
            with trio.fail_after(20_000):
                await story(Cluster(world, silent))

    try:
        run_deterministic(main, seed=seed)
    except* AssertionError as group:
        raise group.exceptions[0] from None


async def timed(call: Callable[[], Awaitable[object]]) -> tuple[object, float]:
    start = trio.current_time()
    try:
        return await call(), trio.current_time() - start
    except NetworkError as error:
        return error, trio.current_time() - start


# -- who holds what --


def test_in_a_small_network_everybody_names_the_same_holders_without_asking() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(5)
        asker = await cluster.start(9, capacity=0)
        before = [node.counters.requests for node in [*nodes, asker]]
        for number in range(50):
            for node in [*nodes, asker]:
                assert agents(await node.holders(key(number), 3)) == cluster.truth(key(number), 3)
        assert [node.counters.requests for node in [*nodes, asker]] == before
        assert all(node.storing_nodes() == 5 for node in [*nodes, asker])

    play(story)


def test_a_node_without_capacity_is_a_member_and_in_nobodys_table() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(4)
        asker = await cluster.start(9, capacity=0)
        for node in nodes:
            assert node.is_member(asker.agent)
            assert asker.agent not in agents(node.contacts())
            assert agents(await node.holders(asker.self_contact().position, 1)) != [asker.agent]
        assert await asker.request(nodes[2].agent, "echo", b"!") == asker.agent[:1] + b"!"
        found = await nodes[1].lookup(asker.self_contact().position, K)
        assert asker.agent not in agents(found)

    play(story)


@pytest.mark.slow
def test_in_a_larger_network_holders_are_the_closest_of_all_and_lookups_are_few() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(45)
        for node in (nodes[3], nodes[44]):
            lookups = node.counters.lookups
            for number in range(300):
                assert agents(await node.holders(key(number), 3)) == cluster.truth(key(number), 3)
            assert 0 < node.counters.lookups - lookups < 30
        streamed: list[Contact] = []
        found = await nodes[7].lookup(key(1), 5, paths=3, confirmed=streamed.append)
        assert agents(found) == [a for a in cluster.truth(key(1), 6) if a != nodes[7].agent][:5]
        assert set(agents(found)) <= set(agents(streamed))

    play(story)


def test_a_node_that_appears_is_a_holder_at_once_for_all_that_it_met() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(4)
        seen = nodes[1].version
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nodes[1].wait_changed, seen)
                await cluster.start(4)
        for number in range(20):
            for node in nodes:
                assert agents(await node.holders(key(number), 2)) == cluster.truth(key(number), 2)

    play(story)


@pytest.mark.slow
def test_a_newcomer_ends_what_lookups_had_found_before_it_came() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(30)
        newcomer = signed(31, issued_us=EPOCH_US)
        for node in nodes:
            await node.holders(newcomer.position, 3)
        await cluster.start(31)
        met = [node for node in nodes if node.contact(newcomer.agent) is not None]
        assert len(met) >= K
        for node in met:
            assert agents(await node.holders(newcomer.position, 3)) == cluster.truth(newcomer.position, 3)

    play(story)


@pytest.mark.slow
def test_what_was_looked_up_while_the_network_was_small_is_not_believed_when_it_is_large() -> None:
    """Askers see few of those who come; what few nodes had answered for everything must end with that."""

    async def story(cluster: Cluster) -> None:
        old = await cluster.grow(28)
        asked = [key(number) for number in range(40)]
        for node in old[20:]:
            for basis in asked:
                assert agents(await node.holders(basis, 3)) == cluster.truth(basis, 3)
        for number in range(28, 70):
            await cluster.start(number)
        await trio.sleep(GROWN_TTL)
        assert trio.current_time() < ENTRY_TTL, "else they would have ended anyway"
        for node in old[20:]:
            for basis in asked:
                assert agents(await node.holders(basis, 3)) == cluster.truth(basis, 3)

    play(story)


@pytest.mark.slow
def test_a_message_lost_in_a_lookup_costs_a_holder_its_place_for_seconds_only() -> None:
    """Most of those whom a lookup asks are not in the table; they must come back all the same."""
    played: list[bytes] = []

    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(60)
        asker = nodes[40]
        for basis in [key(number) for number in range(8)]:
            if asker.known_holders(basis, 3) is not None:
                continue
            true = cluster.truth(basis, 3)
            lost = set(true) - {asker.agent, *agents(asker.contacts())}
            cluster.silent |= lost
            assert not lost & set(agents(await asker.holders(basis, 3)))
            cluster.silent.clear()
            lookups = asker.counters.lookups
            await trio.sleep(2 * BACKOFF_CAP)
            assert agents(await asker.holders(basis, 3)) == true
            assert asker.counters.lookups == lookups, "what was remembered answers"
            played.extend(lost)

    play(story)
    assert played


def test_asking_for_too_many_or_ourselves_is_refused() -> None:
    async def story(cluster: Cluster) -> None:
        (node,) = await cluster.grow(1)
        for count in (0, K + 1):
            with pytest.raises(ValueError, match="asked for"):
                await node.holders(key(1), count)
        with pytest.raises(ValueError, match="itself"):
            await node.request(node.agent, "echo", b"")
        assert await node.holders(key(1), 3) == [node.self_contact()]
        assert await node.lookup(key(1), 3) == []

    play(story)


# -- the dead and the slow --


def test_a_peer_that_falls_silent_costs_one_request_one_timeout_and_the_others_less() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(5)
        node, dead = nodes[0], nodes[3].agent
        for _ in range(MIN_HISTORY):
            await node.request(dead, "echo", b"")
        cluster.silent.add(dead)
        cluster.nodes.pop(3)

        outcomes: list[tuple[object, float]] = []

        async def ask() -> None:
            outcomes.append(await timed(lambda: node.request(dead, "echo", b"x")))

        patience = node.timeout(dead, "echo")
        assert patience < TIMEOUT_CAP
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
                await trio.sleep(patience / 20)
        charged = [seconds for error, seconds in outcomes if isinstance(error, RequestTimeout)]
        spared = [seconds for error, seconds in outcomes if isinstance(error, PeerUnreachable)]
        assert charged == [pytest.approx(patience)]
        assert sorted(spared) == [pytest.approx(patience * n / 20) for n in range(11, 20)]
        assert node.is_suspect(dead)
        start = trio.current_time()
        for number in range(50):
            assert agents(await node.holders(key(number), 3)) == cluster.truth(key(number), 3)
            error, seconds = await timed(lambda: node.request(dead, "echo", b"x"))
            assert isinstance(error, PeerUnreachable)
            assert seconds == 0
        assert trio.current_time() == start
        assert node.counters.suspicions == 1

        cluster.silent.clear()
        with trio.fail_after(120):
            while node.is_suspect(dead):
                await node.wait_changed(node.version)
        assert await node.request(dead, "echo", b"x") == node.agent[:1] + b"x"
        assert node.storing_nodes() == 5

    play(story)


def test_who_comes_back_and_speaks_is_trusted_at_once_however_long_it_was_gone() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(5)
        node, gone = nodes[0], nodes[3].agent
        cluster.silent.add(gone)
        await timed(lambda: node.request(gone, "echo", b""))
        await trio.sleep(1800)
        assert node.is_suspect(gone)
        cluster.silent.clear()
        with trio.fail_after(BACKOFF_CAP + 1):
            async with trio.open_nursery() as nursery:
                for one, other in ((node, gone), (nodes[3], node.agent)):
                    nursery.start_soon(trusts, one, other, nursery.cancel_scope)
        await trio.sleep(0.1)  # whoever asked first, the other needs not find out for itself
        assert not node.is_suspect(gone)
        assert not nodes[3].is_suspect(node.agent)

    play(story)


def test_a_crash_is_noticed_before_anybody_asks_and_a_restart_too() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(5)
        cluster.crash(3)
        await trio.sleep(0.5)
        for node in nodes[:3]:
            assert node.storing_nodes() == 4
            for number in range(20):
                assert agents(await node.holders(key(number), 3)) == cluster.truth(key(number), 3)
        await cluster.start(3)
        for node in nodes[:3]:
            assert node.storing_nodes() == 5
            assert await node.request(identity(3).agent, "echo", b"!") == node.agent[:1] + b"!"

    play(story)


@pytest.mark.slow
def test_lookups_past_the_dead_name_only_who_answers() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(40)
        for number in range(1, 40, 4):
            cluster.silent.add(identity(number).agent)
            cluster.nodes.pop(number)
        for number in range(12):
            assert agents(await nodes[0].holders(key(number), 3)) == cluster.truth(key(number), 3)

    play(story)


@pytest.mark.slow
def test_around_a_basis_are_the_next_nearest_and_nobody_that_was_asked_before() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(30)
        for number in range(3):
            nearest = cluster.truth(key(number), 5)
            asker = next(node for node in nodes if node.agent not in nearest)
            assert len(asker.contacts()) > K or not asker._members.knows_everyone()
            found = agents(await asker.around(key(number), nearest))
            assert not {*nearest, asker.agent} & set(found)
            assert {*cluster.truth(key(number), 15)[5:]} - {asker.agent} <= set(found)
            assert len(found) == len(set(found))

    play(story)


def test_less_patience_than_usual_and_cancellation_blame_nobody() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(3)
        slow = nodes[1].agent
        await nodes[0].request(slow, "echo", b"")
        cluster.silent.add(slow)
        with pytest.raises(RequestTimeout):
            await nodes[0].request(slow, "echo", b"", timeout=0.05)
        with trio.move_on_after(0.05):
            await nodes[0].request(slow, "echo", b"")
        assert not nodes[0].is_suspect(slow)

    play(story)


def test_who_says_good_bye_is_gone_at_once() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(5)
        await nodes[2].leave()
        cluster.crash(2)
        for node in (nodes[0], nodes[1], nodes[3], nodes[4]):
            assert nodes[2].agent not in agents(node.contacts())
            assert agents(await node.holders(key(1), 4)) == cluster.truth(key(1), 4)
            assert node.counters.suspicions == 0
        await cluster.start(2)
        assert all(node.storing_nodes() == 5 for node in cluster.nodes.values())

    play(story)


# -- joining --


def test_one_living_bootstrap_address_is_enough() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.grow(3)
        node = await cluster.start(7, join=False)
        await node.join([cluster.address(50), cluster.address(7), cluster.address(1)])
        assert node.storing_nodes() == 4

    play(story)


def test_when_nobody_lets_us_in_the_error_names_each_address_and_why() -> None:
    async def story(cluster: Cluster) -> None:
        node = await cluster.start(7, join=False)
        elsewhere = replace(MANIFEST, name="elsewhere")
        host = await cluster.world.join(identity(8).agent)
        nonce = find_nonce(elsewhere.network_id, identity(8).agent, elsewhere.join_bits)
        Kademlia(host, identity(8), elsewhere, nonce, 1, SimClock(), seeded_random(1, "8"))
        addresses = [cluster.address(50), cluster.address(8), cluster.address(7), "nonsense"]
        with pytest.raises(BootstrapError) as caught:
            await node.join(addresses)
        reasons = dict(caught.value.failures)
        assert list(reasons) == addresses
        assert "another network" in reasons[cluster.address(8)]
        assert "own address" in reasons[cluster.address(7)]
        for address in addresses:
            assert f"{address}: {reasons[address]}" in str(caught.value)
        assert node.storing_nodes() == 1

    play(story)


def test_a_node_whose_bootstrap_comes_up_later_enters_by_itself() -> None:
    async def story(cluster: Cluster) -> None:
        early = await cluster.start(1, join=False)
        with pytest.raises(BootstrapError):
            await early.join([cluster.address(0)])
        await cluster.start(0)
        with trio.fail_after(120):
            while early.storing_nodes() < 2:
                await early.wait_changed(early.version)

    play(story)


def test_a_nonce_that_does_not_pay_is_refused_on_both_sides() -> None:
    async def story(cluster: Cluster) -> None:
        (node,) = await cluster.grow(1)
        host = await cluster.world.join(identity(7).agent)
        unpaid = next(n for n in range(1000) if n != nonce_of(7))
        with pytest.raises(UnpaidContactError):
            Kademlia(host, identity(7), MANIFEST, unpaid, 1, SimClock(), seeded_random(1, "7"))
        await host.dial(cluster.address(0), 5)
        record = signed(7, nonce=unpaid, issued_us=EPOCH_US).data
        with pytest.raises(RequestRefused, match="pays 1 bits"):
            await host.request(node.agent, EXCHANGE, encode_exchange(record), 5)
        assert not node.is_member(identity(7).agent)

    play(story)


# -- members and strangers --


@asynccontextmanager
async def stranger(cluster: Cluster, number: int) -> AsyncIterator[Callable[[str, bytes], Awaitable[bytes]]]:
    """A host without Kademlia, connected to node 0."""
    host = await cluster.world.join(identity(number).agent)
    peer = await host.dial(cluster.address(0), 5)
    yield lambda method, body: host.request(peer, method, body, 5)
    await host.aclose()


def test_strangers_are_forbidden_until_they_show_their_own_record() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.grow(2)
        async with stranger(cluster, 7) as ask:
            for method in ("echo", PING):
                with pytest.raises(RequestRefused) as refused:
                    await ask(method, b"")
                assert refused.value.code == RefusalCode.FORBIDDEN
            with pytest.raises(RequestRefused, match="another agent"):
                await ask(EXCHANGE, encode_exchange(cluster.nodes[1].self_contact().data))
            record = signed(7, issued_us=EPOCH_US).data
            reply = await ask(EXCHANGE, encode_exchange(record))
            assert reply == encode_exchange(cluster.nodes[0].self_contact().data)
            assert await ask("echo", b"!") == identity(7).agent[:1] + b"!"

    play(story)


def test_a_find_introduces_the_asker_and_names_others_only() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.grow(4)
        async with stranger(cluster, 7) as ask:
            record = signed(7, issued_us=EPOCH_US).data
            reply = await ask(FIND, encode_find(key(1), record))
            others = [cluster.nodes[number].self_contact() for number in (1, 2, 3)]
            nearest = closest(key(1), others, lambda one: one.position, MAX_FOUND)
            assert reply == encode_found([one.data for one in nearest])
            assert cluster.nodes[0].is_member(identity(7).agent)

    play(story)


def test_who_has_lost_our_record_is_shown_it_again() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(2)
        await trio.sleep(30)
        nodes[1]._members.book.forget(nodes[0].agent)
        nodes[1]._members.table.remove(nodes[0].agent)
        assert await nodes[0].request(nodes[1].agent, "echo", b"!") == nodes[0].agent[:1] + b"!"
        assert nodes[1].counters.forbidden == 1

    play(story)


# -- the hostile --

GARBAGE = [
    b"",
    b"\xc1garbage",
    canonical.encode("text"),
    canonical.encode([b"x" * 5000]),
    canonical.encode([b"not a record"] * 20),
    canonical.encode([b""] * 21),
    bytes(1 << 20),
    encode_found([signed(5, issued_us=EPOCH_US, nonce=poor_nonce(5)).data]),
    encode_found([altered(signed(5, issued_us=EPOCH_US).data)]),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_counted_against_its_sender_who_is_banned_in_the_end(garbage: bytes) -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(3)
        host = await cluster.world.join(identity(6).agent)
        record = signed(6, issued_us=EPOCH_US, hosts=(host.addresses[0].split("/")[2],)).data

        async def answer_garbage(_sender: bytes, _body: bytes) -> bytes:
            return garbage

        async def answer_exchange(_sender: bytes, _body: bytes) -> bytes:
            return encode_exchange(record)

        host.register(FIND, answer_garbage)
        host.register(EXCHANGE, answer_exchange)
        await host.dial(cluster.address(0), 5)
        await host.request(nodes[0].agent, EXCHANGE, encode_exchange(record), 5)
        assert host.local in agents(nodes[0].contacts())
        for _ in range(int(BANNED_FROM) + 1):
            assert agents(await nodes[0].lookup(key(1), K))[:1] != [b""]
        assert nodes[0].counters.bad_answers >= BANNED_FROM
        assert nodes[0].is_suspect(host.local)
        assert host.local not in agents(await nodes[0].holders(key(1), K))
        with pytest.raises(RequestRefused, match="banned"):
            await host.request(nodes[0].agent, EXCHANGE, encode_exchange(record), 5)
        with pytest.raises(PeerUnreachable, match="banned"):
            await nodes[0].request(host.local, "echo", b"")
        await trio.sleep(600)
        assert await host.request(nodes[0].agent, EXCHANGE, encode_exchange(record), 5)

    play(story)


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_asked_is_refused(body: bytes) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.grow(1)
        async with stranger(cluster, 7) as ask:
            for method in (EXCHANGE, FIND):
                with pytest.raises(RequestRefused):
                    await ask(method, body)

    play(story)


def test_a_flood_of_names_leaves_bounded_state() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(2)
        host = await cluster.world.join(identity(6).agent)
        record = signed(6, issued_us=EPOCH_US, hosts=(host.addresses[0].split("/")[2],)).data
        names = iter(range(1000, 10_000))

        async def name_the_dead(_sender: bytes, _body: bytes) -> bytes:
            return encode_found([signed(next(names), issued_us=EPOCH_US).data for _ in range(MAX_FOUND)])

        async def answer_exchange(_sender: bytes, _body: bytes) -> bytes:
            return encode_exchange(record)

        host.register(FIND, name_the_dead)
        host.register(EXCHANGE, answer_exchange)
        await host.dial(cluster.address(0), 5)
        await host.request(nodes[0].agent, EXCHANGE, encode_exchange(record), 5)
        for number in range(5):
            found = agents(await nodes[0].lookup(key(number), K))
            assert sorted(found) == sorted([nodes[1].agent, host.local])
        assert len(nodes[0].contacts()) == 2, "hearsay gets no place in the table"

    play(story)


# -- upkeep --


@pytest.mark.slow
def test_a_quiet_network_stays_whole_for_hours_on_little_traffic() -> None:
    hours = 3
    trace = Trace()

    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(5)
        asker = await cluster.start(9, capacity=0)
        records = [node.self_contact() for node in nodes]
        await trio.sleep(hours * 3600)
        for node in nodes:
            assert node.storing_nodes() == 5
            assert all(node.is_member(other.agent) for other in nodes if other is not node)
            assert node.counters.suspicions == 0
        assert asker.storing_nodes() == 5
        assert all(node.self_contact().newer_than(old) for node, old in zip(nodes, records, strict=True))

    play(story, trace=trace)
    requests = sum(counts.requests for counts in trace.methods().values())
    per_node_and_minute = requests / 6 / (hours * 60)
    assert per_node_and_minute < 10


def test_a_changed_record_reaches_the_others_within_seconds() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(3)
        seen = nodes[0].version
        nodes[1].update_self(full=True, capacity=7)
        with trio.fail_after(10):
            await nodes[0].wait_changed(seen)
        contact = nodes[0].contact(nodes[1].agent)
        assert contact is not None
        assert (contact.full, contact.capacity) == (True, 7)
        nodes[1].update_self(capacity=0)
        await trio.sleep(10)
        assert nodes[0].storing_nodes() == 2
        assert nodes[1].agent not in agents(await nodes[1].holders(key(1), 3))

    play(story)


def test_a_partition_heals_on_both_sides() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(5)
        cluster.silent.update(node.agent for node in nodes)
        await trio.sleep(1200)
        assert all(node.storing_nodes() == 1 for node in nodes)
        cluster.silent.clear()
        await trio.sleep(120)
        assert all(node.storing_nodes() == 5 for node in nodes)

    play(story)


@pytest.mark.slow
def test_the_same_seed_takes_the_same_steps() -> None:
    async def story(cluster: Cluster) -> None:
        nodes = await cluster.grow(24)
        cluster.crash(5)
        for number in range(20):
            await nodes[2].holders(key(number), 3)
        await trio.sleep(12)

    traces = [Trace(), Trace(), Trace()]
    for trace, seed in zip(traces, (1, 1, 2), strict=True):
        play(story, seed, trace)
    assert traces[0].hexdigest() == traces[1].hexdigest() != traces[2].hexdigest()
