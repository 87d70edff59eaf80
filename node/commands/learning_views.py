"""`fl list`, `join`, `leave`, `status`, `log`, `audit`: learning tasks as the daemon tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from node.commands.exit_codes import ExitCode
from node.commands.options import complete_folder, home_option, json_option
from node.commands.output import INDENT, in_line, print_json, print_line

if TYPE_CHECKING:
    from node.api_client import ApiClient

LOG_PAGE = 500
"""Events asked for at once."""
FOLLOW_PAUSE = 1.0
"""Seconds between two looks at a log that is followed."""
AUDIT_SECONDS = 600.0
BLOB_SECONDS = 600.0
"""How long a model may take on its way to the daemon or from it."""
SHOWN_ROUNDS = 10
"""Rounds of the history that `status` shows; --json has all."""
ID_LENGTH = 61
"""Characters of a task's id: the CID of a record."""


@click.command("list")
@home_option
@json_option
def list_tasks(home: str | None, as_json: bool) -> None:
    """List the tasks that the node knows: its own, those joined and those heard of."""
    answer = _client(home).get("/v1/learning/tasks")
    if as_json:
        print_json(answer)
        return
    for task in answer["tasks"]:
        part = "joined" if task["joined"] else "own" if task["own"] else "heard of"
        print_line(f"{task['id']} {task['state']} {part}")
        there = f", {members(len(task['members']))}" if task["state"] in ("running", "finished") else ""
        print_line(f"{INDENT}{in_line(task['name'])}: {_progress(task)}{there}, by {task['author']}")
    if not answer["tasks"]:
        print_line("no tasks yet")


@click.command()
@click.argument("task")
@home_option
@json_option
def join(task: str, home: str | None, as_json: bool) -> None:
    """Have the node ask to take part in TASK; to train, run fl run."""
    client = _client(home)
    task = task_id(client, task)
    answer = client.post(f"{path_of(task)}/join")
    if as_json:
        print_json({"id": task, **answer})
    elif client.get(path_of(task))["state"] == "finished":
        print_line(f"the task has finished, this node follows it: roseforest fl result {task}")
    else:
        print_line(f"joined: roseforest fl run PATH {task} trains")


@click.command()
@click.argument("task")
@home_option
@json_option
def leave(task: str, home: str | None, as_json: bool) -> None:
    """Have the node leave TASK: from the next round on nobody waits for it."""
    client = _client(home)
    task = task_id(client, task)
    answer = client.post(f"{path_of(task)}/leave")
    if as_json:
        print_json({"id": task, **answer})
    else:
        print_line("left")


@click.command()
@click.argument("task")
@home_option
@json_option
def status(task: str, home: str | None, as_json: bool) -> None:
    """Show how far TASK is, who takes part, and what each round came to."""
    client = _client(home)
    task = task_id(client, task)
    answer = client.get(path_of(task))
    if as_json:
        print_json(answer)
        return
    left = "" if answer["deadline_s"] is None else f", {answer['deadline_s']:.0f} s left"
    phase = "" if answer["phase"] is None else f" ({answer['phase']}{left})"
    rows = [
        ("task", answer["id"]),
        ("name", answer["name"]),
        ("author", answer["author"] + (" (this node)" if answer["own"] else "")),
        ("state", f"{answer['state']}, {_progress(answer)}{phase}"),
        ("strategy", answer["strategy"]),
        ("topology", _topology(answer)),
        *([("sums", _sums(answer))] if answer["secure"] else []),
        ("members", ", ".join(answer["members"]) or "none yet"),
        ("roster", ", ".join(answer["roster"]) or "none yet"),
        ("this node", "takes part" if answer["joined"] else "does not take part"),
        ("model", f"{len(answer['arrays'])} arrays, {answer['parameters']}"),
    ]
    if answer["mode"] == "server-app":
        rows.append(("tolerance", answer["config"].get("tolerance", "0.0001, not stated")))
    rows += [("sits out", _sits_out(out)) for out in answer["barred"]]
    for name, value in rows:
        print_line(f"{name:<10} {in_line(value)}")
    for entry in answer["history"][-SHOWN_ROUNDS:]:
        print_line(f"round {entry['round']}: {_outcome(entry)}{_weighed(entry, answer['plain_bytes'])}")
    if answer["mode"] == "server-app":
        calls = client.get(f"{path_of(task)}/calls", after=max(answer["round"] - SHOWN_ROUNDS, 0))["calls"]
        for call in calls:
            print_line(f"call {call['number']}: {_sent('message', call)}, {_sent('answer', call)}")


