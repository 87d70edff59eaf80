"""How bugs are planted in merging and the laws tried on it: `make mutants`, and a short part in the tests.

Histories are made by the code as it is; only what a law does with one runs with the bug, so a law that
notices it does so by itself, and not because no history could be made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import pytest

from tests.crdt.histories import Choose, History, history

Patch = pytest.MonkeyPatch
Law = Callable[[History, Choose], None]
Planting = Callable[[Patch], None]

STEPS = (12, 4, 20)
"""Lengths of the histories, in turn."""
NOTICED = (AssertionError, LookupError, ValueError, TypeError, pytest.fail.Exception)
"""How a law fails on wrong merges; errors of ours are ValueErrors, the last is that of `pytest.raises`."""


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug and the laws, at least one, each of which has to notice it."""

    plant: Planting
    laws: tuple[Law, ...]

    @property
    def name(self) -> str:
        return self.plant.__name__


def planted(catalogue: list[Bug]) -> Callable[..., Callable[[Planting], Planting]]:
    """A decorator of bugs that lists them in `catalogue` with the laws it is given."""

    def caught_by(first: Law, *more: Law) -> Callable[[Planting], Planting]:
        def list_it(plant: Planting) -> Planting:
            catalogue.append(Bug(plant, (first, *more)))
            return plant

        return list_it

    return caught_by


@contextmanager
def bug_in_place(bug: Bug) -> Iterator[None]:
    with Patch.context() as patch:
        bug.plant(patch)
        yield


@lru_cache(maxsize=512)
def _told(seed: int) -> History:
    return history(Random(f"history {seed}").randrange, STEPS[seed % len(STEPS)])


def prepare(seeds: Iterable[int]) -> None:
    """Make the histories of these seeds, so that what is switched on later has no part in them."""
    for seed in seeds:
        _told(seed)


def first_broken(law: Law, seeds: Iterable[int], bug: Bug | None = None) -> int | None:
    """The first of the seeds whose history breaks the law, with the bug in place if there is one; or None."""
    for seed in seeds:
        story = _told(seed).copy()
        choose = Random(f"{seed} {law.__name__}").randrange
        try:
            if bug is None:
                law(story, choose)
            else:
                with bug_in_place(bug):
                    law(story, choose)
        except NOTICED:
            return seed
    return None
