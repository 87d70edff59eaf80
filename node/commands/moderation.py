"""`block`, `unblock` and `blocked`: what this node's owner does not want to see or hold."""

from __future__ import annotations

import click

from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line


@click.command()
@click.argument("target")
@click.option("--reason", default="", metavar="TEXT", help="Why; only you see it.")
@home_option
@json_option
def block(target: str, reason: str, home: str | None, as_json: bool) -> None:
    """Neither show nor hold anything of TARGET, an agent or an entry; on this node only."""
    from node.api_client import ApiClient
    from node.home import open_home

    answer = ApiClient(open_home(home)).post("/v1/blocks", {"target": target, "reason": reason})
    if as_json:
        print_json(answer)
    else:
        print_line(f"{answer['target']} is blocked" + ("" if answer["created"] else " (it was before)"))


@click.command()
@click.argument("target")
@home_option
@json_option
def unblock(target: str, home: str | None, as_json: bool) -> None:
    """Take a block back; what was let go comes back from other nodes."""
    from node.api_client import ApiClient, path_segment
    from node.home import open_home

    answer = ApiClient(open_home(home)).send("DELETE", f"/v1/blocks/{path_segment(target)}")
    if as_json:
        print_json(answer)
    else:
        print_line(f"{answer['target']} is not blocked any more")


@click.command()
@home_option
@json_option
def blocked(home: str | None, as_json: bool) -> None:
    """List what is blocked on this node."""
    from datetime import UTC, datetime

    from node.api_client import ApiClient
    from node.home import open_home

    answer = ApiClient(open_home(home)).get("/v1/blocks")
    if as_json:
        print_json(answer)
        return
    for one in answer["blocks"]:
        since = datetime.fromtimestamp(one["since_us"] // 1_000_000, UTC).isoformat()
        print_line(f"{one['target']} since {since}" + (f": {one['reason']}" if one["reason"] else ""))
    if not answer["blocks"]:
        print_line("nothing is blocked")
