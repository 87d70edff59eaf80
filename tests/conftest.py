"""Hypothesis profiles: `fast` while working, `ci` derandomised, so that a red run is red for everyone.

While tests are collected, Python's collector of cycles rests, and passes over what was imported afterwards:
three thousand tests and their modules are a million objects that stay, and going through them again and again
was a third of a process's start.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# before numpy is imported: threads of its own only get in the way of the tests on the other cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SLOW_MACHINE = [HealthCheck.too_slow]

settings.register_profile("fast", deadline=None, max_examples=50, suppress_health_check=_SLOW_MACHINE)
settings.register_profile(
    "ci", deadline=None, max_examples=50, derandomize=True, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=_SLOW_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
