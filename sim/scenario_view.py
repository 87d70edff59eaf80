"""What a scenario looks like on a terminal: progress while it runs, a table of metrics, the assertions.

Progress goes to stderr and shows virtual time beside it: a bar on a terminal, elsewhere a line for each part.
"""

from __future__ import annotations

from typing import Any

import trio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from sim.assertions import STATISTICS
from sim.result import Result, Verdict
from sim.scenario import Scenario


class ScenarioView:
    """A `sim.timeline.View` on a rich console. Close it to take the bar away."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: float | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def phase(self, title: str, total: int | None = None) -> None:
        self.close()
        self._console.print(f"[dim]{self._time()}[/dim]  [bold]{escape(title)}[/bold]")
        if total and self._console.is_terminal:
            columns = [TextColumn("           {task.description}"), BarColumn(), MofNCompleteColumn()]
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def advance(self, by: int = 1) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=by, description=self._time().strip())

    def note(self, text: str) -> None:
        self._console.print(f"[dim]{self._time()}[/dim]  {escape(text)}", highlight=False)

    def _time(self) -> str:
        if self._began is None:
            self._began = trio.current_time()
        return f"{trio.current_time() - self._began:7.1f} s"

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def show_result(out: Console, name: str, result: Result) -> None:
    """The metrics and what came of the assertions."""
    show_metrics(out, name, result.scenario, result.metrics)
    for verdict in result.verdicts:
        out.print(_line(verdict), highlight=False)
    if result.trace is not None:
        out.print(f"trace {result.trace[:16]}  {result.events:,} events", style="dim", highlight=False)


def show_metrics(out: Console, name: str, scenario: Scenario, metrics: dict[str, Any]) -> None:
    """The metrics as a table, a line for each number or distribution."""
    table = Table(title=f"{name}, seed {scenario.seed}", title_justify="left", show_header=False)
    for key, value in metrics.items():
        if key != "steps":
            table.add_row(key, _shown(value))
    for step, figures in metrics["steps"].items():
        table.add_section()
        for key, value in figures.items():
            table.add_row(f"{step}.{key}", _shown(value))
    out.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {value[name]:g}" for name in STATISTICS if name in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _line(verdict: Verdict) -> str:
    if verdict.value is None:
        return f"[dim]  ?    {escape(str(verdict.assertion))}  (not measured)[/dim]"
    mark = "[green]holds[/green]" if verdict.held else "[red]FAILS[/red]"
    value = f"{verdict.value:g}"
    return f"{mark}  {escape(str(verdict.assertion))}  [dim]({value})[/dim]"
