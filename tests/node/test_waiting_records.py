"""Records that cannot be judged yet wait and are judged when they can be; what becomes of them is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from chain import canonical
from chain.cid import Cid, record_cid
from chain.content import Content
from chain.kinds import CREATE, DELETE, EDIT
from chain.membrane import find_nonce
from chain.record import Record
from chain.source_chain import Draft, Head
from dht.overlay.kademlia import Kademlia
from dht.records.bundle import Item, bundle_value
from dht.records.placement import Role
from dht.records.replies import StoreStatus, read_statuses
from sim.virtual_clock import SimClock, seeded_random
from tests.dht.authors import Author, forged
from tests.node.simulated_nodes import Network, identity, simulate, until

CODES = b"\x7f" + bytes(7)
SENDER = identity(7)


@pytest.mark.slow
def test_what_cannot_be_judged_yet_waits_and_nothing_goes_silently(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        manifest, node = network.founding.manifest, network.nodes[0]
        author = Author(1, manifest, SimClock().wall_us())
        records = [author.create(f"entry {number}", CODES) for number in range(6)]
        draft = Draft(CREATE, Content("from the future", CODES).to_body())
        ahead = author.append(draft, SimClock().wall_us() + 120_000_000)
        nobody_has = record_cid(b"nothing")
        author.head = Head(50, nobody_has, 50, SimClock().wall_us())
        orphan = author.create("after what nobody has", CODES)

        host = await network.world.join(SENDER.agent)
        nonce = find_nonce(manifest.network_id, SENDER.agent, manifest.join_bits)
        sender = Kademlia(host, SENDER, manifest, nonce, 0, SimClock(), seeded_random(1, "sender"))
        await sender.join([network.world.address(node.agent)])
        asked = 0

        async def serve(_agent: bytes, _body: bytes) -> bytes:
            nonlocal asked
            asked += 1
            return canonical.encode(bundle_value([], [], [Item(records[4].without_payload(), 0)]))

        host.register("record.fetch", serve)

        async def store(*sent: Record) -> list[StoreStatus]:
            roles = int(Role.SUBJECT | Role.SHARD)
            body = canonical.encode(bundle_value([author.opening], [], [Item(one, roles) for one in sent]))
            return [
                one
                for one, _ in read_statuses(await sender.request(node.agent, "record.store", body), len(sent))
            ]

        profile = author.records[2].without_payload()
        # What it names comes later, from anybody.
        assert await store(records[1], records[2]) == [StoreStatus.PENDING, StoreStatus.HELD]
        assert node.status().waiting == {"pending": 1, "parked": 0}
        body = canonical.encode(bundle_value([author.opening], [profile], [Item(records[0], 1)]))
        await sender.request(node.agent, "record.store", body)
        await until(lambda: node.holds(records[1].cid))
        # What it names is fetched, from the sender first.
        assert await store(records[5]) == [StoreStatus.PENDING]
        await until(lambda: node.holds(records[5].cid))
        assert asked
        # A clock that runs ahead is waited for, and never makes a record invalid.
        assert await store(ahead) == [StoreStatus.PARKED]
        assert not node.holds(ahead.cid)
        await until(lambda: node.holds(ahead.cid), within_s=200.0)
        # One bad record in a batch costs that record; what nobody has is given up and counted.
        assert await store(forged(records[3]), orphan, records[3]) == [
            StoreStatus.INVALID,
            StoreStatus.PENDING,
            StoreStatus.HELD,
        ]
        assert node.status().refused == {"signature": 1}
        assert node.status().waiting["pending"] == 1
        await until(lambda: node.status().waiting["pending"] == 0, within_s=700.0)
        assert node.status().refused == {"pending-expired": 1, "signature": 1}

    simulate(tmp_path, (100,), scenario)


@pytest.mark.slow
def test_records_that_name_thousands_of_others_and_become_ready_at_once_are_all_held(tmp_path: Path) -> None:
    """Sixty-four records, judged in one go, name more headers than one transaction takes."""

    async def scenario(network: Network) -> None:
        manifest, node = network.founding.manifest, network.nodes[0]
        author, other = (Author(number, manifest, SimClock().wall_us()) for number in (1, 2))
        create = author.create("what all of it is about", CODES)
        deletes: list[Record] = []
        heads: dict[Cid, list[Record]] = {}
        before: Cid | None = None
        for number in range(64):
            seen = [
                author.signed(create, kind=EDIT, subject=create.cid, subject_seq=1, seq=4 + 64 * number + one)
                for one in range(64)
            ]
            deps = tuple(sorted(head.cid for head in seen))
            lamport, hlc = create.header.lamport, create.header.hlc
            body = {"seen": list(deps[:1])}
            draft = Draft(DELETE, body, create.cid, number, before, deps, lamport, hlc)
            deletes.append(other.append(draft))
            before = deletes[-1].cid
            heads[before] = seen

        host = await network.world.join(SENDER.agent)
        nonce = find_nonce(manifest.network_id, SENDER.agent, manifest.join_bits)
        sender = Kademlia(host, SENDER, manifest, nonce, 0, SimClock(), seeded_random(1, "sender"))
        await sender.join([network.world.address(node.agent)])

        async def store(items: list[Record], headers: list[Record]) -> set[StoreStatus]:
            value = bundle_value([author.opening, other.opening], headers, [Item(one, 1) for one in items])
            reply = await sender.request(node.agent, "record.store", canonical.encode(value), 30.0)
            return {status for status, _ in read_statuses(reply, len(items))}

        for start in range(0, 64, 16):
            part = deletes[start : start + 16]
            named = [head for one in part for head in heads[one.cid]]
            named.append(other.records[2 + start])
            assert await store(part, named) == {StoreStatus.PENDING}
        assert node.status().waiting["pending"] == 64
        assert await store([create], [author.records[2]]) == {StoreStatus.HELD}
        await until(lambda: all(node.holds(one.cid) for one in deletes))
        assert all(node.holds(head.cid) for seen in heads.values() for head in seen)

    simulate(tmp_path, (100,), scenario)
