"""A campaign against the HTTP routes of learning: hostile requests to a whole node that learns alone.

Each input is a request that the node's own tools make (`seeds`) with a part of it changed: the method, an id
or a number in the path, the query, a field of the JSON, the bytes. Every answer must be a documented status,
an error one line with a code, nothing may take long, and what is refused must leave no trace. Between two
inputs the node is the same one; in the end a round is computed on it as if nothing had been.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import trio

from chain.cid import blob_cid, record_cid, to_text
from chain.identity import peer_id
from federated.learning import Learning
from node.api.problems import MAX_MESSAGE
from tests.mutation import NUMBERS, Mutator
from tests.node.simulated_nodes import identity
from tests.node.test_api import TOKEN, Served
from tests.node.test_api_learning import learning_api, post_blob, saved

TASKS = "/v1/learning/tasks"
LONG_S = 60.0
"""Seconds after which an answer has not come."""
ATTEMPTS = 3
"""Times that a request which is refused is sent, until nothing changes meanwhile."""
OF_ONE_NODE = 1_500
"""Inputs after which a new node takes over: each task that was made is followed for good."""
ANSWERS = frozenset({200, 201, 400, 403, 404, 405, 409, 413, 422})
BELOW = frozenset({400, 408, 411, 414, 431, 501, 505})
"""What the HTTP server itself may say of a request that is none, without a body."""
NESTED = "@nested@"
FLOATS = (0.1, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 10**400)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "ROSE")
SEGMENTS = (
    *("", ".", "..", "%00", "%0a", "%ff", "%ff%fe", "%2e%2e%2f", "%F0%9F%8C%B9", "a" * 5_000, "0", "1", "-1"),
    *("1.0", "1e3", "00001", "+1", "%20", "%D9%A1", "9" * 5_000, "nan", "tasks", "rounds", "b", "b" * 60),
)
VALUES = (
    *("", "0", "-1", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "9" * 30, "9" * 5_000, "true", "%00"),
    *("%D9%A1", "1_0", "+1", "null", "[]", "%ff", "1%0a2"),
)


@dataclass(frozen=True)
class Request:
    """A request before it is bytes; `body` is JSON unless it is bytes already."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None

    def encode(self) -> bytes:
        target = self.path + ("?" + "&".join(f"{k}={v}" for k, v in self.query) if self.query else "")
        body = self.body if isinstance(self.body, bytes) else written(self.body)
        head = f"{self.method} {target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
        head += f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body


@dataclass(frozen=True)
class Answer:
    """A status, 0 for none at all, and what came with it."""

    status: int
    body: bytes


def written(value: Any) -> bytes:
    """JSON as programs write it, with what no program writes: NaN, half a surrogate pair, a deep nesting."""
    text = "" if value is None else json.dumps(value)
    return text.replace(f'"{NESTED}"', "[" * 50_000 + "]" * 50_000).encode()


