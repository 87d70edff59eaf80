"""A peer that was written from docs/protocol.md alone is a member of a network of real daemons."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.node.real_daemons import SECONDS, Daemon, Daemons
from tests.protocol.second_format import (
    AUTHOR,
    SHARD,
    SUBJECT,
    Record,
    author_basis,
    bases_of,
    canonical,
    cid_text,
    digest_of,
    peer_id,
    value_of,
)
from tests.protocol.second_peer import Peer, proof
from tests.protocol.second_ranges import range_item
from tests.protocol.second_wire import Declined

pytestmark = pytest.mark.slow
BAD_REQUEST, FORBIDDEN, UNKNOWN_METHOD = 3, 4, 1
EAST, NORTH = bytes([127, 0, 0, 1]), bytes([0, 127, 0, 129])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The founder of a network without an atlas, on loopback."""
    daemons = Daemons(tmp_path_factory.mktemp("second"))
    try:
        yield daemons.run(daemons.home("first", "--vectors", "4"))
    finally:
        daemons.close()


def place_of(daemon: Daemon) -> tuple[str, int]:
    """Where a daemon listens."""
    _, _, host, _, port, *_ = daemon.address.split("/")
    return host, int(port)


def refusal(peer: Peer, method: str, body: bytes) -> int:
    """The code by which a request is refused."""
    with pytest.raises(Declined) as declined:
        peer.connection.ask(method, body)
    return declined.value.code


def test_it_joins_stores_and_finds_beside_a_real_daemon(daemon: Daemon) -> None:
    theirs = daemon.ask("POST", "/v1/entries", {"text": "north", "vector": [0, 1, 0, -1]}).value["id"]
    peer = Peer(place_of(daemon), bytes(range(32)), time.time_ns() // 1_000)
    with peer.connection:
        # a stranger gets nothing but hello
        assert refusal(peer, "clock", b"") == FORBIDDEN
        forged = peer.address[:-1] + bytes([peer.address[-1] ^ 1])
        assert refusal(peer, "peer.exchange", canonical([forged])) == FORBIDDEN
        assert daemon.address in peer.enter()[2]
        assert refusal(peer, "no.such", b"") == UNKNOWN_METHOD
        assert refusal(peer, "record.fetch", canonical(["x"])) == BAD_REQUEST
        find = canonical([bytes(32), peer.address])
        asked = [("peer.ping", canonical([])), ("clock", b""), ("peer.find", find)]
        begun = [peer.connection.begin(*one) for one in asked]
        found, clock, pong = (value_of(peer.connection.answer(one)) for one in reversed(begun))
        assert (found, pong, clock >= peer.now) == ([], [], True)

        # its entry is held, with receipts that verify
        mine = peer.write("entry.create", {"codes": EAST, "tags": ["compass"], "text": "east"})
        statuses, receipts = peer.publish(mine)
        assert statuses == [[0, ""]] * 5
        assert set(receipts) == {one.cid for one in peer.chain}

        # and both find what the other wrote
        assert (
            daemon.ask("POST", "/v1/query", {"vector": [1, 0, 0, 0], "k": 1}).value["hits"][0]["text"]
            == "east"
        )
        assert [one.cid for _, one in peer.search(EAST, 1)] == [mine.cid]
        assert [one.body["text"] for _, one in peer.search(NORTH, 2)] == ["north", "east"]
        assert [one.body["text"] for _, one in peer.search(NORTH, 2, ["compass"])] == ["east"]
        other = next(one for _, one in peer.search(NORTH, 1))
        assert cid_text(other.cid) == theirs
        assert {one.cid: one.payload for one in peer.fetch([mine.cid, other.cid])} == {
            mine.cid: mine.payload,
            other.cid: other.payload,
        }
        edit = peer.write("entry.edit", {"codes": EAST, "over": [mine.cid], "text": "orient"}, mine)
        assert peer.publish(edit)[0] == [[0, ""]] * 6
        assert daemon.get(f"/v1/entries/{cid_text(mine.cid)}")["text"] == "orient"

        # what it says of its records is what was sent
        items = [range_item(author_basis(peer.agent), digest_of(one.cid)) for one in peer.chain]
        items += [range_item(basis, digest_of(mine.cid)) for basis in bases_of(mine, SUBJECT | SHARD)]
        items += [range_item(basis, digest_of(edit.cid)) for basis in bases_of(edit, SUBJECT | SHARD)]
        missing, unknown = peer.compare(items)
        assert not missing
        assert unknown, "the daemon's own"
        lacking = range_item(author_basis(peer.agent), bytes(32))
        assert peer.compare([*items, lacking]) == ({lacking[1]}, unknown)
        assert peer.ask("record.frontiers", [[peer.agent, 4]]) == [[4, digest_of(edit.cid)]]
        more, headers = peer.ask("agent.headers", [peer.agent, 0, 512])
        assert (more, [Record.read(one).cid for one in headers]) == (False, [one.cid for one in peer.chain])
        nonce = bytes(16)
        prove = canonical([nonce, [[digest_of(mine.cid), True]], False])
        assert peer.connection.ask("record.prove", prove) == proof(peer.connection.agent, nonce, mine)

        # what breaks a rule is refused by its name, and that is signed too
        flat = peer.write("entry.create", {"codes": bytes([1, 0, 0, 0]), "text": "too short a vector"})
        statuses, receipts = peer.store([(SUBJECT | SHARD, flat), (AUTHOR, flat)])
        assert statuses == [[1, "vector"], [0, ""]]
        assert flat.cid in receipts


def test_it_holds_what_a_real_daemon_writes_and_its_receipts_count(daemon: Daemon) -> None:
    peer = Peer(place_of(daemon), bytes(range(1, 33)), time.time_ns() // 1_000, capacity=1)
    with peer.connection:
        peer.enter()
        name = daemon.ask("POST", "/v1/entries", {"text": "south", "vector": [0, -1, 0, 1]}).value["id"]
        waiting = f"/v1/records/{name}/receipts?at_least=1&timeout_s=20"
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(daemon.get, waiting)
            peer.connection.serve_until(lambda: whole(peer, name))
            shown = asked.result(SECONDS)
        assert shown["full"] == [peer_id(peer.agent)]
        (one,) = [one for one in peer.held.values() if cid_text(one.cid) == name]
        assert one.body["text"] == "south"


def whole(peer: Peer, name: str) -> bool:
    """Whether the peer holds a record whole."""
    return any(cid_text(one.cid) == name and one.payload is not None for one in peer.held.values())
