"""Learning bodies: what is written is read back, digests bind every term, and nothing else gets through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import blob_cid, record_cid
from chain.errors import ChainError, RecordError
from chain.kinds import COMMIT, JOIN, RESULT, REVEAL, ROUNDS_FROM, RULE_VERSION, START
from chain.learning import Commit, Reveal, Start, commit_body, read_learning, reveal_body, start_body
from chain.learning_outcome import Outcome, Result, quorum, result_body
from chain.learning_task import (
    ALL_TO_ALL,
    DTYPES,
    GOSSIP,
    GROUPS,
    MAX_MEMBERS,
    MAX_SEATS,
    MIN_SECURE,
    SERVER_APP,
    Array,
    Task,
    task_from_body,
)
from tests.chain.samples import ALICE, BOB, blob_cids, record_cids, values

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
rounds = st.integers(1, 10_000)
digests = st.binary(min_size=32, max_size=32)
agents = st.binary(min_size=32, max_size=32)
rosters = st.dictionaries(agents, record_cids, min_size=1, max_size=MAX_MEMBERS).map(
    lambda seats: tuple(sorted(seats.items()))
)
arrays = st.builds(
    Array, words, st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 5), max_size=4).map(tuple)
)
tasks = (
    st.builds(
        Task,
        name=words,
        arrays=st.lists(arrays, min_size=1, max_size=4, unique_by=lambda array: array.name).map(tuple),
        parameters=blob_cids,
        rounds=rounds,
        min_members=st.integers(1, 4),
        max_members=st.integers(4, MAX_MEMBERS),
        commit_ms=st.integers(1_000, 86_400_000),
        reveal_ms=st.integers(1_000, 86_400_000),
        result_ms=st.integers(1_000, 86_400_000),
        max_examples=st.integers(1, 1_000_000),
        max_abs=st.integers(1, 1_000_000),
        config=st.dictionaries(
            words, words | st.integers(-9, 9) | st.booleans() | st.binary(max_size=4), max_size=4
        ),
        topology=st.sampled_from([ALL_TO_ALL, GROUPS]),
        secure=st.none() | st.integers(MIN_SECURE, MAX_MEMBERS),
        rules=st.none() | st.integers(ROUNDS_FROM, RULE_VERSION),
    )
    .map(lambda task: task if task.min_members >= (task.secure or 0) else replace(task, secure=None))
    .map(lambda task: task if task.secure is None else replace(task, topology=ALL_TO_ALL))
)
starts = st.builds(Start, rosters)
commits = st.builds(Commit, rounds, digests, digests)
reveals = st.builds(
    Reveal,
    rounds,
    digests,
    record_cids,
    digests,
    blob_cids,
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.dictionaries(words, st.integers(-(10**12), 10**12), max_size=3),
    st.sets(record_cids, max_size=4).map(lambda cids: tuple(sorted(cids))),
)
outcomes = st.builds(
    Outcome,
    rounds,
    digests,
    st.sets(agents, min_size=1, max_size=4).map(lambda found: tuple(sorted(found))),
    st.sets(record_cids, min_size=1, max_size=4).map(lambda cids: tuple(sorted(cids))),
    st.dictionaries(agents, words.filter(lambda word: len(word.encode()) <= 32), max_size=3).map(
        lambda refused: tuple(sorted(refused.items()))
    ),
    blob_cids,
    rosters,
)
TASK_CID = record_cid(b"a task")


@given(task=tasks)
def test_a_task_round_trips(task: Task) -> None:
    assert task_from_body(task.to_body()) == task


@given(start=starts, commit=commits, reveal=reveals, outcome=outcomes)
def test_operations_round_trip(start: Start, commit: Commit, reveal: Reveal, outcome: Outcome) -> None:
    result = Result(outcome, ((ALICE.agent, outcome.sign(TASK_CID, ALICE)),))
    assert read_learning(START, start_body(start)) == start
    assert read_learning(COMMIT, commit_body(commit)) == commit
    assert read_learning(REVEAL, reveal_body(reveal)) == reveal
    assert read_learning(RESULT, result_body(result)) == result


@given(kind=st.sampled_from([JOIN, START, COMMIT, REVEAL, RESULT, "entry.edit"]), body=st.data())
def test_no_body_raises_anything_but_the_floors_errors(kind: str, body: st.DataObject) -> None:
    good = {
        JOIN: st.just({}),
        START: starts.map(start_body),
        COMMIT: commits.map(commit_body),
        REVEAL: reveals.map(reveal_body),
        RESULT: outcomes.map(lambda outcome: result_body(Result(outcome, ()))),
        "entry.edit": st.just({}),
    }
    changed: dict[str, Any] = body.draw(good[kind])
    changed[body.draw(st.sampled_from(sorted(changed) or ["x"]))] = body.draw(values)
    try:
        read_learning(kind, changed)
    except ChainError:
        return
    assert kind != "entry.edit"


@given(task=tasks, name=st.sampled_from(["arrays", "config", "rounds", "max_abs", "x"]), value=values)
def test_no_task_raises_anything_but_the_floors_errors(task: Task, name: str, value: Any) -> None:
    body = {**task.to_body(), name: value}
    try:
        assert task_from_body(body).to_body() == body
    except ChainError:
        return


@given(outcome=outcomes, other=outcomes)
def test_a_signature_binds_every_term_and_the_task(outcome: Outcome, other: Outcome) -> None:
    signature = outcome.sign(TASK_CID, ALICE)
    assert outcome.signed_by(TASK_CID, ALICE.agent, signature)
    assert not outcome.signed_by(TASK_CID, BOB.agent, signature)
    assert not outcome.signed_by(record_cid(b"another task"), ALICE.agent, signature)
    for name in ("round", "previous", "members", "reveals", "refused", "parameters", "roster"):
        changed = replace(outcome, **{name: getattr(other, name)})
        assert changed.signed_by(TASK_CID, ALICE.agent, signature) == (changed == outcome)


@given(reveal=reveals, examples=st.integers(0, 9), blob=blob_cids)
def test_a_commit_binds_blob_and_weight(reveal: Reveal, examples: int, blob: bytes) -> None:
    promised = reveal.hash(ALICE.agent)
    assert (replace(reveal, examples=examples).hash(ALICE.agent) == promised) == (examples == reveal.examples)
    assert (replace(reveal, blob=blob).hash(ALICE.agent) == promised) == (blob == reveal.blob)
    assert len({promised, reveal.hash(BOB.agent), reveal.hash(None)}) == 3, "nobody's else"


def test_a_quorum_is_more_than_two_thirds() -> None:
    for members in range(1, MAX_MEMBERS + 1):
        assert 3 * quorum(members) > 2 * members >= 3 * (quorum(members) - 1)
    assert [quorum(n) for n in (1, 2, 3, 4, 16)] == [1, 2, 3, 3, 11]


def test_a_task_that_breaks_a_limit_is_not_written() -> None:
    task = Task(
        name="too much",
        arrays=(Array("w", "<f8", (1 << 26,)),),
        parameters=blob_cid(b""),
        rounds=1,
        min_members=1,
        max_members=1,
        commit_ms=1_000,
        reveal_ms=1_000,
        result_ms=1_000,
        max_examples=1,
        max_abs=1,
        config={},
    )
    with pytest.raises(RecordError, match="bytes together"):
        task.to_body()
    with pytest.raises(RecordError, match="none of the finishes"):
        replace(task, arrays=(Array("w", "<f8", ()),), strategy="mode").to_body()
    small = replace(task, arrays=(Array("w", "<f8", ()),), max_members=MAX_SEATS, topology=GROUPS)
    assert task_from_body(small.to_body()) == small
    three = {"secure": 3, "min_members": 3}
    summed = replace(small, max_members=MAX_MEMBERS, topology=ALL_TO_ALL)
    assert replace(summed, **three).to_body()["secure"] == 3  # type: ignore[arg-type]
    for wrong in (
        {"topology": ALL_TO_ALL},
        three,
        {"mode": SERVER_APP},
        {**three, "min_members": 2},
        {**three, "compression": "int8"},
        {"rules": ROUNDS_FROM - 1},
        {"rules": RULE_VERSION + 1},
        {"rules": ROUNDS_FROM, "topology": GOSSIP},
        {"rules": ROUNDS_FROM, "mode": SERVER_APP, "topology": ALL_TO_ALL, "max_members": MAX_MEMBERS},
    ):
        with pytest.raises(RecordError):
            replace(small, **wrong).to_body()  # type: ignore[arg-type]

    assert replace(small, mode=SERVER_APP, topology=ALL_TO_ALL, max_members=MAX_MEMBERS).to_body()


@given(tasks, st.integers(1, RULE_VERSION))
def test_rounds_of_a_version_are_unknown_before_it_and_what_came_before_stays(task: Task, rules: int) -> None:
    """Terms that name none are what they were, so that older rounds go on as before."""
    older = replace(task, rules=None)
    assert "rules" not in older.to_body()
    if task.rules is None or rules >= task.rules:
        assert task.newer(rules) == older.newer(rules)
    else:
        assert task.newer(rules) == (older.newer(rules) or (f"rounds of version {task.rules}", task.rules))
