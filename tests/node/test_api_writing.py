"""The text of an entry over HTTP: splices against what one saw, and what others wrote meanwhile stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chain.cid import record_cid, to_text
from chain.splices import MAX_SPLICES
from tests.node.test_api import Reply, Served, serving
from tests.node.test_api_editing import send

OLD = "Roses climb walls."


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def write(api: Served, rose: str, version: list[str], *splices: dict[str, Any]) -> Reply:
    return await send(
        api, "PATCH", f"/v1/entries/{rose}/text", {"version": version, "splices": list(splices)}
    )


async def test_two_who_saw_the_same_text_both_change_it(api: Served) -> None:
    rose = (await api.post("/v1/entries", {"text": OLD, "tags": ["rose"], "domain": "garden"})).value["id"]
    seen = (await api.get(f"/v1/entries/{rose}/text")).value
    assert (seen["text"], seen["version"], seen["apart"], seen["reason"]) == (OLD, [rose], [], None)
    first = await write(api, rose, seen["version"], {"at": 0, "delete": 5, "insert": "Old roses"})
    assert (first.status, len(first.value["records"])) == (200, 1)
    late = await write(api, rose, seen["version"], {"at": 12, "delete": 5, "insert": "trees"})
    assert (late.status, len(late.value["records"])) == (200, 2), "what was asked, and what comes of both"
    now = (await api.get(f"/v1/entries/{rose}/text")).value
    assert (now["text"], now["version"]) == ("Old roses climb trees.", late.value["records"][1:])
    entry = (await api.get(f"/v1/entries/{rose}")).value
    assert (entry["text"], entry["conflict"], entry["domain"]) == (now["text"], False, "garden")
    assert (entry["tags"], f'"{entry["version_id"]}"') == (["rose"], late.headers["etag"])
    again = await write(api, rose, now["version"])
    assert (again.status, again.value["records"]) == (200, [])
    # An edit of the whole text says nothing of where it was typed: who writes on then stands beside it.
    await send(api, "PATCH", f"/v1/entries/{rose}", {"text": "Tulips."})
    apart = await write(api, rose, now["version"], {"at": 0, "insert": "> "})
    assert apart.status == 200
    both = (await api.get(f"/v1/entries/{rose}/text")).value
    assert {both["text"], both["apart"][0]["text"]} == {"Tulips.", "> Old roses climb trees."}
    assert "no common origin" in both["reason"]
    assert both["apart"][0]["version"] != both["version"]


async def test_what_makes_no_sense_is_refused_and_writes_nothing(api: Served) -> None:
    rose = (await api.post("/v1/entries", {"text": OLD})).value["id"]
    unknown = to_text(record_cid(b"nobody has it"))
    insert = {"at": 0, "insert": "x"}
    cases: list[tuple[int, Any]] = [
        (422, {"version": [rose], "splices": [{"at": 18, "delete": 1}]}),
        (422, {"version": [rose], "splices": [{"at": 19, "insert": "x"}]}),
        (422, {"version": [rose], "splices": [{"at": 0}]}),
        (422, {"version": [rose], "splices": [{"at": 0, "delete": 18}]}),
        (422, {"version": [rose], "splices": [{"at": 0, "insert": "\ud800"}]}),
        (404, {"version": [unknown], "splices": [insert]}),
        (400, {"version": ["x"], "splices": [insert]}),
        (422, {"version": [], "splices": [insert]}),
        (422, {"version": [rose], "splices": [{"at": -1, "insert": "x"}]}),
        (422, {"version": [rose], "splices": [{"at": 0, "insert": "é" * 32_769}]}),
        (422, {"version": [rose], "splices": [insert] * (MAX_SPLICES + 1)}),
        (422, {"splices": [insert]}),
    ]
    for status, body in cases:
        reply = await send(api, "PATCH", f"/v1/entries/{rose}/text", body)
        assert (reply.status, bool(reply.value["error"]["message"])) == (status, True), (body, reply.value)
    assert (await api.get(f"/v1/entries/{rose}/text")).value["version"] == [rose]
    assert (await api.get(f"/v1/entries/{unknown}/text")).status == 404
