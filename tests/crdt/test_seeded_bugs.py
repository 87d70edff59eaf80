"""Merge bugs that others have shipped, planted one at a time: the laws that they name must notice each.

The short part of `make mutants`, which tries every law on every bug, and longer.
"""

from __future__ import annotations

import pytest

from tests.crdt.laws import LAWS
from tests.crdt.mutants import BUGS, SEEDS
from tests.crdt.planting import Law, first_broken

FEW = 5
"""Histories on which each law is tried without a bug; `test_entry_laws` goes further."""


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_noticed(name: str) -> None:
    bug = BUGS[name]
    assert first_broken(bug.laws[0], range(SEEDS), bug) is not None


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_without_a_bug_the_same_histories_break_no_law(law: Law) -> None:
    assert first_broken(law, range(FEW)) is None
