"""Changing entries over HTTP: what each verb does, what is refused with which status, and If-Match."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chain.cid import record_cid, to_text
from chain.identity import Identity
from chain.kinds import CREATE
from chain.source_chain import Draft
from node.api.editing import version_of
from tests.node.memory_node import MemoryNode
from tests.node.test_api import Reply, Served, serving

UNKNOWN = to_text(record_cid(b"nobody has it"))
ROSE = {"text": "Roses climb.", "tags": ["rose"], "domain": "garden", "confidence": 0.5, "citations": ["a"]}


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def planted(api: Served) -> str:
    identifier: str = (await api.post("/v1/entries", ROSE)).value["id"]
    return identifier


async def send(api: Served, method: str, path: str, body: Any = None, match: str | None = None) -> Reply:
    headers = {} if match is None else {"if-match": match}
    return await api.call(method, path, None if body is None else json.dumps(body).encode(), **headers)


async def shown(api: Served, identifier: str) -> Any:
    reply = await api.get(f"/v1/entries/{identifier}")
    assert reply.headers["etag"] == f'"{reply.value["version_id"]}"'
    return reply.value


async def test_an_edit_changes_what_is_given_and_keeps_the_rest(api: Served) -> None:
    rose = await planted(api)
    before = await shown(api, rose)
    done = await send(api, "PATCH", f"/v1/entries/{rose}", {"text": "Roses ramble.", "tags": ["wild"]})
    assert done.status == 200
    now = await shown(api, rose)
    assert done.headers["etag"] == f'"{now["version_id"]}"'
    assert now["version_id"] == done.value["version_id"] != before["version_id"]
    assert (now["text"], now["tags"], now["domain"]) == ("Roses ramble.", ["rose", "wild"], "garden")
    assert (now["confidence"], now["citations"], now["conflict"]) == (0.5, ["a"], False)
    assert [value["record"] for value in now["values"]] == done.value["records"]
    await send(api, "PATCH", f"/v1/entries/{rose}", {"domain": None, "citations": [], "confidence": 1})
    now = await shown(api, rose)
    assert (now["text"], now["domain"], now["confidence"]) == ("Roses ramble.", None, 1.0)
    assert now["citations"] == []
    again = await send(api, "PATCH", f"/v1/entries/{rose}", {"text": "Roses ramble."})
    assert again.value == {"id": rose, "records": [], "version_id": now["version_id"]}


async def test_tags_votes_delete_and_retract(api: Served) -> None:
    rose = await planted(api)
    path = f"/v1/entries/{rose}"
    done = await send(api, "POST", f"{path}/tags", {"add": ["red", "wild", "red"], "remove": ["rose"]})
    assert len(done.value["records"]) == 3
    assert (await shown(api, rose))["tags"] == ["red", "wild"]
    await send(api, "PUT", f"{path}/vote", {"value": "down", "reason": "thorns", "confidence": 0.75})
    votes = (await shown(api, rose))["votes"]
    assert (votes["up"], votes["down"]) == (0, 1)
    (ballot,) = votes["ballots"]
    assert (ballot["value"], ballot["reason"], ballot["confidence"]) == (-1, "thorns", 0.75)
    await send(api, "PUT", f"{path}/vote", {"value": "none"})
    assert (await shown(api, rose))["votes"]["ballots"] == []
    assert (await send(api, "DELETE", path)).status == 200
    assert (await shown(api, rose))["deleted"] is True
    refused = await send(api, "POST", f"{path}/tags", {"add": ["late"]})
    assert (refused.status, refused.code) == (409, "gone")
    await send(api, "PATCH", path, {"text": "Back again."})
    assert (await shown(api, rose))["deleted"] is False
    assert (await send(api, "POST", f"{path}/retract")).status == 200
    assert (await shown(api, rose))["retracted"] is True
    refused = await send(api, "PATCH", path, {"text": "No more."})
    assert (refused.status, refused.code) == (409, "gone")


async def test_a_version_that_has_passed_is_refused_and_the_line_says_what_changed(api: Served) -> None:
    rose = await planted(api)
    seen = (await shown(api, rose))["version_id"]
    await send(api, "POST", f"/v1/entries/{rose}/tags", {"add": ["red"]}, f'"{seen}"')
    refused = await send(api, "PATCH", f"/v1/entries/{rose}", {"text": "x"}, f'"{seen}"')
    assert (refused.status, refused.code) == (412, "changed")
    assert f"changed since {seen}: entry.tag by 12D3Koo" in refused.message
    refused = await send(api, "DELETE", f"/v1/entries/{rose}", None, '"0123"')
    assert refused.status == 412
    assert "get it again" in refused.message
    assert (await send(api, "DELETE", f"/v1/entries/{rose}", None, "*")).status == 200


@pytest.mark.parametrize(
    ("method", "rest", "body", "status"),
    [
        ("PATCH", "", {}, 422),
        ("PATCH", "", {"text": ""}, 422),
        ("PATCH", "", {"text": None}, 422),
        ("PATCH", "", {"text": "x", "more": 1}, 422),
        ("PATCH", "", {"tags": ["a", "b", "c", "d"]}, 422),
        ("PATCH", "", {"vector": [1.0]}, 422),
        ("POST", "/tags", {}, 422),
        ("POST", "/tags", {"add": ["x"], "remove": ["x"]}, 422),
        ("POST", "/tags", {"add": ["x" * 101]}, 422),
        ("POST", "/tags", {"add": ["a", "b", "c", "d"]}, 422),
        ("POST", "/tags", {"remove": ["nobody gave it"]}, 404),
        ("PUT", "/vote", {"value": "sideways"}, 422),
        ("PUT", "/vote", {"value": "up", "reason": "x" * 1001}, 422),
        ("PUT", "/vote", {"value": "up", "reason": ""}, 422),
    ],
)
async def test_what_cannot_be_done_is_refused_in_one_line(
    api: Served, method: str, rest: str, body: Any, status: int
) -> None:
    rose = await planted(api)
    before = len(api.node.records)
    refused = await send(api, method, f"/v1/entries/{rose}{rest}", body)
    assert refused.status == status, refused.body
    assert refused.message
    assert len(api.node.records) == before


async def test_what_its_author_purged_is_gone_with_the_time_and_still_has_its_provenance(api: Served) -> None:
    rose = await planted(api)
    assert (await send(api, "POST", f"/v1/entries/{rose}/tags", {"add": ["wild"]})).status == 200
    done = await send(api, "POST", f"/v1/entries/{rose}/purge")
    assert (done.status, len(done.value["records"])) == (200, 1)
    gone = await api.get(f"/v1/entries/{rose}")
    assert (gone.status, gone.code) == (410, "erased")
    said = (await api.get(f"/v1/entries/{rose}?provenance=true")).value
    (erased,) = said["erased"]
    assert gone.value["error"]["message"] == f"erased by its author at {erased['at']}"
    assert (said["text"], said["tags"], said["values"], erased["record"]) == (None, [], [], rose)
    assert [one["kind"] for one in said["records"]] == ["entry.create", "entry.tag", "entry.purge"]
    assert (await send(api, "POST", f"/v1/entries/{rose}/purge")).value["records"] == []
    assert (await send(api, "POST", f"/v1/entries/{UNKNOWN}/purge")).status == 404
    other = MemoryNode()
    other.identity = Identity.from_seed(b"o" * 32)
    theirs = other._append(Draft(CREATE, {"codes": b"\x7f" + bytes(7), "text": "theirs"}))
    api.node.records.append(theirs)
    refused = await send(api, "POST", f"/v1/entries/{to_text(theirs.cid)}/purge")
    assert (refused.status, refused.code) == (403, "forbidden")


async def test_an_unknown_entry_is_404_and_no_id_is_400(api: Served) -> None:
    assert (await send(api, "DELETE", f"/v1/entries/{UNKNOWN}")).status == 404
    assert (await send(api, "PUT", f"/v1/entries/{UNKNOWN}/vote", {"value": "up"})).status == 404
    assert (await send(api, "POST", "/v1/entries/nonsense/retract")).status == 400


async def test_only_the_creator_retracts(api: Served) -> None:
    other = MemoryNode()
    other.identity = Identity.from_seed(b"o" * 32)
    rose = other._append(Draft(CREATE, {"codes": b"\x7f" + bytes(7), "text": "mine"}))
    api.node.records.append(rose)
    refused = await send(api, "POST", f"/v1/entries/{to_text(rose.cid)}/retract")
    assert (refused.status, refused.code) == (403, "forbidden")


@pytest.mark.parametrize(
    ("header", "version"),
    [(None, None), ("*", None), ('"ab"', "ab"), ('W/"ab"', "ab"), ("ab", "ab")],
)
def test_a_version_is_read_from_the_header(header: str | None, version: str | None) -> None:
    assert version_of(header) == version
