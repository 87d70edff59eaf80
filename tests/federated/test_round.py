"""A round under any order of events: the honest end with the same bytes, liars are named, waits are short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.kinds import COMMIT, REVEAL
from chain.learning import Commit, Reveal, commit_body, reveal_body
from federated.aggregation import average
from federated.agreement import ATTEMPT_FLOOR_S
from federated.faults import DOUBLE, EXCLUDED, HASH, LATE, PENALISED, UNAVAILABLE, WEIGHT
from federated.round import Round
from federated.update import Fault, decode, encode
from federated.waiting import FLOOR_S
from tests.federated.models import ARRAYS, TASK, model, task_of, values
from tests.federated.table import Member, Table

FOUR = task_of(max_members=4)


def agree(table: Table, *apart: Member) -> None:
    """All living members but those `apart` went the same way to the same model."""
    honest = [member for member in table.members if member.alive and member not in apart]
    assert len({member.ledger.tip for member in honest}) == 1
    assert len({tuple(step.digest for step in member.ledger.steps) for member in honest}) == 1


def refusals(table: Table) -> dict[bytes, str]:
    """Who was refused first, and why."""
    found: dict[bytes, str] = {}
    for step in table.members[0].ledger.steps:
        for agent, reason in step.outcome.refused:
            found.setdefault(agent, reason)
    return found


def contributors(table: Table, number: int) -> set[bytes]:
    step = table.members[0].ledger.steps[number - 1]
    reveals = [table.members[0].ledger.reveals[cid][0] for cid in step.outcome.reveals]
    return set(reveals) - {agent for agent, _ in step.outcome.refused}


@pytest.mark.parametrize("members", [1, 2, 3, 4, 7, 16])
def test_honest_members_end_with_the_average_of_all_their_updates(members: int) -> None:
    terms = task_of(max_members=16)
    table = Table(terms, members)
    for number, member in enumerate(table.members):
        member.examples = 10 + number
    table.run()
    agree(table)
    steps = table.members[0].ledger.steps
    assert [step.outcome.round for step in steps] == [1, 2, 3]
    for step in steps:
        updates = [(model(100 * n + step.outcome.round), 10 + n) for n in range(members)]
        assert step.outcome.parameters == blob_cid(average(terms, updates))
        assert not step.outcome.refused
        assert len(step.outcome.roster) == members
    assert (
        table.now < 3 * 3.0
    )  # a second of training and a few messages a round: nobody waited for a deadline


def test_with_a_robust_rule_all_agree_and_one_that_lies_moves_nothing_far() -> None:
    """Three members whose updates lie around one point, and one that turns every sign."""
    terms = replace(task_of(max_members=4), strategy=ROBUST)
    table = Table(terms, 4)
    start = values(0)

    floats = [a for a in start if a.dtype.kind == "f"]
    said = [[*(np.asarray(a + 0.01 * n, a.dtype) for a in floats), start[2]] for n in range(3)]
    updates = [encode(ARRAYS, arrays) for arrays in (*said, [np.asarray(-a) for a in start])]
    for member, data in zip(table.members, updates, strict=True):
        member.update = lambda _round, data=data: data  # type: ignore[misc]
    table.run()
    agree(table)
    for step in table.members[0].ledger.steps:
        found = decode(ARRAYS, table.members[0].blobs[step.outcome.parameters], terms.max_abs)
        assert not step.outcome.refused
        for before, after in zip(floats, found, strict=False):
            assert np.abs(after - before).max() <= 0.021
    (mean,) = decode(ARRAYS, average(terms, [(data, 1) for data in updates]), terms.max_abs)[:1]
    assert np.abs(mean - start[0]).max() > 1


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 16), members=st.integers(2, 5), loss=st.sampled_from([0.0, 0.1, 0.3]))
def test_whatever_is_delayed_or_lost_all_agree(seed: int, members: int, loss: float) -> None:
    table = Table(FOUR, members=min(members, 4), seed=seed, loss=loss, delay=0.4)
    for member in table.members:
        member.trains_s = table.rng.uniform(0.1, 4.0)
    table.run(limit=2_000)
    agree(table)
    assert not refusals(table) or set(refusals(table).values()) <= {"late", "unavailable", "withheld"}


CRASHES = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0, 12), st.floats(0.5, 40)),
    max_size=3,
    unique_by=lambda one: one[0],
)


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 16), crashes=CRASHES)
def test_whoever_crashes_and_returns_all_agree(seed: int, crashes: list[tuple[int, float, float]]) -> None:
    table = Table(FOUR, members=4, seed=seed)
    for number, when, away in crashes:
        member = table.members[number]
        table.at(when, lambda member=member: table.crash(member))  # type: ignore[misc]
        table.at(when + away, lambda member=member: table.restart(member))  # type: ignore[misc]
    table.at(60.0, lambda: None)
    table.run(limit=2_000)
    for member in table.members:
        if not member.alive:
            table.restart(member)
        table.poll(member)
    agree(table)


def lying(lie: Callable[[Member], None]) -> Table:
    table = Table(FOUR, members=4)
    lie(table.members[2])
    table.run()
    agree(table, table.members[2])
    assert table.now < 30
    return table


def with_update(data: bytes) -> Callable[[Member], None]:
    def lie(member: Member) -> None:
        member.update = lambda _: data

    return lie


def with_reveal(*alter: Callable[[Reveal], Reveal]) -> Callable[[Member], None]:
    def lie(member: Member) -> None:
        member.alter = lambda reveal: [change(reveal) for change in alter]

    return lie


def with_weight(examples: int) -> Callable[[Member], None]:
    def lie(member: Member) -> None:
        member.examples = examples

    return lie


W, B, N = values(9)
NAN = encode(ARRAYS, [np.full((3, 2), np.nan, "<f4"), B, N])
LIES: dict[str, tuple[Callable[[Member], None], str]] = {
    "NaN": (with_update(NAN), Fault.NOT_FINITE),
    "infinity": (with_update(encode(ARRAYS, [W, np.array(np.inf), N])), Fault.NOT_FINITE),
    "bound": (with_update(encode(ARRAYS, [W * 1_000, B, N])), Fault.BOUND),
    "shape": (with_update(model(1).replace(b"(3, 2)", b"(2, 3)")), Fault.SHAPE),
    "dtype": (with_update(model(1).replace(b"<f4", b"<f8")), Fault.DTYPE),
    "format": (with_update(b"rose" * 50), Fault.FORMAT),
    "size": (with_update(bytes(1 << 20)), Fault.SIZE),
    "another size": (with_reveal(lambda reveal: replace(reveal, size=reveal.size + 1)), HASH),
    "no weight": (with_weight(0), WEIGHT),
    "too much weight": (with_weight(1_001), WEIGHT),
    "another weight than promised": (with_reveal(lambda reveal: replace(reveal, examples=1_000)), HASH),
    "another salt": (with_reveal(lambda reveal: replace(reveal, salt=bytes(32))), HASH),
    "two updates": (with_reveal(lambda reveal: reveal, lambda reveal: replace(reveal, metrics={})), DOUBLE),
    "nothing to fetch": (with_reveal(lambda reveal: replace(reveal, blob=blob_cid(b"nowhere"))), HASH),
}


@pytest.mark.parametrize("name", LIES)
def test_a_liar_is_refused_by_name_and_sits_out(name: str) -> None:
    lie, reason = LIES[name]
    table = lying(lie)
    liar = table.members[2].agent
    assert refusals(table) == {liar: reason}
    assert contributors(table, 1) == {member.agent for member in table.members} - {liar}
    for step in table.members[0].ledger.steps[1:]:
        assert liar not in step.before.agents


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1 << 16),
    members=st.sampled_from([3, 4]),
    heard=st.lists(st.none() | st.floats(0.0, 12.0), min_size=3, max_size=3),
    first=st.floats(0.0, 8.0),
)
def test_whom_the_network_does_not_hear_is_left_out_by_a_result_that_all_agree_on(
    seed: int, members: int, heard: list[float | None], first: float
) -> None:
    """One hears of the warrant first, the others at any time, or only from who proposes another outcome."""
    table = Table(FOUR, members=members, seed=seed, delay=0.2)
    *others, liar = table.members
    times = [first, *heard][: len(others)]
    for member, when in zip(others, times, strict=True):
        if when is not None:
            table.at(when, lambda member=member: member.excluded.add(liar.agent))  # type: ignore[misc]
            table.at(when, lambda member=member: table.poke(member))  # type: ignore[misc]
    table.run(limit=2_000)
    agree(table, liar)
    steps = table.members[0].ledger.steps
    assert len(steps) == 3
    out = [dict(step.outcome.refused).get(liar.agent) == EXCLUDED for step in steps]
    if any(out):
        after = steps[out.index(True) :]
        for step in after:
            assert liar.agent not in dict(step.outcome.roster)
        for number in range(out.index(True) + 1, 4):
            assert contributors(table, number) <= {member.agent for member in others}
    else:
        assert first > 2.0, "whoever knows of it signs nothing else"
    if first == 0.0 and None not in times:
        assert contributors(table, 3) == {member.agent for member in others}
    assert set(refusals(table)) <= {liar.agent}


@pytest.mark.slow
@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 16),
    members=st.sampled_from([4, 5, 7, 10]),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    delay=st.sampled_from([0.05, 0.5]),
    lies=st.lists(st.sampled_from(sorted(LIES)), min_size=1, max_size=3),
)
def test_whatever_fewer_than_a_third_do_on_a_bad_line_no_honest_member_is_called_a_liar(
    seed: int, members: int, loss: float, delay: float, lies: list[str]
) -> None:
    table = Table(task_of(max_members=10), members, seed=seed, loss=loss, delay=delay)
    liars = table.rng.sample(table.members, min(len(lies), (members - 1) // 3))
    for member, name in zip(liars, lies, strict=False):
        LIES[name][0](member)
    for member in table.members:
        member.trains_s = table.rng.uniform(0.1, 4.0)
    table.run(limit=4_000)
    for member in table.members * 2:
        table.poll(member)
    agree(table)
    for agent, reason in (pair for step in table.members[0].ledger.steps for pair in step.outcome.refused):
        assert reason not in PENALISED or agent in {member.agent for member in liars}


def test_an_update_that_nobody_can_get_is_refused_without_a_penalty() -> None:
    table = Table(task_of(rounds=2), members=4)
    hiding = table.members[1]

    def hide(reveal: Reveal) -> list[Reveal]:
        hiding.blobs.clear()
        return [reveal]

    hiding.alter = hide
    table.run()
    assert refusals(table) == {hiding.agent: UNAVAILABLE}


def test_a_lie_that_only_some_can_see_convinces_the_others() -> None:
    """The liar shows one update to one half of the members, and another to the other half."""
    table = Table(task_of(rounds=2), members=4)
    liar = table.members[3]

    def two_faced(reveal: Reveal) -> list[Reveal]:
        table.say(liar, REVEAL, reveal_body(reveal), to=table.members[:1])
        table.say(liar, REVEAL, reveal_body(replace(reveal, metrics={})), to=table.members[1:2])
        return []

    liar.alter = two_faced
    table.run()
    agree(table)
    assert refusals(table) == {liar.agent: DOUBLE}


def test_who_commits_after_seeing_an_update_comes_too_late() -> None:
    """The copyist waits for another's reveal, and promises the same update then."""
    table = Table(task_of(rounds=1), members=4)
    copyist = table.members[3]
    copyist.trains_s = 8.0  # the others have revealed by then: they wait 2 s more for the last one
    seen: list[bytes] = []

    def copy(_: int) -> bytes:
        return table.members[0].update(1)  # type: ignore[misc]

    copyist.update = copy

    def cheat() -> None:
        """Commit and reveal by hand: the machine would not."""
        round_ = copyist.round
        assert round_ is not None
        others = [cid for m in table.members[:3] for cid in copyist.ledger.reveals_of(round_.tip, m.agent)]
        if not others:
            table.at(table.now + 0.01, cheat)
            return
        seen.extend(others)
        data = copy(1)
        copyist.blobs[blob_cid(data)] = data
        reveal = Reveal(1, round_.tip.digest, others[0], bytes(32), blob_cid(data), len(data), 10, {}, ())
        commit = table.say(copyist, COMMIT, commit_body(Commit(1, round_.tip.digest, reveal.hash(None))))
        table.say(copyist, REVEAL, reveal_body(replace(reveal, commit=commit.cid, commits=(commit.cid,))))

    table.at(1.0, cheat)
    table.run()
    assert seen
    reasons = refusals(table)
    assert reasons in ({copyist.agent: LATE}, {}), reasons  # it may also be too late for anybody to wait for
    assert copyist.agent not in contributors(table, 1)


