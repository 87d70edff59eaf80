"""A network that falls into halves while it learns: both go on, and one history is left when they meet."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_task import GOSSIP
from dht.network import PeerId
from federated.gossip_run import GossipRun
from federated.update import decode
from tests.node.learners import ARRAYS, Learner, engagement, join_all, learn, publish, soon
from tests.node.simulated_nodes import Network, identity, simulate, until

ROUNDS = 40
APART = 2
"""Rounds that each half makes alone."""


@dataclass
class Halves:
    """10 ms one way; nothing gets across while `apart`."""

    half: frozenset[AgentId]
    apart: bool = False

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        return None if self.apart and (sender in self.half) != (receiver in self.half) else 10_000


def gossip_run(network: Network, number: int, task: Cid) -> GossipRun:
    found = network.nodes[number].learning._rounds(task)
    assert isinstance(found, GossipRun)
    return found


@pytest.mark.slow
def test_two_halves_go_on_apart_and_one_history_is_left_when_they_meet(tmp_path: Path) -> None:
    """Which one: of the two results for the round at which they parted, the one with more signatures, then
    the one with the lower digest. The half that turns around asks to join again, and all end alike.
    """
    link = Halves(frozenset(identity(number).agent for number in (0, 1)))

    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], rounds=ROUNDS)
        await join_all(network, task, range(4))
        learners = [Learner(network, number, task) for number in range(4)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(learn, network, learners, 3_000.0)
            ledgers = [engagement(network, number, task).ledger for number in range(4)]
            await soon(lambda: all(len(ledger.steps) >= 2 for ledger in ledgers))
            link.apart = True
            shared = max(len(ledger.steps) for ledger in ledgers)
            await soon(lambda: all(len(ledger.steps) >= shared + APART for ledger in ledgers), 600)
            digests = [[step.digest for step in ledger.steps] for ledger in ledgers]
            parted = next(at for at in range(ROUNDS) if digests[0][at] != digests[2][at])
            candidates = [
                (-len(ledger.steps[parted].signers), digests[n][parted]) for n, ledger in enumerate(ledgers)
            ]
            link.apart = False
        assert len({learner.final for learner in learners}) == 1
        for ledger in ledgers:
            assert ledger.steps[parted].digest == min(candidates)[1]
            assert len(ledger.steps) == ROUNDS
        assert len(ledgers[0].steps[-1].outcome.members) == 4

    simulate(tmp_path, [100] * 4, scenario, link)


@dataclass
class Paced(Learner):
    """A user that trains no round beyond `up_to`: how far a half comes meanwhile is no matter of luck."""

    up_to: int = 0

    async def may_train(self, number: int) -> None:
        await until(lambda: number <= self.up_to, 10_000.0)


@pytest.mark.slow
def test_in_gossip_both_halves_go_on_and_their_models_come_together_when_they_meet(tmp_path: Path) -> None:
    """Meanwhile a member is restarted while its user trains: what it had combined is what it goes on from.

    Each draws all the others, so that whoever meets whom does not decide how close their models come.
    """
    members, apart_at, met_at, rounds = 6, 2, 5, 8
    link = Halves(frozenset(identity(number).agent for number in (0, 1, 2)))

    async def scenario(network: Network) -> None:
        task = await publish(
            network.nodes[0], rounds=rounds, topology=GOSSIP, fanout=members - 1, min_members=members
        )
        await join_all(network, task, range(members))
        learners = [Paced(network, number, task, trains_s=2.0) for number in range(members)]

        def train_up_to(number: int) -> None:
            for learner in learners:
                learner.up_to = number

        def all_reached(number: int) -> bool:
            own = [gossip_run(network, place, task).own for place in range(members)]
            return min(0 if one is None else one.round for one in own) >= number

        def apart() -> float:
            models = [decode(ARRAYS, one, 100)[0] for one in seen.values()]
            return float(np.linalg.norm(np.mean(models[:3], axis=0) - np.mean(models[3:], axis=0)))

        seen: dict[int, bytes] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(learn, network, learners, 3_000.0)
            train_up_to(apart_at)
            await soon(lambda: all_reached(apart_at))
            link.apart = True
            train_up_to(met_at)
            restarted = gossip_run(network, 1, task)
            await soon(lambda: restarted.mixed is not None and restarted.mixed.round > apart_at, 600)
            before = restarted.mixed
            await network.crash(1)
            await network.start(1)
            again = gossip_run(network, 1, task)
            await soon(lambda: again.mixed is not None)
            assert again.mixed == before
            lines = network.nodes[1].learning.lines(task, 0, 1_000)
            assert [line.number for line in lines] == list(range(1, len(lines) + 1))
            assert lines[0].event == "task"
            await soon(lambda: all_reached(met_at), 600)
            for number in range(members):
                mixed = gossip_run(network, number, task).own
                assert mixed is not None
                data = await network.nodes[number].learning._tools.blobs.get(mixed.blob)
                assert data is not None
                seen[number] = data
            halves = apart()
            link.apart = False
            train_up_to(rounds)
        seen = {learner.number: learner.final or b"" for learner in learners}
        assert apart() < halves / 2
        views = [await learner.node.learning.task(task) for learner in learners]
        assert {view.state for view in views} == {"finished"}

    simulate(tmp_path, [100] * members, scenario, link)
