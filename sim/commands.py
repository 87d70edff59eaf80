"""The commands `roseforest testnet` and `roseforest demo`.

They are found through the entry points `roseforest.commands`; everything heavy is imported when they run.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node.commands.exit_codes import ExitCode

if TYPE_CHECKING:
    from sim.result import Result
    from sim.scenario import Scenario
    from sim.testnet import NetworkEvent, TestNetwork

T = TypeVar("T")

_GIVEN = click.core.ParameterSource.COMMANDLINE

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
@click.option(
    "--scenario",
    "name",
    metavar="FILE|NAME",
    help="Take the nodes from a scenario, and play it: workload, kills and returns (see sim list).",
)
@click.option("--seed", type=click.IntRange(0, 1 << 32), help="Replaces the scenario's own.")
@click.option("--scale", type=click.FloatRange(0.01, 100), default=1.0, help="Of the scenario; see sim run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each event.")
@click.pass_context
def up(
    ctx: click.Context,
    nodes: int,
    folder: Path | None,
    name: str | None,
    seed: int | None,
    scale: float,
    as_json: bool,
) -> None:
    """Start a network and run it until Ctrl-C.

    Says where each daemon's API and home folder are, and how a node of yours joins. With --scenario it ends
    with code 13 when an assertion that can be measured on real daemons fails.
    """
    given = {one for one in ("nodes", "seed", "scale") if ctx.get_parameter_source(one) is _GIVEN}
    if name is not None and "nodes" in given:
        raise click.UsageError("--nodes goes without --scenario, which says itself how many; see --scale")
    if name is None and given - {"nodes"}:
        raise click.UsageError("--seed and --scale go with --scenario")
    scenario = None if name is None else _scenario(name, seed, scale)
    count = nodes if scenario is None else scenario.topology.nodes
    if not as_json:
        click.echo(f"starting {count} daemons", err=True)
    results: list[Result] = []
    flags = {} if scenario is None else _flags(scenario)

    async def main() -> None:
        import trio

        from sim.testnet import open_test_network

        async with open_test_network(count, folder, lambda event: _show(event, as_json), flags) as network:
            _show_ready(network, as_json)
            if scenario is not None and name is not None:
                results.append(await _play(scenario, name, network, as_json))
            await trio.sleep_forever()

    _run(main)
    if as_json:
        _line({"event": "stopped"})
    else:
        click.echo("stopped")
    if any(not result.ok for result in results):
        ctx.exit(ExitCode.ASSERTION)


@click.command()
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Draws the questions and the daemon to kill."
)
@click.option("--nodes", type=click.IntRange(2, 64), default=5, show_default=True, help="Daemons that store.")
@click.option(
    "--questions", type=click.IntRange(1, 40), default=10, show_default=True, help="Questions asked."
)
@click.option("--learning/--no-learning", default=True, show_default=True, help="Also the second half.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print all figures as one JSON object; the story goes to stderr."
)
def demo(seed: int, nodes: int, questions: int, learning: bool, as_json: bool) -> None:
    """Load, ask, kill a daemon, ask again: the whole story.

    Loads a real corpus into a network of daemons, asks it from a node that holds nothing, kills one of the
    daemons, and asks again. Then four of those left train a model together, each on its own data.
    """
    from rich.console import Console

    from sim.demo import DemoReport, run_demo
    from sim.demo_view import RichView

    progress = Console(stderr=True)
    out = progress if as_json else Console()

    async def main() -> DemoReport:
        view = RichView(out, progress)
        try:
            report = await run_demo(seed, nodes, questions, view, learning)
        finally:
            view.close()
        view.report(report)
        if report.learning is not None:
            view.learning(report.learning)
        elif learning:
            progress.print(f"No second half: {report.learning_skipped}", highlight=False, soft_wrap=True)
        return report

    report = _run(main)
    if report is None:
        raise click.Abort
    if as_json:
        _line(report.figures())


def _scenario(name: str, seed: int | None, scale: float) -> Scenario:
    from sim.real_stage import check_playable
    from sim.scenario import load_scenario, scaled

    scenario = load_scenario(name, seed)
    if scale != 1:
        scenario = scaled(scenario, scale)
    check_playable(scenario, name)
    return scenario


def _flags(scenario: Scenario) -> dict[str, Sequence[str]]:
    from sim.real_stage import flags_of

    return flags_of(scenario.plan())


async def _play(scenario: Scenario, name: str, network: TestNetwork, as_json: bool) -> Result:
    """Play a scenario on the daemons and show what came of it."""
    from rich.console import Console

    from sim.real_stage import left_out, play_real
    from sim.scenario_view import ScenarioView, show_result

    skipped = left_out(scenario)
    if as_json:
        _line({"event": "skipped", "parts": skipped})
    else:
        click.echo(f"left out on real sockets: {', '.join(skipped)}", err=True)
    view = ScenarioView(Console(stderr=True, quiet=as_json))
    try:
        result = await play_real(scenario, network, view)
    finally:
        view.close()
    short = Path(name).name.removesuffix(".toml")
    if as_json:
        _line({"event": "result", **result.to_json(short)})
    else:
        show_result(Console(), short, result)
        click.echo("the daemons go on; Ctrl-C stops all of it.")
    return result


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