class Stage:
    """A node with a task of each kind under way, as it stands when a campaign begins."""

    def __init__(self, api: Served) -> None:
        self.api = api
        self.learning: Learning = api.node.learning  # type: ignore[attr-defined]
        self.seeds: list[Request] = []
        self.ids: list[str] = []
        self.terms: dict[str, Any] = {}

    async def set_up(self) -> None:
        first = await post_blob(self.api, saved(0, 0, 0))
        update = await post_blob(self.api, saved(1, 2, 3))
        self.terms = {
            "name": "a line",
            "arrays": [{"name": "w", "dtype": "<f4", "shape": [3]}],
            "parameters": first,
            "rounds": 3,
            "min_members": 1,
            "deadline_ms": 3_600_000,
            "max_examples": 50,
            "max_abs": 9.5,
            "max_norm": 9,
            "config": {"lr": 0.1, "steps": 3, "wide": True, "who": "me"},
        }
        rounds = await self.begin()
        gossip = await self.begin(topology="gossip", max_norm=None)
        run = await self.begin(mode="server-app", arrays=[], max_norm=None)
        await self.api.get(f"{TASKS}/{run}/duty?serve=true")
        me = peer_id(identity(0).agent)
        call = {"previous": run, "nodes": [me], "answers": [], "messages": [{"agent": me, "blob": update}]}
        called = (await self.api.post(f"{TASKS}/{run}/calls", call)).value["call"]
        done = {"blob": update, "examples": 5, "metrics": {"loss": 0.125}}
        absent = [to_text(blob_cid(b"nobody's")), to_text(record_cid(b"nobody's"))]
        self.ids = [rounds, gossip, run, called, first, update, me, *absent]
        self.seeds = [
            Request("GET", TASKS),
            Request("POST", TASKS, body={**self.terms, "fanout": 3, "topology": "gossip", "max_norm": None}),
            Request("POST", TASKS, body={**self.terms, "compression": "topk:10", "strategy": "nnm|median"}),
            Request("POST", TASKS, body={**self.terms, "secure": 3, "min_members": 3, "max_members": 8}),
            Request("GET", "/v1/blobs"),
            Request("GET", f"/v1/blobs/{first}", (("fetch", "1"),)),
            Request("DELETE", f"/v1/blobs/{absent[0]}"),
            Request("POST", "/v1/blobs", (("pin", "false"),), saved(1, 2, 3)),
        ]
        for task in (rounds, gossip, run):
            path = f"{TASKS}/{task}"
            self.seeds += [
                Request("GET", path),
                Request("POST", f"{path}/join"),
                Request("GET", f"{path}/work", (("wait", "0"),)),
                Request("GET", f"{path}/log", (("after", "0"), ("limit", "3"))),
                Request("GET", f"{path}/result", (("round", "1"),)),
                Request("POST", f"{path}/audit", (("round", "1"),)),
                Request("POST", f"{path}/rounds/2/update", body=done),
                Request("POST", f"{path}/rounds/1/update", body={**done, "blob": absent[0]}),
                Request("POST", f"{path}/rounds/1/update", body={**done, "examples": 51}),
            ]
        path = f"{TASKS}/{run}"
        self.seeds += [
            Request("GET", f"{path}/duty", (("wait", "0"), ("serve", "false"))),
            Request("GET", f"{path}/calls", (("after", "0"), ("limit", "2"))),
            Request("POST", f"{path}/calls", body={**call, "previous": called, "wait_s": 0.5}),
            Request("GET", f"{path}/calls/{called}/answers", (("wait", "0"),)),
            Request("POST", f"{path}/calls/{called}/answer", body={"place": 0, "blob": absent[0]}),
            Request("POST", f"{path}/end", body={"previous": run, "answers": [], "failed": "a test"}),
            Request("POST", f"{path}/at-work", body={"previous": called}),
            Request("GET", f"{path}/messages/{update}"),
        ]

    async def begin(self, **changes: Any) -> str:
        """Publish a task of this node alone, and wait until it is under way."""
        made = await self.api.post(TASKS, {**self.terms, **changes})
        assert made.status == 201, made.body
        task = str(made.value["id"])
        assert (await self.api.post(f"{TASKS}/{task}/join")).status == 200
        if changes.get("mode") != "server-app":
            await self.until(task, "train")
        return task

    async def until(self, task: str, state: str) -> None:
        """Wait until this is what a member is to do."""
        while (await self.api.get(f"{TASKS}/{task}/work?wait=5")).value["state"] != state:
            pass

    def state(self) -> tuple[Any, ...]:
        """What a request that is refused must not change."""
        engaged = self.learning._engaged
        told = [(cid, one.wanted, len(one.log), len(one.ledger._seen)) for cid, one in engaged.items()]
        blobs = [(one.cid, one.pinned) for one in self.api.node.blobs.store.infos()]
        return self.api.node.status().records, sorted(told), sorted(blobs)

    async def rest(self) -> None:
        """Until what was taken has come to its end."""
        before = None
        while (now := self.state()) != before:
            before = now
            await trio.sleep(0.1)

    async def ask(self, data: bytes, is_whole: bool) -> Answer:
        """Send bytes, and hang up on our side unless they are a whole request."""
        where = urlsplit(self.api.url)
        with trio.fail_after(LONG_S):
            stream = await trio.open_tcp_stream(where.hostname or "", where.port or 0)
            async with stream:
                found = bytearray()
                try:
                    await stream.send_all(data)
                    if not is_whole:
                        await stream.send_eof()
                    async for portion in stream:
                        found += portion
                except trio.BrokenResourceError:
                    pass  # it has heard enough: what it said before stands
        head, _, body = bytes(found).partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        size = re.search(rb"content-length: (\d+)", head)
        # Behind a request without an end stands another one, which has an answer of its own.
        return Answer(int(words[1]) if len(words) > 1 else 0, body[: int(size[1])] if size else body)

    async def still_learns(self) -> None:
        """A round from its terms to its result."""
        with trio.fail_after(LONG_S):
            await post_blob(self.api, saved(0, 0, 0))  # what is deleted with a token has been allowed
            task = await self.begin(rounds=1)
            update = {"blob": await post_blob(self.api, saved(1, 2, 3)), "examples": 5}
            assert (await self.api.post(f"{TASKS}/{task}/rounds/1/update", update)).status == 200
            await self.until(task, "finished")
        assert (await self.api.post("/v1/chain/verify")).value["ok"] is True


