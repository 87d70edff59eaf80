"""The demo shows the main job, states its figures, and fails when a promise does not hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from sim.demo import (
    ASKED,
    SETTLE_TIMEOUT_S,
    DemoReport,
    ShownAnswer,
    ShownHit,
    _until_settled,
    check_promises,
    load_questions,
)
from sim.demo_learning import LearningReport, check_learning
from sim.errors import PromiseBroken

ROOT = Path(__file__).parents[2]
COST = {"ms": 5.0, "shards_contacted": 3, "shards_total": 64, "nodes_contacted": 2}
COST |= {"shards_missed": 0, "deadline_hit": False}


def answer(question: str, *names: str, verified: bool = True) -> ShownAnswer:
    hits = tuple(ShownHit(f"id-{name}", name, 0.5, "12D3KooWabcdef", verified) for name in names)
    return ShownAnswer(question, True, hits, dict(COST))


def report(before: list[ShownAnswer], after: list[ShownAnswer]) -> DemoReport:
    return DemoReport(
        seed=1,
        nodes=5,
        cores=2,
        entries=10,
        rejected=0,
        seconds={"total": 1.0},
        entries_per_s=10.0,
        rss_mb={"node-1": 100.0},
        killed="node-3",
        before=tuple(before),
        after=tuple(after),
    )


GOOD = [answer("one", "a", "b"), answer("two", "c")]


def test_a_run_that_keeps_its_promises_passes() -> None:
    good = report(GOOD, GOOD)
    check_promises(good)
    figures = json.loads(json.dumps(good.figures(), allow_nan=False))
    assert figures["ok"] is True
    assert figures["same_answers"] == figures["questions"] == 2
    assert figures["before"][0]["ids"] == ["id-a", "id-b"]
    assert figures["summary"]["after"]["accepted_in_top_3"] == 2


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ([GOOD[0], answer("two")], "no answer to 'two' after"),
        ([GOOD[0], answer("two", "c", verified=False)], "id-c for 'two' is not verified"),
    ],
)
def test_a_broken_promise_is_one_clear_line(after: list[ShownAnswer], reason: str) -> None:
    with pytest.raises(PromiseBroken, match=reason) as caught:
        check_promises(report(GOOD, after))
    assert "\n" not in str(caught.value)


def test_answers_may_change_and_entries_may_not_be_lost() -> None:
    other = report(GOOD, [answer("one", "b", "a"), GOOD[1]])
    check_promises(other)
    assert other.figures()["same_answers"] == 1
    with pytest.raises(PromiseBroken, match=r"1 entries .* cannot be had any more since node-3"):
        check_promises(replace(other, lost=1))


def test_rejected_entries_break_a_promise() -> None:
    with pytest.raises(PromiseBroken, match="3 entries"):
        check_promises(replace(report(GOOD, GOOD), rejected=3))


def test_forty_questions_each_with_accepted_names() -> None:
    questions = load_questions()
    assert len({question.question for question in questions}) == 40
    assert all(question.accepted for question in questions)


LEARNED = LearningReport(
    task="task",
    members=("node-1", "node-2"),
    rounds=3,
    epochs=5,
    alpha=0.5,
    parameters=10,
    update_bytes=100,
    examples={"node-1": 5, "node-2": 7},
    test_examples=9,
    shared=0.9,
    central=0.95,
    alone={"node-1": 0.7, "node-2": 0.8},
    results={"node-1": "cid", "node-2": "cid"},
    identical_bytes=True,
    lost_rounds=0,
    audited=3,
    audit_problems=(),
    seconds=1.0,
)


def test_a_training_that_keeps_its_promises_passes_and_is_in_the_figures() -> None:
    check_learning(LEARNED)
    figures = replace(report(GOOD, GOOD), learning=LEARNED).figures()
    assert json.loads(json.dumps(figures, allow_nan=False))["learning"]["shared"] == 0.9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"results": {"node-1": "one", "node-2": "other"}}, "different models.*other"),
        ({"identical_bytes": False}, "different models"),
        ({"lost_rounds": 1}, "1 updates were lost"),
        ({"audited": 2}, "2 rounds could be computed again, not 3"),
        ({"audit_problems": ("another hash",)}, "another hash"),
        ({"shared": 0.8}, r"0\.800 is no better than 0\.800"),
    ],
)
def test_a_promise_broken_by_a_training_is_one_clear_line(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(PromiseBroken, match=reason) as caught:
        check_learning(replace(LEARNED, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.longest
def test_the_whole_demo_with_all_forty_questions(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the share with an accepted name in the top three, whatever it is."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "node", "demo", "--seed", "3", "--questions", "40", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    summary = figures["summary"]
    with capsys.disabled():
        shares = [summary[when]["accepted_in_top_3"] / 40 for when in ("before", "after")]
        print(
            f"\naccepted name in the top 3: {shares[0]:.1%} of 40 questions, {shares[1]:.1%} after the kill"
        )
    assert figures["entries"] > 6_000
    assert figures["rejected"] == 0
    assert figures["lost"] == 0
    assert figures["same_answers"] >= 30, "which shards are asked may change, for few questions"
    for when in ("before", "after"):
        assert [len(shown["ids"]) for shown in figures[when]] == [ASKED] * 40
        assert all(hit["verified"] for shown in figures[when] for hit in shown["hits"])
        late = max(summary[when]["shards_missed"], summary[when]["deadlines_hit"])
        assert late <= 2, "on a busy machine an answer may come too late"
    learning = figures["learning"]
    assert figures["learning_skipped"] == ""
    assert len(learning["members"]) == len(learning["results"]) == 4
    assert len(set(learning["results"].values())) == 1
    assert learning["identical_bytes"]
    assert learning["audited"] == learning["rounds"]
    assert max(learning["alone"].values()) < learning["shared"] <= 1.0
    for word in ("Loading", "SIGKILL", "verified", "same answers", "together", "in one place"):
        assert word in done.stderr


class Settling:
    """A node whose records reach their holders one at a time, `every` seconds apart, up to `left`."""

    def __init__(self, records: int, every: float, left: int) -> None:
        self._records, self._every, self._left = records, every, left

    async def get(self, path: str) -> dict[str, Any]:
        assert path == "/v1/status"
        return {"pending": max(self._left, self._records - int(trio.current_time() // self._every))}


class NoView:
    """Shows nothing."""

    def progress(self, done: int) -> None:
        pass


async def test_a_slow_machine_has_the_time_that_it_needs_to_place_records(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node: Any = Settling(5, SETTLE_TIMEOUT_S - 1, 0)
    view: Any = NoView()
    began = trio.current_time()
    await _until_settled([node], 5, view)
    assert trio.current_time() - began > 4 * SETTLE_TIMEOUT_S


async def test_a_record_that_reaches_nobody_ends_the_demo(autojump_clock: trio.testing.MockClock) -> None:
    node: Any = Settling(5, 1, 2)
    view: Any = NoView()
    with pytest.raises(PromiseBroken, match="2 records were not on all their holders, and no more arrived"):
        await _until_settled([node], 5, view)
    assert trio.current_time() < 2 * SETTLE_TIMEOUT_S + 10
