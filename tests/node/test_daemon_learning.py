"""Four real daemons learn together over loopback; one of them is killed in the middle of a round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio

from chain.learning_task import Array
from federated.update import decode, encode
from node.api_client import ApiClient, ApiError
from sim.testnet import RunningNode, open_test_network

ARRAYS = (Array("w", "<f4", (1_000,)),)
ROUNDS = 3
VICTIM = 2


@pytest.mark.slow
async def test_a_killed_daemon_holds_the_others_up_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    finals: dict[int, bytes] = {}
    with trio.fail_after(300):
        async with open_test_network(4, tmp_path_factory.mktemp("learning")) as network:
            nodes = network.nodes
            path = await published(nodes)

            async def learn(number: int) -> None:
                client = ApiClient(nodes[number].home)
                mine = encode(ARRAYS, [np.full(1_000, number, "<f4")])
                while True:
                    work = await trio.to_thread.run_sync(lambda: client.get(f"{path}/work?wait=10"))
                    if work["state"] == "finished":
                        finals[number] = client.get_blob(work["parameters"])
                        return
                    if work["state"] == "train":
                        if number == VICTIM and work["round"] == 2:
                            await nodes[VICTIM].kill()
                            return
                        blob = client.post_blob(mine)["cid"]
                        update = {"blob": blob, "examples": number + 1}
                        await nodes[number].post(f"{path}/rounds/{work['round']}/update", update)

            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(learn, number)
            view = await nodes[0].get(path)
            audit = await nodes[1].post(f"{path}/audit", None, 60.0)
    assert sorted(finals) == [0, 1, 3]
    assert len(set(finals.values())) == 1
    (weights,) = decode(ARRAYS, finals[0], 1_000)
    # 0, 1 and 3, weighted by 1, 2 and 4
    assert np.allclose(weights, (0 * 1 + 1 * 2 + 3 * 4) / 7, atol=1e-6)
    assert [len(one["contributors"]) for one in view["history"]] == [4, 3, 3]
    assert [one["ok"] for one in audit["rounds"]] == [True] * ROUNDS


async def published(nodes: list[RunningNode]) -> str:
    """A task of the first node that all have joined: its path in the API."""
    first = ApiClient(nodes[0].home).post_blob(encode(ARRAYS, [np.zeros(1_000, "<f4")]))
    terms: dict[str, Any] = {
        "name": "a constant",
        "arrays": [{"name": "w", "dtype": "<f4", "shape": [1_000]}],
        "parameters": first["cid"],
        "rounds": ROUNDS,
        "min_members": 4,
        "deadline_ms": 60_000,
        "strategy": "fedavg",
    }
    path = f"/v1/learning/tasks/{(await nodes[0].post('/v1/learning/tasks', terms))['id']}"
    for node in nodes:
        while True:
            try:
                await node.post(f"{path}/join", None)
                break
            except ApiError as error:
                if error.status != 404:  # 404: the task is on its way
                    raise
                await trio.sleep(0.1)
    return path
