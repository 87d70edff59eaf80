"""Hypothesis profiles: `fast` while working, `ci` derandomised, so that a red run is red for everyone.

While tests are collected, Python's collector of cycles rests, and passes over what was imported afterwards:
three thousand tests and their modules are a million objects that stay, and going through them again and again
was a third of a process's start.

What tests write lies in memory where the system has a folder for that: their databases would wait for a disk
tens of thousands of times. What they say about crashes is about killed processes, whose pages stay.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from itertools import groupby

import pytest
from hypothesis import HealthCheck, Phase, settings

# before numpy is imported: threads of its own only get in the way of the tests on the other cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

IN_MEMORY, ROOM = "/dev/shm", 2 << 30
if os.access(IN_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(IN_MEMORY).free >= ROOM:
    os.environ.setdefault("TMPDIR", IN_MEMORY)
    tempfile.tempdir = None  # pytest has asked for it already

EXAMPLES = 30
"""Of a law that names no number of its own; `HYPOTHESIS_PROFILE=thorough` tries 2,000."""
_SLOW_MACHINE = [HealthCheck.too_slow]

settings.register_profile("fast", deadline=None, max_examples=EXAMPLES, suppress_health_check=_SLOW_MACHINE)
settings.register_profile(
    "ci", deadline=None, max_examples=EXAMPLES, derandomize=True, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile(
    "mutants",  # of planted bugs it counts whether one fails, not on how little
    settings.get_profile("ci"),
    phases=[Phase.explicit, Phase.generate],
)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=_SLOW_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first, then the slow ones, so that none is left with one alone at the end.

    What is run by several processes is divided among them in the order that it has here, so the modules are
    dealt: each process begins with slow ones, and takes quick ones from the others when it has none left.
    """
    items.sort(key=_turn)
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    modules = [list(some) for _, some in groupby(items, key=lambda item: (_turn(item), item.path))]
    items[:] = [item for first in range(processes) for some in modules[first::processes] for item in some]


def _turn(item: pytest.Item) -> int:
    return next((n for n, name in enumerate(("longest", "slow")) if item.get_closest_marker(name)), 2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
