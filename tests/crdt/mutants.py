"""`python -m tests.crdt.mutants`: every planted bug against every law, and every law without a bug.

Prints for each bug the laws that notice it, each with the number of the history that first shows it. Fails
if a law that a bug names does not notice it, or if a law fails on the code as it is. `make mutants` runs it,
then the same laws under Hypothesis for longer; the tests have a short part of it (`test_seeded_bugs`).
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from os import cpu_count

import click

from tests.crdt.delta_laws import DELTA_LAWS
from tests.crdt.laws import LAWS
from tests.crdt.planting import Bug, first_broken
from tests.crdt.snapshot_laws import SNAPSHOT_LAWS
from tests.crdt.state_bugs import STATE_BUGS
from tests.crdt.sync_bugs import SYNC_BUGS
from tests.crdt.view_bugs import VIEW_BUGS

BUGS = {bug.name: bug for bug in (*VIEW_BUGS, *STATE_BUGS, *SYNC_BUGS)}
BY_NAME = {law.__name__: law for law in (*LAWS, *DELTA_LAWS, *SNAPSHOT_LAWS)}
SEEDS = 300
"""Histories on which a law that a bug names is tried."""


def noticed_by(bug: Bug, seeds: int, others: int) -> dict[str, int]:
    """The laws that notice a bug, with the first seed that shows it; `others`: seeds for those not named."""
    found: dict[str, int] = {}
    for name, law in BY_NAME.items():
        seed = first_broken(law, range(seeds if law in bug.laws else others), bug)
        if seed is not None:
            found[name] = seed
    return found


def _try_bug(name: str, seeds: int, others: int) -> dict[str, int]:
    return noticed_by(BUGS[name], seeds, others)


def _try_law(name: str, seeds: int) -> int | None:
    return first_broken(BY_NAME[name], range(seeds))


@click.command()
@click.option("--seeds", default=SEEDS, show_default=True, help="histories for laws that a bug names")
@click.option("--others", default=60, show_default=True, help="histories for the other laws")
@click.option("--control", default=2000, show_default=True, help="histories for laws without a bug")
def main(seeds: int, others: int, control: int) -> None:
    """Every planted bug against every law of merging."""
    wrong: list[str] = []
    with ProcessPoolExecutor(cpu_count()) as pool:
        held = {name: pool.submit(_try_law, name, control) for name in BY_NAME}
        tried = {name: pool.submit(_try_bug, name, seeds, others) for name in BUGS}
        for name, result in tried.items():
            found, named = result.result(), {law.__name__ for law in BUGS[name].laws}
            print(f"{name}: noticed by {len(found)} of {len(BY_NAME)} laws")
            for law, seed in sorted(found.items(), key=lambda pair: (pair[0] not in named, pair[1], pair[0])):
                print(f"    {seed + 1:5}  {law}{' (named)' if law in named else ''}")
            wrong += [f"{law} does not notice {name}" for law in sorted(named - found.keys())]
        for name, outcome in held.items():
            if (broken := outcome.result()) is not None:
                wrong.append(f"{name} fails on history {broken} without any bug")
    idle = sorted(BY_NAME.keys() - {law for one in tried.values() for law in one.result()})
    print(f"{len(BUGS)} bugs, {len(BY_NAME)} laws, each held on {control} histories without a bug")
    if idle:
        print(f"laws that no bug breaks: {', '.join(idle)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