def test_a_member_that_is_gone_costs_one_deadline_once() -> None:
    for when in (0.5, 1.02, 1.2):  # before its commit, after it, after its reveal
        table = Table(task_of(rounds=4), members=4)
        gone = table.members[1]
        table.at(when, lambda table=table, gone=gone: table.crash(gone))  # type: ignore[misc]
        table.run()
        agree(table)
        assert table.now < 4 * 2.0 + TASK.commit_ms / 1_000, when
        assert gone.agent not in table.members[0].ledger.steps[-1].before.agents


def test_a_member_that_leaves_before_it_has_promised_costs_no_deadline() -> None:
    def ended(says_so: bool) -> float:
        table = Table(task_of(rounds=2), members=4)
        gone = table.members[1]

        def go() -> None:
            if says_so:
                table.leave(gone)
            table.crash(gone)

        table.at(0.5, go)
        table.run()
        agree(table)
        assert gone.agent not in table.members[0].ledger.steps[-1].before.agents
        return table.now

    assert ended(True) + FLOOR_S / 2 < ended(False)


def test_after_failed_attempts_those_who_answer_go_on() -> None:
    table = Table(task_of(rounds=3), members=4)
    for gone in table.members[:2]:
        table.at(1.3, lambda gone=gone: table.crash(gone))  # type: ignore[misc]
    table.run()
    agree(table)
    alive = tuple(sorted(member.agent for member in table.members[2:]))
    assert alive in [step.outcome.members for step in table.members[2].ledger.steps]


