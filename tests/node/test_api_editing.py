"""Changing entries over HTTP: what each verb does, what is refused with which status, and If-Match."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from chain.behalf import vote_statement
from chain.cid import from_text, record_cid, to_text
from chain.identity import Identity
from chain.kinds import CREATE
from chain.source_chain import Draft
from crdt.drafts import draft_edit
from crdt.entry import fold
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


WHY = {
    "method": "observation",
    "steps": ["looked", "looked again"],
    "alternatives": [{"text": "Roses creep.", "confidence": 0.1, "reasoning": "They have no runners."}],
}
BOOK = {"source": "A book of roses", "link": "https://example.org/roses", "quote": "They climb."}


async def test_what_is_said_beside_a_text_comes_back_as_it_was_said(api: Served) -> None:
    said = {
        "title": "Climbing roses",
        "type": "fact",
        "subdomains": ["plants", "climbers"],
        "format": "markdown",
        "generated_by": "a gardener",
        "reasoning": WHY,
        "statements": [{"text": "Some roses climb.", "confidence": 0.9}],
        "references": [BOOK, {"predicate": "contradicts", "target": UNKNOWN}],
    }
    rose = (await api.post("/v1/entries", {**ROSE, **said})).value["id"]
    now = await shown(api, rose)
    assert {name: now[name] for name in ("title", "type", "format", "generated_by", "reasoning")} == {
        name: said[name] for name in ("title", "type", "format", "generated_by", "reasoning")
    }
    assert (now["statements"], now["subdomains"]) == (said["statements"], ["climbers", "plants"])
    given = [{k: v for k, v in one.items() if v is not None} for one in now["references"]]
    assert sorted(given, key=str) == sorted(said["references"], key=str)
    before = now["values"]
    await send(api, "PATCH", f"/v1/entries/{rose}", {"title": None, "type": "opinion", "statements": []})
    await send(api, "POST", f"/v1/entries/{rose}/references", {"remove": [BOOK]})
    await send(api, "PUT", f"/v1/entries/{rose}/confidence", {"confidence": 0.8})
    now = await shown(api, rose)
    assert (now["title"], now["type"], now["statements"]) == (None, "opinion", [])
    assert now["values"] == before
    assert [one["predicate"] for one in now["references"]] == ["contradicts"]
    assert [one["confidence"] for one in now["assessments"]] == [0.8]


async def test_what_is_wrong_with_a_field_is_said_by_its_name(api: Served) -> None:
    rose = await planted(api)
    before = await shown(api, rose)
    wrong: tuple[tuple[str, Any], ...] = (
        ("title", {"title": "x" * 301}),
        ("reasoning", {"reasoning": {"method": "m", "steps": ["x" * 4097]}}),
        ("statements", {"statements": [{"text": "y", "confidence": 2}]}),
        ("subdomains", {"subdomains": [""]}),
        ("generated_by", {"generated_by": ""}),
        ("on_behalf_of", {"text": "z", "on_behalf_of": {"name": "m", "key": "!"}}),
        ("behalf.key", {"text": "z", "on_behalf_of": {"name": "m", "key": "AAAA"}}),
    )
    for name, body in wrong:
        reply = await send(api, "PATCH", f"/v1/entries/{rose}", body)
        assert (reply.status, name in reply.value["error"]["message"]) == (422, True), (name, reply.value)
    refused: list[Any] = [{"add": []}, {"add": [BOOK], "remove": [BOOK]}]
    for body in (*refused, {"add": [{"source": "s", "target": rose}]}):
        assert (await send(api, "POST", f"/v1/entries/{rose}/references", body)).status == 422, body
    unknown = await send(api, "POST", f"/v1/entries/{rose}/references", {"remove": [BOOK]})
    assert (unknown.status, unknown.value["error"]["message"]) == (404, "the entry has no such reference")
    assert await shown(api, rose) == before


async def test_a_vote_passed_on_counts_once_for_each_that_it_is_for(api: Served) -> None:
    rose = await planted(api)
    other = Identity.from_seed(b"o" * 32)
    statement = vote_statement("other", from_text(rose), 1, None, "it is so", 5)
    behalf = {
        "name": "other",
        "key": base64.b64encode(other.agent).decode(),
        "signature": base64.b64encode(other.sign(statement)).decode(),
        "signed_ms": 5,
    }
    path = f"/v1/entries/{rose}/vote"
    signed = {"value": "up", "reason": "it is so", "on_behalf_of": behalf}
    assert (await send(api, "PUT", path, {**signed, "reason": "it is not so"})).status == 422
    for body in (signed, signed, {"value": "up"}):
        assert (await send(api, "PUT", path, body)).status == 200
    votes = (await shown(api, rose))["votes"]
    assert (votes["up"], [one["on_behalf_of"] for one in votes["ballots"]].count(behalf)) == (2, 1)
    back = other.sign(vote_statement("other", from_text(rose), 0, None, None, 6))
    later = {**behalf, "signature": base64.b64encode(back).decode(), "signed_ms": 6}
    taken_back = {"value": "none", "on_behalf_of": later}
    assert (await send(api, "PUT", path, taken_back)).status == 200
    assert (await send(api, "PUT", path, signed)).status == 422
    assert (await send(api, "PUT", path, taken_back)).value["records"] == []
    assert (await shown(api, rose))["votes"]["up"] == 1


async def test_a_conflict_is_listed_with_both_sides_and_ends_by_a_decision(
    api: Served,
) -> None:
    rose = await planted(api)
    assert (await api.get("/v1/conflicts")).value == {"entries": [], "next": None}
    found = await api.node.find(from_text(rose))
    view = fold(found.about(from_text(rose)))
    assert view is not None
    old = view.contents[0][1]
    for text in ("Roses ramble.", "Roses sprawl."):
        await api.node.append(draft_edit(view, api.node.identity.agent, replace(old, text=text)))
    (entry,) = (await api.get("/v1/conflicts")).value["entries"]
    assert entry == (await api.get(f"/v1/entries/{rose}/conflicts")).value
    (conflict,) = entry["conflicts"]
    assert (conflict["about"], conflict["common"]) == ("text", [rose])
    first, second = conflict["sides"]
    assert {first["value"], second["value"]} == {"Roses ramble.", "Roses sprawl."}
    path = f"/v1/entries/{rose}/resolve"
    for body in (
        {"decision": "accept", "reason": "r"},
        {"decision": "accept", "reason": "r", "record": rose},
        {"decision": "accept", "reason": "r", "record": second["record"], "text": "t"},
        {"decision": "merge", "reason": "r", "record": second["record"]},
        {"decision": "merge", "reason": "r"},
        {"decision": "accept", "reason": "", "record": second["record"]},
    ):
        assert (await send(api, "POST", path, body)).status == 422, body
    chosen = {"decision": "accept", "reason": "it does", "record": second["record"]}
    assert (await send(api, "POST", path, chosen)).status == 200
    now = await shown(api, rose)
    assert (now["conflict"], now["text"]) == (False, second["value"])
    assert now["values"][0]["resolution"] == {
        "decision": "accept",
        "chosen": second["record"],
        "reason": "it does",
        "on_behalf_of": None,
    }
    assert (await api.get("/v1/conflicts")).value["entries"] == []
    over = await send(api, "POST", path, chosen)
    assert (over.status, "no conflict" in over.value["error"]["message"]) == (422, True)
