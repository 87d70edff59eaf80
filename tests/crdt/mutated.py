"""`python -m tests.crdt.mutated`, where mutmut made its mutants: which changes of `crdt/` go unnoticed?

mutmut starts the tests anew for each of some thousand mutants, which takes a night. Here each is switched on
in place, by the variable that its trampolines read, while the laws go over histories that were made without
it; on those that survive this the other tests of `tests/crdt` are run. `make mutmut` does it all in an hour.
What survived when it was done last, and what was made of it, is in `tests/crdt/MUTANTS.md`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from tests.crdt.mutants import BY_NAME
from tests.crdt.planting import first_broken, prepare
from tests.planted_bugs import TooLong, at_most

SWITCH = "MUTANT_UNDER_TEST"
MANY = 60
LAW_S, TESTS_S = 4.0, 60.0
"""Seconds of computing that a law, or the tests, may take: so one that loops without end is noticed."""
OTHERS = ("costs", "delta", "entry", "operations", "postings", "snapshot", "standing", "version_vector")


def mutants_of(module: Path) -> list[str]:
    """The names of a module's mutants, as mutmut gives them."""
    found = re.findall(r"^\s*def (x\S*?__mutmut_\d+)\(", module.read_text("utf-8"), re.MULTILINE)
    return [f"crdt.{module.stem}.{name}" for name in dict.fromkeys(found)]


@contextmanager
def switched_on(mutant: str) -> Iterator[None]:
    os.environ[SWITCH] = mutant
    try:
        yield
    finally:
        del os.environ[SWITCH]


def get_ready() -> None:
    prepare(range(MANY))


def noticed_by(mutant: str) -> str | None:
    """The first law, or the tests, that notice a mutant; None for a survivor."""
    with switched_on(mutant):
        for few in (range(4), range(4, MANY)):
            for name, law in BY_NAME.items():
                try:
                    with at_most(LAW_S):
                        if first_broken(law, few) is not None:
                            return name
                except (
                    TooLong,
                    ArithmeticError,
                    AttributeError,
                    MemoryError,
                    NameError,
                    RecursionError,
                ) as error:
                    return f"{name}: {type(error).__name__}"
        tests = [f"tests/crdt/test_{name}.py" for name in OTHERS]
        with at_most(TESTS_S), contextlib.redirect_stdout(io.StringIO()):
            failed = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        return "tests" if failed else None


@click.command()
@click.argument("modules", nargs=-1)
def main(modules: tuple[str, ...]) -> None:
    """Try the mutants of these modules of crdt/, else of all; prints the survivors."""
    paths = [Path("crdt") / f"{name}.py" for name in modules] or sorted(Path("crdt").glob("*.py"))
    mutants = [mutant for path in paths for mutant in mutants_of(path)]
    survived = 0
    with ProcessPoolExecutor(os.cpu_count(), initializer=get_ready) as pool:
        for mutant, noticed in zip(mutants, pool.map(noticed_by, mutants, chunksize=4), strict=True):
            if noticed is None:
                survived += 1
                print(mutant, flush=True)
    print(f"{survived} of {len(mutants)} mutants survived; `mutmut show NAME` tells what each changes")


if __name__ == "__main__":
    main()
