"""`fl`: learning tasks. Here those commands that run a user's Flower app or move a model; the rest are views.

The app runs in a process of its own that this command starts (`federated.flower`): never in the daemon, which
is only asked and told over HTTP, as any other client would.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from node.commands.exit_codes import ExitCode
from node.commands.gate_options import adopted, check_gate, gate_options, gate_said, gate_shown, gated
from node.commands.learning_views import audit, figures, join, leave, list_tasks, log, path_of, status, stop
from node.commands.model_card import export
from node.commands.options import complete_file, complete_folder, home_option, json_option
from node.commands.output import print_json, print_line
from node.commands.privacy_options import NOT_HERE, Wish, dp_options, private, said, shown

if TYPE_CHECKING:
    from federated.flower.app_runner import AppRunner
    from federated.flower.participation import RoundDone
    from federated.flower.project import FlowerProject

ROUNDS_KEY = "num-server-rounds"
"""The name that Flower's own templates give the number of rounds in an app's config."""
DEFAULT_ROUNDS = 3
"""Flower's own default."""
BLOB_SECONDS = 600.0
DEADLINE_S = 60.0
"""How long a round, or a message, waits unless said otherwise."""
MOST_SUMMED = 16
"""Members of a task with secure sums."""
MAX_ABS = 1000.0


@click.group("fl")
def fl() -> None:
    """Learning tasks: models that nodes train together, each on its own data."""


for view in (list_tasks, join, leave, status, log, audit, stop):
    fl.add_command(view)
fl.add_command(export)


