"""`fl run`: take part in a learning task with the ClientApp of a Flower project, until the task has finished.

The app runs in a process of its own that this command starts (`federated.flower`): never in the daemon, which
is only asked and told over HTTP, as any other client would. What the command says on the way, and which exit
code it ends with, is decided here; the taking part itself in `federated.flower.participation`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.commands.exit_codes import ExitCode
from node.commands.gate_options import check_gate, gate_options, gate_said, gate_shown, gated
from node.commands.learning_views import figures, members, task_id
from node.commands.options import complete_folder, home_option, json_option
from node.commands.output import in_line, print_json, print_line
from node.commands.privacy_options import NOT_HERE, Wish, dp_options, private, said, shown

if TYPE_CHECKING:
    from federated.flower.app_runner import AppRunner
    from federated.flower.participation import RoundDone
    from federated.flower.project import FlowerProject

DEADLINE_S = 60.0
"""How long a round, or a message, waits unless said otherwise."""


@click.command()
@click.argument("path", shell_complete=complete_folder)
@click.argument("task", required=False)
@click.option(
    "--min-members",
    type=click.IntRange(1, 16),
    metavar="N",
    help="Without TASK: how many nodes the new task waits for [2].",
)
@click.option(
    "--deadline",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="Without TASK: how long a message of the new task waits for its answer [60].",
)
@click.option(
    "--lease",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="Without TASK: so long after a deadline without a word another member takes over [the deadline].",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Without TASK: how far arrays of two runs of the app may differ, for fl audit [0.0001].",
)
@click.option("--partition-id", type=int, metavar="N", help="Which part of the data this node has.")
@click.option("--num-partitions", type=int, metavar="N", help="How many parts there are.")
@click.option("--node-config", multiple=True, metavar="'K=V …'", help="More for the app's node config.")
@click.option(
    "--run-config",
    "-c",
    multiple=True,
    metavar="'K=V …'|FILE.toml",
    help="Other values for the app's config.",
)
@click.option("--no-evaluate", is_flag=True, help="Do not evaluate the result at the end.")
@click.option("--no-serve", is_flag=True, help="Never run the ServerApp on this node.")
@dp_options
@gate_options
@click.option("--stream", is_flag=True, help="Show the ServerApp's log where it runs, and calls elsewhere.")
@click.option("--verbose", is_flag=True, help="Show what Flower logs, of the ClientApp, too.")
@home_option
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    path: str,
    task: str | None,
    min_members: int | None,
    deadline: float | None,
    lease: float | None,
    tolerance: float | None,
    partition_id: int | None,
    num_partitions: int | None,
    node_config: tuple[str, ...],
    run_config: tuple[str, ...],
    no_evaluate: bool,
    no_serve: bool,
    dp_clip: float | None,
    dp_noise: float | None,
    dp_epsilon: float | None,
    dp_delta: float | None,
    gate: float | None,
    gate_metric: str | None,
    stream: bool,
    verbose: bool,
    home: str | None,
    as_json: bool,
) -> None:
    """Take part in TASK with the ClientApp of the Flower project in PATH, until the task has finished.

    Without TASK: publish one, in which the project's ServerApp runs over all that join, and take part in it.

    Joins the task if the node has not. The app trains in a process of its own, on this machine; only its
    updates leave it. In a task of the mode server-app one member after another may have to run the project's
    ServerApp, too: the author's first, another one when it is gone.
    """
    if task is not None and {min_members, deadline, lease, tolerance} != {None}:
        raise click.UsageError(
            "--min-members, --deadline, --lease and --tolerance are for a new task: leave TASK out"
        )
    from federated.flower.errors import FlowerError
    from federated.flower.project import parse_pairs, read_project
    from node.api_client import ApiClient
    from node.home import open_home
    from node.learning_member import Member, SystemClock, compressing, waiting_file

    pairs = parse_pairs(node_config, "--node-config")
    if partition_id is not None:
        pairs["partition-id"] = partition_id
    if num_partitions is not None:
        pairs["num-partitions"] = num_partitions
    project = read_project(path).with_config(parse_pairs(run_config, "--run-config"))
    wish = Wish(dp_clip, dp_noise, dp_epsilon, dp_delta)
    if task is None:
        if wish.given:
            raise click.UsageError(NOT_HERE)
        from node.commands.server_runs import MAX_ABS, published

        limits = {
            "min_members": min_members or 2,
            "deadline_ms": round((deadline or DEADLINE_S) * 1000),
            "max_abs": MAX_ABS,
        } | ({} if lease is None else {"lease_ms": round(lease * 1000)})
        task = published(path, None, limits, tolerance, run_config, home, check=True)["id"]
        print_line(f"task {task}: others take part by roseforest fl run PATH {task}", err=True)
    else:
        task = task_id(ApiClient(open_home(home)), task)
    member = Member(open_home(home), task, SystemClock())
    terms = member.terms()
    check_gate(gate, gate_metric, terms["mode"], not no_evaluate)
    waiting = waiting_file(open_home(home), terms)
    node, account = private(open_home(home), task, terms, compressing(member, terms, waiting), wish)
    if terms["mode"] == "server-app":
        from node.commands.server_runs import Settings, run_member

        settings = Settings(project, pairs, task, member.agent(), verbose, stream)
        run_member(ctx, open_home(home), member, terms, settings, no_serve, as_json)
        return
    from federated.flower.client_state import state_file
    from federated.flower.participation import take_part

    state = state_file(open_home(home).app_states, terms["id"])
    with runner_of(project, pairs, task, member.agent(), verbose, state) as app:
        # Before joining: an app that does not load must not keep the others waiting.
        app.open()
        clock = SystemClock()
        gated_app = (
            None if gate is None else gated(app, open_home(home), terms["id"], gate, gate_metric, clock)
        )
        if not terms["joined"]:
            member.join()
            terms = member.terms()
        if terms["state"] == "open" and not as_json:
            there, needed = len(terms["members"]), members(int(terms["min_members"]))
            print_line(f"{in_line(terms['name'])} begins with {needed}, {there} so far", err=True)
        report = _Report(int(terms["rounds"]), as_json)
        try:
            part = take_part(node, terms, gated_app or app, report, clock, evaluate=not no_evaluate)
        except FlowerError:
            member.leave()
            raise
        except KeyboardInterrupt:
            print_line(
                "this node still belongs to the task: run the same command again to go on, or "
                f"roseforest fl leave {task}",
                err=True,
            )
            raise
    for file in (state, waiting):
        if file is not None:
            file.unlink(missing_ok=True)
    standing = None if gated_app is None else gated_app.standing
    refused = [] if gated_app is None else [one.round for one in gated_app.refusals]
    lost = [{"round": number, "reason": reason} for number, reason in part.lost.items()]
    if as_json:
        print_json(
            {
                "id": task,
                "round": part.round,
                "parameters": part.parameters,
                "rounds": [_shown(done) for done in part.rounds],
                "lost": lost,
                "evaluation": part.evaluation,
                "evaluation_problem": part.evaluation_problem or None,
                **({} if account is None else {"privacy": shown(account())}),
                **({} if standing is None else {"gate": {**gate_shown(standing), "refused": refused}}),
            }
        )
    else:
        print_line(
            f"finished after round {part.round}: trained in {len(part.rounds)}"
            + (f", lost {len(lost)}" if lost else "")
        )
        print_line(f"parameters  {part.parameters}")
        if account is not None:
            print_line(f"privacy     {said(account())}")
        if standing is not None:
            print_line(f"gate        {gate_said(standing, refused)}")
        if part.evaluation is not None:
            print_line(f"evaluation  {figures(part.evaluation)}")
        elif part.evaluation_problem:
            print_line(f"the result was not evaluated: {part.evaluation_problem}", err=True)
    if lost or (standing is not None and standing.refused):
        ctx.exit(ExitCode.PARTLY_DONE)


class _Report:
    """Rounds as lines; with --json only what was lost."""

    def __init__(self, rounds: int, as_json: bool) -> None:
        self._rounds = rounds
        self._talk = not as_json
        self._waits = False
        self._out = 0

    def waiting(self, number: int) -> None:
        if self._talk and not self._waits:
            print_line("waiting for the others", err=True)
        self._waits = True

    def sits_out(self, until: int, reason: str) -> None:
        from federated.faults import REASONS

        if self._out != until:
            self._out = until
            print_line(f"this node sits out up to round {until}: {REASONS.get(reason, reason)}", err=True)

    def training(self, number: int, seconds: float) -> None:
        self._waits = False
        if self._talk:
            print_line(f"round {number} of {self._rounds}: training, {seconds:.0f} s left", err=True)

    def trained(self, done: RoundDone) -> None:
        if self._talk:
            said = f": {figures(done.metrics)}" if done.metrics else ""
            work = f"{done.examples} examples in {done.seconds:.1f} s"
            print_line(f"round {done.round} of {self._rounds}: {work}{said}", err=True)

    def lost(self, number: int, reason: str) -> None:
        print_line(f"round {number} is lost for this node: {reason}", err=True)


def runner_of(
    project: FlowerProject,
    nodes: dict[str, Any],
    task: str,
    agent: str,
    verbose: bool,
    state: Path | None = None,
) -> AppRunner:
    """The project's app for this node and task, in a process of its own; `state`: where its state is kept."""
    from federated.flower.app_runner import AppRunner, AppSettings
    from federated.flower.project import number_of

    return AppRunner(project, AppSettings(number_of(task), number_of(agent), nodes, verbose, state))


def _shown(done: RoundDone) -> dict[str, Any]:
    return {
        "round": done.round,
        "examples": done.examples,
        "metrics": dict(done.metrics),
        "seconds": round(done.seconds, 3),
    }
