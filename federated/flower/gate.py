"""A local gate: which of a task's models this member adopts, by what they do on its own held-out data.

All members of a round share its model, and nobody can be kept from signing what was computed rightly. But a
member need not *use* a model that hurts: its own app evaluates each one, on data that never leaves it, and
one that is worse than the best of the last models adopted by more than a stated share is not adopted. What
that means is in `federated.flower.gated_app`; here is the decision, a pure one, and how what it rests on is
kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgpack

from federated.flower.client_state import write_whole
from federated.flower.errors import FlowerError

WINDOW = 5
"""Adopted models among which the best one is looked for: data drift, an old record does not bind."""
PATIENCE = 3
"""Models in a row that are not adopted before the member leaves the task."""
SUFFIX = ".gate"
LOWER = ("loss", "error", "mse", "mae", "perplexity")
"""Metrics with one of these in their name are better when lower."""
KNOWN = ("loss", "accuracy", "acc", "auc", "f1", "r2", "error")
"""What is looked for in the names of an evaluation's metrics, in this order, where none is named."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared; `lower` where lower is better."""

    name: str
    lower: bool

    def worse(self, value: float, best: float, share: float) -> bool:
        """Whether `value` is worse than `best` by more than `share` of it; NaN is worse than anything."""
        room = share * abs(best)
        return not (value <= best + room if self.lower else value >= best - room)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a member's gate has decided so far; rounds are those that models come from, 0 the task's own.

    `adopted` are the last adopted models' rounds and values, `model` is the newest of them, `seen` the digest
    of the model that was judged last, and `refused` how many in a row were not adopted.
    """

    metric: Metric
    adopted: tuple[tuple[int, float], ...]
    model: bytes
    seen: bytes
    refused: int = 0

    @property
    def round(self) -> int:
        """The round of the model that was adopted last."""
        return self.adopted[-1][0]

    @property
    def best(self) -> tuple[int, float]:
        """Round and value of the best model among the last adopted."""
        pick = min if self.metric.lower else max
        return pick(self.adopted, key=lambda one: one[1])


def metric_of(text: str) -> Metric:
    """A metric by name, `:min` or `:max` after it where its name does not say which way is better."""
    name, colon, way = text.rpartition(":")
    if colon and way in ("min", "max"):
        return Metric(name, way == "min")
    return Metric(text, any(part in text.lower() for part in LOWER))


def usual_metric(names: Iterable[str]) -> Metric | None:
    """The metric that is compared where none is named: a loss, if there is one, else a known score."""
    ordered = sorted(names)
    for known in KNOWN:
        for name in ordered:
            if known in name.lower():
                return metric_of(name)
    return None


def judge(
    standing: Standing | None,
    wanted: Metric | None,
    share: float,
    number: int,
    model: bytes,
    metrics: Mapping[str, float] | None,
) -> Standing:
    """The standing after the model of round `number`, of which the app says `metrics` (None: it failed).

    The first one is adopted: there is nothing to compare it with. Raises `FlowerError` if it has no value.
    """
    metric = standing.metric if standing is not None else wanted or usual_metric(metrics or ())
    value = math.nan if metric is None or metrics is None else metrics.get(metric.name, math.nan)
    seen = sha256(model).digest()
    if standing is None:
        if metric is None or math.isnan(value):
            there = ", ".join(sorted(metrics or ())) or "nothing"
            raise FlowerError(
                f"the gate has nothing to go by: the app's evaluation says {there}; name one by --gate-metric"
            )
        return Standing(metric, ((number, value),), model, seen)
    if standing.metric.worse(value, standing.best[1], share):
        return replace(standing, seen=seen, refused=standing.refused + 1)
    adopted = (*standing.adopted, (number, value))[-WINDOW:]
    return Standing(standing.metric, adopted, model, seen)


def keep(file: Path, standing: Standing) -> None:
    """Keep it on disk, whole or not at all."""
    value = {
        "metric": [standing.metric.name, standing.metric.lower],
        "adopted": [list(one) for one in standing.adopted],
        "model": standing.model,
        "seen": standing.seen,
        "refused": standing.refused,
    }
    write_whole(file, msgpack.packb(value))


def find(file: Path) -> Standing | None:
    """What was kept; None where there is nothing. Raises `FlowerError` for a damaged file."""
    try:
        found = msgpack.unpackb(file.read_bytes())
        name, lower = found["metric"]
        adopted = tuple((int(number), float(value)) for number, value in found["adopted"])
        if not adopted:
            raise ValueError("no model was adopted")
        return Standing(
            Metric(str(name), bool(lower)),
            adopted,
            bytes(found["model"]),
            bytes(found["seen"]),
            int(found["refused"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise FlowerError(f"{file} is damaged, remove it to begin anew: {error}") from error
