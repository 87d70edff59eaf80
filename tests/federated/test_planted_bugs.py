"""The planted bugs are of the code as it is, and name tests that there are; `make mutants` tries them."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.federated.mutants import ALL_BUGS, BUGS


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse(Path(path).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def test_each_bug_has_a_name_of_its_own_and_names_tests() -> None:
    assert [name for name, times in Counter(bug.name for bug in ALL_BUGS).items() if times > 1] == []
    named = {test for bug in ALL_BUGS for test in bug.tests}
    there = {
        f"{path}::{name}" for path in {test.partition("::")[0] for test in named} for name in names_in(path)
    }
    assert sorted(named - there) == []


@pytest.mark.parametrize("module", sorted({bug.module for bug in ALL_BUGS}))
def test_each_bug_has_one_place_and_changes_what_is_done(module: str) -> None:
    bugs = [bug for bug in BUGS.values() if bug.module == module]
    source = bugs[0].path.read_text("utf-8")
    honest = compile(source, module, "exec", dont_inherit=True)
    for bug in bugs:
        assert compile(bug.planted(source), module, "exec", dont_inherit=True) != honest, bug.name