def test_who_leaves_is_out_and_who_joins_late_is_in_through_a_result() -> None:
    table = Table(task_of(rounds=5), members=4)
    leaver = table.members[3]
    table.at(1.5, lambda: table.leave(leaver))
    table.at(5.2, lambda: table.join(leaver))
    table.run()
    agree(table)
    there = [leaver.agent in step.before.agents for step in table.members[0].ledger.steps]
    assert there[0]
    assert not all(there)
    assert there[-1]


def test_after_a_restart_no_other_outcome_is_signed_until_the_attempt_has_passed() -> None:
    table = Table(FOUR, 4)
    table.run()
    member = table.members[0]
    for until, bound in ((3.0, 3.0), (1e9, FOUR.commit_ms / 1_000)):
        round_ = Round(member.ledger, member.scribe.identity, 0.0)
        (place,) = round_.agreements
        agreement = round_.agreements[place]
        round_.relock(place, b"signed before", until)
        assert agreement.lock == (b"signed before", bound), "a clock that was put back binds nobody for ever"
        assert not agreement._may_sign(b"another", bound - 0.1)
        assert agreement._may_sign(b"signed before", bound - 0.1)
        assert agreement._may_sign(b"another", bound)
        assert agreement.lock == (b"another", bound + ATTEMPT_FLOOR_S)
