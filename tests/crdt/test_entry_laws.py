"""The laws of merging over the whole state, under forks, forged and missing deps, and greatest clocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from crdt.entry import fold
from tests.crdt.histories import Choose, History, histories, seen, shuffled, some
from tests.crdt.laws import LAWS, same
from tests.crdt.mutants import BY_NAME


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@settings(max_examples=settings().max_examples * 2 // 3)  # there are many laws, and `make mutants`
@given(told=histories())
def test_law(law: Callable[[History, Choose], None], told: tuple[History, Choose]) -> None:
    law(*told)


@given(told=histories(liar=False))
def test_honest_authors_never_wait_or_fork_once_all_has_come(told: tuple[History, Choose]) -> None:
    story, choose = told
    state = story.state(shuffled(choose, story.records))
    assert not state.waiting
    assert not state.missing
    assert all(len(slots) == 1 for _, slots in state.version.authors)
    assert seen(state).erased == tuple(cid for cid, _ in seen(state).purged)


@given(told=histories())
def test_losing_payloads_never_breaks_the_rest(told: tuple[History, Choose]) -> None:
    """Heads, version and retraction do not depend on payloads; `erased` lists what was lost."""
    story, choose = told
    kept = set(some(choose, story.records))
    partial = story.state(record if record in kept else record.without_payload() for record in story.records)
    whole = story.state()
    assert seen(partial).heads == seen(whole).heads
    assert partial.version == whole.version
    assert seen(partial).retracted == seen(whole).retracted
    assert {cid for cid in partial.without_payload if cid in partial.applied} <= set(seen(partial).erased)
    same(partial.join(whole), whole)


@given(told=histories())
def test_without_the_create_there_is_nothing_to_see_and_all_waits(told: tuple[History, Choose]) -> None:
    story, choose = told
    orphans = story.state(shuffled(choose, story.records[1:]))
    assert orphans.view() is None
    assert fold([]) is None
    assert not orphans.applied
    assert len(orphans) == len(story.records) - 1
    assert (story.subject in orphans.missing) == bool(story.records[1:])


def test_the_page_names_every_law_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "knowledge.md").read_text("utf-8")
    rows = page.partition("\n## Laws\n")[2].partition("\n## ")[0].partition("| function |")[2]
    table = rows.partition("\n\n")[0]
    functions = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ") and "---" not in row]
    named = {name for cell in functions for name in re.findall(r"`(\w+)`", cell)}
    assert named == BY_NAME.keys()
