"""Whole nodes that learn together: the same bytes everywhere, liars by name, and what a crash costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio

from chain import canonical
from chain.aggregation_rule import ROBUST
from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import ROUNDS_FROM
from chain.learning_task import GROUPS, INT8
from chain.manifest import Limits
from chain.record import Record, sign_record
from dht.records.bundle import Item
from dht.records.placement import ALL_ROLES
from federated.compression import sent_size
from federated.errors import Refused
from federated.faults import EXCLUDED, UNAVAILABLE, WEIGHT
from federated.learning import UnknownKind
from federated.messages import Question, Reply
from federated.post import Post
from federated.proposal import proposers
from federated.round import Phase
from federated.update import Fault, decode, encode
from federated.views import Barred, TaskView
from node.models import Added
from tests.node.learners import (
    ARRAYS,
    TRAIN_S,
    Learner,
    Liar,
    engagement,
    initial,
    join_all,
    learn,
    publish,
    soon,
)
from tests.node.simulated_nodes import Network, entry, identity, override, simulate, until

DEADLINE_S = 20.0
QUICK_S = 4.0
"""A round in which nobody has to be waited for, with much to spare."""


async def finished(network: Network, learners: list[Learner], task: Cid) -> list[TaskView]:
    """Run the learners; all of them end with one model. The tasks as the nodes see them then."""
    await learn(network, learners)
    models = {learner.final for learner in learners}
    assert len(models) == 1
    assert None not in models
    views = [await learner.node.learning.task(task) for learner in learners]
    assert len({view.parameters for view in views}) == 1
    assert len({tuple(one.parameters for one in view.history) for view in views}) == 1
    return views


@pytest.mark.slow
def test_four_nodes_end_with_the_same_bytes(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [0, 1, 2, 3])
        learners = [Learner(network, number, task, examples=10 * (number + 1)) for number in range(4)]
        began = trio.current_time()
        views = await finished(network, learners, task)
        assert trio.current_time() - began < 3 * QUICK_S
        for learner, view in zip(learners, views, strict=True):
            assert learner.handed_in == [1, 2, 3], learner.refused
            assert view.state == "finished"
            for one in view.history:
                assert len(one.contributors) == 4
                assert not one.refused
                assert len(one.signers) >= 3
        audits = await network.nodes[3].learning.audit(task, None)
        assert [audit.problem for audit in audits] == [None] * 3
        listed = await network.nodes[2].learning.tasks()
        assert [(view.id, view.state) for view in listed] == [(task, "finished")]

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "left"), [(INT8, 0.5), ("topk:40", 0.8)])
def test_compressed_updates_end_with_the_same_bytes_and_plain_ones_are_refused(
    tmp_path: Path, form: str, left: float
) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], compression=form, strategy=ROBUST)
        await join_all(network, task, [0, 1, 2, 3])
        liar = Liar(network, 3, task, lie=lambda _: initial())
        learners = [*(Learner(network, number, task) for number in range(3)), liar]
        views = await finished(network, learners, task)
        first = views[0].history[0]
        assert [reason for _, reason in first.refused] == [Fault.FORMAT]
        assert {one.size for one in first.contributors} == {sent_size(views[0].terms)}
        refused = [await other.node.learning.audit(task, None) for other in learners]
        assert [audit.problem for audits in refused for audit in audits] == [None] * 12
        # Where everybody's data pulls, as far as plain updates would have come, or a part of the way.
        goals = np.mean([np.random.default_rng(n).normal(size=(40, 3)) for n in range(3)], axis=0)
        final = decode(ARRAYS, learners[0].final or b"", 100)[0]
        assert np.linalg.norm(final - goals) < left * np.linalg.norm(goals)

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
def test_a_member_under_a_warrant_is_left_out_from_a_result_on_that_all_agree_on(tmp_path: Path) -> None:
    """It has forked its chain, which has nothing to do with the task; it goes on training and signing."""

    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], rounds=8)
        await join_all(network, task, [0, 1, 2, 3])
        liar = network.nodes[3]
        learners = [Learner(network, number, task) for number in range(4)]

        async def fork_after_a_round() -> None:
            await soon(lambda: engagement(network, 0, task).ledger.steps, every_s=0.1)
            (added,) = await liar.add([entry(1)])
            assert isinstance(added, Added)
            (record,) = [one for one in liar.parts.own.get_many([added.id]) if one is not None]
            other = replace(record.header, hlc=record.header.hlc + 1)
            twin = sign_record(identity(3), other, record.payload or b"")
            for one in (record, twin):
                await liar.parts.records.store(network.nodes[1].agent, [Item(one, int(ALL_ROLES))])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fork_after_a_round)
            nursery.start_soon(learners[3].run)
            await learn(network, learners[:3])
            nursery.cancel_scope.cancel()
        for number in range(3):
            assert liar.agent in network.nodes[number].governance.ledger.standing.first
        views = [await learner.node.learning.task(task) for learner in learners[:3]]
        assert len({tuple(one.parameters for one in view.history) for view in views}) == 1
        left_out = [(liar.agent, EXCLUDED) in one.refused for one in views[0].history]
        assert left_out.count(True) == 1, "it had a seat in one more round, and in none after that"
        first = left_out.index(True)
        assert 0 < first < 7
        for one in views[0].history[first:]:
            assert liar.agent not in {member.agent for member in one.contributors}
        assert all(liar.agent not in one.roster for one in views[0].history[first + 1 :])
        audits = await network.nodes[2].learning.audit(task, None)
        assert [audit.problem for audit in audits] == [None] * 8

    simulate(tmp_path, [100] * 4, scenario)


LIES: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "shape": (lambda data: data.replace(b"(40, 3)", b"(3, 40)"), 10, Fault.SHAPE),
    "dtype": (lambda data: data.replace(b"<f4", b"<i4"), 10, Fault.DTYPE),
    "NaN": (lambda data: data[:-8] + b"\xff" * 8, 10, Fault.NOT_FINITE),
    "size": (lambda data: data * 100, 10, Fault.SIZE),
    "weight": (lambda data: data, 1_001, WEIGHT),
    "norm": (lambda _: encode(ARRAYS, [np.full(a.shape, 99, a.dtype) for a in ARRAYS]), 10, Fault.NORM),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIES)
def test_a_liar_is_refused_by_name_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    lie, examples, reason = LIES[name]

    async def scenario(network: Network) -> None:
        more = {"max_norm": 50, "strategy": ROBUST} if name == "norm" else {}
        task = await publish(network.nodes[0], **more)
        await join_all(network, task, [0, 1, 2, 3])
        honest = [Learner(network, number, task) for number in (0, 1, 3)]
        liar = Liar(network, 2, task, examples=examples, lie=lie)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(liar.run)
            views = await finished(network, honest, task)
            nursery.cancel_scope.cancel()
        for view in views:
            first, *rest = view.history
            assert first.refused == ((identity(2).agent, reason),)
            assert {one.agent for one in first.contributors} == {identity(n).agent for n in (0, 1, 3)}
            assert all(identity(2).agent not in one.roster for one in rest)
            assert view.barred == (Barred(identity(2).agent, reason, 4),)
        assert network.nodes[2].learning.sits_out(task) == Barred(identity(2).agent, reason, 4)
        audits = await network.nodes[0].learning.audit(task, 1)
        assert audits[0].problem is None
        assert audits[0].refused == ((identity(2).agent, reason),)

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
def test_an_update_that_its_author_does_not_serve_is_refused(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], reveal_ms=5_000, rounds=2)
        await join_all(network, task, [0, 1, 2, 3])

        async def nothing(sender: bytes, body: bytes) -> bytes:
            return canonical.encode(None)

        handlers = network.nodes[1].parts.network._handlers  # type: ignore[attr-defined]
        override(network.nodes[1].parts.network, "_handlers", {**handlers, "blob.list": nothing})
        learners = [Learner(network, number, task) for number in (0, 2, 3)]
        hiding = Learner(network, 1, task)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hiding.run)
            views = await finished(network, learners, task)
            nursery.cancel_scope.cancel()
        assert views[0].history[0].refused == ((identity(1).agent, UNAVAILABLE),)

    simulate(tmp_path, [100] * 4, scenario)


def committed(network: Network, task: Cid, watched: int, by: int) -> bool:
    ledger = engagement(network, watched, task).ledger
    return ledger.tip is not None and bool(ledger.commits_of(ledger.tip, identity(by).agent))


def revealed(network: Network, task: Cid, watched: int, by: int) -> bool:
    ledger = engagement(network, watched, task).ledger
    return ledger.tip is not None and bool(ledger.reveals_of(ledger.tip, identity(by).agent))


def running(network: Network, task: Cid, number: int) -> bool:
    return engagement(network, number, task).ledger.tip is not None


MOMENTS: dict[str, Callable[[Network, Cid], bool]] = {
    "before its commit": lambda network, task: running(network, task, 2),
    "after its commit": lambda network, task: committed(network, task, 0, 2),
    "after its reveal": lambda network, task: revealed(network, task, 0, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_member_that_disappears_delays_at_most_one_deadline(tmp_path: Path, moment: str) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [0, 1, 2, 3])
        learners = [Learner(network, number, task) for number in (0, 1, 3)]
        gone = Learner(network, 2, task, trains_s=TRAIN_S if moment != "before its commit" else 60.0)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gone.run)

            async def crash() -> None:
                await soon(lambda: MOMENTS[moment](network, task))
                await network.crash(2)

            nursery.start_soon(crash)
            views = await finished(network, learners, task)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < DEADLINE_S + 3 * QUICK_S
        history = views[0].history
        assert len(history[-1].contributors) == 3
        # It is waited for once: from then on it is not in the roster.
        assert all(identity(2).agent not in one.roster for one in history[2:])

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
def test_a_proposer_that_disappears_is_followed_by_the_next(tmp_path: Path) -> None:
    """Whoever that is: the task's author and bootstrap node is needed no more, either."""

    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], rounds=2)
        await join_all(network, task, [0, 1, 2, 3, 4])
        learners = [Learner(network, number, task) for number in range(5)]
        crashed: list[int] = []

        async def crash_the_proposer() -> None:
            await soon(lambda: running(network, task, 0))
            tip = engagement(network, 0, task).ledger.tip
            assert tip is not None
            order = proposers(tip, tip.agents)
            numbers = [next(n for n in range(5) if identity(n).agent == agent) for agent in order]
            first = numbers[0]
            await soon(lambda: engagement(network, first, task).round)
            round_ = engagement(network, first, task).round
            assert round_ is not None
            await soon(lambda: round_.phase is Phase.RESULT, every_s=0.001)
            await network.crash(first)
            crashed.append(first)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_the_proposer)
            for learner in learners:
                nursery.start_soon(learner.run)
            await soon(
                lambda: all(learner.final for learner in learners if learner.number not in crashed), 300
            )
            nursery.cancel_scope.cancel()
        assert crashed
        assert trio.current_time() - began < DEADLINE_S + 2 * QUICK_S
        assert len({learner.final for learner in learners if learner.number not in crashed}) == 1

    simulate(tmp_path, [100] * 5, scenario)


