"""`exchange key`: the keys by which systems of other makers publish and read through this node."""

from __future__ import annotations

import click

from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line


@click.group()
def exchange() -> None:
    """Let systems of other makers publish and read through this node."""


@exchange.command()
@home_option
@json_option
def url(home: str | None, as_json: bool) -> None:
    """Print where the running daemon serves the exchange API."""
    from node.errors import DaemonNotRunning, NotFound
    from node.home import open_home

    folder = open_home(home)
    daemon = folder.read_daemon()
    if daemon is None:
        raise DaemonNotRunning(
            f"no daemon runs on {folder.root}: start one with roseforest run --home {folder.root}"
        )
    if daemon.exchange is None:
        raise NotFound(
            "the daemon serves no exchange: set exchange.listen, or roseforest run --exchange-listen"
        )
    if as_json:
        print_json({"url": daemon.exchange})
    else:
        print_line(daemon.exchange)


@exchange.group()
def key() -> None:
    """Keys that open the exchange API; see the setting exchange.listen."""


@key.command()
@click.argument("name")
@home_option
@json_option
def add(name: str, home: str | None, as_json: bool) -> None:
    """Make a key for NAME and print it, this once: only its hash is kept."""
    from dht.ports import SystemClock, system_random
    from node.exchange.keys import FILE, SECRET_SIZE, add_key
    from node.home import open_home

    folder = open_home(home)
    folder.require_initialised()
    secret = system_random().random_bytes(SECRET_SIZE)
    made, text = add_key(folder.root / FILE, name, SystemClock().wall_us(), secret)
    if as_json:
        print_json({"name": made.name, "id": made.id, "key": text})
        return
    print_line(text)
    print_line("That is the key. It is shown this once; its hash is kept.", err=True)


@key.command("list")
@home_option
@json_option
def list_keys(home: str | None, as_json: bool) -> None:
    """List the keys by name."""
    from datetime import UTC, datetime

    from node.exchange.keys import FILE, read_keys
    from node.home import open_home

    folder = open_home(home)
    folder.require_initialised()
    keys = read_keys(folder.root / FILE)
    if as_json:
        rows = [{"name": one.name, "id": one.id, "created_us": one.created_us} for one in keys]
        print_json({"keys": rows})
        return
    for one in keys:
        made = datetime.fromtimestamp(one.created_us // 1_000_000, UTC).isoformat()
        print_line(f"{one.name} ({one.id}) since {made}")
    if not keys:
        print_line("there are no keys")


@key.command()
@click.argument("name")
@home_option
@json_option
def revoke(name: str, home: str | None, as_json: bool) -> None:
    """Take the key of NAME back; a running daemon refuses it from the next request on."""
    from node.exchange.keys import FILE, revoke_key
    from node.home import open_home

    folder = open_home(home)
    folder.require_initialised()
    gone = revoke_key(folder.root / FILE, name)
    if as_json:
        print_json({"name": gone.name, "id": gone.id, "revoked": True})
    else:
        print_line(f"the key of {gone.name} is revoked")
