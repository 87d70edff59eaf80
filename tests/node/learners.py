"""Users' processes for simulated nodes: they train a little arithmetic and hand it in, as `fl run` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import trio

from chain.cid import Cid
from chain.learning import Array, Task
from federated.errors import LearningError
from federated.update import decode, encode
from node.node import Node
from tests.node.simulated_nodes import Network

ARRAYS = (Array("w", "<f4", (40, 3)), Array("b", "<f8", (3,)))
TRAIN_S = 0.5


def terms(**changes: object) -> Task:
    fields: dict[str, object] = {
        "name": "a plane",
        "arrays": ARRAYS,
        "parameters": b"",
        "rounds": 3,
        "min_members": 4,
        "max_members": 8,
        "commit_ms": 20_000,
        "reveal_ms": 20_000,
        "result_ms": 20_000,
        "max_examples": 1_000,
        "max_abs": 100,
        "config": {"lr": "0.5"},
    }
    return Task(**(fields | changes))  # type: ignore[arg-type]


def initial() -> bytes:
    return encode(ARRAYS, [np.zeros(a.shape, a.dtype) for a in ARRAYS])


async def publish(node: Node, **changes: object) -> Cid:
    """Publish a task from a node."""
    info = await node.blobs.put(initial())
    return await node.learning.create(terms(**{"parameters": info.cid, **changes}))


@dataclass
class Learner:
    """The user's process beside one node: `goal` is where its own data pulls the model to."""

    network: Network
    number: int
    task: Cid
    trains_s: float = TRAIN_S
    examples: int = 10
    change: Callable[[int, bytes], bytes] = lambda _, data: data
    handed_in: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    final: bytes | None = None

    @property
    def node(self) -> Node:
        return self.network.nodes[self.number]

    async def run(self) -> None:
        """Train until the task is finished; survives that its node is away."""
        while self.final is None:
            if self.number not in self.network.nodes:
                await trio.sleep(1.0)
                continue
            try:
                await self._once()
            except (LearningError, KeyError) as error:
                self.refused.append(str(error))
                await trio.sleep(1.0)

    async def _once(self) -> None:
        node = self.node
        state, number, parameters, _, task = await node.learning.work(self.task, 5.0)
        if self.network.nodes.get(self.number) is not node:
            return
        if state == "finished":
            self.final = await node.learning._tools.blobs.get(parameters)
        elif state == "train":
            data = await node.learning._tools.blobs.get(parameters)
            assert data is not None
            model = decode(task.arrays, data, task.max_abs)
            await trio.sleep(self.trains_s)
            rng = np.random.default_rng(self.number)
            pulled = [(x + 0.5 * (rng.normal(size=x.shape) - x)).astype(x.dtype) for x in model]
            update = self.change(number, encode(task.arrays, pulled))
            info = await node.blobs.put(update)
            await node.learning.hand_in(self.task, number, info.cid, self.examples, {"loss": 0.25})
            self.handed_in.append(number)


async def learn(network: Network, learners: Sequence[Learner], within_s: float = 600.0) -> None:
    """Let all of them train until they have the final model."""
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            for learner in learners:
                nursery.start_soon(learner.run)


async def join_all(network: Network, task: Cid, numbers: Sequence[int]) -> None:
    for number in numbers:
        await network.nodes[number].learning.join(task)
