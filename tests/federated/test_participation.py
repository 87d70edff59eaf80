"""A member's part in a task: rounds it loses cost only themselves, and it stops when it only ever loses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from federated.flower.errors import FlowerError
from federated.flower.participation import Refused, RoundDone, fitting_metrics, take_part
from federated.flower.template import CONFIG_KEY
from tests.federated.flower_projects import TASK, project, runner
from tests.federated.test_app_runner import BLOB, TEXT

ROUNDS = 5
TERMS: dict[str, Any] = {**TASK, "config": {CONFIG_KEY: TEXT}}


class OneMemberNode:
    """The port as a task with one member uses it: its update is the result, its lost rounds time out."""

    def __init__(self, refused: tuple[int, ...] = ()) -> None:
        self.updates: dict[int, tuple[bytes, int, Mapping[str, float]]] = {}
        self._refused = refused
        self.out: dict[str, Any] | None = None
        self._round = 1
        self._asked = 0
        self._blobs = {"initial": BLOB}
        self._parameters = "initial"

    def work(self, wait: int) -> dict[str, Any]:
        self._asked += 1
        if self._asked == 1:
            return {"state": "wait", "round": 0}
        if self._asked == 2 and self.out is not None:
            return {"state": "wait", "round": 1, "barred": self.out}
        if self._round > ROUNDS:
            return {"state": "finished", "round": ROUNDS, "parameters": self._parameters}
        return {"state": "train", "round": self._round, "parameters": self._parameters, "deadline_s": 60.0}

    def blob(self, cid: str) -> bytes:
        return self._blobs[cid]

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        if number in self._refused:
            raise Refused("too late")
        self.updates[number] = (blob, examples, metrics)
        self._parameters = f"result-{number}"
        self._blobs[self._parameters] = blob
        self._round += 1

    def deadline(self) -> None:
        self._round += 1


class Story:
    """Report and clock in one: sleeping while a round is lost lets its deadline pass."""

    def __init__(self, node: OneMemberNode) -> None:
        self.told: list[str] = []
        self._node = node

    def waiting(self, number: int) -> None:
        self.told.append(f"wait {number}")

    def sits_out(self, until: int, reason: str) -> None:
        self.told.append(f"out until {until}: {reason}")

    def training(self, number: int, seconds: float) -> None:
        self.told.append(f"train {number}")

    def trained(self, done: RoundDone) -> None:
        self.told.append(f"trained {done.round}")

    def lost(self, number: int, reason: str) -> None:
        self.told.append(f"lost {number}: {reason}")

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self._node.deadline()


def test_every_round_builds_on_the_last_and_the_result_is_evaluated(tmp_path: Path) -> None:
    node = OneMemberNode()
    story = Story(node)
    with runner(project(tmp_path)) as app:
        app.open()
        part = take_part(node, TERMS, app, story, story)
    assert part.finished
    assert (part.round, part.parameters, part.lost) == (ROUNDS, f"result-{ROUNDS}", {})
    assert [done.metrics["round"] for done in part.rounds] == [1, 2, 3, 4, 5]
    assert part.evaluation == {"mean": 2.0 + ROUNDS * 0.5, "num-examples": 7.0}
    assert story.told[0] == "wait 0"
    assert len(story.told) == 1 + 2 * ROUNDS


@pytest.mark.slow
def test_a_refused_update_costs_its_round_only(tmp_path: Path) -> None:
    node = OneMemberNode(refused=(2, 4))
    node.out = {"agent": "this one", "reason": "weight", "until": 4}
    story = Story(node)
    with runner(project(tmp_path)) as app:
        app.open()
        part = take_part(node, TERMS, app, story, story, evaluate=False)
    assert part.lost == {2: "too late", 4: "too late"}
    assert story.told[:3] == ["wait 0", "out until 4: weight", "train 1"]
    assert sorted(node.updates) == [1, 3, 5]
    assert part.evaluation is None


def test_a_member_whose_app_always_fails_gives_up(tmp_path: Path) -> None:
    node = OneMemberNode()
    story = Story(node)
    with runner(project(tmp_path), mood="raises") as app:
        app.open()
        with pytest.raises(FlowerError, match=r"3 rounds in a row were lost.*no data today"):
            take_part(node, TERMS, app, story, story)
    assert node.updates == {}
    assert [line[:6] for line in story.told if line.startswith("lost")] == ["lost 1", "lost 2", "lost 3"]


def test_metrics_that_an_update_cannot_carry_are_left_out() -> None:
    many = {f"m{number:02}": float(number) for number in range(40)}
    assert list(fitting_metrics({"": 1.0, "x" * 65: 1.0, "big": 1e13, **many})) == sorted(many)[:32]
