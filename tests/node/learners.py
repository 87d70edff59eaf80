"""Users' processes for simulated nodes: they train a little arithmetic and hand it in, as `fl run` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import trio
from numpy.typing import NDArray

from chain.cid import Cid
from chain.learning_task import Array, Task
from federated.actions import Offer
from federated.compression import is_compressed, quantise
from federated.engagement import Engagement
from federated.errors import LearningError
from federated.half import halved, is_half
from federated.update import decode, encode
from node.node import Node
from node.storage.errors import StorageError
from tests.node.simulated_nodes import Network, until

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
    handed_in: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    final: bytes | None = None
    kept: list[NDArray[np.float64]] | None = None
    """What the last compressed update left."""

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
            except (LearningError, StorageError, KeyError) as error:  # KeyError: the node has gone
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
            await self.may_train(number)
            await trio.sleep(self.trains_s)
            rng = np.random.default_rng(self.number)
            pulled = [(x + 0.5 * (rng.normal(size=x.shape) - x)).astype(x.dtype) for x in model]
            update = encode(task.arrays, pulled)
            if is_compressed(task):
                update, self.kept = quantise(
                    task.arrays, data, update, self.kept, task.max_abs, None, task.top_k
                )
            elif is_half(task):
                update = halved(task.arrays, update, task.max_abs)
            await self.hand_in(node, number, update)
            self.handed_in.append(number)

    async def may_train(self, number: int) -> None:
        """Wait before the training of a round begins; here for nothing."""

    async def hand_in(self, node: Node, number: int, update: bytes) -> None:
        info = await node.blobs.put(update)
        await node.learning.hand_in(self.task, number, info.cid, self.examples, {"loss": 0.25})


@dataclass
class Liar(Learner):
    """A user whose node does not check what it hands in: whatever `lie` makes of the update goes out."""

    lie: Callable[[bytes], bytes] = lambda data: data

    async def hand_in(self, node: Node, number: int, update: bytes) -> None:
        engagement = node.learning._rounds(self.task)
        assert isinstance(engagement, Engagement)
        round_ = engagement.round
        assert round_ is not None
        info = await node.blobs.put(self.lie(update))
        offer = Offer(info.cid, info.size, self.examples, {}, bytes(32))
        await node.learning._tools.memory.keep_offer(self.task, round_.tip.digest, offer)
        round_.offer = offer
        engagement.wake()
        await trio.sleep(1.0)


def engagement(network: Network, number: int, task: Cid) -> Engagement:
    found = network.nodes[number].learning._rounds(task)
    assert isinstance(found, Engagement)
    return found


async def soon(condition: Callable[[], object], within_s: float = 60.0, every_s: float = 0.01) -> None:
    """Wait in virtual time for a moment that does not last; raises `TooSlowError`."""
    with trio.fail_after(within_s):
        while True:
            if condition():
                return
            await trio.sleep(every_s)


async def learn(network: Network, learners: Sequence[Learner], within_s: float = 600.0) -> None:
    """Let all of them train until they have the final model."""
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            for learner in learners:
                nursery.start_soon(learner.run)


async def join_all(network: Network, task: Cid, numbers: Sequence[int]) -> None:
    await until(lambda: not any(node.status().pending for node in network.nodes.values()))
    for number in numbers:
        await network.nodes[number].learning.join(task)
