"""Catching up: exactly what is missing is fetched, from whoever has it, and liars cannot stop it.

Whole nodes in virtual time; a liar is a node whose held records are listed or served differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from chain import canonical
from chain.cid import Cid, record_cid_of_digest
from chain.record import Record, decode_record
from dht.errors import RefusalCode, RequestRefused
from dht.records.bundle import bundle_value
from dht.records.methods import MAX_AT, MAX_CIDS
from dht.repair.catch_up import SETTLE_MOST_S, SETTLE_S, settle_s
from node.node import Node
from sim.host import SimNetwork
from tests.dht.authors import forged
from tests.node.simulated_nodes import (
    SHARDS,
    FaultyLink,
    Network,
    identity,
    override,
    shown,
    simulate,
    until,
    vector,
)

QUERY = vector(4_000)
NEWCOMER = 5


def requests_made(network: Network) -> dict[str, int]:
    """By method, so far."""
    return {name: counts.requests for name, counts in network.world.trace.methods().items()}


def content(node: Node) -> set[Cid]:
    """What a node holds in its shards."""
    return {cid for shard in SHARDS for cid in node.parts.held.cids_at(shard.basis(), None, 10_000)}


async def join_without_authors(network: Network) -> Node:
    """60 entries at three holders; one of them goes and a newcomer takes its place, to whom nobody sends."""
    await network.fill(60, authors=(0, 1, 2))
    await network.crash(2)
    return await network.start(NEWCOMER)


@pytest.mark.slow
def test_what_differs_is_fetched_once_and_then_nothing_more(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        newcomer = await join_without_authors(network)
        await until(lambda: newcomer.status().shards_held == 64)
        assert content(newcomer) == set(network.entries)
        assert newcomer.status().counters["records_caught_up_total"] == 60
        await trio.sleep(30)
        before = requests_made(network)
        await trio.sleep(600)
        after = requests_made(network)
        assert after["record.digests"] > before["record.digests"]
        assert after["record.cids"] == before["record.cids"]
        assert after["record.fetch"] == before["record.fetch"]

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.slow
def test_former_holders_that_stay_behind_are_not_listed_again(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(60, authors=(0, 1, 2))
        await network.start(NEWCOMER)
        await network.settle()
        await network.fill(60, authors=(0, 1, 2), seed=100)
        await trio.sleep(120)
        behind = [
            shard
            for shard in SHARDS
            if len({n.parts.held.digest_of(shard.basis()) for n in network.nodes.values()}) > 1
        ]
        assert behind
        before = requests_made(network)
        await trio.sleep(600)
        after = requests_made(network)
        assert after["record.digests"] > before["record.digests"]
        assert after["record.cids"] == before["record.cids"]

    simulate(tmp_path, (100, 100, 100), scenario)


def test_a_shard_is_not_complete_before_somebody_agreed(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        newcomer = await join_without_authors(network)
        for number in (0, 1):
            override(
                network.nodes[number].parts.records, "bundle", lambda *_, **__: (bundle_value([], [], []), 0)
            )
        await trio.sleep(5)
        filled = [shard for shard in SHARDS if network.nodes[0].parts.held.digest_of(shard.basis())[0]]
        assert len(filled) > 30
        assert not any(newcomer.parts.catch_up.is_complete(shard) for shard in filled)

    simulate(tmp_path, (100, 100, 100), scenario)


def test_a_shard_that_is_dropped_during_a_round_is_not_complete_after_it(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        catch_up = network.nodes[0].parts.catch_up
        assert all(map(catch_up.is_complete, SHARDS))
        compare = catch_up._compare

        async def drop_first(*arguments: Any) -> None:
            catch_up.dropped(SHARDS[0].basis())
            await compare(*arguments)

        override(catch_up, "_compare", drop_first)
        await catch_up.round()
        assert [shard for shard in SHARDS if not catch_up.is_complete(shard)] == [SHARDS[0]]

    simulate(tmp_path, (100, 100), scenario)


def lists_what_it_does_not_have(liar: Node) -> None:
    override(
        liar.parts.held,
        "cids_at",
        lambda basis, after, limit: [
            record_cid_of_digest(bytes([n % 256]) * 32) for n in range(min(limit, 200))
        ],
    )
    override(liar.parts.held, "digest_of", lambda basis: (1, b"\1" * 32))


def lists_without_end(liar: Node) -> None:
    def cids_at(_: bytes, after: Cid | None, limit: int) -> list[Cid]:
        start = 0 if after is None else int.from_bytes(after[-32:], "big") + 1
        return [record_cid_of_digest((start + n).to_bytes(32, "big")) for n in range(min(limit, MAX_CIDS))]

    override(liar.parts.held, "cids_at", cids_at)
    override(liar.parts.held, "digest_of", lambda basis: (2**62, b"\1" * 32))


def lists_in_disorder(liar: Node) -> None:
    honest = liar.parts.held.cids_at
    override(liar.parts.held, "cids_at", lambda *args: honest(*args)[::-1] * 2)


def lists_everything_twice(liar: Node) -> None:
    honest = liar.parts.held.cids_at
    override(liar.parts.held, "cids_at", lambda *args: [cid for cid in honest(*args) for _ in range(2)])


def serves_forgeries(liar: Node) -> None:
    honest = liar.parts.records.bundle

    def bundle(records: Sequence[Record], *, named: bool = True) -> tuple[list[Any], int]:
        value, sent = honest(records, named=named)
        value[2] = [[roles, forged(decode_record(raw)).encode()] for roles, raw in value[2]]
        return value, sent

    override(liar.parts.records, "bundle", bundle)


def serves_headers_alone(liar: Node) -> None:
    honest = liar.parts.records.bundle

    def bundle(records: Sequence[Record], *, named: bool = True) -> tuple[list[Any], int]:
        value, sent = honest(records, named=named)
        value[2] = [[roles, decode_record(raw).without_payload().encode()] for roles, raw in value[2]]
        return value, sent

    override(liar.parts.records, "bundle", bundle)


def serves_garbage(liar: Node) -> None:
    override(liar.parts.records, "bundle", lambda *_, **__: ([1, 2, 3], 0))


def has_strange_digests(liar: Node) -> None:
    override(liar.parts.held, "digest_of", lambda basis: ("many", 3))


@pytest.mark.parametrize(
    "lie",
    [
        lists_what_it_does_not_have,
        pytest.param(lists_without_end, marks=pytest.mark.slow),
        pytest.param(lists_in_disorder, marks=pytest.mark.slow),
        pytest.param(lists_everything_twice, marks=pytest.mark.slow),
        serves_forgeries,
        pytest.param(serves_headers_alone, marks=pytest.mark.slow),
        pytest.param(serves_garbage, marks=pytest.mark.slow),
        pytest.param(has_strange_digests, marks=pytest.mark.slow),
    ],
    ids=lambda lie: lie.__name__,
)
def test_a_lying_fellow_holder_is_blamed_and_the_honest_one_suffices(tmp_path: Path, lie: Any) -> None:
    async def scenario(network: Network) -> None:
        lie(network.nodes[1])
        newcomer = await join_without_authors(network)
        await until(lambda: content(newcomer) >= set(network.entries), 60)
        assert content(newcomer) == set(network.entries)
        assert newcomer.status().counters["kademlia_bad_answers_total"] > 0
        await until(lambda: newcomer.status().shards_held == 64, 60)
        for record in newcomer.parts.held.get_many(sorted(network.entries)):
            assert record is not None
            assert record.signature != bytes(64)
        await network.crash(0)
        answer = await network.ask(NEWCOMER, QUERY)
        assert shown(answer) == network.best(QUERY, 10)

    slower = FaultyLink(slow_us={identity(0).agent: 50_000})  # the liar is heard first
    simulate(tmp_path, (100, 100, 100), scenario, slower)


@pytest.mark.parametrize("silent", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_fellow_holder_that_will_not_compare_is_not_waited_for_for_ever(
    tmp_path: Path, silent: bool
) -> None:
    async def scenario(network: Network) -> None:
        async def refuse(*_: object) -> bytes:
            if silent:
                await trio.sleep_forever()
            raise RequestRefused(RefusalCode.FORBIDDEN, "no")

        host = network.nodes[1].parts.network
        assert isinstance(host, SimNetwork)
        host._handlers["record.digests"] = refuse
        newcomer = await join_without_authors(network)
        await trio.sleep(5)
        assert newcomer.status().shards_held < 64, "nobody had to be waited for"
        await until(lambda: newcomer.status().shards_held == 64)
        assert content(newcomer) == set(network.entries)

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("record.digests", canonical.encode([b"short"])),
        ("record.digests", canonical.encode([bytes(32)] * 257)),
        ("record.cids", canonical.encode([bytes(32), None, 0])),
        ("record.cids", canonical.encode([bytes(32), b"no cid", 1])),
        ("record.at", canonical.encode([bytes(31), None, 1])),
        ("record.fetch", canonical.encode([bytes(32)] * 129)),
        ("record.fetch", canonical.encode({"a": 1})),
        ("record.prove", canonical.encode([bytes(15), []])),
        ("record.prove", canonical.encode([bytes(16), [[bytes(32), True]] * 257])),
        ("record.prove", canonical.encode([bytes(16), [[bytes(31), True]]])),
        ("record.prove", canonical.encode([bytes(16), [[bytes(32), 1]]])),
        ("record.prove", canonical.encode([bytes(16)])),
        ("record.attest", canonical.encode([])),
        ("record.attest", canonical.encode([bytes(32), bytes(32)])),
        ("record.attest", canonical.encode([bytes([n]) * 32 for n in range(65)])),
        ("record.attest", canonical.encode([bytes(31)])),
        ("agent.links", canonical.encode([bytes(32), b""])),
        ("agent.links", canonical.encode([bytes(32), bytes(33)])),
        ("agent.links", canonical.encode([bytes(31), bytes(32)])),
        ("agent.links", canonical.encode([bytes(32), bytes(32 * 513)])),
        ("record.prove", canonical.encode([bytes(16), [[bytes(32), True]], 1])),
        ("record.prove", canonical.encode([bytes(16), [[bytes(32), True]], True, True])),
        ("record.fetch", b"\xc1"),
    ],
)
def test_requests_out_of_bounds_are_refused(tmp_path: Path, method: str, body: bytes) -> None:
    async def scenario(network: Network) -> None:
        with pytest.raises(Exception, match="bad_request"):
            await network.nodes[1].kademlia.request(network.nodes[0].agent, method, body)
        assert network.nodes[0].status().shards_held == 64

    simulate(tmp_path, (100, 0), scenario)


@pytest.mark.parametrize(("method", "most"), [("record.at", MAX_AT), ("record.cids", MAX_CIDS)])
def test_no_page_is_longer_than_the_limit_whatever_is_asked_for(
    tmp_path: Path, method: str, most: int
) -> None:
    async def scenario(network: Network) -> None:
        limits: list[int] = []

        def cids_at(_basis: bytes, _after: Cid | None, limit: int) -> list[Cid]:
            limits.append(limit)
            return []

        override(network.nodes[0].parts.held, "cids_at", cids_at)
        for asked in (1, most, most + 1, 2**40):
            body = canonical.encode([bytes(32), None, asked])
            await network.nodes[1].kademlia.request(network.nodes[0].agent, method, body)
        assert limits == [1, most, most, most]

    simulate(tmp_path, (100, 0), scenario)


def test_however_long_a_network_is_uneasy_the_wait_has_bounds() -> None:
    waits = [settle_s(hasty) for hasty in (*range(10), 1_024, 1_100, 10**9)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (SETTLE_S, SETTLE_MOST_S)
