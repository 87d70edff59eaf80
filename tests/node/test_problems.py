"""Errors as responses: a group of one is its member, and what is unknown tells nothing."""

from __future__ import annotations

from pathlib import Path

from node.api.problems import problem_of
from node.storage.errors import DatabaseCorrupt, DatabaseUnavailable

DAMAGED = DatabaseCorrupt(Path("held.db"), "a page is missing", "restore it")


def test_an_error_of_concurrent_work_is_shown_as_what_it_is() -> None:
    nested = ExceptionGroup("a nursery", [ExceptionGroup("another", [DAMAGED])])
    assert problem_of(nested) == problem_of(DAMAGED)
    assert problem_of(DAMAGED).code == "damaged"


def test_several_errors_at_once_are_unexpected() -> None:
    problem = problem_of(ExceptionGroup("a nursery", [DAMAGED, ValueError("secret")]))
    assert (problem.status, problem.code) == (500, "unexpected")
    assert "secret" not in problem.message


def test_a_locked_database_asks_to_come_back() -> None:
    problem = problem_of(DatabaseUnavailable("cannot use chain.db: database is locked"))
    assert (problem.status, problem.code) == (503, "busy")
