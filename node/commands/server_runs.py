"""What `fl create` and `fl run` do in the mode server-app: a member runs the project's ServerApp over the
others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from node.commands.exit_codes import ExitCode
from node.commands.learning_views import BLOB_SECONDS, members
from node.commands.output import in_line, print_json, print_line

if TYPE_CHECKING:
    from federated.flower.coordination import Ran
    from federated.flower.project import FlowerProject
    from node.home import Home
    from node.learning_member import Member

RUN = "run."
"""Before the names of run config values in a task's config."""
MAX_ABS = 1_000_000.0
"""Largest magnitude of a value in a reply: an app may send sums and counters, not only parameters."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The project, its node config, the task, this node's agent, and which of Flower's logs are shown."""

    project: FlowerProject
    nodes: dict[str, Any]
    task: str
    agent: str
    verbose: bool
    stream: bool


def publish(
    path: str,
    name: str | None,
    terms: dict[str, Any],
    tolerance: float | None,
    run_config: tuple[str, ...],
    home: str | None,
    as_json: bool,
) -> None:
    """Publish a task in which the project's ServerApp runs, and say so."""
    made = published(path, name, terms, tolerance, run_config, home)
    if as_json:
        print_json(made)
        return
    print_line(made["id"])
    print_line(
        f"{made['name']}: its ServerApp runs with {members(terms['min_members'])} or more: "
        f"roseforest fl run PATH {made['id']}",
        err=True,
    )


def published(
    path: str,
    name: str | None,
    terms: dict[str, Any],
    tolerance: float | None,
    run_config: tuple[str, ...],
    home: str | None,
    *,
    check: bool = False,
) -> dict[str, Any]:
    """Publish such a task; what became of it. The hashes of the project's files say which app is meant.

    `check`: only if both apps load on this machine.
    """
    from json import dumps

    from federated.flower.coordination import TOLERANCE, TOLERANCE_KEY
    from federated.flower.errors import ProjectError
    from federated.flower.project import files_of, parse_pairs, read_project
    from node.api_client import ApiClient
    from node.commands.learning_run import runner_of
    from node.home import open_home

    project = read_project(path)
    overrides = parse_pairs(run_config, "--run-config")
    project.with_config(overrides)
    if not project.serverapp:
        raise ProjectError("the project names no serverapp in [tool.flwr.app.components]")
    client = ApiClient(open_home(home))
    if check:
        with runner_of(project, {}, "", "", False) as app:
            app.check()
    files = "".join(f"{digest}  {file}\n" for file, digest in files_of(project.root))
    stated = {TOLERANCE_KEY: f"{TOLERANCE if tolerance is None else tolerance:g}"}
    body = {
        **terms,
        "name": name or project.name,
        "arrays": [],
        "parameters": client.post_blob(files.encode(), BLOB_SECONDS)["cid"],
        "rounds": 1,
        "mode": "server-app",
        "strategy": project.serverapp[:100],
        "config": stated | {f"{RUN}{key}": dumps(value) for key, value in overrides.items()},
    }
    task = client.post("/v1/learning/tasks", body)["id"]
    return {"id": task, "mode": "server-app", **{key: body[key] for key in ("name", "min_members")}}


def audit_run(ctx: click.Context, path: str, task: str, home: str | None, as_json: bool) -> None:
    """Run the project's ServerApp again on the log of a task, and compare what it sends with what was
    sent."""
    from federated.flower.coordination import coordinate, tolerance_of
    from federated.flower.errors import AppFailed
    from federated.flower.npz import unlike
    from federated.flower.project import read_project
    from node.commands.learning_run import runner_of
    from node.home import open_home
    from node.learning_member import Member, SystemClock

    member = Member(open_home(home), task, SystemClock())
    terms = member.terms()
    project = read_project(path).with_config(_overrides(terms))
    with runner_of(project, {}, task, member.agent(), False) as app:
        try:
            ran = coordinate(member, terms, app, _Listener(as_json), live=False)
            problems = list(ran.differences)
        except AppFailed as error:
            problems, ran = [str(error)], None
    calls = member.log()["calls"]
    result = None if terms["failed"] is not None or terms["state"] != "finished" else terms["parameters"]
    same = None if ran is None or ran.result is None or result is None else member.put(ran.result) == result
    tolerance = tolerance_of(terms["config"])
    if same is False and ran is not None and ran.result is not None and result is not None:
        difference = unlike(ran.result, member.message(result), tolerance)
        problems += [] if difference is None else [f"the result: {difference}"]
    said = [
        {
            "call": one["number"],
            "coordinator": one["coordinator"],
            "sent": len(one["messages"]),
            "answered": [answer["agent"] for answer in one["answers"]],
        }
        for one in calls
    ]
    if as_json:
        found = {"calls": said, "differences": problems, "same_result": same}
        print_json({**found, "tolerance": tolerance})
    else:
        for one in said:
            answered = f"{len(one['answered'])} of {one['sent']} answered"
            print_line(f"call {one['call']} by {one['coordinator']}: {answered}")
        for problem in problems:
            print_line(f"NOT ALIKE: {problem}")
        if not problems:
            near = f", the result within {tolerance:g}"
            result_too = {None: "", True: ", the result byte for byte", False: near}
            print_line(f"{len(said)} calls computed alike{result_too[same]}")
    if problems:
        ctx.exit(ExitCode.DAMAGED)


