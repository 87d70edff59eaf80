"""What the demo looks like on a terminal or in a log, with rich; it decides nothing.

Steps and progress go to stderr: a bar on a terminal, elsewhere a line a quarter. Answers and the final tables
go to `out`, which is stdout unless that belongs to the JSON.
"""

from __future__ import annotations

import trio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from sim.demo import TOP, DemoReport, ShownAnswer, summary
from sim.demo_learning import LearningReport
from sim.testnet import NetworkEvent, NodeEnded

LOG_STEPS = 4
"""Lines that report the progress of one step where there is no terminal."""


class RichView:
    """A `sim.demo.DemoView` on rich consoles. Close it to take the bar away."""

    def __init__(self, out: Console, progress: Console) -> None:
        self._out = out
        self._console = progress
        self._began = trio.current_time()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0
        self._told = 0

    def phase(self, title: str, total: int | None = None) -> None:
        self.close()
        self._console.print(
            f"[dim]{trio.current_time() - self._began:5.1f} s[/dim]  [bold]{escape(title)}[/bold]"
        )
        self._total, self._told = total or 0, 0
        if total and self._console.is_terminal:
            columns = [TextColumn("        "), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def progress(self, done: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)
        elif self._total and done * LOG_STEPS // self._total > self._told:
            self._told = done * LOG_STEPS // self._total
            self._console.print(f"         {done:,} of {self._total:,}", highlight=False, soft_wrap=True)

    def event(self, event: NetworkEvent) -> None:
        if isinstance(event, NodeEnded):
            if not event.expected:
                self._console.print(f"         [red]{event.name} ended with code {event.code}[/red]")
            return
        self._console.print(
            f"         {event.name}  {short(event.agent)}  pid {event.pid}  {event.api}",
            highlight=False,
            soft_wrap=True,
        )

    def answer(self, number: int, answer: ShownAnswer) -> None:
        cost = answer.cost
        self._out.print(
            f"\n[bold]{number:2}. {escape(answer.question)}[/bold]\n"
            f"    [dim]{cost['shards_contacted']} of {cost['shards_total']} shards, "
            f"{cost['nodes_contacted']} nodes, {cost['ms']:.0f} ms[/dim]",
            highlight=False,
            soft_wrap=True,
        )
        for hit in answer.hits[:TOP]:
            mark = "[green]✓ verified[/green]" if hit.verified else "[red]✗ not verified[/red]"
            self._out.print(
                f"    {hit.score:.3f}  {mark}  {escape(hit.name):<44}  by {short(hit.author)}",
                highlight=False,
                soft_wrap=True,
            )

    def report(self, report: DemoReport) -> None:
        """The tables at the end."""
        self.close()
        questions = len(report.before)
        table = Table(title=f"{questions} questions to a node that holds nothing", title_justify="left")
        for column in ("", "before the kill", "after"):
            table.add_column(column, justify="left" if not column else "right")
        before, after = summary(report.before), summary(report.after)
        table.add_row(
            "accepted name in the top 3",
            *(f"{part['accepted_in_top_3']} of {questions}" for part in (before, after)),
        )
        table.add_row(
            "milliseconds, median (most)",
            *(f"{part['ms_median']:.0f} ({part['ms_max']:.0f})" for part in (before, after)),
        )
        table.add_row(
            "shards contacted, median",
            *(f"{part['shards_contacted_median']:g} of {part['shards_total']}" for part in (before, after)),
        )
        table.add_row("shards missed", *(str(part["shards_missed"]) for part in (before, after)))
        table.add_row(
            "nodes contacted, median",
            *(f"{part['nodes_contacted_median']:g} of {report.nodes}" for part in (before, after)),
        )
        table.add_row("same answers, ids and order", "", f"{report.same} of {questions}")
        table.add_row("entries lost", "", str(report.lost))
        self._out.print()
        self._out.print(table)
        seconds = report.seconds
        self._out.print(
            f"{report.entries:,} entries loaded through {report.nodes} nodes in {seconds['load']:.1f} s "
            f"({report.entries_per_s:,.0f} a second, each signed and on disk), on all their holders "
            f"{seconds['settle']:.1f} s later.\n"
            f"{report.killed} was killed with SIGKILL. Largest daemon: {max(report.rss_mb.values()):.0f} MB. "
            f"Whole run: {seconds['total']:.1f} s on {report.cores} cores, seed {report.seed}.",
            highlight=False,
            soft_wrap=True,
        )

    def learning(self, report: LearningReport) -> None:
        """The table of the second half."""
        self.close()
        table = Table(
            title=f"Digits, {report.rounds} rounds of {report.epochs} epochs: accuracy on "
            f"{report.test_examples} images that nobody trained on",
            title_justify="left",
        )
        for column in ("trained on", "images", "accuracy"):
            table.add_column(column, justify="right" if column != "trained on" else "left")
        for name in report.members:
            table.add_row(f"{name} alone", str(report.examples[name]), f"{report.alone[name]:.3f}")
        everything = str(sum(report.examples.values()))
        together = f"[bold]{len(report.members)} nodes together, each its own part[/bold]"
        table.add_row(together, everything, f"[bold]{report.shared:.3f}[/bold]")
        table.add_row("all of it in one place", everything, f"{report.central:.3f}")
        self._out.print()
        self._out.print(table)
        (result,) = set(report.results.values())
        self._out.print(
            f"All {len(report.members)} hold the same bytes: {result}\n"
            f"{report.audited} of {report.rounds} rounds, computed again from the signed updates, came to "
            f"the same. An update is {report.update_bytes:,} bytes ({report.parameters:,} parameters). With "
            f"everything: {report.seconds:.1f} s.",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def short(agent: str) -> str:
    """The end of a peer id: all of them begin alike."""
    return f"…{agent[-6:]}"
