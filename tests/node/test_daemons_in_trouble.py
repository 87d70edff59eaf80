"""Eight real daemons, of which a third is killed and a third is stopped while the others write.

SIGKILL ends a process between two instructions; SIGSTOP leaves it with its sockets open and nobody behind,
the worst kind of silence, and on SIGCONT it goes on as if nothing had been. In the end the stores on disk are
compared by what is in them, not by what the daemons say.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chain.cid import Cid, from_text, raw_cid
from chain.kinds import MEMBRANE
from chain.membrane import position
from chain.record import Record, decode_header, decode_payload, verify_signature
from dht.overlay.distance import closest
from dht.records.basis import subject_basis
from dht.records.placement import Role
from node.founding import REPLICATION
from tests.node.real_daemons import PAUSE, Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

DAEMONS = 8
THIRD = 3
REST_S = 120.0
"""Repair looks at what it holds every few seconds, and less often when nothing seems to change."""

Store = dict[bytes, tuple[int, bytes]]


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def place_of(home: Path) -> bytes:
    """Where a daemon stands in the network, from the proof in its chain."""
    with reading(home / "chain.db") as connection:
        ((header, payload),) = connection.execute("SELECT header, payload FROM records WHERE seq = 1")
    opened = decode_header(header)
    assert opened.kind == MEMBRANE
    return position(opened.network, opened.author, decode_payload(payload)["nonce"])


def store_of(home: Path) -> Store:
    """Count and digest of every basis that a daemon holds for all."""
    with reading(home / "held.db") as connection:
        rows = connection.execute("SELECT basis, records, total FROM digests WHERE roles != ?", (Role.KEPT,))
        return {basis: (count, total) for basis, count, total in rows}


def at_subject(home: Path, entry: Cid) -> dict[Cid, tuple[bytes, bytes, bytes | None]]:
    """Header, signature and payload of each record that a daemon holds of an entry."""
    with reading(home / "held.db") as connection:
        rows = connection.execute(
            "SELECT cid, header, signature, payload FROM records JOIN bases USING (cid) WHERE basis = ?",
            (subject_basis(entry),),
        )
        return {row[0]: row[1:] for row in rows}


class Stores:
    """The disks of all daemons, and who of them should hold what."""

    def __init__(self, homes: list[Path]) -> None:
        self._places = {home: place_of(home) for home in homes}

    def holders(self, basis: bytes) -> list[Path]:
        return closest(basis, sorted(self._places), self._places.__getitem__, REPLICATION)

    def equal(self) -> bool:
        stores = {home: store_of(home) for home in self._places}
        bases = {basis for store in stores.values() for basis in store}
        return all(len({stores[home].get(basis) for home in self.holders(basis)}) == 1 for basis in bases)


def add_each(daemons: list[Daemon], what: str) -> dict[Cid, str]:
    texts = [f"{what}: number {n} comes from {one.home.name}" for n, one in enumerate(daemons)]
    return {from_text(one.add(text)): text for one, text in zip(daemons, texts, strict=True)}


def test_a_third_killed_and_a_third_stopped_leave_equal_stores_and_lose_nothing(daemons: Daemons) -> None:
    founder = daemons.run(daemons.home("node-0"))
    others = [daemons.home(f"node-{number}", "--join", founder.address) for number in range(1, DAEMONS)]
    homes = [founder.home, *others]
    running = [founder, *(daemons.run(home) for home in others)]
    eventually(lambda: all(one.get("/v1/status")["peers"] == DAEMONS - 1 for one in running), "all to meet")
    added = add_each(running, "before")

    killed, stopped = running[1 : 1 + THIRD], running[1 + THIRD : 1 + 2 * THIRD]
    rest = [founder, *running[1 + 2 * THIRD :]]
    for one in killed:  # while what they added a moment ago is still on its way
        one.kill()
    for one in stopped:
        one.process.send_signal(signal.SIGSTOP)
    added |= add_each(rest, "meanwhile")
    for one in rest:  # nobody hangs because a peer does
        assert one.texts("number 1 comes from", 3)
    for one in stopped:
        one.process.send_signal(signal.SIGCONT)
    running = [*rest, *stopped, *(daemons.run(one.home) for one in killed)]
    added |= add_each(running, "after")

    stores = Stores(homes)
    end = time.monotonic() + REST_S
    while any(one.get("/v1/status")["pending"] for one in running) or not stores.equal():
        assert time.monotonic() < end, "the stores do not become equal"
        time.sleep(10 * PAUSE)
    for entry, text in added.items():
        copies = [at_subject(home, entry) for home in stores.holders(subject_basis(entry))]
        assert len(copies) == REPLICATION
        assert all(copy == copies[0] for copy in copies), "replicas differ in a byte"
        header, signature, payload = copies[0][entry]
        assert payload is not None
        record = Record(decode_header(header), signature, payload, entry, header)
        assert verify_signature(record)
        assert raw_cid(payload) == record.header.payload
        assert decode_payload(payload)["text"] == text
    for one in running:
        assert one.ask("POST", "/v1/chain/verify").status == 200
        assert one.terminate() == 0
