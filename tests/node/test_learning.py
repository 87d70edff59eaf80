"""Whole nodes that learn together: the same bytes everywhere, liars by name, and what crashes cost."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.node.learners import Learner, join_all, learn, publish
from tests.node.simulated_nodes import Network, simulate


def test_four_nodes_end_with_the_same_bytes(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [0, 1, 2, 3])
        learners = [Learner(network, number, task, examples=10 * (number + 1)) for number in range(4)]
        began = trio.current_time()
        await learn(network, learners)
        assert trio.current_time() - began < 30
        assert len({learner.final for learner in learners}) == 1
        assert learners[0].final is not None
        for learner in learners:
            assert learner.handed_in == [1, 2, 3], (learner.number, learner.refused)
            view = await learner.node.learning.task(task)
            assert view.state == "finished"
            assert [len(one.contributors) for one in view.history] == [4, 4, 4]
        print("virtual seconds", trio.current_time() - began)

    simulate(tmp_path, [100] * 4, scenario)
