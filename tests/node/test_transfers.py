"""What moves between holders while one is in trouble: it is left alone, nothing is lost, and it gets all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from chain.cid import Cid
from chain.identity import AgentId
from dht.network import PeerId
from dht.records.layouts import ASK_S
from dht.records.record_store import Held
from dht.repair import migration
from dht.repair.circuit import FAILURES
from node.node import Node
from tests.node.simulated_nodes import Network, override, until
from tests.node.test_shard_life import Work, leaves, settled, simulate

HANGS_S = 300.0
ASKED_AT_MOST = FAILURES + 20
"""Times that one node sends records to a holder that hangs so long: a pause and a timeout are some 30 s."""


def stuck_disk(node: Node, mended: trio.Event) -> None:
    """It answers all that it can read, and writes nothing until it is `mended`."""
    hold: Callable[[Sequence[Held]], Awaitable[None]] = node.parts.held.hold

    async def hang(items: Sequence[Held]) -> None:
        await mended.wait()
        await hold(items)

    override(node.parts.held, "hold", hang)


def counted(node: Node, asked: Counter[tuple[AgentId, str]]) -> None:
    """Count what this node asks of others, by whom it asks and for what."""
    request = node.parts.network.request

    async def counting(peer: PeerId, method: str, body: bytes, timeout: float) -> bytes:
        asked[peer, method] += 1
        return await request(peer, method, body, timeout)

    override(node.parts.network, "request", counting)


@pytest.mark.slow
def test_a_holder_that_hangs_while_shards_move_is_left_alone_and_then_gets_all(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        work = Work(network)
        await work.fill(24)
        await until(lambda: bool(leaves(network.nodes[0])), ASK_S, every_s=1.0)
        sick, *others = (network.nodes[number] for number in (0, 1, 2, 3))
        mended = trio.Event()
        asked = {node.agent: Counter[tuple[AgentId, str]]() for node in others}
        try:
            stuck_disk(sick, mended)
            for node in others:
                counted(node, asked[node.agent])
            began = trio.current_time()
            while trio.current_time() < began + HANGS_S:
                await trio.sleep(30.0)
                assert await work.ask() == set()
            sent = [asked[node.agent][sick.agent, "record.store"] for node in others]
            assert 0 < max(sent) <= ASKED_AT_MOST
            most = others[sent.index(max(sent))]
            assert most.parts.transfers.opened, "who hardly had anything for it need not have found out"
            assert any(node.parts.migration.left for node in others)
            assert not any(node.parts.migration.dropped for node in others), "not while a copy is missing"
        finally:
            mended.set()
        await until(lambda: settled(network), 3 * ASK_S, every_s=1.0)
        assert await work.ask(0) == set()
        assert not any(node.parts.transfers.open for node in others)

    simulate(tmp_path, 4, scenario)


@pytest.mark.slow
def test_a_node_that_is_restarted_goes_on_moving_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed in the middle of a former shard; what had got to its new place is not brought again."""
    monkeypatch.setattr(migration, "BATCH", 5)
    brought: list[Cid] = []

    def watched(node: Node, stop: trio.Event | None = None) -> None:
        bring = node.parts.offers.bring

        async def noting(entries: Sequence[Cid]) -> object:
            if stop is not None and len(brought) >= 10:
                stop.set()
                await trio.sleep_forever()
            found = await bring(entries)
            brought.extend(entries)
            return found

        override(node.parts.offers, "bring", noting)

    async def scenario(network: Network) -> None:
        work = Work(network)
        await work.fill(40)
        stopped = trio.Event()
        watched(network.nodes[0], stopped)
        with trio.fail_after(4 * ASK_S):
            await stopped.wait()
        first = list(brought)
        assert network.nodes[0].parts.held.moves()
        brought.clear()
        await network.crash(0)
        node = await network.start(0)
        watched(node)
        assert await work.ask() == set()
        await until(lambda: len(node.parts.held.moves()) == 0 and bool(brought), 4 * ASK_S, every_s=1.0)
        assert not set(brought) & set(first)
        await until(lambda: settled(network), 4 * ASK_S, every_s=1.0)
        assert await work.ask(3) == set()

    simulate(tmp_path, 4, scenario)
