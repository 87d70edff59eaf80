"""The laws of snapshots and of compaction as plain functions of a history and a source of choices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crdt.compaction import compacted
from crdt.entry import EntryState
from crdt.entry_view import Entry
from crdt.errors import Reopen, SnapshotError, SnapshotLacks, SnapshotVoid
from crdt.purging import purged_by, purges_in
from crdt.snapshot import believed, decode_snapshot, snapshot_of
from crdt.standing import Standing
from crdt.version_vector import VersionVector
from tests.crdt.histories import ALICE, BOB, Choose, History, most, shuffled, some
from tests.crdt.laws import draw_standing, draw_state, same


def standing(choose: Choose) -> Standing:
    """Who does not count, and maybe Alice has gone on under Bob's key."""
    found = draw_standing(choose)
    return Standing(found.first, {ALICE.agent: BOB.agent}) if choose(3) == 0 else found


def snapshot_and_tail(story: History, choose: Choose) -> None:
    """Incremental = rebuild = snapshot + tail, also where tail and snapshot come in any order."""
    whole, before = story.state(), story.state(most(choose, story.records))
    snapshot = snapshot_of(before, standing(choose))
    if snapshot is None:
        return
    assert decode_snapshot(snapshot.encode()) == snapshot
    start = believed(snapshot, shuffled(choose, before.applied.values()))
    tail = whole.delta(snapshot.version)
    same(start.add_all(shuffled(choose, tail)), whole)
    again = snapshot_of(before.add_all(some(choose, story.records)), snapshot.standing)
    assert again is not None
    assert (again.digest == snapshot.digest) == (again == snapshot)
    try:
        same(believed(snapshot, shuffled(choose, story.records)), whole)
    except SnapshotVoid:
        assert set(purged_by(whole.applied, purges_in(whole.applied))) & set(before.applied)


def false_snapshots_are_refused(story: History, choose: Choose) -> None:
    state = draw_state(story, choose)
    snapshot = snapshot_of(state, standing(choose))
    if snapshot is None:
        return
    records = list(state.applied.values())
    place, view = choose(len(snapshot.view)), bytearray(snapshot.view)
    view[place] ^= 1 << choose(8)
    authors = snapshot.version.authors
    left_out = choose(len(authors))
    shorter = VersionVector((*authors[:left_out], *authors[left_out + 1 :]))
    for false in (
        replace(snapshot, view=bytes(view)),
        replace(snapshot, heads=snapshot.heads[1:]),
        replace(snapshot, version=shorter),
    ):
        assert false.digest != snapshot.digest
        with pytest.raises(SnapshotError):
            believed(false, records)
    lost = records[choose(len(records))]
    with pytest.raises(SnapshotLacks) as lacking:
        believed(snapshot, [one for one in records if one is not lost])
    assert {slot.cid for _, slots in authors for slot in slots} >= set(lacking.value.missing)


def compaction_never_changes_a_view(story: History, choose: Choose) -> None:
    """Whatever comes later, and whoever stops counting: the same view, or it says what to read again."""
    state, then = draw_state(story, choose), standing(choose)
    small = compacted(state, then)
    equal_views(small.view(then), state, then)
    later = shuffled(choose, some(choose, story.records))
    more, grown = small.add_all(later), state.add_all(later)
    equal_views(more.view(then), grown, then)
    now = standing(choose)
    enders = {one for by in more.ended.values() for one in by}
    if all(now.counts(grown.applied[one]) for one in enders):
        equal_views(more.view(now), grown, now)
    else:
        with pytest.raises(Reopen) as asked:
            more.view(now)
        assert set(asked.value.records) <= set(more.opened)
        whole = more.add_all(grown.applied[cid] for cid in asked.value.records)
        equal_views(whole.view(now), grown, now)
    again = compacted(grown, now)
    equal_views(again.view(now), grown, now)


def equal_views(found: Entry | None, state: EntryState, by: Standing) -> None:
    view = state.view(by)
    assert found == view
    assert view is None or found is None or view.encode() == found.encode()


SNAPSHOT_LAWS = (snapshot_and_tail, false_snapshots_are_refused, compaction_never_changes_a_view)