class Hostile:
    """Makes requests of a stage's seeds."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage = stage
        self.rng = rng
        others = [*stage.ids, stage.terms, NESTED, "\ud800", "\udfff\ud800", *FLOATS]
        self.mutator = Mutator(rng, others, (*NUMBERS, *FLOATS), is_json=True)

    def request(self) -> tuple[bytes, bool]:
        """The bytes of a request, and whether they are HTTP."""
        rng = self.rng
        request = rng.choice(self.stage.seeds)
        for _ in range(rng.choice((1, 1, 1, 2))):
            request = self.changed(request)
        data = request.encode()
        if rng.random() < 0.05:
            return self.mutator.data(data), False
        return data, True

    def changed(self, request: Request) -> Request:
        rng = self.rng
        match rng.randrange(10):
            case 0:
                return replace(request, method=rng.choice(METHODS))
            case 1 | 2:
                return replace(request, path=self.path(request.path))
            case 3:
                return replace(request, query=self.query(request.query))
            case 4:
                raw = request.body if isinstance(request.body, bytes) else written(request.body)
                return replace(request, body=self.mutator.data(raw))
        if isinstance(request.body, bytes):
            return replace(request, body=self.mutator.data(request.body))
        if request.body is None:
            return replace(request, query=self.query(request.query))
        return replace(request, body=self.mutator.value(request.body))

    def path(self, path: str) -> str:
        rng = self.rng
        parts = path.split("/")
        place = rng.randrange(1, len(parts))
        here = parts[place]
        near = [here[:-1], here + "a", here.upper(), here[:5] + "%0a" + here[5:], quote(here + "\n")]
        swapped = here[:8] + ("b" if here[8:9] == "a" else "a") + here[9:]
        parts[place] = rng.choice([*near, swapped, *rng.sample(SEGMENTS, 5), *rng.sample(self.stage.ids, 5)])
        if rng.random() < 0.1:
            parts.insert(place, rng.choice(SEGMENTS))
        return "/".join(parts) or "/"

    def query(self, query: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        rng = self.rng
        pairs = list(query) or [(rng.choice(("wait", "after", "limit", "round", "fetch")), "1")]
        place = rng.randrange(len(pairs))
        pairs[place] = (pairs[place][0], rng.choice([*VALUES, *map(str, NUMBERS), rng.choice(SEGMENTS)]))
        if rng.random() < 0.2:
            pairs.append(rng.choice(pairs))
        return tuple((name, "0.5" if name == "wait" and _is_long(value) else value) for name, value in pairs)


def _is_long(wait: str) -> bool:
    """Whether this many seconds are allowed, and longer than a campaign waits."""
    try:
        return 1 < float(wait) <= 60
    except ValueError:
        return False


def check(answer: Answer, is_http: bool, is_head: bool) -> None:
    """Whether an answer is one of those that are documented."""
    if answer.status == 0 or (answer.status in BELOW and not answer.body):
        assert not is_http or is_head, f"status {answer.status}, and nothing said"
        return
    assert answer.status in (ANSWERS if is_http else ANSWERS | {401}), f"status {answer.status}"
    if answer.status >= 400 and answer.body:
        error = json.loads(answer.body)["error"]
        assert set(error) == {"code", "message"}, error
        assert error["code"] not in ("", "unexpected")
        assert 0 < len(error["message"]) <= MAX_MESSAGE
        assert error["message"].splitlines() == [error["message"]], error


async def campaign(folder: Path, seed: int, more: Callable[[int], bool]) -> int:
    """Send hostile requests as long as `more(how many so far)`; how many there were."""
    number = 0
    while more(number):
        home = folder / f"{seed}-{number}"
        home.mkdir()
        async with learning_api(home) as api:
            stage = Stage(api)
            await stage.set_up()
            until = number + OF_ONE_NODE
            while number < until and more(number):
                await one(stage, seed, number)
                number += 1
            await stage.still_learns()
    return number


async def one(stage: Stage, seed: int, number: int) -> None:
    """Send one request; everything about it follows from the seed and the number."""
    data, is_http = Hostile(stage, random.Random(f"{seed}/{number}")).request()
    try:
        for _ in range(ATTEMPTS):
            before = stage.state()
            answer = await stage.ask(data, is_http)
            check(answer, is_http, data.startswith(b"HEAD"))
            if 200 <= answer.status < 300:
                await stage.rest() if data.startswith((b"POST", b"DELETE")) else None
                return
            if stage.state() == before:
                return
            await stage.rest()  # a task that was begun before may just have gone on
        raise AssertionError("what was refused has left something")
    except Exception as error:
        error.add_note(f"input {number} of seed {seed}: {data[:2_000]!r}")
        raise
