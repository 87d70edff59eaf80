"""The exchange over HTTP: who may enter how often, what is refused by which field, and how conflicts end."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chain.behalf import Behalf, content_statement, vote_statement
from chain.cid import Cid, from_text, record_cid, to_text
from chain.identity import Identity, peer_id
from chain.kinds import DESCRIBE, EDIT, LINK, TAG, UNLINK, UNTAG, VOTE
from chain.record import Record
from chain.source_chain import Draft
from crdt.drafts import draft_edit, draft_vote
from crdt.entry import fold
from node.browsing import Listing
from node.config import Settings
from node.entry_reader import view_of
from node.errors import InvalidInput
from node.exchange.entrance import MAX_BODY
from node.exchange.keys import FILE, add_key, revoke_key
from node.exchange.rate_limit import RateLimit
from node.exchange.serving import serve_exchange
from node.home import Home
from node.models import EntryView
from node.query.filters import Filters
from sim.virtual_clock import inline_blocking
from tests.node.memory_node import MemoryNode
from tests.node.test_api import Reply, _call, _raw

UNKNOWN = to_text(record_cid(b"nobody has it"))
AGENT = Identity.from_seed(b"a" * 32)
OTHER = Identity.from_seed(b"o" * 32)
PACKAGE: dict[str, Any] = {
    "content": {"text": "Roses climb.", "format": "markdown", "generated_by": "agent-1"},
    "confidence": {"overall": 0.75, "statements": {"They climb.": 0.5}},
    "reasoning_trace": {
        "method": "looking",
        "steps": ["went there", "looked up"],
        "alternatives": [{"text": "They lean.", "confidence": 0.25, "reasoning": "no wall"}],
    },
    "metadata": {
        "domain": "garden",
        "subdomains": ["climbers"],
        "type_": "fact",
        "tags": ["red", "rose"],
        "source_citations": [{"source": "A book", "link": "https://example.org", "citation_text": "Up!"}],
        "related_knowledge": [UNKNOWN],
    },
}


class Watch:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return round(self.now * 1e6)


@dataclass(slots=True)
class MemoryListing:
    """What the memory node has, the latest first."""

    node: MemoryNode

    async def entry_of(self, record: Cid) -> Cid | None:
        return next((one.subject for one in self.node.records if one.cid == record), None)

    async def latest(
        self, tags: Sequence[str], filters: Filters, wanted: Callable[[EntryView], bool], limit: int
    ) -> Listing:
        views = [view_of(one.cid, self.node.records_of(one.cid)) for one in reversed(self.node.creates())]
        found = [view for view in views if view is not None and wanted(view)]
        return Listing(tuple(found[:limit]), len(found) <= limit)


@dataclass(slots=True)
class Exchanged:
    """A served exchange, with two keys."""

    url: str
    node: MemoryNode
    path: Path
    keys: tuple[str, str]
    watch: Watch = field(default_factory=Watch)

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = "", **headers: str
    ) -> Reply:
        """With the first key unless another, or none, is given."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if key is not None:
            headers["authorization"] = key or self.keys[0]
        return await trio.to_thread.run_sync(partial(_call, self.url, method, path, data, headers))

    async def get(self, path: str, **more: Any) -> Reply:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.ask("POST", path, body, **more)

    async def published(self, **content: Any) -> str:
        reply = await self.post("/knowledge", {**PACKAGE, "content": {**PACKAGE["content"], **content}})
        assert reply.status == 200, reply.body
        found: str = reply.value["knowledge_id"]
        return found


def fields_of(reply: Reply) -> list[str]:
    """The fields that a refusal names."""
    assert reply.value["status"] == "error"
    assert reply.value["message"]
    return [one["field"] for one in reply.value["errors"] if one["message"]]


