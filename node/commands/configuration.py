"""`config show`: every setting, and who set it."""

from __future__ import annotations

from typing import Any

import click

from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line


@click.group()
def config() -> None:
    """The node's settings."""


@config.command()
@click.option("--origin", is_flag=True, help="With where each value comes from.")
@home_option
@json_option
def show(origin: bool, home: str | None, as_json: bool) -> None:
    """Show the settings in force.

    Those of the running daemon, or those that run would use.
    """
    from node.home import open_home

    folder = open_home(home)
    folder.require_initialised()
    settings = _settings(folder)
    if as_json:
        print_json(settings if origin else {key: item["value"] for key, item in settings.items()})
        return
    for key, item in settings.items():
        print_line(f"{key} = {_plain(item['value'])}" + (f"    # {item['origin']}" if origin else ""))


def _settings(folder: Any) -> dict[str, Any]:
    from node.api_client import ApiClient

    if folder.read_daemon() is not None:
        running: dict[str, Any] = ApiClient(folder).get("/v1/config")
        return running
    from node.config import load_settings, with_origins

    return with_origins(load_settings(folder))


def _plain(value: Any) -> str:
    import json

    return "none" if value is None else json.dumps(value)
