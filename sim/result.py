"""The result of a scenario: its metrics, and what came of its assertions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim.assertions import Assertion
from sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Verdict:
    """An assertion and what came of it; `value` is None for what was not measured."""

    assertion: Assertion
    value: float | None

    @property
    def held(self) -> bool:
        """Whether it was measured and holds."""
        return self.value is not None and self.assertion.holds(self.value)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to: its metrics by the names of `sim.assertions`, and its assertions."""

    scenario: Scenario
    metrics: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    trace: str | None
    """Hash of everything that a simulated network carried, equal for equal runs; None on real sockets."""
    events: int | None

    @property
    def ok(self) -> bool:
        """Whether all assertions hold. On real sockets those that cannot be measured there are left out."""
        return all(verdict.held for verdict in self.verdicts if self.trace is not None or self._seen(verdict))

    def to_json(self, name: str) -> dict[str, Any]:
        """One JSON object."""
        return {
            "scenario": name,
            "about": self.scenario.about,
            "seed": self.scenario.seed,
            "nodes": self.scenario.topology.nodes,
            "observers": self.scenario.topology.observers,
            "metrics": self.metrics,
            "assertions": [
                {"assert": str(verdict.assertion), "value": verdict.value, "ok": verdict.held}
                for verdict in self.verdicts
            ],
            "trace": self.trace,
            "events": self.events,
            "ok": self.ok,
        }

    @staticmethod
    def _seen(verdict: Verdict) -> bool:
        return verdict.value is not None


def judged(scenario: Scenario, metrics: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """The scenario's assertions against a run's metrics."""
    return tuple(Verdict(one, one.value_in(metrics)) for one in scenario.assertions)