@click.command()
@click.argument("task")
@click.option(
    "--follow",
    "--stream",
    "-f",
    is_flag=True,
    help="Go on until Ctrl-C or the task's end.",
)
@home_option
@json_option
def log(task: str, follow: bool, home: str | None, as_json: bool) -> None:
    """Show the signed records of TASK as they came; with --json one object a line."""
    import time

    client = _client(home)
    task = task_id(client, task)
    after = 0
    while True:
        page = client.get(f"{path_of(task)}/log", after=after, limit=LOG_PAGE)
        for event in page["events"]:
            if as_json:
                print_json(event)
            else:
                number = "" if event["round"] is None else f" round {event['round']}"
                print_line(f"{_time(event['at_us'])} {event['event']}{number} by {event['agent']}")
                print_line(f"{INDENT}{in_line(event['text'])}")
        after = page["next"]
        if page["events"]:
            continue
        if not follow or client.get(path_of(task))["state"] == "finished":
            return
        time.sleep(FOLLOW_PAUSE)


@click.command()
@click.argument("task")
@click.option("--round", "number", type=click.IntRange(1), metavar="N", help="Only this round [every one].")
@click.option(
    "--app",
    metavar="PATH",
    shell_complete=complete_folder,
    help="The Flower project whose ServerApp ran, in a task of that mode.",
)
@home_option
@json_option
@click.pass_context
def audit(
    ctx: click.Context, task: str, number: int | None, app: str | None, home: str | None, as_json: bool
) -> None:
    """Compute TASK's results again from the members' updates, and compare.

    Where a ServerApp ran it runs again, with the answers on record, and what it sends is compared with what
    it had sent.
    """
    client = _client(home)
    task = task_id(client, task)
    if client.get(path_of(task))["mode"] == "server-app":
        from node.commands.server_runs import audit_run

        if app is None or number is not None:
            raise click.UsageError("a ServerApp ran in this task: give its project by --app PATH")
        audit_run(ctx, app, task, home, as_json)
        return
    where = f"{path_of(task)}/audit" + ("" if number is None else f"?round={number}")
    answer = client.post(where, seconds=AUDIT_SECONDS)
    bad = [entry for entry in answer["rounds"] if not entry["ok"]]
    if as_json:
        print_json(answer)
    else:
        for entry in answer["rounds"]:
            verdict = "ok" if entry["ok"] else f"NOT OK: {entry['problem']}"
            whose = f" of {entry['member']}" if entry["member"] else ""
            print_line(f"round {entry['round']}{whose}: {verdict}; {_outcome(entry)}")
        print_line(f"{len(answer['rounds']) - len(bad)} of {len(answer['rounds'])} rounds recomputed alike")
    if bad:
        ctx.exit(ExitCode.DAMAGED)


@click.command()
@click.argument("task")
@home_option
@json_option
def stop(task: str, home: str | None, as_json: bool) -> None:
    """End the run of TASK's ServerApp, which this node coordinates; for everybody."""
    client = _client(home)
    task = task_id(client, task)
    head = client.get(f"{path_of(task)}/calls", limit=1)["head"]
    client.post(f"{path_of(task)}/end", {"previous": head, "answers": [], "failed": "stopped by its owner"})
    if as_json:
        print_json({"id": task, "stopped": True})
    else:
        print_line(f"the run of {task} is ended")


def path_of(task: str) -> str:
    """The path of a task in the API."""
    from node.api_client import path_segment

    return f"/v1/learning/tasks/{path_segment(task)}"


