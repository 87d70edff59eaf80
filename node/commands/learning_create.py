"""`fl create`: publish a learning task for a Flower project, or for parameters from a file.

What a task begins with is what the project's own ServerApp would send first, so it is run up to there, in a
process of its own (`federated.flower`), and never in the daemon. Options that exclude one another are said in
one line before anything is posted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from node.commands.learning_run import DEADLINE_S, runner_of
from node.commands.learning_views import BLOB_SECONDS, members
from node.commands.options import complete_file, complete_folder, home_option, json_option
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    from federated.flower.project import FlowerProject

ROUNDS_KEY = "num-server-rounds"
"""The name that Flower's own templates give the number of rounds in an app's config."""
DEFAULT_ROUNDS = 3
"""Flower's own default."""
MOST_SUMMED = 16
"""Members of a task with secure sums."""
MAX_ABS = 1000.0


@click.command()
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
    help="Members combine updates themselves; or one of them runs the project's ServerApp as it is.",
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
    "elements that changed most; float16: in gossip whole models in half the bytes [there, where the network "
    "knows it]; none: whole models.",
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
    if topology == "gossip" and compression not in (None, "none", "float16"):
        raise click.UsageError(
            f"--compression {compression} sends differences from a model that all have, gossip has none: "
            "float16 does without"
        )
    if compression == "float16" and topology != "gossip":
        raise click.UsageError(
            "--compression float16 goes with --topology gossip; elsewhere int8 has half the bytes"
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
        f"with {members(min_members)}: roseforest fl run PATH {task}",
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


def _capture(project: FlowerProject, nodes: dict[str, Any], verbose: bool) -> dict[str, Any]:
    import sys

    if sys.stderr.isatty():
        print_line("running the ServerApp up to its first train messages", err=True)
    with runner_of(project, nodes, str(project.root), "", verbose) as app:
        return app.capture()


def _rounds(project: FlowerProject | None, captured: dict[str, Any]) -> int:
    if captured["rounds"]:
        return int(captured["rounds"])
    said = None if project is None else project.config.get(ROUNDS_KEY)
    return said if isinstance(said, int) and not isinstance(said, bool) else DEFAULT_ROUNDS


def _count(shape: list[int]) -> int:
    from math import prod

    return prod(shape)
