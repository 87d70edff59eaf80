"""Hostile holders of a learning task: what they list and do not send, or send and was not asked for, costs
one request, not hundreds."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import trio

from chain import canonical
from chain.cid import record_cid
from dht.records.basis import subject_basis
from federated.errors import WrongState
from federated.messages import DELIVER
from node.storage.errors import DiskFull
from tests.node.learners import engagement, initial, join_all, publish, soon
from tests.node.simulated_nodes import Network, identity, override, simulate, until


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


def test_a_delivery_of_what_is_no_record_or_of_no_such_task_counts_against_its_sender(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [1])
        sender, receiver = network.nodes[2], network.nodes[1]
        opening = sender.parts.own.opening()
        assert opening is not None
        openings, headers, items = sender.parts.records.bundle(opening)[0]
        for padding in (items[:1], [[b"no record", 0]], [[b"", 0]]):
            before = receiver.kademlia.counters.bad_answers
            body = canonical.encode([task, [openings, headers, padding]])
            assert await sender.kademlia.request(receiver.agent, DELIVER, body) == canonical.encode([])
            assert receiver.kademlia.counters.bad_answers == before + 1
            receiver.pardon(sender.agent)

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


def test_a_holder_that_says_nothing_of_a_task_holds_up_no_other_task(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await until(lambda: not any(node.status().pending for node in network.nodes.values()))

        asked = trio.Event()

        async def silent(_sender: bytes, _body: bytes) -> bytes:
            asked.set()
            await trio.sleep_forever()
            raise AssertionError

        for number in (0, 2):
            handlers = network.nodes[number].parts.network._handlers  # type: ignore[attr-defined]
            override(network.nodes[number].parts.network, "_handlers", {**handlers, "record.fetch": silent})
        learning = network.nodes[1].learning
        async with trio.open_nursery() as nursery:
            nursery.start_soon(learning.observe, record_cid(b"asked for in vain"))
            await asked.wait()
            with trio.fail_after(1.0):  # of virtual time
                await learning.join(task)
            nursery.cancel_scope.cancel()

    simulate(tmp_path, [100] * 3, scenario)


def test_an_update_that_cannot_be_promised_for_want_of_a_disk_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        node = network.nodes[0]
        task = await publish(node, min_members=1)
        await join_all(network, task, [0])
        await soon(lambda: engagement(network, 0, task).round is not None)
        info = await node.blobs.put(initial())

        async def full(*_arguments: object) -> None:
            raise DiskFull(tmp_path / "chain.db", "database or disk is full")

        override(node.parts.own, "append", full)
        with trio.fail_after(60.0), pytest.raises(WrongState, match="disk"):
            await node.learning.hand_in(task, 1, info.cid, 10, {})

    simulate(tmp_path, [100], scenario)
