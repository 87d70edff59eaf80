"""The learning routes over real HTTP, on a whole node that learns alone: every verb, every refusal named."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from chain.aggregation_rule import ROBUST
from chain.cid import from_text, record_cid, to_text
from dht.ports import SystemClock, ThreadedBlocking, system_random
from dht.wire.libp2p_network import open_libp2p_network
from node.api.server import serve_api
from node.config import Settings
from node.node import open_node
from node.options import NodeOptions, NodePaths
from sim.whole_node import found_network
from tests.node.simulated_nodes import DIM, identity
from tests.node.test_api import TOKEN, Reply, Served

ARRAYS = [{"name": "w", "dtype": "<f4", "shape": [3]}]


def saved(*values: float, dtype: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values, dtype))
    return out.getvalue()


@asynccontextmanager
async def learning_api(folder: Path) -> AsyncIterator[Served]:
    founder, stop = identity(0), trio.Event()
    async with (
        open_libp2p_network(founder.seed, [], SystemClock()) as network,
        open_node(
            identity=founder,
            founding=found_network(founder, DIM),
            paths=NodePaths(folder / "chain.db", folder / "held.db", folder / "derived.db"),
            network=network,
            clock=SystemClock(),
            random=system_random(),
            run_blocking=ThreadedBlocking(2),
            options=NodeOptions(),
        ) as node,
        trio.open_nursery() as nursery,
    ):
        url = await nursery.start(partial(serve_api, node, Settings(), TOKEN, stop, learning=node.learning))
        yield Served(url, node, stop)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()


async def post_blob(api: Served, data: bytes) -> str:
    reply = await api.post("/v1/blobs", data)
    assert reply.status == 201
    return str(reply.value["cid"])


def problem(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.value["error"]["code"]


@pytest.mark.slow
async def test_a_task_from_its_terms_to_its_audit(tmp_path: Path) -> None:
    async with learning_api(tmp_path) as api:
        first = await post_blob(api, saved(0, 0, 0))
        terms: dict[str, Any] = {
            "name": "a line",
            "arrays": ARRAYS,
            "parameters": first,
            "rounds": 2,
            "min_members": 1,
            "deadline_ms": 20_000,
            "max_examples": 50,
            "max_abs": 9.5,
            "max_norm": 9,
            "config": {"lr": 0.1, "steps": 3, "wide": True, "who": "me"},
        }
        made = await api.post("/v1/learning/tasks", terms)
        assert made.status == 201
        task = made.value["id"]
        path = f"/v1/learning/tasks/{task}"

        (listed,) = (await api.get("/v1/learning/tasks")).value["tasks"]
        assert (listed["id"], listed["state"], listed["joined"], listed["own"]) == (task, "open", False, True)
        detail = (await api.get(path)).value
        assert detail["config"] == {"lr": "0.1", "steps": 3, "wide": True, "who": "me"}
        assert (detail["arrays"], detail["max_abs"], detail["deadline_ms"]) == (ARRAYS, 10, 20_000)
        assert (detail["max_norm"], detail["strategy"]) == (9, ROBUST)
        assert problem(await api.get(f"{path}/result")) == (404, "not_found")
        assert problem(await api.get(f"{path}/work")) == (409, "conflict")

        assert (await api.post(f"{path}/join")).value == {"joined": True}
        work = (await api.get(f"{path}/work?wait=10")).value
        assert work["state"] == "train"
        assert (work["round"], work["parameters"], work["config"]["lr"]) == (1, first, "0.1")
        assert 0 < work["deadline_s"] <= 20

        good = await post_blob(api, saved(1, 2, 3))
        absent = to_text(from_text(first)[:-1] + b"\0")
        for blob, examples, number, expected in (
            (await post_blob(api, saved(1, 2)), 5, 1, (422, "refused")),
            (await post_blob(api, saved(1, 2, 3, dtype="<f8")), 5, 1, (422, "refused")),
            (await post_blob(api, saved(1, np.nan, 3)), 5, 1, (422, "refused")),
            (await post_blob(api, saved(1, 2, 30)), 5, 1, (422, "refused")),
            (await post_blob(api, saved(1, 2, 9)), 5, 1, (422, "refused")),
            (good, 51, 1, (422, "refused")),
            (good, 0, 1, (422, "refused")),
            (good, 5, 2, (409, "conflict")),
            (absent, 5, 1, (404, "not_found")),
            (task, 5, 1, (400, "bad_request")),
        ):
            update = {"blob": blob, "examples": examples}
            assert problem(await api.post(f"{path}/rounds/{number}/update", update)) == expected

        for number in (1, 2):
            work = (await api.get(f"{path}/work?wait=10")).value
            assert (work["state"], work["round"]) == ("train", number)
            update = {"blob": good, "examples": 5, "metrics": {"loss": 0.125}}
            accepted = await api.post(f"{path}/rounds/{number}/update", update)
            assert accepted.value == {"accepted": True}
        work = (await api.get(f"{path}/work?wait=10")).value
        assert (work["state"], work["round"]) == ("finished", 2)
        model = await api.get(f"/v1/blobs/{work['parameters']}")
        assert model.body == saved(1, 2, 3)

        detail = (await api.get(path)).value
        me = detail["author"]
        assert detail["state"] == "finished"
        assert [one["round"] for one in detail["history"]] == [1, 2]
        assert detail["history"][0]["contributors"] == [
            {"agent": me, "examples": 5, "metrics": {"loss": 0.125}, "bytes": 140}
        ]
        assert detail["history"][0]["signers"] == [me]
        result = (await api.get(f"{path}/result?round=2")).value
        assert (result["round"], result["parameters"]) == (2, work["parameters"])
        audit = (await api.post(f"{path}/audit")).value["rounds"]
        assert [(one["round"], one["ok"], one["problem"]) for one in audit] == [
            (1, True, None),
            (2, True, None),
        ]
        log = (await api.get(f"{path}/log")).value
        kinds = [event["event"] for event in log["events"]]
        assert kinds == ["task", "join", "start", *["commit", "reveal", "result"] * 2]
        rest = (await api.get(f"{path}/log?after=3&limit=2")).value
        assert (rest["events"], rest["next"]) == (log["events"][3:5], 5)
        assert problem(await api.post(f"{path}/join")) == (409, "conflict")
        assert (await api.post(f"{path}/leave")).value == {"joined": False}


async def test_bad_terms_and_unknown_tasks_are_refused(tmp_path: Path) -> None:
    async with learning_api(tmp_path) as api:
        first = await post_blob(api, saved(0, 0, 0))
        good = {"name": "a line", "arrays": ARRAYS, "parameters": first, "rounds": 1}
        changes: tuple[dict[str, Any], ...] = (
            {"arrays": []},
            {"arrays": [{**ARRAYS[0], "dtype": "<f2"}]},
            {"arrays": [{**ARRAYS[0], "shape": [4]}]},
            {"arrays": ARRAYS * 2},
            {"rounds": 0},
            {"max_members": 257},
            {"max_members": 17, "topology": "all-to-all"},
            {"min_members": 3, "max_members": 2},
            {"max_abs": 0},
            {"max_norm": 0},
            {"strategy": "clip|nnm"},
            {"strategy": ""},
            {"config": {"x": [1]}},
            {"more": 1},
        )
        for change in changes:
            assert problem(await api.post("/v1/learning/tasks", good | change)) == (422, "refused"), change
        elsewhere = to_text(from_text(first)[:-1] + b"\0")
        reply = await api.post("/v1/learning/tasks", good | {"parameters": elsewhere})
        assert problem(reply) == (422, "refused")
        assert "post their blob first" in reply.value["error"]["message"]
        unknown = f"/v1/learning/tasks/{to_text(record_cid(b'no task'))}"
        assert problem(await api.get(unknown)) == (404, "not_found")
        assert problem(await api.post(f"{unknown}/join")) == (404, "not_found")
        assert problem(await api.get(f"{unknown}/log")) == (404, "not_found")
        assert problem(await api.get("/v1/learning/tasks/rose")) == (400, "bad_request")
        assert (await api.get("/v1/learning/tasks")).value == {"tasks": []}
