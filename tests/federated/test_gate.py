"""A member's gate: what hurts on its own data is not adopted, costs nobody a round, and is its own affair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr")

from federated.flower.errors import AppFailed, FlowerError
from federated.flower.gate import PATIENCE, WINDOW, find, judge, keep, metric_of, usual_metric
from federated.flower.gated_app import NOTE, GatedApp, Refusal
from federated.flower.participation import Part, RoundDone, take_part

GOAL = 100


@settings(max_examples=40)
@given(
    values=st.lists(st.floats(-5, 5) | st.just(math.nan), min_size=1, max_size=15),
    share=st.floats(0, 1),
    way=st.sampled_from(["min", "max"]),
)
def test_nothing_is_adopted_that_is_worse_by_more_than_the_share(
    values: list[float], share: float, way: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if math.isnan(values[0]):
        values[0] = 0.0
    metric, standing, adopted = metric_of(f"x:{way}"), None, list[float]()
    for number, value in enumerate(values):
        before, model = standing, bytes([number])
        standing = judge(before, metric, share, number, model, {"x": value, "y": 0.0})
        if before is None:
            adopted.append(value)
            continue
        best = min(adopted[-WINDOW:]) if way == "min" else max(adopted[-WINDOW:])
        right = value <= best + share * abs(best) if way == "min" else value >= best - share * abs(best)
        assert (standing.refused == 0) == right
        assert (standing.round, standing.model) == (
            (number, model) if right else (before.round, before.model)
        )
        assert right or standing.refused == before.refused + 1
        if right:
            adopted.append(value)
    assert standing is not None
    file = tmp_path_factory.getbasetemp() / "one.gate"
    keep(file, standing)
    assert find(file) == standing


def test_a_metric_is_chosen_by_its_name() -> None:
    assert [metric_of(text).lower for text in ("loss", "val_RMSE", "accuracy", "loss:max", "a:min")] == [
        True, True, False, False, True
    ]  # fmt: skip
    assert usual_metric(["num-examples", "accuracy", "eval_loss"]) == metric_of("eval_loss")
    assert usual_metric(["num-examples", "test_acc"]) == metric_of("test_acc")
    assert usual_metric(["num-examples"]) is None
    with pytest.raises(FlowerError, match="says num-examples; name one by --gate-metric"):
        judge(None, None, 0.1, 0, b"", {"num-examples": 3})


@dataclass
class App:
    """Its model is one byte, and it wants it to be `GOAL`: training goes half of the way."""

    evaluates: bool = True
    trained_from: dict[int, int] = field(default_factory=dict)
    evaluated: list[tuple[int, int]] = field(default_factory=list)

    def train(self, task: Any, template: str, blob: bytes, number: int, seconds: float) -> dict[str, Any]:
        assert 0 < seconds <= 60
        self.trained_from[number] = blob[0]
        return {"blob": bytes([blob[0] + (GOAL - blob[0]) // 2]), "examples": 7, "metrics": {"a": 1.0}}

    def evaluate(
        self, task: Any, template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, float]:
        self.evaluated.append((number, blob[0]))
        if blob[0] == 255:
            raise AppFailed("what is this?")
        return {"loss": float(abs(blob[0] - GOAL)), "num-examples": 3.0}


@dataclass
class Others:
    """The node, and the others: their results are what this member hands in, unless they spoil them."""

    spoiled: Mapping[int, int]
    rounds: int = 6
    round: int = 1
    model: bytes = bytes([10])
    notes: dict[int, float | None] = field(default_factory=dict)

    def work(self, wait: int) -> dict[str, Any]:
        state = "train" if self.round <= self.rounds else "finished"
        number = min(self.round, self.rounds)
        return {"state": state, "round": number, "parameters": self.model.hex(), "deadline_s": 60.0}

    def blob(self, cid: str) -> bytes:
        return bytes.fromhex(cid)

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        self.notes[number] = metrics.get(NOTE)
        self.model = bytes([self.spoiled.get(number, blob[0])])
        self.round += 1


class Silent:
    """Report and clock."""

    def waiting(self, number: int) -> None: ...

    def sits_out(self, until: int, reason: str) -> None: ...

    def training(self, number: int, seconds: float) -> None: ...

    def trained(self, done: RoundDone) -> None: ...

    def lost(self, number: int, reason: str) -> None:
        raise AssertionError(reason)

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None: ...


def learned(others: Others, app: App, file: Path) -> tuple[Part, GatedApp, list[Refusal]]:
    told: list[Refusal] = []
    gated = GatedApp(app, 0.25, None, file, Silent(), told.append)
    return take_part(others, {"config": {}}, gated, Silent(), Silent()), gated, told


def test_a_spoiled_model_is_passed_over_and_the_member_trains_on_from_its_own(tmp_path: Path) -> None:
    file = tmp_path / "task.gate"
    app, others = App(), Others({2: 0, 3: 255})
    part, gated, told = learned(others, app, file)
    # 10 → 55 → (77, spoiled) → from 55 again, twice → 77 …
    assert app.trained_from == {1: 10, 2: 55, 3: 55, 4: 55, 5: 77, 6: 88}
    assert others.notes == {1: None, 2: None, 3: 1.0, 4: 1.0, 5: None, 6: None}
    assert [(one.round, one.value, one.kept_round) for one in told] == [(2, 100.0, 1), (3, None, 1)]
    assert str(told[0]) == (
        "round 2's model is not adopted: it has loss 100, round 1's had 45; round 1's is kept"
    )
    assert part.evaluation == {"loss": 6.0, "num-examples": 3.0}
    assert (gated.standing, gated.refusals) == (find(file), told)
    assert gated.standing is not None
    assert (gated.standing.round, gated.standing.model) == (6, bytes([94]))
    # Every model is evaluated once, also when the command is started again.
    assert app.evaluated == [(0, 10), (1, 55), (2, 0), (3, 255), (4, 77), (5, 88), (6, 94)]


def test_a_member_leaves_when_the_models_stay_bad_and_keeps_its_own(tmp_path: Path) -> None:
    file = tmp_path / "task.gate"
    app, others = App(), Others({2: 0, 3: 1, 4: 2})
    with pytest.raises(FlowerError, match=r"3 models in a row .*round 1's by more than 25%.*has round 1's"):
        learned(others, app, file)
    assert PATIENCE == 3
    assert others.notes == {1: None, 2: None, 3: 1.0, 4: 1.0}
    again = App()
    with pytest.raises(FlowerError, match="3 models in a row"):
        learned(others, again, file)  # nothing has changed since
    assert again.evaluated == []
    file.write_bytes(b"\x81")
    with pytest.raises(FlowerError, match="damaged"):
        find(file)


def test_a_result_may_be_refused_too_and_a_gate_needs_something_to_go_by(tmp_path: Path) -> None:
    part, gated, told = learned(Others({2: 0}, rounds=2), App(), tmp_path / "task.gate")
    assert part.finished
    assert [one.round for one in told] == [2]
    assert gated.standing is not None
    assert (gated.standing.refused, gated.standing.model) == (1, bytes([55]))
    with pytest.raises(FlowerError, match="this one does not"):
        learned(Others({}), App(evaluates=False), tmp_path / "other.gate")
    with pytest.raises(FlowerError, match="cannot evaluate the first model"):
        learned(Others({}, model=bytes([255])), App(), tmp_path / "other.gate")
