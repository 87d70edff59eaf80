"""Blobs between real daemons over loopback: memory stays flat, and SIGKILL costs what was torn."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from blake3 import blake3

from chain.blob import CHUNK, chunk_list
from chain.cid import digest, to_text
from tests.node.real_daemons import SECONDS, Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

SIZE = 40_000_000
GROWTH = 24 << 20
"""Bytes of memory that moving `SIZE` bytes may cost: chunks under way, never the blob."""


def peak(daemon: Daemon) -> int:
    """The most memory that the process has had so far, in bytes."""
    (line,) = (
        line
        for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def get(daemon: Daemon, path: str) -> tuple[int, bytes]:
    """A GET whose body is no JSON."""
    where = urlsplit(daemon.info["api"])
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {daemon.token}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def pair(daemons: Daemons) -> tuple[Daemon, Daemon]:
    first = daemons.run(daemons.home("first"))
    second = daemons.run(daemons.home("second", "--join", first.address))
    eventually(lambda: second.get("/v1/status")["peers"] == 1, "the two to know each other")
    return first, second


def test_40_mb_between_two_daemons_in_flat_memory(daemons: Daemons) -> None:
    first, second = pair(daemons)
    data = blake3(b"40 MB").digest(length=SIZE)
    before = peak(first), peak(second)
    posted = first.ask("POST", "/v1/blobs", data)
    assert (posted.status, posted.value["size"]) == (201, SIZE)
    cid = posted.value["cid"]
    assert cid == to_text(chunk_list(data).cid)
    assert get(second, f"/v1/blobs/{cid}")[0] == 404
    assert get(second, f"/v1/blobs/{cid}?fetch=1") == (200, data)
    growth = [peak(daemon) - was for daemon, was in zip((first, second), before, strict=True)]
    print(f"peak memory grew by {growth[0] >> 20} MiB where it was posted, {growth[1] >> 20} where fetched")
    assert max(growth) < GROWTH
    assert get(first, f"/v1/blobs/{cid}") == (200, data)


def test_a_fetch_that_sigkill_ended_goes_on_where_it_was(daemons: Daemons) -> None:
    first, second = pair(daemons)
    data = blake3(b"killed").digest(length=SIZE)
    cid = first.ask("POST", "/v1/blobs", data).value["cid"]
    part = second.home / "blobs" / f"{digest(chunk_list(data).cid).hex()}.part"
    where = urlsplit(second.info["api"])
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS)
    connection.request("GET", f"/v1/blobs/{cid}?fetch=1", headers={"authorization": f"Bearer {second.token}"})

    def written() -> bool:
        return part.exists() and part.stat().st_blocks * 512 > 20 * CHUNK

    eventually(written, "some chunks to be there")
    second.kill()
    connection.close()
    with open(part, "rb") as file:
        kept = sum(chunk_list(data).matches(index, file.read(CHUNK)) for index in range(count(data)))
    assert kept >= 10
    again = daemons.run(second.home)
    eventually(lambda: again.get("/v1/status")["peers"] == 1, "the two to know each other")
    assert get(again, f"/v1/blobs/{cid}?fetch=1") == (200, data)
    metrics = get(again, "/metrics")[1].decode()
    assert f"roseforest_blobs_chunks_fetched_total {count(data) - kept}.0" in metrics


def count(data: bytes) -> int:
    return len(chunk_list(data))