@pytest.mark.slow
def test_a_member_restarted_in_the_middle_of_a_round_keeps_its_promise(tmp_path: Path) -> None:
    """It has committed; after the restart it reveals the same update, from its memory."""

    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [0, 1, 2, 3])
        learners = [Learner(network, number, task) for number in range(4)]
        learners[0].trains_s = 2.0  # so that the others are still in the commit phase
        follower, signed = engagement(network, 1, task), []
        answer = follower.answer

        async def watched(agent: AgentId, question: Question) -> Reply:
            reply = await answer(agent, question)
            if reply.signature:
                memory = network.nodes[1].learning._tools.memory
                lock = memory.lock(task, question.previous)
                assert lock is not None, "what is signed is on disk before the signature leaves"
                assert lock[0] == question.digest
                signed.append(lock)
            return reply

        override(follower, "answer", watched)

        async def restart() -> None:
            await soon(lambda: committed(network, task, 0, 2))
            await network.crash(2)
            await trio.sleep(0.3)
            await network.start(2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            views = await finished(network, learners, task)
        first = views[0].history[0]
        assert {one.agent for one in first.contributors} == {identity(n).agent for n in range(4)}
        assert learners[2].handed_in.count(1) <= 1
        assert signed

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
def test_a_node_that_nobody_trains_for_is_waited_for_once(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], rounds=6)
        await join_all(network, task, [0, 1, 2, 3])
        began = trio.current_time()
        views = await finished(network, [Learner(network, number, task) for number in (0, 1, 3)], task)
        there = [identity(2).agent in one.roster for one in views[0].history]
        assert there == [True, False, False, False, False, False]
        assert trio.current_time() - began < DEADLINE_S + 6 * QUICK_S

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
def test_everybody_restarts_and_the_task_goes_on(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], rounds=4)
        await join_all(network, task, [0, 1, 2, 3])
        learners = [Learner(network, number, task) for number in range(4)]

        async def restart() -> None:
            await soon(lambda: len(engagement(network, 0, task).ledger.steps) >= 2)
            for number in range(4):
                await network.crash(number)
            await trio.sleep(3.0)
            for number in range(4):
                await network.start(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            views = await finished(network, learners, task)
        assert [one.round for one in views[0].history] == [1, 2, 3, 4]

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
def test_who_joins_late_takes_part_from_the_next_roster_and_has_the_same_model(tmp_path: Path) -> None:
    """The latecomer holds nothing for others, and finds the task by its id alone."""

    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], rounds=5, min_members=3)
        await join_all(network, task, [0, 1, 2])
        learners = [Learner(network, number, task) for number in (0, 1, 2)]
        late = Learner(network, 3, task)

        async def come() -> None:
            await soon(lambda: engagement(network, 0, task).ledger.steps)
            await network.start(3, capacity=0)
            await until(lambda: network.nodes[3].joined)
            await network.nodes[3].learning.join(task)
            await late.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            views = await finished(network, learners, task)
        there = [identity(3).agent in one.roster for one in views[0].history]
        assert not there[0]
        assert there[-1]
        assert late.final == learners[0].final
        assert late.handed_in
        audits = await network.nodes[3].learning.audit(task, None)
        assert [audit.problem for audit in audits] == [None] * 5

    simulate(tmp_path, [100] * 3, scenario)


