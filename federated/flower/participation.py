"""One member's part in a task: ask the own node for work, let the app do it, hand in what came of it.

The loop decides little: the node says what to do in which round and until when. An app that fails, returns
what does not fit, or is still busy at the deadline costs that round: the others go on without it. After
`MAX_FAILURES` rounds lost in a row the member gives up, since each of its rounds costs the others a deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from federated.flower.errors import AppFailed, AppLost, FlowerError
from federated.flower.template import Template, from_config

POLL_S = 20
"""How long one question for work may wait at the node."""
PAUSE_S = 0.5
"""Between two questions while a lost round is still open."""
RESERVE_S = 1.0
"""Kept from the deadline for handing in; at most a tenth of the time that there is."""
EVALUATE_S = 3_600.0
MAX_FAILURES = 3
"""Rounds lost in a row before a member gives up."""
MAX_METRICS = 32
MAX_METRIC_NAME = 64
"""Bytes of UTF-8."""
MAX_METRIC = 9e12
"""What the node takes of an update's metrics; the rest is left out."""


class Refused(Exception):
    """The node does not take the update, for the reason in the message."""


class LearningNode(Protocol):
    """The local daemon, as far as a member needs it. Each call raises what the daemon's client raises."""

    def work(self, wait: int) -> dict[str, Any]:
        """What to do now, or after at most `wait` seconds."""
        ...

    def blob(self, cid: str) -> bytes:
        """The content of a blob."""
        ...

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        """Hand in the update of a round. Raises `Refused`."""
        ...


class App(Protocol):
    """A ClientApp that has been opened: `federated.flower.app_runner.AppRunner`, or what stands before it."""

    @property
    def evaluates(self) -> bool: ...

    def train(
        self, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, Any]: ...

    def evaluate(
        self, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, float]: ...


class Report(Protocol):
    """Where the loop says what happened."""

    def waiting(self, number: int) -> None:
        """There is nothing to do at the moment."""
        ...

    def sits_out(self, until: int, reason: str) -> None:
        """This member has no seat up to that round, for the code that the others refused its update for."""
        ...

    def training(self, number: int, seconds: float) -> None:
        """The app trains; the round ends in so many seconds."""
        ...

    def trained(self, done: RoundDone) -> None:
        """An update was handed in."""
        ...

    def lost(self, number: int, reason: str) -> None:
        """A round was lost."""
        ...


@dataclass(frozen=True, slots=True)
class RoundDone:
    """An update that was handed in; `seconds` of the app's work."""

    round: int
    examples: int
    metrics: Mapping[str, float]
    seconds: float


@dataclass(slots=True)
class Part:
    """What a member did: `lost` by round, `evaluation` None when the app has none or it failed."""

    rounds: list[RoundDone] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    finished: bool = False
    round: int = 0
    parameters: str = ""
    evaluation: dict[str, float] | None = None
    evaluation_problem: str = ""


class Clock(Protocol):
    """Seconds that only grow, and waiting."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


def take_part(
    node: LearningNode,
    task: Mapping[str, Any],
    app: App,
    report: Report,
    clock: Clock,
    evaluate: bool = True,
) -> Part:
    """Work on `task` (as the node describes it) until it has finished, then evaluate the result.

    `app` has been opened. Raises `FlowerError` when the member gave up, and what the node's client raises.
    """
    template = from_config(task["config"])
    part = Part()
    in_a_row = 0
    again_at = 0.0
    while True:
        work = node.work(POLL_S)
        number = int(work.get("round", 0))
        if work["state"] == "finished":
            part.finished, part.round, part.parameters = True, number, str(work["parameters"])
            break
        if work["state"] != "train":
            out = work.get("barred")
            if out is None:
                report.waiting(number)
            else:
                report.sits_out(int(out["until"]), str(out["reason"]))
        elif number in part.lost and clock.now() < again_at:
            clock.sleep(PAUSE_S)
        # A round that is open after its deadline waits for this member: it may try once more.
        elif _train(node, task, app, template, work, part, report, clock):
            in_a_row = 0
        else:
            in_a_row += 1
            again_at = clock.now() + float(work["deadline_s"])
            if in_a_row >= MAX_FAILURES:
                raise FlowerError(
                    f"{in_a_row} rounds in a row were lost, the last because {part.lost[number]}"
                )
    if evaluate and app.evaluates:
        _evaluate(node, task, app, template, part)
    return part


def fitting_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that an update may carry: the first `MAX_METRICS` by name that are within bounds."""
    fitting = [
        name
        for name, value in sorted(metrics.items())
        if 0 < len(name.encode()) <= MAX_METRIC_NAME and abs(value) < MAX_METRIC
    ]
    return {name: metrics[name] for name in fitting[:MAX_METRICS]}


def _train(
    node: LearningNode,
    task: Mapping[str, Any],
    app: App,
    template: Template,
    work: Mapping[str, Any],
    part: Part,
    report: Report,
    clock: Clock,
) -> bool:
    number, began = int(work["round"]), clock.now()
    seconds = float(work["deadline_s"])
    report.training(number, seconds)
    try:
        blob = node.blob(str(work["parameters"]))
        limit = seconds - min(RESERVE_S, seconds / 10) - (clock.now() - began)
        update = app.train(task, template.to_text(), blob, number, limit)
        metrics = fitting_metrics(update["metrics"])
        done = RoundDone(number, int(update["examples"]), metrics, clock.now() - began)
        node.hand_in(number, update["blob"], done.examples, metrics)
    except (AppFailed, AppLost, Refused) as error:
        part.lost[number] = str(error)
        report.lost(number, str(error))
        return False
    part.lost.pop(number, None)
    part.rounds.append(done)
    report.trained(done)
    return True


def _evaluate(node: LearningNode, task: Mapping[str, Any], app: App, template: Template, part: Part) -> None:
    """The result on the app's own data; a failure is said, and changes nothing about the part taken."""
    try:
        blob = node.blob(part.parameters)
        part.evaluation = app.evaluate(task, template.to_text(), blob, part.round, EVALUATE_S)
    except (AppFailed, AppLost) as error:
        part.evaluation_problem = str(error)
