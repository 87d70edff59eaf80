"""Blobs over HTTP: what goes in comes out by its CID, in portions, and what is too much is refused early."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from blake3 import blake3

from chain.blob import CHUNK, chunk_list
from chain.cid import digest, raw_cid, to_text
from node.api.blobs import STREAMED
from node.api.guard import Guard, TokenEntrance
from tests.node.test_api import TOKEN, Served, serving

OCTETS = {"content-type": "application/octet-stream"}
DATA = blake3(b"blob").digest(length=CHUNK + 77)
NAME = to_text(chunk_list(DATA).cid)


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    async with serving(blob_max_mb=2) as served:
        yield served


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 77])
async def test_what_is_posted_comes_back_byte_for_byte(api: Served, size: int) -> None:
    data = DATA[:size]
    posted = await api.post("/v1/blobs", data, **OCTETS)
    cid = to_text(chunk_list(data).cid)
    assert (posted.status, posted.value) == (
        201,
        {"cid": cid, "size": size, "complete": True, "pinned": True},
    )
    assert (await api.post("/v1/blobs?pin=false", data, **OCTETS)).value == posted.value
    got = await api.get(f"/v1/blobs/{cid}")
    assert (got.status, got.body) == (200, data)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-length"] == str(size)
    listed = (await api.get("/v1/blobs")).value
    assert listed["blobs"] == [posted.value]
    assert listed["used"] == api.node.blobs.store.size()


async def test_the_connection_of_a_client_that_wants_no_other_answer_is_closed_after_a_blob(
    api: Served,
) -> None:
    await api.post("/v1/blobs", DATA)
    where = urlsplit(api.url)
    head = f"GET /v1/blobs/{NAME} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    found = bytearray()
    with trio.fail_after(30):  # the server lets go of an idle one after a minute
        async with await trio.open_tcp_stream(where.hostname or "", where.port or 0) as stream:
            await stream.send_all(head.encode() + b"Connection: close\r\n\r\n")
            async for portion in stream:
                found += portion
    assert found.endswith(DATA)


async def test_a_blob_is_deleted_once(api: Served) -> None:
    await api.post("/v1/blobs", DATA)
    assert (await api.call("DELETE", f"/v1/blobs/{NAME}", None)).status == 200
    again = await api.call("DELETE", f"/v1/blobs/{NAME}", None)
    assert (again.status, again.code) == (404, "not_found")
    assert (await api.get("/v1/blobs")).value == {"blobs": [], "used": 0}


async def test_what_is_not_here_is_404_and_fetched_only_when_that_is_asked_for(api: Served) -> None:
    missing = await api.get(f"/v1/blobs/{NAME}")
    assert (missing.status, missing.code) == (404, "not_found")
    assert "?fetch=1" in missing.message
    assert (await api.get(f"/v1/blobs/{NAME}?fetch=1")).status == 404
    api.node.elsewhere[chunk_list(DATA).cid] = DATA
    assert (await api.get(f"/v1/blobs/{NAME}")).status == 404
    fetched = await api.get(f"/v1/blobs/{NAME}?fetch=1")
    assert (fetched.status, fetched.body) == (200, DATA)
    large = bytes((2 << 20) + 1)
    api.node.elsewhere[chunk_list(large).cid] = large
    refused = await api.get(f"/v1/blobs/{to_text(chunk_list(large).cid)}?fetch=1")
    assert (refused.status, refused.code) == (413, "too_large")


@pytest.mark.parametrize("name", ["b", "nonsense", to_text(raw_cid(b"x"))])
async def test_an_id_that_names_no_blob_is_400(api: Served, name: str) -> None:
    for method in ("GET", "DELETE"):
        reply = await api.call(method, f"/v1/blobs/{name}", None)
        assert (reply.status, reply.code) == (400, "bad_request")


async def test_a_body_over_the_limit_is_413_and_leaves_nothing(api: Served) -> None:
    reply = await api.post("/v1/blobs", bytes((2 << 20) + 1))
    assert (reply.status, reply.code) == (413, "too_large")
    where = urlsplit(api.url)

    def endless() -> bytes:
        """Chunks without end, until the answer comes."""
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as stream:
            head = f"POST /v1/blobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            stream.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
            sent = 0
            stream.settimeout(0)
            answer = b""
            while b"\r\n\r\n" not in answer:
                assert sent < 64 << 20
                try:
                    answer += stream.recv(65536)
                except BlockingIOError:
                    stream.settimeout(10)
                    with contextlib.suppress(ConnectionError):
                        stream.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                    sent += 0x10000
                    stream.settimeout(0)
            return answer

    assert (await trio.to_thread.run_sync(endless)).startswith(b"HTTP/1.1 413")
    assert (await api.get("/v1/blobs")).value == {"blobs": [], "used": 0}


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(api: Served) -> None:
    where = urlsplit(api.url)
    stream = await trio.open_tcp_stream(where.hostname or "", where.port or 0)
    head = f"POST /v1/blobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    await stream.send_all(head.encode() + b"Content-Length: 1000000\r\n\r\n" + bytes(CHUNK + 1))
    store = api.node.blobs.store
    with trio.fail_after(10):
        while not store.size():  # noqa: ASYNC110 (a real socket: there is no event to wait on)
            await trio.sleep(0.01)
        await stream.aclose()
        while store.size():  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert not list(store._root.iterdir())


async def test_a_full_quota_is_507(api: Served) -> None:
    assert (await api.post("/v1/blobs", bytes(2 << 20))).status == 201
    reply = await api.post("/v1/blobs", b"\2" * (2 << 20))
    assert (reply.status, reply.code) == (507, "disk_full")
    assert "blobs_max_mb" in reply.message


async def test_a_blob_found_damaged_while_it_is_sent_is_cut_short(
    api: Served, caplog: pytest.LogCaptureFixture
) -> None:
    await api.post("/v1/blobs", DATA)
    path = api.node.blobs.store._root / f"{digest(chunk_list(DATA).cid).hex()}.data"
    path.write_bytes(DATA[:-1] + b"?")
    with pytest.raises((http.client.IncompleteRead, http.client.RemoteDisconnected)):
        await api.get(f"/v1/blobs/{NAME}")
    assert "damaged" in caplog.text


async def test_the_token_is_asked_for_before_the_body_is_read(api: Served) -> None:
    reply = await api.call("POST", "/v1/blobs", DATA, authorization="Bearer wrong")
    assert reply.status == 401
    assert (await api.get("/v1/blobs")).value["blobs"] == []


async def test_a_body_that_nobody_reads_holds_up_neither_its_answer_nor_the_servers_reader() -> None:
    """The server hands bodies on through a short queue, and answers only when that has taken all."""
    put, take = trio.open_memory_channel[Any](0)
    sent: list[str] = []
    taken = trio.Event()

    async def read_from_socket() -> None:
        for _ in range(50):
            await put.send({"type": "http.request", "body": b"x", "more_body": True})
        await put.send({"type": "http.disconnect"})
        taken.set()

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await taken.wait()

    async def refuses(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer x"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/v1/blobs", "headers": headers}
    guard = Guard(refuses, TokenEntrance("x", ()), lambda *_: None, STREAMED)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_from_socket)
            await guard(scope, take.receive, send)
    assert sent == ["http.response.start", "http.response.body"]
