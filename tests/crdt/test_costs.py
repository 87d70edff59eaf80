"""What a liar can make others spend: the cost of an entry grows no faster than the records that they send.

Counted in looks at records, not in seconds: twice the records may cost little more than twice the looks.
"""

from __future__ import annotations

from typing import Any

import pytest

from chain.cid import Cid
from chain.kinds import DELETE, DESCRIBE, EDIT, PURGE
from chain.record import Record
from crdt.conflicts import DELETED, MAX_SIDES, TEXT, conflicts_of
from crdt.entry_view import view_of
from crdt.postings import shown
from crdt.standing import CLEAR, Standing
from tests.crdt.histories import MALLORY, Deeds, History, history, line_of_lies

EDIT_BODY: dict[str, Any] = {"codes": b"\x7f", "text": "more"}


class Counted(dict[Cid, Record]):
    """Records that count how often they are looked at."""

    looks = 0

    def __getitem__(self, cid: Cid) -> Record:
        self.looks += 1
        return super().__getitem__(cid)


def beginning() -> History:
    return history(lambda n: 0, 0)


def purging(kind: str, body: dict[str, Any]) -> Deeds:
    """64 operations, then a purge of them, and so on."""

    def deeds(number: int, line: list[Record]) -> tuple[str, dict[str, Any]]:
        if number % 65 < 64:
            return kind, body
        return PURGE, {"records": sorted(one.cid for one in line[-64:])}

    return deeds


def chained(kind: str, body: dict[str, Any], subject: Cid) -> Deeds:
    """Each over the one before."""
    return lambda _, line: (kind, body | {"over": [line[-1].cid if line else subject]})


def attacks(subject: Cid) -> dict[str, Deeds]:
    title = {"fields": {"title": "more"}}
    return {
        "purged edits": purging(EDIT, EDIT_BODY | {"over": [subject]}),
        "purged descriptions": purging(DESCRIBE, title | {"over": [subject]}),
        "edits over each other": chained(EDIT, EDIT_BODY, subject),
        "descriptions over each other": chained(DESCRIBE, title, subject),
        "edits beside each other": lambda *_: (EDIT, EDIT_BODY | {"over": [subject]}),
    }


def looks(name: str, count: int, standing: Standing) -> int:
    story = beginning()
    lies = line_of_lies(story, count, attacks(story.subject)[name])
    records = Counted(story.state([*story.records, *lies]).applied)
    assert len(records) == count + 1
    view = view_of(story.subject, records, standing)
    shown(story.subject, records, standing)
    assert view is not None
    return records.looks


@pytest.mark.parametrize("standing", [CLEAR, Standing({MALLORY.agent: 0})], ids=["in", "out"])
@pytest.mark.parametrize("name", attacks(beginning().subject))
def test_twice_the_lies_cost_twice_the_looks(name: str, standing: Standing) -> None:
    few, many = (looks(name, count, standing) for count in (130, 260))
    assert few > 130
    assert many < 2.2 * few


def test_of_a_conflict_with_many_sides_the_first_are_told() -> None:
    story = beginning()
    lies = line_of_lies(
        story,
        3 * MAX_SIDES,
        lambda number, _: (
            (EDIT, EDIT_BODY | {"over": [story.subject]})
            if number < 2 * MAX_SIDES
            else (DELETE, {"seen": [story.subject]})
        ),
    )
    state = story.state([*story.records, *lies])
    view = state.view()
    assert view is not None
    text, deleted = conflicts_of(state.applied.values())
    first = [cid for cid, _ in view.contents[:MAX_SIDES]]
    assert (text.about, [side.record for side in text.sides]) == (TEXT, first)
    assert deleted.about == DELETED
    assert [side.record for side in deleted.sides] == first + sorted(one.cid for one in lies[-MAX_SIDES:])