@asynccontextmanager
async def serving(folder: Path, limit: RateLimit | None = None, **settings: Any) -> AsyncIterator[Exchanged]:
    node, stop, watch = MemoryNode(), trio.Event(), Watch()
    path = folder / FILE
    keys = tuple(add_key(path, name, 0, name.encode() * 16)[1] for name in ("k1", "k2"))
    serve = partial(
        serve_exchange,
        node,
        MemoryListing(node),
        Home(folder),
        Settings(exchange_listen="127.0.0.1:0", **settings),
        watch,
        inline_blocking,
        stop,
        limit=limit,
    )
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(serve)
        yield Exchanged(url, node, path, (keys[0], keys[1]), watch)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchanged]:
    async with serving(tmp_path) as served:
        yield served


async def test_writing_takes_a_key_and_so_does_reading_unless_it_is_public(tmp_path: Path) -> None:
    async with serving(tmp_path) as exchange:
        rose = await exchange.published()
        for path in ("/knowledge", f"/knowledge/{rose}"):
            assert (await exchange.get(path, key=f"Bearer {exchange.keys[1]}")).status == 200
            refused = await exchange.get(path, key=None)
            assert (refused.status, fields_of(refused)) == (401, ["Authorization"])
            assert refused.headers["www-authenticate"] == "Bearer"
            assert (await exchange.get(path, key=exchange.keys[0][:-1])).status == 401
        assert (await exchange.get("/health", key=None)).value["status"] == "healthy"
        revoke_key(exchange.path, "k1")
        assert (await exchange.get("/knowledge")).status == 401
        revoke_key(exchange.path, "k2")
    async with serving(tmp_path, exchange_public_read=True) as exchange:
        assert (await exchange.get("/knowledge", key=None)).status == 200
        assert (await exchange.get("/knowledge", key="Bearer wrong")).status == 401
        for method, path in (
            ("POST", "/knowledge"),
            ("POST", "/register?node_id=a&public_key=b"),
            ("PUT", f"/knowledge/{UNKNOWN}"),
            ("POST", f"/knowledge/{UNKNOWN}/evaluate"),
            ("POST", f"/conflict/{UNKNOWN}/resolve"),
        ):
            assert (await exchange.ask(method, path, PACKAGE, key=None)).status == 401, path


async def test_so_many_requests_a_minute_for_each_key_and_address(tmp_path: Path) -> None:
    async with serving(tmp_path, RateLimit(3)) as exchange:
        for path in ("/nothing", "/nothing", "/knowledge/"):
            assert (await exchange.get(path)).status == 404, "a path is not guessed at"
        exchange.watch.now += 20.5
        late = await exchange.get("/knowledge")
        assert (late.status, late.headers["retry-after"]) == (429, "40")
        assert "ask again in 40 s" in late.value["message"]
        assert (await exchange.get("/knowledge", key=exchange.keys[1])).status == 200
        for _ in range(3):  # who guesses keys, or sends none, is counted by address
            assert (await exchange.get("/knowledge", key="guess")).status == 401
        assert (await exchange.get("/health", key=None)).status == 429
        exchange.watch.now += 39.5
        assert (await exchange.get("/knowledge")).status == 200


