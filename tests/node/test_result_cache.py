"""Kept answers: bounded, the least used go first, and only what a change concerns goes with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import raw_cid
from chain.kinds import CREATE
from chain.source_chain import Draft, next_record
from node.models import Answer, Cost, Hit
from node.query.filters import ANY
from node.query.question import Question
from node.query.result_cache import MAX_CHANGED, SHARD_BYTES, ResultCache, answer_bytes
from node.query.steps import Steps
from sharding.tree import ShardTree
from tests.node.storage_fixtures import ALICE

SHARDS = ShardTree.fixed(2).leaves
RECORDS = [
    next_record(ALICE, raw_cid(b""), raw_cid(b""), None, Draft(CREATE, {"n": n}), 1, bytes(16))
    for n in range(6)
]


@dataclass
class Stopped:
    """A clock that a test moves."""

    s: float = 0.0

    def monotonic(self) -> float:
        return self.s

    def wall_us(self) -> int:
        return int(self.s * 1e6)


def question(number: int) -> Question:
    return Question(np.array([number, 1], dtype=np.int8), 1, (), ANY, 950_000, 1_000)


def answer(number: int, text: str = "text") -> Answer:
    record = RECORDS[number]
    hit = Hit(record.subject, 1, ALICE.agent, text, (), record, ALICE.agent)
    return Answer((hit,), Cost(1, 4, 1, 1.0, 0, False))


def cache(clock: Stopped, **bounds: int) -> ResultCache:
    return ResultCache(clock, 10.0, tuple, lambda _: False, **bounds)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 5)),
        st.tuples(st.just("keep"), st.integers(0, 5)),
        st.tuples(st.just("entry"), st.integers(0, 5)),
        st.tuples(st.just("shard"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 6)),
        st.tuples(st.just("write"), st.just(0)),
    ),
    max_size=30,
)


@given(steps)
def test_what_is_given_is_what_a_model_keeps(moves: list[tuple[str, int]]) -> None:
    """The model: questions, oldest use first, each with when it was kept; question n asked shard n mod 4."""
    clock, most = Stopped(), 3
    kept, model = cache(clock, max_answers=most), dict[int, float]()
    for what, n in moves:
        match what:
            case "ask":
                found = kept.answer(question(n), Steps(clock))
                there = n in model and clock.s - model[n] < 10.0
                assert (found is not None) == there
                if found is not None:
                    assert found.hits == answer(n).hits
                    assert found.cost.cached_s == clock.s - model[n]
                    model[n] = model.pop(n)
                else:
                    model.pop(n, None)
            case "keep":
                kept.keep(question(n), answer(n), [SHARDS[n % 4]], kept.changes)
                model.pop(n, None)
                model[n] = clock.s
                if len(model) > most:
                    del model[next(iter(model))]
            case "entry":
                kept.heard([RECORDS[n].subject])
                model.pop(n, None)
            case "shard":
                kept.heard([SHARDS[n].basis()])
                model = {one: at for one, at in model.items() if one % 4 != n}
            case "wait":
                clock.s += n
            case _:
                kept.clear()
                model.clear()
        assert len(kept) == len(model)
        assert kept.bytes == sum(answer_bytes(answer(one)) + SHARD_BYTES for one in model)
    assert bool(kept._hang_on) == bool(model), "nothing is remembered of what went"


@pytest.mark.parametrize(
    "change",
    [{"shards_missed": 1}, {"deadline_hit": True}],
)
def test_only_what_is_whole_and_was_made_while_nothing_changed_is_kept(change: dict[str, object]) -> None:
    clock = Stopped()
    kept = cache(clock)
    whole = answer(0)
    kept.keep(question(0), replace(whole, cost=replace(whole.cost, **change)), SHARDS, kept.changes)  # type: ignore[arg-type]
    kept.keep(replace(question(0), k=2), whole, SHARDS, kept.changes)
    begun = kept.changes
    kept.heard([SHARDS[1].basis(), b"something else"])
    kept.keep(question(0), whole, SHARDS, begun)
    begun = kept.changes
    kept.clear()
    kept.keep(question(0), whole, SHARDS, begun)
    cache(clock, max_bytes=1_000).keep(question(0), whole, SHARDS, 0)
    assert (len(kept), kept.bytes) == (0, 0)
    begun = kept.changes
    kept.heard([SHARDS[1].basis(), RECORDS[1].subject])
    kept.keep(question(0), whole, SHARDS[:1], begun)
    assert kept.answer(question(0), Steps(clock)) is not None, "what changed does not concern it"
    begun = kept.changes
    for n in range(MAX_CHANGED + 1):
        kept.heard([b"%d" % n])
    kept.keep(question(1), answer(1), SHARDS[:1], begun)
    assert kept.answer(question(1), Steps(clock)) is None, "nobody remembers whether it does"
    assert ResultCache(clock, 0.0, tuple, lambda _: False).answer(question(0), Steps(clock)) is None


def test_bytes_are_bounded_by_letting_the_oldest_go() -> None:
    clock = Stopped()
    large = answer_bytes(answer(0, "x" * 10_000)) + SHARD_BYTES
    kept = cache(clock, max_bytes=2 * large)
    for n in range(6):
        kept.keep(question(n), answer(n, "x" * 10_000), SHARDS[:1], kept.changes)
    assert [kept.answer(question(n), Steps(clock)) is not None for n in range(6)] == [False] * 4 + [True] * 2
    assert kept.bytes == 2 * large