@pytest.mark.slow
def test_who_only_looks_sees_the_task_and_can_audit_it(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0], rounds=2, min_members=3, strategy=ROBUST)
        await join_all(network, task, [0, 1, 2])
        await finished(network, [Learner(network, number, task) for number in (0, 1, 2)], task)
        await network.settle()
        onlooker = network.nodes[4].learning
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Post, "read", silent)
            assert [one.state for one in await onlooker.tasks()] == ["unread"]
        (listed,) = await onlooker.tasks()
        assert (listed.id, listed.state, listed.round, listed.joined) == (task, "finished", 2, False)
        assert [one.round for one in (await onlooker.task(task)).history] == [1, 2]
        assert [audit.problem for audit in await onlooker.audit(task, None)] == [None, None]
        assert not onlooker.follows(task)

    async def silent(_: Post, __: Cid) -> list[Record]:
        await trio.sleep_forever()
        raise AssertionError

    simulate(tmp_path, [100] * 5, scenario)


def test_a_task_says_by_which_rules_its_rounds_are_computed_and_one_of_older_rules_does_not(
    tmp_path: Path,
) -> None:
    async def scenario(network: Network) -> None:
        node = network.nodes[0]
        for rules, said in ((ROUNDS_FROM, ROUNDS_FROM), (ROUNDS_FROM - 1, None)):
            override(node.learning, "_rules", lambda rules=rules: rules)
            terms = engagement(network, 0, await publish(node, topology=GROUPS, strategy=ROBUST)).ledger.terms
            assert terms.rules == said
            assert terms.rule is not None
            assert terms.rule.bounds_two == (said is not None)

    simulate(tmp_path, [100], scenario)