async def test_what_is_wrong_is_named_by_its_field_and_nothing_is_written(exchange: Exchanged) -> None:
    rose = await exchange.published()
    before = len(exchange.node.records)
    long = "x" * 65_537
    wrong: list[tuple[str, Any]] = [
        ("content", None),
        ("content.text", ""),
        ("content.text", long),
        ("content.format", "f" * 101),
        ("content.generated_by", 5),
        ("content.generated_by", "two\nlines"),
        ("content.colour", "red"),
        ("confidence.overall", 1.01),
        ("confidence.overall", None),
        ("confidence.statements.They climb.", 2),
        ("reasoning_trace.method", None),
        ("reasoning_trace.steps", "one"),
        ("reasoning_trace.steps.1", ""),
        ("metadata.domain", "d" * 101),
        ("metadata.type_", ["fact"]),
        ("metadata.tags", ["t"] * 65),
        ("metadata.tags.0", "t" * 101),
        ("metadata.source_citations.0.source", ""),
        ("metadata.related_knowledge.0.knowledge_id", "bad"),
        ("knowledge_id", "bagaq"),
        ("trust.signature", "nothing"),
        ("extra", 1),
    ]
    for place, value in wrong:
        package = json.loads(json.dumps({**PACKAGE, "trust": {}}))
        where: Any = package
        *path, last = place.removesuffix(".knowledge_id").replace("They climb", "They_climb").split(".")
        keys: list[str | int] = [int(one) if one.isdigit() else one for one in path]
        if "statements" in path or last == "":
            keys, last = ["confidence", "statements"], "They climb."
        for key in keys:
            where = where[key]
        where[int(last) if last.isdigit() else last] = value
        refused = await exchange.post("/knowledge", package)
        assert (refused.status, fields_of(refused)) == (422, [place]), (place, refused.body)
        assert long not in refused.body.decode()
    referring = {
        "source_citations": [{"source": f"book {number}"} for number in range(64)],
        "related_knowledge": [rose],
    }
    over_many = {**PACKAGE, "metadata": {**PACKAGE["metadata"], **referring}}
    requests: list[tuple[str, str, Any, int, str]] = [
        ("POST", "/register?public_key=00", None, 422, "node_id"),
        ("POST", "/register?node_id=a&public_key=00", None, 422, "public_key"),
        ("POST", f"/register?node_id=a&public_key={'0' * 64}", None, 422, "public_key"),
        ("GET", "/knowledge?limit=0", None, 422, "limit"),
        ("GET", "/knowledge?min_confidence=2", None, 422, "min_confidence"),
        ("GET", f"/knowledge?tags={','.join(map(str, range(65)))}", None, 422, "tags"),
        ("GET", "/knowledge/nothing", None, 422, "id"),
        ("GET", f"/knowledge/{UNKNOWN}", None, 404, "id"),
        ("PUT", f"/knowledge/{UNKNOWN}", PACKAGE, 404, "id"),
        ("PUT", f"/knowledge/{rose}", {**PACKAGE, "knowledge_id": UNKNOWN}, 422, "knowledge_id"),
        ("PUT", f"/knowledge/{rose}", {**PACKAGE, "version_id": "0000"}, 409, "version_id"),
        ("PUT", f"/knowledge/{rose}", over_many, 422, "metadata.related_knowledge"),
        ("POST", f"/knowledge/{rose}/evaluate", {"evaluating_node": "a", "vote": "up"}, 422, "vote"),
        (
            "POST",
            f"/conflict/{rose}/resolve",
            {"resolving_node": "a", "resolution_type": "merge", "reasoning": "b"},
            422,
            "merged_content",
        ),
        (
            "POST",
            f"/conflict/{rose}/resolve",
            {"resolving_node": "a", "resolution_type": "accept", "reasoning": "b"},
            422,
            "id",
        ),
    ]
    for method, path_, body, status, name in requests:
        refused = await exchange.ask(method, path_, body)
        assert (refused.status, fields_of(refused)) == (status, [name]), (path_, refused.body)
    assert len(exchange.node.records) == before


async def test_hostile_bodies_are_refused_in_their_size_and_depth(exchange: Exchanged) -> None:
    announced = f"Content-Length: {MAX_BODY + 1}"  # and never sent
    reply = await trio.to_thread.run_sync(_raw, exchange.url, announced, b"", exchange.keys[0])
    assert reply.startswith(b"HTTP/1.1 413 ")
    for body, status in (
        (b"{", 400),
        (b"[" * 50_000, 400),
        (b'{"content":' * 50_000, 400),
        (b"\xff\xfe", 400),
        (b'{"content": {"text": "\\ud800"}}', 422),
        (b'{"confidence": {"overall": NaN}}', 422),
        (b'{"confidence": {"overall": 1e999}}', 422),
        (b"[" + b"1," * 50_000 + b"1]", 422),
        (b'{"metadata": {"tags": [' + b"1," * 50_000 + b"1]}}", 422),
        (b"{" + b",".join(b'"%d":1' % n for n in range(10_000)) + b"}", 422),
    ):
        refused = await exchange.post("/knowledge", body)
        assert refused.status == status, (body[:40], refused.body[:200])
        assert 0 < len(fields_of(refused)) <= 20
        assert len(refused.body) < 10_000
    assert (await exchange.get(f"/knowledge?q={'x' * 12_000}")).status < 500
    assert (await exchange.published()) is not None


