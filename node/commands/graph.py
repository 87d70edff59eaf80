"""`graph`: how entries relate to one another."""

from __future__ import annotations

from typing import Any

import click

from node.commands.options import home_option, json_option
from node.commands.output import INDENT, print_json, print_line

WIDTH = 70
MISSING = {
    "limit": "there are more entries: raise --limit",
    "time": "not all entries were read in time",
    "incoming": "more entries that are held here may relate to one of these",
    "references": "an entry has more references than are shown",
}


@click.command()
@click.argument("id")
@click.option(
    "--depth", type=click.IntRange(0, 8), default=2, show_default=True, help="So many relations away."
)
@click.option(
    "--limit", type=click.IntRange(1, 256), default=64, show_default=True, help="So many entries at most."
)
@click.option(
    "--direction",
    type=click.Choice(["out", "in", "both"]),
    default="both",
    show_default=True,
    help="Follow relations that entries state, relations to them, or both.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "dot"]),
    default="text",
    show_default=True,
    help="dot: for Graphviz.",
)
@home_option
@json_option
def graph(
    id: str, depth: int, limit: int, direction: str, form: str, home: str | None, as_json: bool
) -> None:
    """Show the entries that ID relates to and that relate to it, and so on.

    Relations to an entry stand at others: of them this node knows those that it holds or made itself.
    """
    from node.api_client import LONG_SECONDS, ApiClient, path_segment
    from node.home import open_home

    client = ApiClient(open_home(home))
    path = f"/v1/entries/{path_segment(id)}/graph"
    asked: dict[str, str | int] = {"depth": depth, "limit": limit, "direction": direction}
    if form == "dot" and not as_json:
        print_line(client.get_text(path, LONG_SECONDS, format="dot", **asked).rstrip("\n"))
        return
    answer = client.get(path, LONG_SECONDS, **asked)
    if as_json or form == "json":
        print_json(answer)
        return
    names = {node["id"]: _name(node) for node in answer["nodes"]}
    for node in answer["nodes"]:
        flags = f" ({', '.join(node['flags'])})" if node["flags"] else ""
        print_line(f"{names[node['id']]}{flags}")
        for edge in answer["edges"]:
            if edge["subject"] == node["id"]:
                print_line(f"{INDENT}{_line(edge['predicate'])}: {names[edge['object']]}")
        for one in node["sources"]:
            link = f" <{_line(one['link'])}>" if one["link"] else ""
            print_line(f"{INDENT}cites {_line(one['source'])}{link}")
        if node["beyond"]:
            print_line(f"{INDENT}and relates to {node['beyond']} more that are not shown")
    if direction != "out":
        print_line("relations to these entries are shown as far as they are held here", err=True)
    for why in answer["truncated"]:
        print_line(f"not complete: {MISSING.get(why, why)}", err=True)


def _name(node: dict[str, Any]) -> str:
    if node["state"] != "known":
        return f"{node['id']} ({node['state']})"
    return f"{node['id']} {_line(node['title'] or node['excerpt'] or '(erased)')}"


def _line(text: str) -> str:
    """A stranger's text on one line, cut."""
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
