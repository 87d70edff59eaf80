"""A roster that is divided, of whole nodes: the same bytes for all, whoever lies or goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain.aggregation_rule import ROBUST
from chain.learning_task import GROUPS, INT8, MAX_MEMBERS
from federated.grouping import place_of
from federated.messages import Question, Word
from tests.node.learners import Learner, Liar, engagement, join_all, publish, soon
from tests.node.simulated_nodes import Network, identity, simulate

MEMBERS = 20


@pytest.mark.slow
def test_two_groups_have_one_model_though_a_member_lies_and_another_is_killed(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(
            network.nodes[0],
            topology=GROUPS,
            max_members=64,
            min_members=MEMBERS,
            rounds=3,
            strategy=ROBUST,
            compression=INT8,
        )
        await join_all(network, task, range(MEMBERS))
        killed, liar = 4, 7
        learners = [Learner(network, number, task) for number in range(MEMBERS) if number != liar]
        async with trio.open_nursery() as nursery:
            for learner in (*learners, Liar(network, liar, task, lie=lambda data: data[:-1])):
                nursery.start_soon(learner.run)
            await soon(lambda: len(engagement(network, 0, task).ledger.steps) >= 1, 120)
            await network.crash(killed)
            left = [learner for learner in learners if learner.number != killed]
            await soon(lambda: all(learner.final for learner in left), 300)
            nursery.cancel_scope.cancel()
        assert len({learner.final for learner in left}) == 1
        views = [await learner.node.learning.task(task) for learner in left]
        assert len({tuple(one.parameters for one in view.history) for view in views}) == 1
        # What another group showed was for its members; it comes from the task's holders.
        ledger = engagement(network, 0, task).ledger
        await soon(lambda: not any(ledger.evidence(step.outcome)[1] for step in ledger.steps), 60)
        first, _, third = (await network.nodes[0].learning.task(task)).history
        assert len(first.roster) == MEMBERS > MAX_MEMBERS
        assert [agent for agent, _ in first.refused] == [identity(liar).agent]
        assert len(first.contributors) == MEMBERS - 1
        assert len(third.roster) == len(third.contributors) == MEMBERS - 2
        audits = await network.nodes[1].learning.audit(task, None)
        assert [audit.problem for audit in audits] == [None] * 3
        # Who still proposes in a group of a round that is over is shown its result.
        last = ledger.steps[-1]
        mine = next(one for one in ledger.groups_of(last.before) if identity(1).agent in one)
        late = Question(task, place_of(last.before.digest, mine), mine, (), (), bytes(32))
        reply = await engagement(network, 0, task).answer(identity(1).agent, late)
        assert (reply.word, reply.cids) == (Word.ELSEWHERE, (last.record,))

    simulate(tmp_path, [100] * MEMBERS, scenario)
