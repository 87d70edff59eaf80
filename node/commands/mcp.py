"""`mcp`: the node as tools for AI agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node.commands.options import home_option
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    from node.config import Settings
    from node.home import Home
    from node.mcp.desk import Desk

TOKEN_BYTES = 32
LOOPBACK = "127.0.0.1"
PACKAGES = frozenset({"mcp", "mcp_types", "anyio"})


@click.command()
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve streamable HTTP there instead of standard input and output; HOST is 127.0.0.1 if not given, "
    "port 0 picks a free one.",
)
@click.option(
    "--allow-writes/--read-only",
    default=None,
    help="Offer add, edit, vote and cite too, signed in your name. Not by default.",
)
@click.option(
    "--allow-private/--no-private", default=None, help="Show your private entries too. Not by default."
)
@home_option
@click.option("--json", "as_json", is_flag=True, help="With --http: print one JSON object once it listens.")
def mcp(
    http: str | None, allow_writes: bool | None, allow_private: bool | None, home: str | None, as_json: bool
) -> None:
    """Be tools for an AI agent (Model Context Protocol): search, get, provenance, status.

    A client of the running daemon; an MCP host starts it. See docs/knowledge.md.
    """
    from node.config import load_settings
    from node.home import open_home

    folder = open_home(home)
    folder.require_initialised()
    flags = {"mcp_allow_writes": allow_writes, "mcp_allow_private": allow_private}
    settings = load_settings(folder, flags)
    from node.logs import set_up_logging

    set_up_logging("warning", settings.log_format, None)
    try:
        import mcp.server.lowlevel.server  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in PACKAGES:
            raise
        raise click.ClickException(
            "the mcp package is missing: install it with pip install 'roseforest[mcp]'"
        ) from error
    import trio

    from dht.ports import system_random
    from node.mcp.calls import Source
    from node.mcp.desk import Desk

    desk = Desk(
        Source(folder, settings.mcp_allow_private), settings.mcp_allow_writes, system_random().random_bytes
    )
    if http is None:
        if as_json:
            raise click.UsageError("--json goes with --http: standard output is the agent's")
        trio.run(_serve_stdio, desk)
        return
    from node.config import split_api

    try:
        address = split_api(f"{LOOPBACK}:{http}" if http.isdigit() else http)
    except ValueError as error:
        raise click.UsageError(f"--http: {error}") from error
    trio.run(_serve_http, desk, address, folder, settings, as_json)


async def _serve_stdio(desk: Desk) -> None:
    from node.mcp.server import build_server
    from node.mcp.stdio import serve_stdio

    await serve_stdio(build_server(desk))


async def _serve_http(
    desk: Desk, address: tuple[str, int], folder: Home, settings: Settings, as_json: bool
) -> None:
    import signal
    from functools import partial

    import trio

    from dht.ports import system_random
    from node.mcp.http import serve_http
    from node.mcp.server import build_server

    token = folder.ensure_mcp_token(system_random().random_bytes(TOKEN_BYTES).hex())
    stop = trio.Event()
    serve = partial(serve_http, build_server(desk), address, token, settings.api_hosts, stop)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve)
        if as_json:
            print_json({"url": url, "token_file": str(folder.mcp_token)})
        else:
            print_line(f"{url}  (bearer token: {folder.mcp_token})")
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                break
        stop.set()
