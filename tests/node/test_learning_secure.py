"""A task whose updates are summed under masks, of whole nodes: right to the bit, though one is killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio

from federated.aggregation import average
from federated.privacy.secure_messages import Phase
from federated.update import decode, encode
from tests.node.learners import ARRAYS, Learner, engagement, initial, join_all, publish, soon, terms
from tests.node.simulated_nodes import Network, identity, simulate

MEMBERS, KILLED = 8, 5


def update_of(number: int, base: bytes) -> bytes:
    """What `Learner` trains."""
    rng = np.random.default_rng(number)
    model = decode(ARRAYS, base, 100)
    return encode(ARRAYS, [(x + 0.5 * (rng.normal(size=x.shape) - x)).astype(x.dtype) for x in model])


@pytest.mark.slow
def test_eight_members_sum_in_two_groups_though_one_is_killed_between_shares_and_masked(
    tmp_path: Path,
) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], secure=4, rounds=3, min_members=MEMBERS)
        await join_all(network, task, range(MEMBERS))
        learners = [Learner(network, number, task) for number in range(MEMBERS)]

        def is_between() -> bool:
            ledger = engagement(network, KILLED, task).ledger
            if ledger.tip is None or ledger.finished:
                return False
            said = [ledger.book.of(ledger.tip.digest, identity(KILLED).agent, phase) for phase in Phase]
            return bool(said[Phase.SHARES]) and not said[Phase.MASKED]

        async with trio.open_nursery() as nursery:
            for learner in learners:
                nursery.start_soon(learner.run)
            await soon(is_between, 120)
            await network.crash(KILLED)
            left = [learner for learner in learners if learner.number != KILLED]
            await soon(lambda: all(learner.final for learner in left), 400)
            nursery.cancel_scope.cancel()
        assert len({learner.final for learner in left}) == 1
        view = await network.nodes[0].learning.task(task)
        base = initial()
        for one in view.history:
            here = {identity(learner.number).agent: learner.number for learner in learners}
            numbers = [here[contributor.agent] for contributor in one.contributors]
            updates = [(update_of(number, base), 10) for number in numbers]
            base = average(terms(secure=4, min_members=MEMBERS), updates)
            blob = await network.nodes[1].learning._tools.blobs.get(one.parameters)
            assert blob == base, "the plain mean of those whose vectors count"
            assert one.refused == ()
        assert base == left[0].final
        last = view.history[-1]
        assert len(last.contributors) == MEMBERS - 1
        ledger = engagement(network, 1, task).ledger
        ledger.book.trim(100)
        assert not any(ledger.book.is_whole(step.before.digest) for step in ledger.steps)
        shown = (await network.nodes[1].learning.task(task)).history
        assert [one.contributors for one in shown] == [one.contributors for one in view.history]
        audits = await network.nodes[1].learning.audit(task, None)
        assert [audit.problem for audit in audits] == [None] * 3
        assert [len(audit.contributors) for audit in audits] == [
            len(one.contributors) for one in view.history
        ]
        text = " ".join(line.text for line in network.nodes[0].learning.lines(task, 0, 500))
        assert f"7 masked vectors of {8 * (40 * 3 + 3 + 1)} bytes" in text
        assert "opens its shares of the masks" in text
        # No update left its node: nobody else has the blob that its user handed in.
        for learner in left:
            own = network.nodes[learner.number].learning._tools.blobs.cid_of(
                update_of(learner.number, initial())
            )
            for other in left:
                held = await network.nodes[other.number].learning._tools.blobs.get(own)
                assert held is None or other is learner

    simulate(tmp_path, [100] * MEMBERS, scenario)