async def test_a_package_comes_back_as_it_was_sent_and_publishing_it_again_adds_nothing(
    exchange: Exchanged,
) -> None:
    done = await exchange.post("/knowledge", PACKAGE)
    assert set(done.value) == {"status", "message", "knowledge_id", "version_id"}
    shown = (await exchange.get(f"/knowledge/{done.value['knowledge_id']}")).value
    for part in ("content", "confidence", "reasoning_trace"):
        assert shown[part] == PACKAGE[part], part
    stamps = {"created_at", "updated_at"}
    assert {k: v for k, v in shown["metadata"].items() if k not in stamps} == PACKAGE["metadata"]
    assert shown["version_id"] == done.value["version_id"]
    assert shown["trust"] == {
        "signature": None,
        "score": 0.5,
        "votes": {"upvotes": 0, "downvotes": 0},
    }
    stamped = {**PACKAGE["metadata"], "updated_at": "2026-11-27T17:00:00Z"}
    again = await exchange.post("/knowledge", {**PACKAGE, "metadata": stamped})
    assert (again.status, again.value["knowledge_id"]) == (200, done.value["knowledge_id"])
    same = await exchange.ask("PUT", f"/knowledge/{shown['knowledge_id']}", shown)
    assert (same.status, same.value["version_id"]) == (200, shown["version_id"])
    shown["metadata"] |= {"tags": [], "subdomains": [], "related_knowledge": [], "title": "Roses"}
    del shown["metadata"]["source_citations"]
    changed = await exchange.post("/knowledge", shown)
    assert changed.value["message"] == "updated"
    now = (await exchange.get(f"/knowledge/{shown['knowledge_id']}")).value["metadata"]
    assert (now["tags"], now.get("subdomains"), now["title"]) == ([], None, "Roses")
    assert now["related_knowledge"] == []
    assert now["source_citations"] == PACKAGE["metadata"]["source_citations"]
    late = await exchange.post("/knowledge", shown)
    assert (late.status, fields_of(late)) == (409, ["version_id"])
    assert "entry.unlink" in late.value["message"]


