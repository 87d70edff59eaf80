"""How a bug is planted in `federated/`, and tests tried on it: a line is another one, and tests run anew.

Each bug is tried in a process of its own, into which nothing of `federated/` has been imported: as the bug's
module is, one piece of its text, which occurs in it once, is replaced. No file is touched. Tests that start
processes would not see it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from tests.planted_bugs import at_most

TEST_S = 60.0
"""Seconds of computing that a test may take."""
PROFILE = "mutants"
"""Of Hypothesis: always the same examples, and those that fail are not made smaller."""


@dataclass(frozen=True, slots=True)
class Bug:
    """In a module, `old` becomes `new`; each of the tests, at least one, has to notice it."""

    name: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        return Path(*self.module.split(".")).with_suffix(".py")

    def planted(self, source: str) -> str:
        """The module with the bug; raises `ValueError` when it has no one place for it."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.module} has {source.count(self.old)} times {self.old!r}")
        return source.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Planted:
    """The bugs of a module, added to a list as they are said; tests are of `file` if they name no other."""

    bugs: list[Bug]
    module: str
    file: str

    def __call__(self, name: str, old: str, new: str, first: str, *more: str) -> None:
        tests = tuple(test if "::" in test else f"{self.file}::{test}" for test in (first, *more))
        self.bugs.append(Bug(name, self.module, old, new, tests))


class _Loader(SourceFileLoader):
    def __init__(self, bug: Bug) -> None:
        super().__init__(bug.module, str(bug.path))
        self._bug = bug

    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew: what is kept of the module is without the bug."""
        source = self._bug.planted(self._bug.path.read_text("utf-8"))
        return compile(source, str(self._bug.path), "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == self._bug.module else None
        if spec is not None:
            spec.loader = _Loader(self._bug)
        return spec


class _Failure:
    """A plugin that keeps what the first test to fail said."""

    def __init__(self) -> None:
        self.shown: str | None = None

    def pytest_exception_interact(self, call: pytest.CallInfo[object]) -> None:
        if self.shown is None and call.excinfo is not None:
            self.shown = call.excinfo.typename


def plant(bug: Bug, tests: Sequence[str]) -> dict[str, str | None]:
    """The error of each test with the bug in place, None where there is none. Once in a process."""
    assert bug.module not in sys.modules, f"{bug.module} is imported already"
    sys.meta_path.insert(0, _Finder(bug))
    found = {test: shown(test) for test in tests}
    assert bug.module in sys.modules, f"no test of {bug.name} imports {bug.module}"
    return found


def shown(test: str) -> str | None:
    """The error of a test, None if there is none."""
    os.environ["HYPOTHESIS_PROFILE"] = PROFILE
    failure, said = _Failure(), io.StringIO()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    with at_most(TEST_S), contextlib.redirect_stdout(said):
        status = pytest.main([*options, test], [failure])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{test} could not be run:\n{said.getvalue()}")
    return None if status == pytest.ExitCode.OK else failure.shown