@fl.command()
@click.argument("path", required=False, shell_complete=complete_folder)
@click.option(
    "--initial", metavar="FILE", shell_complete=complete_file, help="Initial parameters from this .npz file."
)
@click.option("--name", metavar="NAME", help="What to call the task [the project's name].")
@click.option("--rounds", type=click.IntRange(1, 10_000), metavar="N", help="Rounds [as the app says].")
@click.option("--min-members", type=click.IntRange(1, 256), default=2, show_default=True, metavar="N")
@click.option("--max-members", type=click.IntRange(1, 256), metavar="N", help="[16; gossip: 256]")
@click.option(
    "--deadline",
    type=click.FloatRange(1, 86_400),
    default=DEADLINE_S,
    show_default=True,
    metavar="SECONDS",
    help="How long a round waits for the slowest member.",
)
@click.option(
    "--max-abs",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Largest magnitude of a parameter [1000; with --mode server-app 1000000].",
)
@click.option(
    "--lease",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="With --mode server-app: after a deadline and so long without a word, another member takes over "
    "[the deadline].",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="With --mode server-app: how far arrays of two runs of the app may differ, for fl audit [0.0001].",
)
@click.option(
    "--mode",
    type=click.Choice(["peer-rounds", "server-app"]),
    default="peer-rounds",
    show_default=True,
    help="Every member computes the same average; or a member runs the project's ServerApp as it is.",
)
@click.option(
    "--max-norm", type=click.IntRange(min=1), metavar="N", help="How far an update may move the model."
)
@click.option(
    "--strategy",
    metavar="RULE",
    help="fedavg, or a robust rule such as clip|nnm|trimmed_mean (the default where the network knows it).",
)
@click.option(
    "--topology",
    type=click.Choice(["all-to-all", "groups", "gossip"]),
    help="Who exchanges updates with whom [all-to-all; groups where --max-members is over 16]. In gossip "
    "there are no common rounds: each member combines its model with those of a few others.",
)
@click.option(
    "--secure",
    type=click.IntRange(3, 16),
    metavar="N",
    help="Sum updates under masks, in groups of at least N members: nobody sees one alone.",
)
@click.option(
    "--compression",
    metavar="FORM",
    help="int8: updates in a quarter of the bytes [where the network knows it]; topk:N: of the N % of the "
    "elements that changed most; none: whole models.",
)
@click.option(
    "--fanout",
    type=click.IntRange(1, 15),
    metavar="N",
    help="With --topology gossip: of how many others a member combines the models [8].",
)
@click.option(
    "--run-config",
    "-c",
    multiple=True,
    metavar="'K=V …'|FILE.toml",
    help="Other values for the app's config.",
)
@click.option(
    "--node-config", multiple=True, metavar="'K=V …'", help="What the ClientApp finds as node config."
)
@click.option("--verbose", is_flag=True, help="Show what Flower logs.")
@home_option
@json_option
def create(
    path: str | None,
    initial: str | None,
    name: str | None,
    rounds: int | None,
    min_members: int,
    max_members: int | None,
    deadline: float,
    max_abs: float | None,
    lease: float | None,
    tolerance: float | None,
    mode: str,
    max_norm: int | None,
    strategy: str | None,
    topology: str | None,
    secure: int | None,
    compression: str | None,
    fanout: int | None,
    run_config: tuple[str, ...],
    node_config: tuple[str, ...],
    verbose: bool,
    home: str | None,
    as_json: bool,
) -> None:
    """Publish a task for the Flower project in PATH.

    Its ServerApp runs up to its first train messages and says with which parameters and config the task
    begins, and for how many rounds; --initial takes the parameters from a file instead, and needs no PATH.
    With --mode server-app nothing runs yet: a member will run the ServerApp, with whatever strategy it has.
    """
    if mode == "server-app":
        from node.commands import server_runs

        if path is None or initial is not None:
            raise click.UsageError("--mode server-app takes the PATH of a Flower project, and no --initial")
        if (strategy, max_norm, topology, fanout, secure, compression) != (None,) * 6:
            raise click.UsageError(
                "--strategy, --max-norm, --topology, --fanout, --secure and --compression go with --mode "
                "peer-rounds"
            )
        limits = {
            "min_members": min_members,
            "max_members": max_members or 16,
            "deadline_ms": round(deadline * 1000),
            "max_abs": max_abs or server_runs.MAX_ABS,
        } | ({} if lease is None else {"lease_ms": round(lease * 1000)})
        server_runs.publish(path, name, limits, tolerance, run_config, home, as_json)
        return
    if path is None and initial is None:
        raise click.UsageError("give the PATH of a Flower project, or --initial FILE")
    if max_members is not None and min_members > max_members:
        raise click.UsageError(f"--min-members {min_members} is more than --max-members {max_members}")
    if fanout is not None and topology != "gossip":
        raise click.UsageError("--fanout goes with --topology gossip")
    if topology == "gossip" and compression not in (None, "none"):
        raise click.UsageError(
            f"--compression {compression} sends differences from a model that all have, gossip has none"
        )
    if secure is not None:
        _check_secure(secure, min_members, max_members or MOST_SUMMED, topology, compression)
    if (lease, tolerance) != (None, None):
        raise click.UsageError("--lease and --tolerance go with --mode server-app")
    from federated.flower.initial import described, read_npz
    from federated.flower.project import parse_pairs, read_project
    from federated.flower.template import CONFIG_KEY, Template
    from node.api_client import ApiClient, path_segment
    from node.home import open_home

    client = ApiClient(open_home(home))
    overrides = parse_pairs(run_config, "--run-config")
    nodes = {"partition-id": 0, "num-partitions": 1, **parse_pairs(node_config, "--node-config")}
    project = None if path is None else read_project(path).with_config(overrides)
    captured: dict[str, Any] = {"template": Template().to_text(), "rounds": None, "strategy": None}
    if project is not None and (initial is None or project.serverapp):
        captured = _capture(project, nodes, verbose)
    terms, blob = (captured["arrays"], captured["blob"]) if initial is None else described(read_npz(initial))
    body = {
        "name": name or (project.name if project is not None else "task"),
        "arrays": terms,
        "parameters": client.post_blob(blob, BLOB_SECONDS)["cid"],
        "rounds": rounds or _rounds(project, captured),
        "min_members": min_members,
        "deadline_ms": round(deadline * 1000),
        "max_abs": max_abs or MAX_ABS,
        "config": {CONFIG_KEY: captured["template"]},
    }
    chosen = {
        "max_norm": max_norm,
        "strategy": strategy,
        "topology": topology,
        "max_members": max_members,
        "fanout": fanout,
        "secure": secure,
        "compression": compression or "auto",
    }
    body |= {key: value for key, value in chosen.items() if value is not None}
    task = client.post("/v1/learning/tasks", body)["id"]
    published = client.get(f"/v1/learning/tasks/{path_segment(task)}")
    rule = published["strategy"]
    meant = captured["strategy"]
    if meant is not None and not captured["averages"]:
        print_line(f"note: the app's strategy is {meant}; the task's is {rule}, by every member", err=True)
    parameters = sum(_count(term["shape"]) for term in terms)
    if as_json:
        shown_terms = ("name", "rounds", "min_members", "max_members", "deadline_ms", "topology")
        known = {key: published[key] for key in shown_terms}
        counted = {"parameters": parameters, "bytes": len(blob)}
        print_json({"id": task, **known, **counted, "strategy": meant, "rule": rule})
        return
    print_line(task)
    print_line(
        f"{body['name']}: {body['rounds']} rounds of {rule}, {parameters:,} parameters; begins "
        f"when {min_members} nodes have joined: roseforest fl run PATH {task}",
        err=True,
    )


