"""The commands `roseforest testnet` and `roseforest demo`.

They are found through the entry points `roseforest.commands`; everything heavy is imported when they run.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sim.testnet import NetworkEvent, TestNetwork

T = TypeVar("T")

FAILED = 1
"""Exit code when a daemon did not start or a promise did not hold."""


@click.group()
def testnet() -> None:
    """A network of daemons on this machine, to try out."""


@testnet.command()
@click.option(
    "-n", "--nodes", type=click.IntRange(1, 64), default=5, show_default=True, help="How many daemons."
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep homes and logs in this folder; without it they are temporary.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each event.")
def up(nodes: int, folder: Path | None, as_json: bool) -> None:
    """Start a network and run it until Ctrl-C.

    Says where each daemon's API and home folder are, and how a node of yours joins.
    """
    from sim.testnet import open_test_network

    if not as_json:
        click.echo(f"starting {nodes} daemons", err=True)

    async def main() -> None:
        import trio

        async with open_test_network(nodes, folder, on_event=lambda event: _show(event, as_json)) as network:
            _show_ready(network, as_json)
            await trio.sleep_forever()

    _run(main)
    if as_json:
        _line({"event": "stopped"})
    else:
        click.echo("stopped")


@click.command()
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Draws the questions and the daemon to kill."
)
@click.option("--nodes", type=click.IntRange(2, 64), default=5, show_default=True, help="Daemons that store.")
@click.option(
    "--questions", type=click.IntRange(1, 40), default=10, show_default=True, help="Questions asked."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print all figures as one JSON object; the story goes to stderr."
)
def demo(seed: int, nodes: int, questions: int, as_json: bool) -> None:
    """Load, ask, kill a daemon, ask again: the whole story.

    Loads a real corpus into a network of daemons, asks it from a node that holds nothing, kills one of the
    daemons, and asks again.
    """
    from rich.console import Console

    from sim.demo import DemoReport, run_demo
    from sim.demo_view import RichView

    progress = Console(stderr=True)
    out = progress if as_json else Console()

    async def main() -> DemoReport:
        view = RichView(out, progress)
        try:
            report = await run_demo(seed, nodes, questions, view)
        finally:
            view.close()
        view.report(report)
        return report

    report = _run(main)
    if report is None:
        raise click.Abort
    if as_json:
        _line(report.figures())


def _run(main: Callable[[], Awaitable[T]]) -> T | None:
    """Run `main` until it ends, or until SIGINT or SIGTERM (then None); its errors become one line."""
    import trio

    from sim.errors import SimError, one_error

    results: list[T] = []

    async def until_signalled() -> None:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

                async def watch() -> None:
                    await anext(signals)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                results.append(await main())
                nursery.cancel_scope.cancel()

    try:
        with one_error():
            trio.run(until_signalled)
    except SimError as error:
        click.echo(f"roseforest: {error}", err=True)
        click.get_current_context().exit(FAILED)
    return results[0] if results else None


def _show(event: NetworkEvent, as_json: bool) -> None:
    from sim.testnet import NodeEnded

    if isinstance(event, NodeEnded):
        if as_json:
            _line({"event": "node_ended", "name": event.name, "code": event.code, "expected": event.expected})
        elif not event.expected:
            click.echo(f"{event.name} ended with code {event.code}", err=True)
    elif as_json:
        _line(
            {
                "event": "node_started",
                "name": event.name,
                "agent_id": event.agent,
                "api": event.api,
                "home": str(event.home),
                "addresses": list(event.addresses),
                "pid": event.pid,
            }
        )


def _show_ready(network: TestNetwork, as_json: bool) -> None:
    if as_json:
        _line({"event": "ready", "bootstrap": network.bootstrap, "folder": str(network.folder)})
        return
    for node in network.nodes:
        click.echo(f"{node.name}  {node.started.api}  {node.home.root}")
    click.echo(f"bootstrap  {network.bootstrap}")
    click.echo(f"join it    roseforest init --home MY-NODE --join {network.bootstrap}")
    click.echo("           roseforest run --home MY-NODE")
    click.echo(f"ask it     roseforest query --home {network.nodes[0].home.root} TEXT")
    click.echo("Ctrl-C stops all of it.")


def _line(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value))
    sys.stdout.flush()
