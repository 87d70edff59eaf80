"""Whole nodes that learn by gossip: models come together, with losses, a crash, a late joiner and a liar."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from chain.aggregation_rule import ROBUST
from chain.cid import Cid
from chain.learning_task import FLOAT16, GOSSIP
from chain.record import Record
from chain.share import Share
from dht.network import PeerId
from federated.gossip_run import GossipRun
from federated.half import halved
from federated.share_log import ShareLog
from federated.update import Fault, decode
from node.node import Node
from tests.node.learners import ARRAYS, Learner, initial, join_all, publish
from tests.node.simulated_nodes import Network, override, simulate, until

MEMBERS = 12
ROUNDS = 6
FANOUT = 4
LIAR = 5
KILLED = 7
RESTARTED = 3
LATE = 11


class GossipLiar(Learner):
    """A member that shows what no node would: NaN for its last element, in the place of what it trained."""

    async def _once(self) -> None:
        run = run_of(self.network, self.number, self.task)
        state, number, _, _ = await run.work(5.0)
        if state == "finished":
            self.final = b""
        if state != "train":
            return
        await trio.sleep(self.trains_s)
        info = await self.node.blobs.put(halved(ARRAYS, initial(), 100)[:-2] + b"\xff" * 2)
        async with run._showing:
            mixed = run.mixed
            assert mixed is not None
            await run._show(
                Share(number, info.cid, info.size, 10, {}, mixed.base, mixed.combined, mixed.refused)
            )
        run.wake()


@dataclass
class LossyLink:
    """20 ms one way, and a share of what is sent is lost."""

    loss: float = 0.01

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        return None if rng.random() < self.loss else 20_000


def run_of(network: Network, number: int, task: Cid) -> GossipRun:
    run = network.nodes[number].learning._rounds(task)
    assert isinstance(run, GossipRun)
    return run


async def told_by_holders(node: Node, task: Record) -> int:
    """The round in which the others are by what the task's holders have, where who joins late looks first."""
    log = ShareLog(task)
    log.add_all(await node.learning._tools.post.read(task.cid))
    return log.frontier(node.agent, 0)


def spread(models: list[NDArray[np.float64]]) -> float:
    """How far models lie from their mean, at most."""
    middle = np.mean(models, axis=0)
    return max(float(np.linalg.norm(one - middle)) for one in models)


@pytest.mark.slow
def test_models_come_together_while_members_come_crash_and_lie(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        terms = {"rounds": ROUNDS, "max_members": 20, "min_members": 8, "commit_ms": 10_000}
        form = {"topology": GOSSIP, "fanout": FANOUT, "strategy": ROBUST, "compression": FLOAT16}
        task = await publish(network.nodes[0], **form, **terms)
        await join_all(network, task, [n for n in range(MEMBERS) if n != LATE])
        learners = [Learner(network, n, task) for n in range(MEMBERS) if n != LIAR]
        liar = GossipLiar(network, LIAR, task)
        honest = [one for one in learners if one.number not in (KILLED, LATE)]
        own = run_of(network, 0, task)

        async def nothing(_own: object, _others: object) -> bytes:
            return initial()

        override(run_of(network, LIAR, task), "combination", nothing)

        async def trouble() -> None:
            await until(lambda: own.own is not None and own.own.round >= 2)
            await network.crash(KILLED)
            await network.crash(RESTARTED)
            await trio.sleep(1.0)
            await network.start(RESTARTED)
            late = network.nodes[LATE]
            heard = 0
            while heard < 3:
                await trio.sleep(0.2)
                heard = await told_by_holders(late, own.ledger.task)
            await late.learning.join(task)

        with trio.fail_after(600.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(liar.run)
                nursery.start_soon(next(one for one in learners if one.number == KILLED).run)
                nursery.start_soon(trouble)
                async with trio.open_nursery() as inner:
                    for one in [*honest, *(one for one in learners if one.number == LATE)]:
                        inner.start_soon(one.run)
                nursery.cancel_scope.cancel()
        # Everybody who was there to the end has a result, and nobody let the liar in.
        ended = [one for one in learners if one.number != KILLED]
        accused = set()
        for one in ended:
            view = await one.node.learning.task(task)
            assert view.state == "finished"
            assert view.history[-1].round == ROUNDS
            assert view.parameters == view.history[-1].parameters
            for step in view.history:
                assert {one.size for one in step.contributors} == {len(halved(ARRAYS, initial(), 100))}
                assert liar.node.agent not in {member.agent for member in step.contributors}
                assert 2 <= len(step.contributors) <= FANOUT + 1
                accused |= set(step.refused)
        assert accused == {(liar.node.agent, Fault.NOT_FINITE)}
        assert min(len(one.handed_in) for one in honest) >= ROUNDS // 2, "nobody waits long"
        (late,) = [one for one in learners if one.number == LATE]
        assert min(late.handed_in) > 1, "who joins late begins where the others are"
        # Models came together to about where everybody's data pulls.
        finals = [decode(ARRAYS, one.final or b"", 100)[0] for one in ended]
        goals = [np.random.default_rng(one.number).normal(size=(40, 3)) for one in ended]
        assert spread(finals) < spread(goals) / 3
        middle = np.mean(goals, axis=0)
        assert np.linalg.norm(np.mean(finals, axis=0) - middle) < spread(goals) / 3
        # Each step can be made again by a node that took no part in it; a base out of nowhere is found.
        auditor = network.nodes[LATE].learning
        audits = await auditor.audit(task, None)
        assert {audit.agent for audit in audits} >= {one.node.agent for one in ended}
        assert [a.problem for a in audits if a.agent in {one.node.agent for one in ended}] == [None] * len(
            ended
        )
        found = {audit.agent: audit.problem for audit in audits}[liar.node.agent]
        assert found is not None
        assert "has the fault 'not-finite'" in found

    simulate(tmp_path, [100] * MEMBERS, scenario, LossyLink())
