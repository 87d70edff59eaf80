"""`index rebuild`: derived state, made again from the records."""

from __future__ import annotations

import click

from node.commands.options import home_option, json_option, passphrase_file_option
from node.commands.output import print_json, print_line


@click.group()
def index() -> None:
    """The local index."""


@index.command()
@passphrase_file_option
@home_option
@json_option
def rebuild(passphrase_file: str | None, home: str | None, as_json: bool) -> None:
    """Rebuild everything derived from the records.

    Works with and without a running daemon.
    """
    from node.home import open_home

    folder = open_home(home)
    folder.require_initialised()
    if folder.locked_by() is None:
        from node.commands.passphrase import passphrase_of
        from node.daemon import rebuild_index

        answer = {"vectors": rebuild_index(folder, passphrase_of(folder, passphrase_file))}
    else:
        from node.api_client import LONG_SECONDS, ApiClient

        answer = ApiClient(folder).post("/v1/index/rebuild", seconds=LONG_SECONDS)
    if as_json:
        print_json(answer)
    else:
        print_line(f"{answer['vectors']} vectors indexed")
