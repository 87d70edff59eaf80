"""`conflicts` and `resolve`: what stands against what, and how it ends."""

from __future__ import annotations

from typing import Any

import click

from node.commands.editing import if_version_option, send
from node.commands.knowledge import read_text
from node.commands.options import complete_file, home_option, json_option
from node.commands.output import INDENT, excerpt, print_json, print_line

LINES, WIDTH = 6, 100
PAGE = 100


@click.command()
@click.argument("id", required=False)
@click.option("--after", metavar="ID", help="Entries with ids above this one.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many.")
@home_option
@json_option
def conflicts(id: str | None, after: str | None, limit: int, home: str | None, as_json: bool) -> None:
    """List the entries in conflict, or show what the conflict of the entry ID is.

    Without ID: entries that you have changed, asked of their holders, and those of others as far as they are
    held here.
    """
    from node.api_client import LONG_SECONDS, ApiClient, path_segment
    from node.home import open_home

    client = ApiClient(open_home(home))
    entries: list[dict[str, Any]] = []
    if id is not None:
        if after is not None:
            raise click.UsageError("--after is for the list of all, without ID")
        answer = client.get(f"/v1/entries/{path_segment(id)}/conflicts")
        entries += [answer] if answer["conflicts"] else []
    else:
        more = True
        while more:
            start = {} if after is None else {"after": after}
            page = client.get("/v1/conflicts", LONG_SECONDS, limit=min(PAGE, limit - len(entries)), **start)
            entries += page["entries"]
            after = page["next"]
            more = after is not None and len(entries) < limit
    if as_json:
        print_json({"entries": entries, "next": after})
        return
    for entry in entries:
        _print(entry)
    if not entries:
        print_line("no conflicts", err=True)
    if after is not None:
        print_line(f"there may be more: --after {after}", err=True)


@click.command()
@click.argument("id")
@click.option("--accept", metavar="CID", help="The record, as conflicts shows it, whose text is to stay.")
@click.option("--reject", metavar="CID", help="The record whose text is to go.")
@click.option("--merge", metavar="FILE", shell_complete=complete_file, help="The text that both give; or -.")
@click.option("--reason", metavar="TEXT", required=True, help="Why; for everybody to read.")
@if_version_option
@home_option
@json_option
def resolve(
    id: str,
    accept: str | None,
    reject: str | None,
    merge: str | None,
    reason: str,
    if_version: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """End the conflict of the entry ID's texts: accept one, reject one, or merge them.

    The decision is signed as part of the entry's history. Whoever resolves it otherwise meanwhile makes a
    new conflict. A field's conflict ends with edit, that of a delete with edit or delete.
    """
    given = {"accept": accept, "reject": reject, "merge": merge}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise click.UsageError("give one of --accept CID, --reject CID and --merge FILE")
    (decision,) = chosen
    body: dict[str, Any] = {"decision": decision, "reason": reason}
    if merge is not None:
        body["text"] = read_text("-") if merge == "-" else read_text("", merge)
    else:
        body["record"] = given[decision]
    send("POST", id, "/resolve", body, if_version, home, as_json)


def _print(entry: dict[str, Any]) -> None:
    import json

    print_line(f"{entry['id']} is at version {entry['version_id']}")
    for conflict in entry["conflicts"]:
        print_line(f"{INDENT}{conflict['about']}, {len(conflict['sides'])} sides")
        for side in conflict["sides"]:
            value = side["value"]
            print_line(f"{INDENT}{side['record']} by {side['author']} at {side['at']}")
            if side["deletes"]:
                print_line(f"{INDENT * 2}(deletes the entry)")
            else:
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                print_line("\n".join(INDENT + line for line in excerpt(text, LINES, WIDTH).splitlines()))
            for one in side["history"]:
                print_line(f"{INDENT * 2}after {one['kind']} by {one['author']} at {one['at']}")
        print_line(f"{INDENT}all had seen {', '.join(conflict['common'])}")
