"""Bugs that are planted, one at a time, and what has to notice each: `make mutants`.

A table says which bugs there are, which checks (laws, tests) each of them names, and how one is tried; `hold`
tries them all, and the checks without a bug too, and tells what came out. A bug whose check misses it, and a
check that fails on the code as it is, are both wrong: the one proves nothing, the other something else.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """`bugs`: of each, by name, the checks that have to notice it; `checks`: all of them, by name.

    `plant` tries a bug: of each check that was tried, what it showed, or None where it held. `hold` tries a
    check without a bug. Both are called in other processes.
    """

    bugs: Mapping[str, Collection[str]]
    checks: Collection[str]
    plant: Callable[[str], Mapping[str, str | None]]
    hold: Callable[[str], str | None]


class TooLong(Exception):
    """What was planted computes without end."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TooLong` after so many seconds of computing, and again for as long as somebody catches it."""

    def too_long(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def hold(table: Table, pool: Executor) -> list[str]:
    """Try everything and print what each bug was noticed by; what is wrong."""
    wrong: list[str] = []
    held = {name: pool.submit(table.hold, name) for name in table.checks}
    tried = {name: pool.submit(table.plant, name) for name in table.bugs}
    broken: set[str] = set()
    for bug, named in table.bugs.items():
        outcome = tried[bug].result()
        found = {check: shown for check, shown in outcome.items() if shown is not None}
        print(f"{bug}: noticed by {len(found)} of {len(outcome)}", flush=True)
        for check, shown in sorted(found.items(), key=lambda pair: (pair[0] not in named, pair[1], pair[0])):
            print(f"    {shown}  {check}{' (named)' if check in named else ''}")
        wrong += [f"{check} does not notice {bug}" for check in sorted(set(named) - found.keys())]
        broken |= found.keys()
    for check, control in held.items():
        if (broken_by := control.result()) is not None:
            wrong.append(f"{check} fails without any bug: {broken_by.strip()}")
    print(f"{len(table.bugs)} bugs, {len(table.checks)} checks, each held without a bug")
    if idle := sorted(set(table.checks) - broken):
        print(f"checks that no bug breaks: {', '.join(idle)}")
    return wrong
