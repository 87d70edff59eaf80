"""`cite`, `relate` and `assess`: what an entry rests on, how it relates to others, how sure one is."""

from __future__ import annotations

from typing import Any

import click

from node.commands.editing import if_version_option, send
from node.commands.options import home_option, json_option


@click.command()
@click.argument("id")
@click.argument("source")
@click.option("--link", metavar="URL", help="Where it can be read.")
@click.option("--quote", metavar="TEXT", help="What it says there.")
@click.option("--remove", is_flag=True, help="Take this source away again; all parts as they were given.")
@if_version_option
@home_option
@json_option
def cite(
    id: str,
    source: str,
    link: str | None,
    quote: str | None,
    remove: bool,
    if_version: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Name a SOURCE of the entry ID."""
    given = {"source": source, "link": link, "quote": quote}
    _refer(id, {k: v for k, v in given.items() if v is not None}, remove, if_version, home, as_json)


@click.command()
@click.argument("id")
@click.argument("predicate")
@click.argument("target", metavar="ID2")
@click.option("--remove", is_flag=True, help="Take this relation away again.")
@if_version_option
@home_option
@json_option
def relate(
    id: str,
    predicate: str,
    target: str,
    remove: bool,
    if_version: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Say that the entry ID stands in a relation to the entry ID2: supports, contradicts, extends, …"""
    _refer(id, {"predicate": predicate, "target": target}, remove, if_version, home, as_json)


@click.command()
@click.argument("id")
@click.argument("confidence", type=click.FloatRange(0, 1))
@if_version_option
@home_option
@json_option
def assess(id: str, confidence: float, if_version: str | None, home: str | None, as_json: bool) -> None:
    """Say how sure you are, from 0 to 1, that the entry ID is right; what you said last counts."""
    send("PUT", id, "/confidence", {"confidence": confidence}, if_version, home, as_json)


def _refer(
    id: str, reference: dict[str, Any], remove: bool, if_version: str | None, home: str | None, as_json: bool
) -> None:
    body = {"remove" if remove else "add": [reference]}
    send("POST", id, "/references", body, if_version, home, as_json)