def _overrides(terms: dict[str, Any]) -> dict[str, Any]:
    """The run config that the task's author gave: JSON in texts, since a record holds no fractions."""
    from json import loads

    from federated.flower.errors import ProjectError
    from federated.flower.project import ConfigValue

    found: dict[str, Any] = {}
    for key, text in terms["config"].items():
        if not key.startswith(RUN):
            continue
        try:
            value = loads(text)
        except (TypeError, ValueError, RecursionError):
            value = None
        if not isinstance(value, ConfigValue):
            raise ProjectError(f"the task's run config has no value for {key.removeprefix(RUN)!r:.80}")
        found[key.removeprefix(RUN)] = value
    return found


def run_member(
    ctx: click.Context,
    home: Home,
    member: Member,
    terms: dict[str, Any],
    settings: Settings,
    no_serve: bool,
    as_json: bool,
) -> None:
    """Take part in a ServerApp's run until it is over."""
    from federated.flower.answering import attend
    from federated.flower.client_state import state_file
    from federated.flower.coordination import coordinate
    from node.api_client import ApiError
    from node.commands.learning_run import runner_of
    from node.errors import DaemonNotRunning
    from node.learning_member import Member, SystemClock

    task, agent, pairs = settings.task, settings.agent, settings.nodes
    project = settings.project.with_config(_overrides(terms))
    listener = _Listener(as_json, settings.stream)
    state = state_file(home.app_states, terms["id"])
    note = note_on_files(project, lambda: member.blob(terms["parameters"]))
    if note is not None:
        print_line(f"note: {note}", err=True)

    def serve() -> Ran:
        with runner_of(project, pairs, task, agent, settings.verbose or settings.stream) as app:
            return coordinate(Member(home, task, SystemClock()), terms, app, listener)

    serves = None if no_serve or not project.serverapp else serve
    with runner_of(project, pairs, task, agent, settings.verbose, state) as app:
        # Before joining: an app that does not load must not keep the others waiting.
        app.open()
        if not terms["joined"]:
            member.join()
        failures = (ApiError, DaemonNotRunning)
        try:
            done = attend(member, app, serves, listener, SystemClock(), failures)
        except KeyboardInterrupt:
            print_line(
                f"this node still belongs to the run: roseforest fl run PATH {task} goes on, roseforest fl "
                f"leave {task} ends its part, and fl stop of its author the run",
                err=True,
            )
            raise
    state.unlink(missing_ok=True)
    _report(ctx, member, task, done.answered, done.failed, done.ran, as_json)


def note_on_files(project: FlowerProject, authors: Callable[[], bytes]) -> str | None:
    """What to say where the project's files are not, or not known to be, those that `authors` fetches.

    The list is wanted for this alone: that nobody has it at the moment keeps no member from taking part.
    """
    from federated.flower.project import files_of
    from node.api_client import ApiError
    from node.commands.exit_codes import exit_code_of

    mine = "".join(f"{digest}  {file}\n" for file, digest in files_of(project.root))
    try:
        same = authors().decode(errors="replace") == mine
    except ApiError as error:
        if exit_code_of(error) != ExitCode.NOT_FOUND:
            raise
        return "nobody has the list of the author's files now: whether this project is the same is not known"
    return None if same else "this project's files are not those of the task's author"


def _report(
    ctx: click.Context,
    member: Member,
    task: str,
    answered: int,
    failed: dict[int, str],
    ran: Ran | None,
    as_json: bool,
) -> None:
    terms = member.terms()
    result = None if terms["failed"] is not None else terms["parameters"]
    if as_json:
        print_json(
            {
                "id": task,
                "calls": terms["round"],
                "answered": answered,
                "lost": [{"call": number, "reason": reason} for number, reason in failed.items()],
                "result": result,
                "failed": terms["failed"],
                "coordinated": ran is not None,
                "replayed": 0 if ran is None else ran.replayed,
                "differences": [] if ran is None else ran.differences,
                "refused": [] if ran is None else [list(pair) for pair in ran.refused],
            }
        )
    else:
        print_line(f"finished after {terms['round']} calls: answered {answered}")
        if result is not None:
            print_line(f"parameters  {result}")
    if terms["failed"] is not None:
        print_line(f"the run ended without a result: {in_line(terms['failed'])}", err=True)
        ctx.exit(ExitCode.REFUSED)
    if failed:
        ctx.exit(ExitCode.PARTLY_DONE)


class _Listener:
    """What happens, as lines; with --json only what went wrong, unless --stream asks for more."""

    def __init__(self, as_json: bool, stream: bool = False) -> None:
        self._talk = stream or not as_json

    def asked(self, number: int, seconds: float) -> None:
        if self._talk:
            print_line(f"call {number}: working, {seconds:.0f} s left", err=True)

    def answered(self, number: int, seconds: float, problem: str | None) -> None:
        if problem is not None:
            print_line(f"call {number}: the app failed: {problem}", err=True)
        elif self._talk:
            print_line(f"call {number}: answered after {seconds:.1f} s", err=True)

    def coordinates(self) -> None:
        if self._talk:
            print_line("this node runs the ServerApp", err=True)

    def stopped(self, reason: str) -> None:
        print_line(f"this node runs the ServerApp no more: {reason}", err=True)

    def resumed(self, calls: int) -> None:
        print_line(f"the run is taken up after {calls} calls", err=True)

    def called(self, number: int, messages: int) -> None:
        if self._talk:
            print_line(f"call {number}: {messages} messages sent", err=True)

    def collected(self, number: int, answers: int, of: int) -> None:
        if self._talk:
            print_line(f"call {number}: {answers} of {of} answers", err=True)

    def refused(self, agent: str, why: str) -> None:
        print_line(f"an answer of {agent} is refused: {why}", err=True)
