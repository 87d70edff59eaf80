"""The HTTP interface over real sockets: shapes, statuses, and what it refuses before anyone reads it."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from chain.cid import to_text
from chain.record import decode_record, verify_signature
from node.api.guard import BODY_SECONDS, MAX_ACTIVE, MAX_BODY, Guard, TokenEntrance, log
from node.api.server import serve_api
from node.api.shapes import MAX_BATCH
from node.config import Settings
from node.errors import ConfigError, PortInUse
from tests.node.memory_node import DIM, MemoryNode

TOKEN = "t" * 43


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: `value` is its JSON, None when it has none."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.value["error"]["code"])

    @property
    def message(self) -> str:
        return str(self.value["error"]["message"])


@dataclass(frozen=True, slots=True)
class Served:
    """A running interface and the node behind it."""

    url: str
    node: MemoryNode
    stop: trio.Event

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.call("GET", path, None, **headers)

    async def post(self, path: str, value: Any = None, **headers: str) -> Reply:
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        return await self.call("POST", path, data, **headers)

    async def call(self, method: str, path: str, data: bytes | None, **headers: str) -> Reply:
        headers = {"authorization": f"Bearer {TOKEN}", **headers}
        return await trio.to_thread.run_sync(_call, self.url, method, path, data, headers)


def _call(url: str, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> Reply:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    try:
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, response.read())
    finally:
        connection.close()


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Served]:
    node, stop = MemoryNode(), trio.Event()
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_api, node, Settings(**settings), TOKEN, stop)
        yield Served(url, node, stop)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def test_the_steps_of_a_query_are_shown_to_who_asks_for_them(api: Served) -> None:
    assert (await api.post("/v1/query", {"text": "x"})).value["cost"]["steps_ms"] is None
    traced = (await api.post("/v1/query", {"text": "x", "trace": True})).value
    assert traced["cost"]["steps_ms"] == {"own": 0.5}


async def test_an_added_entry_is_found_with_its_proof(api: Served) -> None:
    entry = {
        "text": "Rain comes from clouds.",
        "tags": ["water", "sky"],
        "confidence": 0.25,
        "domain": "weather",
    }
    added = await api.post("/v1/entries", entry)
    assert added.status == 201
    answer = (await api.post("/v1/query", {"text": entry["text"], "k": 3})).value
    hit = answer["hits"][0]
    assert (hit["id"], hit["text"], hit["tags"]) == (added.value["id"], entry["text"], ["sky", "water"])
    assert hit["score"] == 1.0
    assert hit["verified"] is True
    assert hit["author"].startswith("12D3Koo")
    record = decode_record(base64.b64decode(hit["record"]["data"]))
    assert verify_signature(record)
    assert to_text(record.cid) == hit["id"]
    assert set(answer["cost"]) >= {
        "shards_contacted",
        "shards_total",
        "nodes_contacted",
        "ms",
        "shards_missed",
        "deadline_hit",
        "expected_recall",
    }
    shown = (await api.get(f"/v1/entries/{hit['id']}?provenance=true")).value
    assert (shown["text"], shown["confidence"], shown["domain"]) == (entry["text"], 0.25, "weather")
    assert [record["id"] for record in shown["records"]] == [hit["id"]]
    assert (await api.get(f"/v1/entries/{hit['id']}")).value["records"] is None


async def test_a_key_adds_at_most_once(api: Served) -> None:
    entry = {"text": "once", "key": "ab" * 32}
    first, second = await api.post("/v1/entries", entry), await api.post("/v1/entries", entry)
    assert (first.status, second.status) == (201, 200)
    assert first.value["id"] == second.value["id"]
    assert second.value["created"] is False


async def test_a_batch_reports_each_bad_item_and_keeps_the_good_ones(api: Served) -> None:
    entries = [
        {"text": "good one"},
        {"text": 5},
        {"text": "x" * 70_000},
        "no object",
        {"text": "good two", "key": "01"},
        {"text": "good two", "key": "01"},
        {"text": "misspelt", "tag": ["a"]},
        {"text": "short vector", "vector": [1.0]},
    ]
    answer = (await api.post("/v1/entries/batch", {"entries": entries})).value
    assert [item["index"] for item in answer["results"]] == list(range(len(entries)))
    assert ["id" in item for item in answer["results"]] == [
        True,
        False,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert ["error" in item for item in answer["results"]] == [
        False,
        True,
        True,
        True,
        False,
        False,
        True,
        True,
    ]
    assert (answer["added"], answer["known"], answer["rejected"]) == (2, 1, 5)
    assert "65536" in answer["results"][2]["error"]


async def test_a_batch_over_the_limit_is_refused_whole(api: Served) -> None:
    before = len(api.node.records)
    reply = await api.post("/v1/entries/batch", {"entries": [{"text": "a"}] * (MAX_BATCH + 1)})
    assert (reply.status, reply.code) == (422, "refused")
    assert len(api.node.records) == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "nan", "vector": [NaN, 1, 1, 1, 1, 1, 1, 1]}',
        b'{"text": "infinite", "vector": [Infinity, 1, 1, 1, 1, 1, 1, 1]}',
        json.dumps({"text": "zero", "vector": [0.0] * DIM}).encode(),
        json.dumps({"text": "short", "vector": [1.0] * (DIM - 1)}).encode(),
        json.dumps({"text": "long", "vector": [1.0] * 5000}).encode(),
        json.dumps({"text": ""}).encode(),
        json.dumps({"text": "too long " * 10_000}).encode(),
        json.dumps({"text": "unsure", "confidence": 1.5}).encode(),
        json.dumps({"text": "guessed", "confidence": "0.5"}).encode(),
        json.dumps({"text": "tags", "tags": ["x" * 101]}).encode(),
        json.dumps({"text": "half a pair \ud800"}).encode(),
        json.dumps({"text": "key", "key": "xyz"}).encode(),
        json.dumps({"txt": "misspelt"}).encode(),
        b"[]",
        b'"text"',
    ],
)
async def test_what_cannot_be_an_entry_is_refused_in_one_line(api: Served, body: bytes) -> None:
    before = len(api.node.records)
    reply = await api.post("/v1/entries", body)
    assert (reply.status, reply.code) == (422, "refused")
    assert reply.message
    assert "\n" not in reply.message
    assert len(reply.message) <= 500
    assert len(api.node.records) == before


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_not_json_is_a_bad_request_or_refused(api: Served, body: bytes) -> None:
    reply = await api.post("/v1/query", body)
    assert reply.status in (400, 422)
    assert reply.message


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"text": "both", "vector": [1.0] * DIM},
        {"text": "k", "k": 0},
        {"text": "k", "k": 101},
        {"text": "k", "k": True},
        {"text": "deadline", "deadline_ms": 0},
        {"vector": [0.0] * DIM},
        {"vector": [1.0]},
        {"text": "x", "authors": ["nobody"]},
        {"text": "x", "domains": [""]},
        {"text": "x", "domains": ["y" * 101]},
        {"text": "x", "min_confidence": 1.5},
        {"text": "x", "since": "yesterday"},
        {"text": "x", "until": "1969-12-31"},
        {"text": "x", "since": "2026-11-27", "until": "2026-11-27T00:00:00+00:00"},
        {"text": "x", "effort": "utmost"},
        {"text": "x", "recall": -0.1},
        {"text": "x", "recall": 0.9, "effort": "low"},
    ],
)
async def test_a_question_that_cannot_be_asked_is_refused(api: Served, question: dict[str, Any]) -> None:
    reply = await api.post("/v1/query", question)
    assert (reply.status, reply.code) == (422, "refused")


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", f"Bearer {TOKEN}x", f"bearer {TOKEN}", "Bearer " + "u" * 43]
)
async def test_every_route_needs_the_token_but_health_and_documentation(
    api: Served, authorization: str
) -> None:
    for path in (
        "/v1/status",
        "/v1/peers",
        "/v1/chain/log",
        "/v1/config",
        "/metrics",
        "/v1/entries/x",
        "/nothing",
    ):
        reply = await api.get(path, authorization=authorization)
        assert (reply.status, reply.code) == (401, "unauthorized"), path
    for path in ("/v1/entries", "/v1/entries/batch", "/v1/query", "/v1/stop", "/v1/index/rebuild"):
        reply = await api.post(path, {"text": "x"}, authorization=authorization)
        assert reply.status == 401, path
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await api.get(path, authorization=authorization)).status == 200, path
    assert not api.stop.is_set()


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::2]:80", ""]
)
async def test_a_name_that_was_rebound_to_this_machine_is_turned_away(api: Served, host: str) -> None:
    reply = await api.get("/v1/status", host=host)
    assert (reply.status, reply.code) == (400, "bad_host")
    assert (await api.get("/healthz", host=host)).status == 400


async def test_loopback_names_and_configured_ones_are_let_in() -> None:
    async with serving(api_hosts=("forest.example",)) as api:
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:9", "forest.example"):
            assert (await api.get("/v1/status", host=host)).status == 200, host


async def test_an_unknown_entry_is_not_found_and_a_malformed_id_is_a_bad_request(api: Served) -> None:
    added = await api.post("/v1/entries", {"text": "there"})
    known = decode_record(api.node.records[-1].encode()).cid
    unknown = to_text(known[:-1] + bytes([known[-1] ^ 1]))
    assert added.value["id"] == to_text(known)
    assert (await api.get(f"/v1/entries/{unknown}")).status == 404
    assert (await api.get("/v1/status/")).code == "not_found", "a path is not guessed at"
    payload = to_text(api.node.records[-1].header.payload)
    for bad in ("nonsense", "b", payload, to_text(known).upper(), to_text(known) + "a", "b" + "a" * 5000):
        reply = await api.get(f"/v1/entries/{bad}")
        assert (reply.status, reply.code) == (400, "bad_request"), bad
    assert (await api.get("/v1/nothing")).code == "not_found"
    assert (await api.call("DELETE", "/v1/status", None)).code == "method_not_allowed"


async def test_a_body_that_announces_too_much_is_refused_unread(api: Served) -> None:
    """The body is never sent: an interface that waited for it would time out."""
    reply = await trio.to_thread.run_sync(_raw, api.url, f"Content-Length: {MAX_BODY + 1}", b"")
    assert reply.startswith(b"HTTP/1.1 413 ")


async def test_a_body_without_end_is_read_no_further_than_the_limit(api: Served) -> None:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    reply = await trio.to_thread.run_sync(
        _raw, api.url, "Transfer-Encoding: chunked", piece * (MAX_BODY // 0x10000 + 1)
    )
    assert reply.startswith(b"HTTP/1.1 413 ")


async def test_a_body_just_under_the_limit_is_read_whole(api: Served) -> None:
    entries = [{"text": f"{number} " + "x" * 60_000} for number in range(MAX_BODY // 61_000)]
    body = json.dumps({"entries": entries}).encode()
    assert 0.9 * MAX_BODY < len(body) <= MAX_BODY
    assert (await api.post("/v1/entries/batch", body)).value["added"] == len(entries)


async def test_a_wrong_token_is_answered_before_the_body_is_read(api: Served) -> None:
    reply = await trio.to_thread.run_sync(_raw, api.url, f"Content-Length: {MAX_BODY}", b"", "wrong")
    assert reply.startswith(b"HTTP/1.1 401 ")


def _raw(url: str, header: str, body: bytes, token: str = TOKEN) -> bytes:
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as connection:
        lines = (
            "POST /v1/entries HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {token}",
            header,
            "",
            "",
        )
        connection.sendall("\r\n".join(lines).encode() + body)
        return connection.recv(4096)


async def test_a_full_disk_is_507_and_the_interface_stays_up(api: Served) -> None:
    api.node.full = True
    for path, body in (("/v1/entries", {"text": "x"}), ("/v1/entries/batch", {"entries": [{"text": "x"}]})):
        reply = await api.post(path, body)
        assert (reply.status, reply.code) == (507, "disk_full")
    status = (await api.get("/v1/status")).value
    assert status["read_only"] == "the disk is full"
    assert "roseforest_read_only 1.0" in (await api.get("/metrics")).body.decode()


async def test_a_node_that_is_not_ready_says_so(api: Served) -> None:
    api.node.starting = True
    reply = await api.post("/v1/query", {"text": "x"})
    assert (reply.status, reply.code) == (503, "not_ready")
    assert reply.headers["retry-after"] == "1"


async def test_the_status_has_everything_that_is_promised(api: Served) -> None:
    status = (await api.get("/v1/status")).value
    assert set(status) >= {
        "agent_id",
        "network",
        "peers",
        "records",
        "pending",
        "shards_held",
        "reachable",
        "rss_mb",
        "uptime_s",
    }
    assert status["rss_mb"] > 1
    assert (await api.get("/v1/peers")).value["peers"][0]["latency_ms"] == 1.25


async def test_the_log_pages_through_the_chain(api: Served) -> None:
    for number in range(5):
        await api.post("/v1/entries", {"text": f"entry {number}"})
    seqs: list[int] = []
    following: int | None = 0
    while following is not None:
        page = (await api.get(f"/v1/chain/log?from_seq={following}&limit=3")).value
        seqs += [record["seq"] for record in page["records"]]
        following = page["next"]
    assert seqs == list(range(8))
    assert (await api.get("/v1/chain/log?limit=0")).status == 422
    assert (await api.get("/v1/chain/log?from_seq=-1")).status == 422


async def test_the_chain_verifies_until_it_is_broken(api: Served) -> None:
    for number in range(3):
        await api.post("/v1/entries", {"text": f"entry {number}"})
    head = to_text(api.node.records[-1].cid)
    report = (await api.post("/v1/chain/verify")).value
    assert (report["ok"], report["length"], report["head"]) == (True, 6, head)
    del api.node.records[4]
    report = (await api.post("/v1/chain/verify")).value
    assert (report["ok"], report["length"], report["head"]) == (False, 4, None)
    assert "seq 4" in report["reason"]


async def test_the_configuration_names_origins_and_the_index_rebuilds() -> None:
    async with serving(capacity=7, origins={"capacity": "flag --capacity"}) as api:
        config = (await api.get("/v1/config")).value
        assert config["capacity"] == {"value": 7, "origin": "flag --capacity"}
        assert config["log_level"] == {"value": "info", "origin": "default"}
        await api.post("/v1/entries", {"text": "x"})
        assert (await api.post("/v1/index/rebuild")).value == {"vectors": 1}


async def test_metrics_count_requests_by_route_and_never_by_what_was_sent(api: Served) -> None:
    await api.get("/v1/entries/something-a-caller-made-up")
    await api.get("/v1/no-such-route-either")
    text = (await api.get("/metrics")).body.decode()
    assert 'route="/v1/entries/{id}",status="400"' in text
    assert 'route="other",status="404"' in text
    assert "made-up" not in text
    assert "no-such-route" not in text
    assert "roseforest_queries_total 3.0" in text
    assert "roseforest_rss_bytes" in text


async def test_the_documentation_loads_nothing_from_elsewhere(api: Served) -> None:
    reply = await api.get("/docs")
    page = reply.body.decode()
    assert "/v1/entries/batch" in page
    assert "EntryIn" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")
    assert "/v1/query" in (await api.get("/openapi.json")).value["paths"]


async def test_stop_is_answered_and_then_ends_the_server() -> None:
    node, stop = MemoryNode(), trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_api, node, Settings(), TOKEN, stop)
            reply = await Served(url, node, stop).post("/v1/stop")
            assert (reply.status, reply.value) == (202, {"stopping": True})
            assert stop.is_set()
    with pytest.raises(OSError, match="refused"):
        await Served(url, node, stop).get("/healthz")


async def test_a_port_in_use_is_one_line_and_an_unknown_host_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{port}.*--api"):
            await serve_api(MemoryNode(), Settings(api=f"127.0.0.1:{port}"), TOKEN, trio.Event())
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await serve_api(MemoryNode(), Settings(api="192.0.2.1:0"), TOKEN, trio.Event())


async def knock(headers: list[tuple[bytes, bytes]], receive: Any) -> int:
    """The status that a guard alone, before an application that always answers 200, gives to a request."""
    statuses: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    guard = Guard(application, TokenEntrance(TOKEN, ()), lambda *_: None)
    await guard({"type": "http", "method": "POST", "path": "/v1/x", "headers": headers}, receive, send)
    (status,) = statuses
    return status


async def test_the_first_of_two_headers_of_a_name_counts() -> None:
    async def nothing() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    right = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
    wrong = [(b"host", b"evil.example"), (b"authorization", b"Bearer wrong")]
    assert await knock([*right, *wrong], nothing) == 200
    assert await knock([*wrong, *right], nothing) == 400
    assert await knock([right[0], wrong[1], right[1]], nothing) == 401


async def test_a_body_that_does_not_arrive_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]

    async def arriving_within(seconds: float) -> int:
        ends = trio.current_time() + seconds

        async def trickle() -> Any:
            await trio.sleep(BODY_SECONDS / 4)
            return {"type": "http.request", "body": b"x", "more_body": trio.current_time() < ends}

        return await knock(headers, trickle)

    assert await arriving_within(BODY_SECONDS / 2) == 200
    began = trio.current_time()
    assert await arriving_within(10 * BODY_SECONDS) == 408
    assert trio.current_time() - began <= BODY_SECONDS + 1


async def test_more_requests_than_the_limit_are_told_to_come_back() -> None:
    """The guard alone, with an application that does not answer before it is let."""
    entered, leave = trio.Semaphore(0), trio.Event()
    statuses: list[int] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.release()
        await leave.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guard = Guard(slow, TokenEntrance(TOKEN, ()), lambda *_: None)

    async def request() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
        await guard({"type": "http", "method": "GET", "path": "/v1/x", "headers": headers}, receive, send)

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_ACTIVE):
            nursery.start_soon(request)
        for _ in range(MAX_ACTIVE):
            await entered.acquire()
        with trio.fail_after(10):
            await request()
        assert statuses == [503]
        leave.set()
    assert statuses == [503] + [200] * MAX_ACTIVE


async def test_a_defect_below_is_a_logged_500_that_tells_nothing(api: Served) -> None:
    logged = trio.Event()
    tracebacks: list[object] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tracebacks.append(record.exc_info)
            logged.set()

    watch = Watch()
    log.addHandler(watch)
    try:
        api.node.records.append(None)  # type: ignore[arg-type]
        reply = await api.get("/v1/chain/log")
        assert (reply.status, reply.code) == (500, "unexpected")
        assert "NoneType" not in reply.message
        with trio.fail_after(5):
            await logged.wait()
        assert tracebacks[0] is not None
    finally:
        log.removeHandler(watch)
    assert (await api.get("/healthz")).status == 200