def test_a_network_that_takes_no_such_task_says_so_before_anything_is_signed(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        node = network.nodes[0]
        override(node.learning, "_rules", lambda: 1)
        before = node.status().records
        with pytest.raises(UnknownKind, match="version 1"):
            await publish(node)
        override(node.learning, "_rules", lambda: 4)
        for newer in ({"strategy": ROBUST}, {"max_norm": 9}):
            with pytest.raises(UnknownKind, match="version 4"):
                await publish(node, **newer)
        override(node.learning, "_rules", lambda: 5)
        for newest in ({"topology": GROUPS}, {"secure": 4}):
            with pytest.raises(UnknownKind, match="version 5"):
                await publish(node, **newest)
        override(node.learning, "_rules", lambda: 6)
        with pytest.raises(UnknownKind, match="version 6"):
            await publish(node, rules=7)
        override(node.learning, "_rules", lambda: 2)
        override(node.learning, "_limits", Limits(payload=8 * 1024))
        with pytest.raises(Refused, match="limit for a record is 8192"):
            await publish(node, config={"notes": "x" * 9_000})
        assert node.status().records == before

    simulate(tmp_path, [100], scenario)


def test_the_initial_model_is_checked_before_anything_is_signed(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        node = network.nodes[0]
        info = await node.blobs.put(initial()[:-1])
        before = node.status().records
        with pytest.raises(Refused, match="do not match the task"):
            await publish(node, parameters=info.cid)
        assert node.status().records == before

    simulate(tmp_path, [100], scenario)
