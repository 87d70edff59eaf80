"""`index rebuild`: derived state, made again from the records."""

from __future__ import annotations

import click

from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line


@click.group()
def index() -> None:
    """The local index."""


@index.command()
@home_option
@json_option
def rebuild(home: str | None, as_json: bool) -> None:
    """Drop everything derived and rebuild it from the records."""
    from node.api_client import LONG_SECONDS, ApiClient
    from node.home import open_home

    answer = ApiClient(open_home(home)).post("/v1/index/rebuild", seconds=LONG_SECONDS)
    if as_json:
        print_json(answer)
    else:
        print_line(f"{answer['vectors']} vectors indexed")