async def refused_at(
    exchange: Exchanged, number: int, method: str, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> Reply:
    """Ask while the record `number` of what the request writes is refused."""
    sign, end = exchange.node._append, len(exchange.node.records) + number

    def refuse(draft: Draft) -> Record:
        if len(exchange.node.records) == end:
            raise InvalidInput("it is refused")
        return sign(draft)

    with monkeypatch.context() as patch:
        patch.setattr(exchange.node, "_append", refuse)
        return await exchange.ask(method, path, body)


async def test_a_package_takes_the_place_of_an_entry_in_full_or_not_at_all(
    exchange: Exchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await exchange.published()
    package = deepcopy(PACKAGE)
    package["content"]["text"] = "Roses trail."
    package["metadata"] |= {"title": "Roses", "tags": ["rose", "wild"], "source_citations": []}
    path, before = f"/knowledge/{id}", len(exchange.node.records)
    shown = (await exchange.get(path)).value
    kinds = [EDIT, DESCRIBE, UNTAG, TAG, UNLINK]
    for number in range(len(kinds)):
        reply = await refused_at(exchange, number, "PUT", path, package, monkeypatch)
        assert (reply.status, reply.value["message"]) == (422, "it is refused")
        assert len(exchange.node.records) == before
        assert (await exchange.get(path)).value == shown
    # One tag more than the node lets an entry have is refused after the text was drafted.
    package["metadata"]["tags"] = ["a", "b", "c", "d", "e"]
    assert (await exchange.ask("PUT", path, package)).status == 422
    assert len(exchange.node.records) == before
    package["metadata"]["tags"] = ["rose", "wild"]
    reply = await refused_at(exchange, len(kinds), "PUT", path, package, monkeypatch)
    assert reply.status == 200
    assert [one.header.kind for one in exchange.node.records[before:]] == kinds
    now = (await exchange.get(path)).value
    assert now["version_id"] == reply.value["version_id"]
    assert (now["content"]["text"], now["metadata"]["title"], now["metadata"]["tags"]) == (
        "Roses trail.",
        "Roses",
        ["rose", "wild"],
    )
    assert now["metadata"]["source_citations"] == []


async def test_a_conflict_of_entries_ends_in_full_or_not_at_all(
    exchange: Exchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await exchange.published()
    package = deepcopy(PACKAGE)
    package["content"]["text"] = "Roses do not climb."
    package["metadata"]["related_knowledge"] = [{"knowledge_id": first, "relation": "contradicts"}]
    done = await exchange.post("/knowledge", package)
    assert done.value["conflicts"] == [first]
    settlement = {
        "resolving_node": "judge",
        "resolution_type": "merge",
        "reasoning": "Both looked at walls.",
        "merged_content": "Some roses climb.",
    }
    id = done.value["knowledge_id"]
    await exchange.post(f"/register?node_id=judge&public_key={AGENT.agent.hex()}")
    signature = AGENT.sign(vote_statement("judge", from_text(id), 1, None, None, 5))
    vote = {"evaluating_node": "judge", "vote": "upvote", "signature": signature.hex(), "signed_ms": 5}
    assert (await exchange.post(f"/knowledge/{id}/evaluate", vote)).status == 200
    path, before = f"/conflict/{id}/resolve", len(exchange.node.records)
    kinds = [EDIT, LINK, VOTE]
    for number in range(len(kinds)):
        assert (await refused_at(exchange, number, "POST", path, settlement, monkeypatch)).status == 422
        assert len(exchange.node.records) == before
    reply = await refused_at(exchange, len(kinds), "POST", path, settlement, monkeypatch)
    assert reply.status == 200, reply.body
    assert [one.header.kind for one in exchange.node.records[before:]] == kinds
    view = await exchange.node.get(from_text(id))
    assert view is not None
    keys = [one.behalf.key for one in view.votes if one.behalf is not None]
    assert sorted(key or b"" for key in keys) == [b"", AGENT.agent]  # the settlement's beside the signed one


async def test_a_name_is_spoken_under_by_its_own_api_key_and_its_signature_is_kept(
    exchange: Exchanged,
) -> None:
    path = f"/register?node_id=agent-1&public_key={AGENT.agent.hex()}"
    reply = await exchange.post(path)
    assert (reply.status, reply.value["node_id"], reply.value["public_key"]) == (
        200,
        "agent-1",
        AGENT.agent.hex(),
    )
    theirs = base64.urlsafe_b64encode(OTHER.agent).decode()
    taken = await exchange.post(f"/register?node_id=agent-1&public_key={theirs}")
    assert (taken.status, fields_of(taken)) == (422, ["public_key"])
    signed = base64.b64encode(AGENT.sign(content_statement("agent-1", "Roses climb."))).decode()
    done = await exchange.post("/knowledge", {**PACKAGE, "trust": {"signature": signed}})
    rose = done.value["knowledge_id"]
    assert (await exchange.get(f"/knowledge/{rose}")).value["trust"]["signature"] == signed
    view = await exchange.node.get(from_text(rose))
    assert view is not None
    behalf = view.values[0].behalf
    assert behalf is not None
    assert (behalf.name, behalf.key) == ("agent-1", AGENT.agent)
    for text, name in (("Roses fall.", "agent-1"), ("Roses climb.", "agent-2")):
        content = {"text": text, "generated_by": name}
        refused = await exchange.post(
            "/knowledge", {**PACKAGE, "content": content, "trust": {"signature": signed}}
        )
        assert (refused.status, fields_of(refused)) == (422, ["trust.signature"])
    agent = {"text": "Roses climb.", "generated_by": peer_id(OTHER.agent)}
    refused = await exchange.post("/knowledge", {**PACKAGE, "content": agent})
    assert (refused.status, fields_of(refused)) == (403, ["content.generated_by"])
    vote = {"evaluating_node": "agent-1", "vote": "upvote", "reason": "seen it", "confidence": 1}
    for method, route, body, name in (
        ("POST", f"/register?node_id=agent-1&public_key={AGENT.agent.hex()}", None, "node_id"),
        ("POST", "/knowledge", PACKAGE, "content.generated_by"),
        ("PUT", f"/knowledge/{rose}", PACKAGE, "content.generated_by"),
        ("POST", f"/knowledge/{rose}/evaluate", vote, "evaluating_node"),
        (
            "POST",
            f"/conflict/{rose}/resolve",
            {"resolving_node": "agent-1", "resolution_type": "accept", "reasoning": "r"},
            "resolving_node",
        ),
    ):
        refused = await exchange.ask(method, route, body, key=exchange.keys[1])
        assert (refused.status, fields_of(refused)) == (403, [name]), (route, refused.body)


async def test_votes_count_for_each_name_and_in_the_score_for_those_who_signed_them(
    exchange: Exchanged,
) -> None:
    await exchange.post(f"/register?node_id=agent-1&public_key={AGENT.agent.hex()}")
    rose = await exchange.published()
    path = f"/knowledge/{rose}/evaluate"
    up = {"evaluating_node": "agent-2", "vote": "upvote", "reason": "", "confidence": 1}
    one = (await exchange.post(path, up)).value
    assert (one["knowledge_id"], one["votes"]) == (rose, {"upvotes": 1, "downvotes": 0})
    two = (await exchange.post(path, {**up, "evaluating_node": "agent-3"})).value
    assert two["votes"] == {"upvotes": 2, "downvotes": 0}
    assert two["new_score"] == one["new_score"] > 0.5  # both are the node's own voice: nobody signed
    signature = AGENT.sign(vote_statement("agent-1", from_text(rose), -1, 1_000_000, "no", 5))
    down = {"evaluating_node": "agent-1", "vote": "downvote", "reason": "no", "confidence": 1}
    down |= {"signature": signature.hex(), "signed_ms": 5}
    for wrong in ({"reason": "yes"}, {"signed_ms": 6}):
        refused = await exchange.post(path, {**down, **wrong})
        assert (refused.status, fields_of(refused)) == (422, ["signature"])
    for missing in ({"signature": None}, {"signed_ms": 0}):
        refused = await exchange.post(path, {**down, **missing})
        assert (refused.status, fields_of(refused)) == (422, ["signed_ms"])
    three = (await exchange.post(path, down)).value
    assert (three["status"], three["votes"]) == ("success", {"upvotes": 2, "downvotes": 1})
    assert three["new_score"] == 0.5  # one voice for, one against
    again = (await exchange.post(path, {**up, "vote": "downvote"})).value
    assert again["votes"] == {"upvotes": 1, "downvotes": 2}


async def test_of_a_names_signed_votes_the_newest_counts_and_an_older_one_is_refused(
    exchange: Exchanged,
) -> None:
    await exchange.post(f"/register?node_id=agent-1&public_key={AGENT.agent.hex()}")
    rose = await exchange.published()
    path = f"/knowledge/{rose}/evaluate"

    def vote(value: int, signed_ms: int | None) -> dict[str, Any]:
        signature = AGENT.sign(vote_statement("agent-1", from_text(rose), value, None, None, signed_ms))
        named = {"evaluating_node": "agent-1", "vote": "upvote" if value > 0 else "downvote"}
        return {**named, "signature": signature.hex(), "signed_ms": signed_ms}

    untimed = await exchange.post(path, vote(1, None))
    assert (untimed.status, "signed_ms" in untimed.value["message"]) == (422, True)
    for signed in (vote(1, 5), vote(-1, 7)):
        assert (await exchange.post(path, signed)).status == 200
    before = len(exchange.node.records)
    replayed = await exchange.post(path, vote(1, 5))
    assert (replayed.status, "signed_ms 7" in replayed.value["message"]) == (422, True)
    again = await exchange.post(path, vote(-1, 7))
    assert (again.status, again.value["votes"]) == (200, {"upvotes": 0, "downvotes": 1})
    assert len(exchange.node.records) == before
    # Nor does it help to say it unsigned, or to write the record by oneself.
    unsigned = await exchange.post(path, {"evaluating_node": "agent-1", "vote": "upvote"})
    assert (unsigned.status, "only one that it signs" in unsigned.value["message"]) == (422, True)
    assert len(exchange.node.records) == before
    entry = fold(exchange.node.records_of(from_text(rose)))
    assert entry is not None
    old = Behalf("agent-1", AGENT.agent, bytes.fromhex(vote(1, 5)["signature"]), 5)
    await exchange.node.append(draft_vote(entry, exchange.node.identity.agent, 1, behalf=old))
    shown = (await exchange.get(f"/knowledge/{rose}")).value
    assert shown["trust"]["votes"] == {"upvotes": 0, "downvotes": 1}


async def test_what_is_listed_is_what_was_asked_for(exchange: Exchanged) -> None:
    rose = await exchange.published()
    thorn = await exchange.published(text="Roses have thorns.", generated_by="agent-2")
    everything = (await exchange.get("/knowledge")).value
    assert (everything["count"], [one["knowledge_id"] for one in everything["results"]]) == (2, [thorn, rose])
    asked = "/knowledge?domain=garden&type=fact&tags=red,rose&ai_node=agent-1&min_confidence=0.75&limit=9"
    found = (await exchange.get(asked)).value
    assert (found["count"], found["results"][0]["knowledge_id"]) == (1, rose)
    empty = "/knowledge?domain=&type=&tags=&ai_node=&min_confidence=&limit=&q="
    assert (await exchange.get(empty)).value == everything
    for other in ("domain=sea", "type=idea", "tags=red,blue", "ai_node=agent-9", "min_confidence=0.8"):
        assert (await exchange.get(f"/knowledge?{other}")).value == {"count": 0, "results": []}, other
    assert (await exchange.get("/knowledge?limit=1")).value["more"] is True
    near = (await exchange.get("/knowledge?q=Roses+climb.&ai_node=agent-1&limit=5")).value
    assert [one["knowledge_id"] for one in near["results"]] == [rose]


@pytest.mark.parametrize("how", ["accept", "reject", "merge", "accept by value", "reject by value_id"])
async def test_two_values_of_an_entry_end_in_one_by_a_reasoned_decision(
    exchange: Exchanged, how: str
) -> None:
    rose = await exchange.published()
    entry = from_text(rose)
    view = fold(exchange.node.records_of(entry))
    assert view is not None
    for text in ("Roses ramble.", "Roses sprawl."):
        content = replace(view.contents[0][1], text=text, references=(), fields=())
        await exchange.node.append(draft_edit(view, exchange.node.identity.agent, content))
    shown = (await exchange.get(f"/knowledge/{rose}")).value
    first, second = shown["conflict"]
    assert {first["text"], second["text"]} == {"Roses ramble.", "Roses sprawl."}
    assert shown["content"]["text"] == first["text"]
    kind = how.split()[0]
    body = {
        "resolving_node": "judge",
        "resolution_type": kind,
        "reasoning": "I looked",
        "merged_content": None,
    }
    path = f"/conflict/{second['value_id'] if how.endswith('value') else rose}/resolve"
    if how.endswith("value_id"):
        assert (await exchange.post(path, {**body, "value_id": UNKNOWN})).status == 422
        body["value_id"] = second["value_id"]
    if kind == "merge":
        body["merged_content"] = "Roses ramble and sprawl."
    done = await exchange.post(path, body)
    assert (done.status, done.value["status"], done.value["knowledge_id"]) == (200, "success", rose)
    now = await exchange.node.get(entry)
    assert now is not None
    assert (now.conflict, now.fingerprint) == (False, done.value["version_id"])
    wanted = {
        "accept": first["text"],
        "reject": second["text"],
        "merge": body["merged_content"],
        "accept by value": second["text"],
        "reject by value_id": first["text"],
    }
    assert now.text == wanted[how]
    resolution = now.values[0].resolution
    assert resolution is not None
    assert (resolution.decision, resolution.reason) == (kind, "I looked")
    assert resolution.behalf is not None
    assert resolution.behalf.name == "judge"
    if kind == "merge":
        assert now.values[0].behalf is not None
        assert (now.values[0].generated_by, now.values[0].behalf.name) == ("judge", "judge")
    over = await exchange.post(path, body)
    assert over.status == 422
