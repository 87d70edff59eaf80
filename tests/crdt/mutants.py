"""`python -m tests.crdt.mutants`: every planted bug against every law, and every law without a bug.

Prints for each bug the laws that notice it, each with the number of the history that first shows it. Fails
if a law that a bug names does not notice it, or if a law fails on the code as it is. `make mutants` runs it,
then the same laws under Hypothesis for longer; the tests have a short part of it (`test_seeded_bugs`).
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from os import cpu_count

import click

from tests.crdt.delta_laws import DELTA_LAWS
from tests.crdt.laws import LAWS
from tests.crdt.planting import first_broken
from tests.crdt.snapshot_laws import SNAPSHOT_LAWS
from tests.crdt.state_bugs import STATE_BUGS
from tests.crdt.sync_bugs import SYNC_BUGS
from tests.crdt.view_bugs import VIEW_BUGS
from tests.planted_bugs import Table, hold

BUGS = {bug.name: bug for bug in (*VIEW_BUGS, *STATE_BUGS, *SYNC_BUGS)}
BY_NAME = {law.__name__: law for law in (*LAWS, *DELTA_LAWS, *SNAPSHOT_LAWS)}
SEEDS = 300
"""Histories on which a law that a bug names is tried."""


def noticed_by(name: str, seeds: int, others: int) -> dict[str, str | None]:
    """Of each law the number of the first history on which it notices a bug, or None; `others`: histories
    for the laws that the bug does not name.
    """
    bug = BUGS[name]
    return {
        law.__name__: _number(first_broken(law, range(seeds if law in bug.laws else others), bug))
        for law in BY_NAME.values()
    }


def held_by(name: str, seeds: int) -> str | None:
    """The number of the first history that breaks a law without a bug."""
    return _number(first_broken(BY_NAME[name], range(seeds)))


def _number(seed: int | None) -> str | None:
    return None if seed is None else f"{seed + 1:5}"


@click.command()
@click.option("--seeds", default=SEEDS, show_default=True, help="histories for laws that a bug names")
@click.option("--others", default=60, show_default=True, help="histories for the other laws")
@click.option("--control", default=2000, show_default=True, help="histories for laws without a bug")
def main(seeds: int, others: int, control: int) -> None:
    """Every planted bug against every law of merging."""
    table = Table(
        {name: [law.__name__ for law in bug.laws] for name, bug in BUGS.items()},
        BY_NAME,
        partial(noticed_by, seeds=seeds, others=others),
        partial(held_by, seeds=control),
    )
    with ProcessPoolExecutor(cpu_count()) as pool:
        if wrong := hold(table, pool):
            sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
