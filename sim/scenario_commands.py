"""The commands `roseforest sim run` and `roseforest sim list`.

Found through the entry points `roseforest.commands`; everything heavy is imported when a command runs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from node.commands.exit_codes import ExitCode
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    from dht.network import PeerId
    from sim.trace import TraceEvent

SCALE = click.FloatRange(0.01, 100)


@click.group()
def sim() -> None:
    """Whole networks in one process, under virtual time."""


@sim.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_scenarios(as_json: bool) -> None:
    """The scenarios that come with the package."""
    from sim.scenario import shipped

    scenarios = shipped()
    if as_json:
        print_json([{"name": name, "about": one.about} for name, one in scenarios.items()])
        return
    width = max(map(len, scenarios))
    for name, one in scenarios.items():
        print_line(f"{name:{width}}  {one.about}")


@sim.command()
@click.argument("scenario", metavar="FILE|NAME")
@click.option("--seed", type=click.IntRange(0, 1 << 32), help="Replaces the scenario's own.")
@click.option(
    "--scale",
    type=SCALE,
    default=1.0,
    show_default=True,
    help="So many times the nodes and entries.",
)
@click.option("--trace", "traced", is_flag=True, help="Print every message to stderr, in order.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def run(scenario: str, seed: int | None, scale: float, traced: bool, as_json: bool) -> None:
    """Play a scenario in virtual time and check its assertions.

    The result depends on the scenario and the seed alone: equal runs have equal traces. Ends with code 13
    when an assertion fails.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: more threads only get in each other's way
    import tempfile
    from pathlib import Path

    from rich.console import Console

    from sim.scenario import load_scenario, scaled
    from sim.scenario_view import ScenarioView, show_result
    from sim.simulated_stage import play

    chosen = load_scenario(scenario, seed)
    if scale != 1:
        chosen = scaled(chosen, scale)
    name = Path(scenario).name.removesuffix(".toml")
    view = ScenarioView(Console(stderr=True, quiet=traced))
    with tempfile.TemporaryDirectory(prefix="roseforest-sim-") as folder:
        try:
            result = play(chosen, Path(folder), view, _print_event if traced else None)
        finally:
            view.close()
    if as_json:
        print_json(result.to_json(name))
    else:
        show_result(Console(), name, result)
    for verdict in result.verdicts:
        if not verdict.held:
            found = "not measured" if verdict.value is None else f"{verdict.value:g}"
            click.echo(f"roseforest: {name}: {verdict.assertion} does not hold: {found}", err=True)
    if not result.ok:
        click.get_current_context().exit(ExitCode.ASSERTION)


def _print_event(event: TraceEvent) -> None:
    line = [f"{event.at_us / 1e6:.6f}", event.event.name, _short(event.sender), _short(event.receiver)]
    sys.stderr.write(" ".join([*line, event.method or "-", event.body_hash.hex()[:12]]) + "\n")


def _short(peer: PeerId) -> str:
    return peer.hex()[:8]
