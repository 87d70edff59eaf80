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
    canonical,
    cid_of,
    cid_text,
    digest_of,
    peer_id,
    score,
    shard_of,
    value_of,
)
from tests.protocol.second_peer import Peer, proof
from tests.protocol.second_ranges import range_item
from tests.protocol.second_wire import Declined

pytestmark = pytest.mark.slow
BAD_REQUEST, FORBIDDEN, UNKNOWN_METHOD = 3, 4, 1
ROSES, IRON = "Roses climb over old walls.", "Iron rusts in the rain."


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The founder of a network with the built-in space and atlas, on loopback."""
    daemons = Daemons(tmp_path_factory.mktemp("second"))
    try:
        yield daemons.run(daemons.home("first"))
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
    names = [cid_of(daemon.add(text)) for text in (ROSES, IRON)]
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

        # the model is the network's business: the vectors are those of what the daemon wrote
        theirs = {one.cid: one for one in peer.fetch(names)}
        roses, iron = (theirs[name].body["codes"] for name in names)
        assert [one.cid for _, one in peer.search(roses, 1)] == names[:1]

        # its entry is held, with receipts that verify
        mine = peer.write("entry.create", {"codes": roses, "tags": ["garden"], "text": ROSES})
        statuses, receipts = peer.publish(mine)
        assert statuses == [[0, ""]] * 5
        assert set(receipts) == {one.cid for one in peer.chain}

        # and both find it
        hits = daemon.ask("POST", "/v1/query", {"text": ROSES, "k": 2}).value["hits"]
        assert {hit["id"] for hit in hits} == {cid_text(names[0]), cid_text(mine.cid)}
        found = peer.search(roses, 10)
        assert {one.cid for _, one in found[:2]} == {names[0], mine.cid}
        assert (score(roses, iron), names[1]) in [(ppm, one.cid) for ppm, one in found]
        assert [one.cid for _, one in peer.search(iron, 3, ["garden"])] == [mine.cid]
        assert [one.cid for _, one in peer.search(iron, 3, authors=[peer.agent])] == [mine.cid]
        assert mine.cid not in {one.cid for _, one in peer.search(roses, 3, until=mine["hlc"])}
        assert peer.search(roses, 3, domains=["horticulture"]) == []
        assert refusal(peer, "shard.search", canonical([[[0, 0]], roses, 3, [], {"near": 1}])) == BAD_REQUEST
        _, home = shard_of(peer.key_of(mine))
        assert mine.cid in {one.cid for _, one in peer.search(roses, 3, shards=[home])}
        elsewhere = [bits for bits in range(64) if bits != home]
        assert mine.cid not in {one.cid for _, one in peer.search(roses, 3, shards=elsewhere)}
        edit = peer.write("entry.edit", {"codes": iron, "over": [mine.cid], "text": IRON}, mine)
        assert peer.publish(edit)[0] == [[0, ""]] * 6
        assert daemon.get(f"/v1/entries/{cid_text(mine.cid)}")["text"] == IRON

        # what it says of its records is what was sent
        items = [range_item(author_basis(peer.agent), digest_of(one.cid)) for one in peer.chain]
        items += [range_item(basis, digest_of(mine.cid)) for basis in peer.bases_of(mine, SUBJECT | SHARD)]
        items += [range_item(basis, digest_of(edit.cid)) for basis in peer.bases_of(edit, SUBJECT | SHARD)]
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
        flat = peer.write("entry.create", {"codes": bytes([1] * 4 + [0] * 252), "text": "too short a vector"})
        statuses, receipts = peer.store([(SUBJECT | SHARD, flat), (AUTHOR, flat)])
        assert statuses == [[1, "vector"], [0, ""]]
        assert flat.cid in receipts


def test_it_holds_what_a_real_daemon_writes_and_its_receipts_count(daemon: Daemon) -> None:
    peer = Peer(place_of(daemon), bytes(range(1, 33)), time.time_ns() // 1_000, capacity=1)
    with peer.connection:
        peer.enter()
        name = daemon.add("Moss grows in the shade.")
        waiting = f"/v1/records/{name}/receipts?at_least=1&timeout_s=20"
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(daemon.get, waiting)
            peer.connection.serve_until(lambda: whole(peer, name))
            shown = asked.result(SECONDS)
        assert shown["full"] == [peer_id(peer.agent)]
        (one,) = [one for one in peer.held.values() if cid_text(one.cid) == name]
        assert one.body["text"] == "Moss grows in the shade."


def whole(peer: Peer, name: str) -> bool:
    """Whether the peer holds a record whole."""
    return any(cid_text(one.cid) == name and one.payload is not None for one in peer.held.values())
