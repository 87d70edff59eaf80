"""Progress bars of long commands: on standard error, where that is a terminal, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[float], None]
"""Told how much is done."""
Step = Callable[[str, int, int | None], None]
"""Told which step is under way, how much of it is done, and of how much, where that can be said."""


@contextmanager
def progress_bar(what: str, unit: str, total: int | None) -> Iterator[Tick]:
    """A bar over one thing whose size is known or not, counted in `unit`s ("bytes" are shown as such)."""
    if not _watched():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn(what), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def progress_of_steps() -> Iterator[Step]:
    """A bar for each of several steps, one after the other."""
    if not _watched():
        yield lambda step, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def tell(step: str, done: int, of: int | None) -> None:
            if step not in tasks:
                end(list(tasks.values()))
                tasks[step] = progress.add_task(step, total=of)
            progress.update(tasks[step], completed=done)

        def end(before: list[TaskID]) -> None:
            for task in before:
                progress.update(task, total=1, completed=1)

        yield tell
        end(list(tasks.values()))


def _watched() -> bool:
    import sys

    return sys.stderr.isatty()
