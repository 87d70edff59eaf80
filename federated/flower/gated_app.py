"""A member's app behind its gate (`federated.flower.gate`): a wrapper around it, for `take_part`.

Before it trains, the round's model is evaluated. One that is adopted is trained on as always. One that is
not costs nobody a round: the app trains on from the model that was adopted last, and that is what the
member hands in. So its update moves the common model back toward what was good for it, as far as the task's
rule and `max_norm` let one member do so, and the update's metrics say `gate-refused` for the others to see.
After `PATIENCE` such models in a row the member leaves the task, with its own model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from federated.flower.errors import AppFailed, AppLost, FlowerError
from federated.flower.gate import PATIENCE, Metric, Standing, find, judge, keep
from federated.flower.participation import App, Clock

NOTE = "gate-refused"
"""The metric, 1, of an update whose member did not adopt the round's model."""
EVALUATE_PART = 0.5
"""Of the time that a round leaves: an evaluation that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model that was not adopted, and what was better; `value` None where the app could not evaluate it."""

    round: int
    metric: str
    value: float | None
    best: float
    best_round: int
    kept_round: int

    def __str__(self) -> str:
        found = "could not be evaluated" if self.value is None else f"has {self.metric} {self.value:.6g}"
        return (
            f"round {self.round}'s model is not adopted: it {found}, round {self.best_round}'s had "
            f"{self.best:.6g}; round {self.kept_round}'s is kept"
        )


class GatedApp:
    """`app` behind a gate; `file` keeps the standing, `tell` gets each refusal."""

    def __init__(
        self,
        app: App,
        share: float,
        metric: Metric | None,
        file: Path,
        clock: Clock,
        tell: Callable[[Refusal], None],
    ) -> None:
        """Goes on with what the file has, unless that is about another metric. Raises `FlowerError`."""
        if not app.evaluates:
            raise FlowerError("a gate needs a ClientApp that evaluates, and this one does not")
        self._app = app
        self._share = share
        self._metric = metric
        self._file = file
        self._clock = clock
        self._tell = tell
        self.refusals: list[Refusal] = []
        found = find(file)
        self.standing: Standing | None = None if found and metric not in (None, found.metric) else found

    @property
    def evaluates(self) -> bool:
        return self._app.evaluates

    def train(
        self, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, Any]:
        """One round, from the model that is adopted. Raises `FlowerError` when the member is to leave."""
        began = self._clock.now()
        if self.standing is None or self.standing.seen != sha256(blob).digest():
            metrics = self._evaluated(task, template, blob, number - 1, seconds * EVALUATE_PART)
            self._judge(number - 1, blob, metrics)
        standing = self.standing
        assert standing is not None
        seconds -= self._clock.now() - began
        if not standing.refused:
            return self._app.train(task, template, blob, number, seconds)
        if standing.refused >= PATIENCE:
            raise FlowerError(
                f"{standing.refused} models in a row were worse than round {standing.best[0]}'s by more than "
                f"{self._share:.0%}; fl result --mine has round {standing.round}'s, the last that was adopted"
            )
        update = self._app.train(task, template, standing.model, number, seconds)
        return {**update, "metrics": {**update["metrics"], NOTE: 1.0}}

    def evaluate(
        self, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, float]:
        """Evaluate the task's result, and adopt it or not. Raises `AppFailed` or `AppLost`."""
        try:
            metrics = self._app.evaluate(task, template, blob, number, seconds)
        except (AppFailed, AppLost):
            self._judge(number, blob, None)
            raise
        self._judge(number, blob, metrics)
        return metrics

    def _evaluated(
        self, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, float] | None:
        try:
            return self._app.evaluate(task, template, blob, number, seconds)
        except (AppFailed, AppLost) as error:
            if self.standing is None:
                raise FlowerError(f"the gate cannot evaluate the first model: {error}") from error
            return None

    def _judge(self, number: int, blob: bytes, metrics: Mapping[str, float] | None) -> None:
        before = self.standing
        if before is not None and before.seen == sha256(blob).digest():
            return  # the command was started again
        self.standing = now = judge(before, self._metric, self._share, number, blob, metrics)
        keep(self._file, now)
        if now.refused:
            value = None if metrics is None else metrics.get(now.metric.name)
            refusal = Refusal(number, now.metric.name, value, now.best[1], now.best[0], now.round)
            self.refusals.append(refusal)
            self._tell(refusal)
