"""`python -m tests.federated.mutants`: every planted bug against its tests, and these without a bug.

Prints for each bug the tests that notice it, and by which error. Fails if a test that a bug names does not
notice it, or fails on the code as it is. Names of bugs after it: only these.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import click

from tests.federated.agreement_bugs import AGREEMENT_BUGS
from tests.federated.number_bugs import NUMBER_BUGS
from tests.federated.planting import Bug, plant, shown
from tests.federated.privacy.privacy_bugs import PRIVACY_BUGS
from tests.federated.run_bugs import RUN_BUGS
from tests.planted_bugs import Table, hold

ALL_BUGS = (*NUMBER_BUGS, *AGREEMENT_BUGS, *RUN_BUGS, *PRIVACY_BUGS)
BUGS = {bug.name: bug for bug in ALL_BUGS}
IMPORTED = [
    "_pytest.junitxml",
    "anyio.pytest_plugin",
    "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.ciphers.aead",
    "dht.records.intake",
    "hypothesis.strategies",
    "numpy",
    "pdb",
    "pytest",
    "pytest_trio.plugin",
    "trio",
    "validation.rules",
]
"""What every process would import anew; nothing that imports `federated`."""


def _try_bug(name: str) -> dict[str, str | None]:
    return plant(BUGS[name], BUGS[name].tests)


def table_of(bugs: list[Bug]) -> Table:
    """These bugs and all the tests that they name."""
    tests = dict.fromkeys(test for bug in bugs for test in bug.tests)
    return Table({bug.name: bug.tests for bug in bugs}, tests, _try_bug, shown)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(BUGS)), metavar="[BUG]…")
def main(names: tuple[str, ...]) -> None:
    """Every planted bug of federated/ against the tests that it names."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with ProcessPoolExecutor(os.cpu_count(), context, max_tasks_per_child=1) as pool:
        if wrong := hold(table_of([BUGS[name] for name in names or BUGS]), pool):
            sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
