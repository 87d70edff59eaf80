"""`fl run --gate`, and what it leaves: `fl result --mine`, `fl export --mine` (`federated.flower.gate`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node.commands.output import print_line

if TYPE_CHECKING:
    from federated.flower.gate import Standing
    from federated.flower.gated_app import GatedApp, Refusal
    from federated.flower.participation import App, Clock
    from node.api_client import ApiClient
    from node.home import Home

F = TypeVar("F", bound=Callable[..., Any])


def gate_options(command: F) -> F:
    """The two options, as `gate` and `gate_metric`."""
    command = click.option(
        "--gate-metric",
        metavar="NAME",
        help="What --gate compares of the evaluation, such as accuracy, or score:max [its loss].",
    )(command)
    return click.option(
        "--gate",
        type=click.FloatRange(min=0),
        metavar="SHARE",
        help="Evaluate each model here, and adopt none that is worse than the best of the last five by more.",
    )(command)


def check_gate(gate: float | None, metric: str | None, mode: str, evaluates: bool) -> None:
    """Raises `UsageError` where the options do not go together."""
    if gate is None and metric is not None:
        raise click.UsageError("--gate-metric goes with --gate")
    if gate is not None and mode != "peer-rounds":
        raise click.UsageError(
            "--gate is for peer rounds: in a ServerApp's run the app decides what is adopted"
        )
    if gate is not None and not evaluates:
        raise click.UsageError("--gate evaluates: leave --no-evaluate out")


def gated(app: App, home: Home, task: str, share: float, metric: str | None, clock: Clock) -> GatedApp:
    """The app behind a gate, which goes on where it was. Raises `FlowerError`."""
    from federated.flower.client_state import state_file
    from federated.flower.gate import SUFFIX, metric_of
    from federated.flower.gated_app import GatedApp

    wanted = None if metric is None else metric_of(metric)
    file = state_file(home.app_states, task, SUFFIX)

    def tell(refusal: Refusal) -> None:
        print_line(str(refusal), err=True)

    return GatedApp(app, share, wanted, file, clock, tell)


def adopted(client: ApiClient, home: Home, task: str) -> tuple[dict[str, Any], bytes]:
    """What this node adopted last of a task, as the API says a result, and the model's bytes.

    Raises `NotFound` where no gate ran, `FlowerError` for a damaged file.
    """
    from chain.blob import chunk_list
    from chain.cid import to_text
    from node.commands.learning_views import path_of
    from node.errors import NotFound

    terms = client.get(path_of(task))
    standing = found(home, terms["id"])
    if standing is None:
        raise NotFound(f"no gate of this node ran in task {task}: fl run --gate keeps what it adopted")
    number = standing.round
    record = client.get(f"{path_of(task)}/result", round=number)["record"] if number else terms["id"]
    parameters = to_text(chunk_list(standing.model).cid)
    answer = {"round": number, "parameters": parameters, "record": record}
    return {**answer, "gate": gate_shown(standing)}, standing.model


def found(home: Home, task: str) -> Standing | None:
    """How this node's gate stands in a task, by its id; None where none ran."""
    from federated.flower.gate import SUFFIX, find

    return find(home.app_states / f"{task}{SUFFIX}")


def gate_shown(standing: Standing) -> dict[str, Any]:
    """How a gate stands, for --json."""
    best_round, best = standing.best
    return {
        "metric": standing.metric.name,
        "round": standing.round,
        "value": standing.adopted[-1][1],
        "best": best,
        "best_round": best_round,
        "refused_in_a_row": standing.refused,
    }


def gate_said(standing: Standing, refused: list[int]) -> str:
    """The same in a few words."""
    name, value = standing.metric.name, standing.adopted[-1][1]
    what = f"round {standing.round}'s model is adopted, {name} {value:.6g}"
    return what + (f"; not adopted: round {', '.join(map(str, refused))}" if refused else "")