def task_id(client: ApiClient, text: str) -> str:
    """The id of the task that `text` names: an id, or the beginning of one of the tasks that the node knows.

    Raises `NotFound` when there is none and `InvalidInput` when there are several.
    """
    from node.errors import InvalidInput, NotFound

    if len(text) >= ID_LENGTH:
        return text  # the daemon says what is wrong with it
    found = [str(task["id"]) for task in client.get("/v1/learning/tasks")["tasks"]]
    meant = [known for known in found if known.startswith(text)]
    if not meant:
        raise NotFound(f"no task known here has an id that begins with {text!r}: see roseforest fl list")
    if len(meant) > 1:
        raise InvalidInput(f"{len(meant)} tasks have ids that begin with {text!r}: give more of it")
    return meant[0]


def _progress(task: Mapping[str, Any]) -> str:
    """How far a task is; how many calls a ServerApp will make nobody knows."""
    if task["state"] == "unread":
        return "its holders did not answer in time (fl status asks again)"
    if task["state"] == "open":
        return f"begins with {members(task['min_members'])}, {len(task['members']) or 'none'} so far"
    if task["mode"] == "server-app":
        return f"call {task['round']}"
    return f"round {task['round']} of {task['rounds']}"


def _topology(task: Mapping[str, Any]) -> str:
    if task["topology"] == "groups":
        from chain.learning_task import MAX_MEMBERS

        count = -(-len(task["roster"]) // MAX_MEMBERS)
        return f"groups, {count} in this round" if count > 1 else f"groups, from {MAX_MEMBERS + 1} members on"
    if task["fanout"] is None:
        return str(task["topology"])
    return f"{task['topology']}, each combines its model with those of {task['fanout']} others"


def figures(metrics: Mapping[str, float]) -> str:
    """Metrics for people."""
    return ", ".join(f"{name} {value:.6g}" for name, value in sorted(metrics.items()))


def _client(home: str | None) -> ApiClient:
    from node.api_client import ApiClient
    from node.home import open_home

    return ApiClient(open_home(home))


def _outcome(entry: Mapping[str, Any]) -> str:
    said = [f"{members(len(entry['contributors']))} contributed"]
    said += [f"{item['agent']} refused ({item['reason']})" for item in entry["refused"]]
    said += [f"{agent} absent" for agent in entry.get("absent", [])]
    return in_line(", ".join(said))


def _sums(answer: Mapping[str, Any]) -> str:
    """How updates are hidden, and whether the roster is too small for it now."""
    least, there = answer["secure"], len(answer["roster"])
    waits = answer["state"] == "running" and there < least
    said = f"; waits for more members, {there} are too few" if waits else ""
    return f"updates are summed under masks, in groups of {least} or more{said}"


def _sits_out(out: Mapping[str, Any]) -> str:
    if out["until"] is not None:
        return f"{out['agent']} up to round {out['until']} ({out['reason']})"
    until = "until it is heard again" if out["reason"] == "excluded" else "for good"
    return f"{out['agent']} {until} ({out['reason']})"


def _weighed(entry: Mapping[str, Any], plain: int) -> str:
    """How many bytes the updates of a round had, and how that compares with plain ones."""
    sizes = [item["bytes"] for item in entry["contributors"]]
    if not sizes:
        return ""
    each = f"{sizes[0]:,}" if len(set(sizes)) == 1 else f"{min(sizes):,} to {max(sizes):,}"
    share = sum(sizes) / (plain * len(sizes))
    said = f" ({share:.0%} of a plain one)" if share < 1 else ""
    return f", {each} bytes an update{said}, {entry['bytes']:,} in all"


def _sent(kind: str, call: Mapping[str, Any]) -> str:
    """How many messages or answers a call had, and of how many bytes in all."""
    blobs = call[f"{kind}s"]
    return f"{len(blobs)} {kind}{'' if len(blobs) == 1 else 's'} of {sum(b['size'] for b in blobs):,} bytes"


def members(number: int) -> str:
    """So many members, for people."""
    return f"{number} member{'' if number == 1 else 's'}"


def _time(at_us: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