def _check_secure(
    secure: int, min_members: int, max_members: int, topology: str | None, compression: str | None
) -> None:
    """Say in one line what does not go with secure sums."""
    if min_members < secure:
        raise click.UsageError(f"--secure {secure} needs --min-members {secure} at least")
    if topology not in (None, "all-to-all") or max_members > MOST_SUMMED:
        raise click.UsageError(f"--secure goes with all-to-all rounds of up to {MOST_SUMMED} members")
    if compression not in (None, "none"):
        raise click.UsageError(f"--secure sums whole models of 8 bytes an element: no {compression}")


@fl.command()
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


@fl.command()
@click.argument("task")
@click.option("--round", "number", type=click.IntRange(1), metavar="N", help="Of this round [the last].")
@click.option(
    "-o", "--output", metavar="FILE.npz", shell_complete=complete_file, help="Write the parameters here."
)
@click.option("--mine", "own", is_flag=True, help="The model that this node's gate adopted last.")
@home_option
@json_option
def result(
    task: str, number: int | None, output: str | None, own: bool, home: str | None, as_json: bool
) -> None:
    """The parameters that a task has come to, as an .npz file for numpy.load.

    With --mine those that this node's gate adopted last (fl run --gate).
    """
    from node.api_client import ApiClient
    from node.home import open_home

    if own and number is not None:
        raise click.UsageError("--mine says itself of which round: leave --round out")
    client = ApiClient(open_home(home))
    kept: bytes | None = None
    if own:
        answer, kept = adopted(client, open_home(home), task)
    else:
        answer = client.get(f"{path_of(task)}/result", **({} if number is None else {"round": number}))
    if output is not None:
        terms = client.get(path_of(task))
        answer["file"] = output
        data = client.get_blob(answer["parameters"], BLOB_SECONDS) if kept is None else kept
        write = _npz_of(terms, data)
        answer["bytes"] = write_file(output, write)
    if as_json:
        print_json(answer)
        return
    print_line(f"round       {answer['round']}")
    print_line(f"parameters  {answer['parameters']}")
    print_line(f"record      {answer['record']}")
    if output is not None:
        print_line(f"written     {output}")


class _Report:
    """Rounds as lines on a terminal; elsewhere only what was lost."""

    def __init__(self, rounds: int, as_json: bool) -> None:
        import sys

        self._rounds = rounds
        self._talk = sys.stderr.isatty() and not as_json
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


def _capture(project: FlowerProject, nodes: dict[str, Any], verbose: bool) -> dict[str, Any]:
    import sys

    if sys.stderr.isatty():
        print_line("running the ServerApp up to its first train messages", err=True)
    with runner_of(project, nodes, str(project.root), "", verbose) as app:
        return app.capture()


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


def _rounds(project: FlowerProject | None, captured: dict[str, Any]) -> int:
    if captured["rounds"]:
        return int(captured["rounds"])
    said = None if project is None else project.config.get(ROUNDS_KEY)
    return said if isinstance(said, int) and not isinstance(said, bool) else DEFAULT_ROUNDS


def _count(shape: list[int]) -> int:
    from math import prod

    return prod(shape)


def _shown(done: RoundDone) -> dict[str, Any]:
    return {
        "round": done.round,
        "examples": done.examples,
        "metrics": dict(done.metrics),
        "seconds": round(done.seconds, 3),
    }


def _npz_of(terms: dict[str, Any], data: bytes) -> Callable[[IO[bytes]], None]:
    """What writes a model as .npz. The result of a ServerApp's run is one already."""
    import zipfile

    import numpy as np

    from chain.learning_task import Array
    from federated.update import decode

    if terms["mode"] == "server-app":
        return lambda file: _drop(file.write(data))
    specs = [Array(item["name"], item["dtype"], tuple(item["shape"])) for item in terms["arrays"]]
    values = decode(specs, data, terms["max_abs"])

    def write(file: IO[bytes]) -> None:
        # Not numpy's savez: names are its keywords, and an array may be called like one of its own.
        with zipfile.ZipFile(file, "w") as archive:
            for spec, value in zip(specs, values, strict=True):
                with archive.open(f"{spec.name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, value, allow_pickle=False)

    return write


def _drop(_written: int) -> None:
    pass


def write_file(output: str, write: Callable[[IO[bytes]], None]) -> int:
    """Write a file, whole or not at all; returns its bytes."""
    import os
    import tempfile

    from node.errors import InvalidInput

    target = Path(output)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
                # A temporary file is its owner's alone; a result is an ordinary file.
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise InvalidInput(f"{output} cannot be written: {error.strerror}") from error
    return size


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask
