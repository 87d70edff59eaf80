"""Hostile holders of a learning task: what they list and do not send, or send and was not asked for, costs
one request, not hundreds."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from chain import canonical
from dht.records.basis import subject_basis
from tests.node.learners import engagement, join_all, publish
from tests.node.simulated_nodes import Network, identity, override, simulate


def test_a_holder_that_lists_what_it_does_not_send_is_left_after_one_request(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [0, 1])
        liar = network.nodes[2]
        invented = sorted(sha256(bytes([number % 256, number // 256])).digest() for number in range(4096))
        fetches = 0

        async def digests(_sender: bytes, body: bytes) -> bytes:
            return canonical.encode([[4096, bytes(32)] for _ in canonical.decode(body, 1 << 20)])

        async def listed(_sender: bytes, body: bytes) -> bytes:
            _, after, _ = canonical.decode(body, 1 << 20)
            return canonical.encode(b"".join(invented) if after is None else b"")

        async def fetch(_sender: bytes, _body: bytes) -> bytes:
            nonlocal fetches
            fetches += 1
            return canonical.encode([[], [], []])

        handlers = liar.parts.network._handlers  # type: ignore[attr-defined]
        lies = {"record.digests": digests, "record.cids": listed, "record.fetch": fetch}
        override(liar.parts.network, "_handlers", {**handlers, **lies})
        post = engagement(network, 1, task)._tools.post
        basis = subject_basis(task)
        holders = await network.nodes[1].kademlia.holders(basis, 3)
        assert identity(2).agent in [contact.agent for contact in holders]
        before = network.nodes[1].kademlia.counters.bad_answers
        await post.poll(task, True, 0)
        assert fetches <= 2, "4,096 invented records are 32 requests of 128"
        assert network.nodes[1].kademlia.counters.bad_answers > before

    simulate(tmp_path, [100] * 3, scenario)


@pytest.mark.slow
def test_a_holder_that_pads_a_task_with_other_records_is_left_after_one_page(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [0])
        liar, reader = network.nodes[2], network.nodes[1]
        pages = 0
        opening = liar.parts.own.opening()
        assert opening is not None
        value, _ = liar.parts.records.bundle(opening)

        async def at(_sender: bytes, _body: bytes) -> bytes:
            nonlocal pages
            pages += 1
            return canonical.encode([True, value])

        handlers = liar.parts.network._handlers  # type: ignore[attr-defined]
        override(liar.parts.network, "_handlers", {**handlers, "record.at": at})
        before = reader.kademlia.counters.bad_answers
        view = await reader.learning.task(task)
        assert view.id == task
        assert pages == 1
        assert reader.kademlia.counters.bad_answers == before + 1

    simulate(tmp_path, [100] * 3, scenario)
