"""Snapshots are believed where records fold to them; what compaction drops is never missed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import canonical
from chain.behalf import Behalf
from chain.content import Content
from chain.kinds import EDIT, PURGE
from chain.source_chain import Draft, head_of
from crdt import drafts
from crdt.compaction import compacted
from crdt.entry import EntryState
from crdt.errors import Reopen, SnapshotError, SnapshotVoid
from crdt.snapshot import believed, decode_snapshot, snapshot_of
from crdt.standing import Standing
from tests.crdt.histories import ALICE, BOB, MALLORY, Choose, History, Scribe, histories, seen
from tests.crdt.snapshot_laws import SNAPSHOT_LAWS


@pytest.mark.parametrize("law", SNAPSHOT_LAWS, ids=lambda law: law.__name__)
@settings(max_examples=max(20, settings().max_examples // 5))
@given(told=histories())
def test_law(law: Callable[[History, Choose], None], told: tuple[History, Choose]) -> None:
    law(*told)


def edited(times: int) -> tuple[EntryState, Scribe]:
    """Alice's entry, which Bob edits, each text of a thousand bytes, and votes on each time."""
    alice, bob = Scribe(ALICE), Scribe(BOB)
    create = alice.write(drafts.draft_create(Content("x" * 1000, bytes(256), ("moss",))), 1)
    state = EntryState(create.cid).add(create)
    for number in range(times):
        edit = drafts.draft_edit(seen(state), BOB.agent, Content(f"{number}" * 1000, bytes(256)))
        state = state.add(bob.write(edit, 2 + number))
        state = state.add(bob.write(drafts.draft_vote(seen(state), BOB.agent, 1, "y" * 500), 2 + number))
    return state, bob


def test_old_text_takes_no_memory_and_comes_back_when_its_end_does_not_count() -> None:
    state, _ = edited(5)
    small = compacted(state)
    assert small.bytes < 0.25 * compacted(state, Standing({BOB.agent: 0})).bytes
    assert small.view() == state.view()
    assert seen(state).tags == ("moss",)
    without_bob = Standing({BOB.agent: 0})
    with pytest.raises(Reopen, match="must be read again") as asked:
        small.view(without_bob)
    whole = small.add_all(state.applied[cid] for cid in asked.value.records)
    view = whole.view(without_bob)
    assert view is not None
    assert view == state.view(without_bob)
    assert view.contents[0][1].text == "x" * 1000


def test_what_a_liar_overwrote_unseen_stays_whole_as_it_can_come_back() -> None:
    """Mallory overwrites Bob's text, of which her record had not heard, and then purges her own."""
    state, _ = edited(1)
    (his,) = seen(state).maximal
    body = {"codes": b"\x7f", "text": "mine", "over": [his]}
    lie = Scribe(MALLORY).write(Draft(EDIT, body, state.subject), 5)
    told = state.add(lie)
    assert [cid for cid, _ in seen(told).contents] == [lie.cid]
    small = compacted(told)
    purge = Draft(PURGE, {"records": [lie.cid]}, state.subject, 1, lie.cid)
    after = Scribe(MALLORY, head_of(lie), 1).write(purge, 6)
    view = seen(told.add(after))
    assert small.add_all([after]).view() == view
    assert his in view.maximal


def test_an_old_vote_keeps_for_whom_it_was_and_nothing_is_kept_of_what_is_purged() -> None:
    state, bob = edited(0)
    votes = []
    for value in (1, -1):
        draft = drafts.draft_vote(seen(state), BOB.agent, value, "why", behalf=Behalf("a crawler"))
        votes.append(bob.write(draft, 5))
        state = state.add(votes[-1])
    small = compacted(state)
    assert set(small.opened) == {votes[0].cid}
    assert small.view() == state.view()
    assert len(seen(state).votes) == 1
    purge = bob.write(drafts.draft_purge(seen(state), BOB.agent, [votes[0].cid]), 6)
    assert not small.add_all([purge]).opened
    assert small.add_all([purge]).view() == state.add(purge).view()


def test_a_signed_vote_is_followed_to_later_keys_also_from_a_snapshot_and_when_compacted() -> None:
    """What a later key signed counts, whatever times the earlier one, which may be stolen, gives."""
    state, bob = edited(0)
    old, new = (bytes([number] * 32) for number in (1, 2))
    for key, time, value in ((new, 5, -1), (old, 9, 1)):
        behalf = Behalf("a robot", key, bytes(64), time)
        draft = drafts.draft_vote(seen(state), BOB.agent, value, "why", 7, behalf)
        state = state.add(bob.write(draft, 5))
    assert [one.vote.value for one in seen(state).votes] == [1, -1]
    standing = Standing({}, {old: new})
    view = state.view(standing)
    assert view is not None
    assert [(one.vote.value, one.vote.reason, one.vote.confidence) for one in view.votes] == [(-1, "why", 7)]
    snapshot = snapshot_of(state, standing)
    assert snapshot is not None
    assert snapshot.lines == ((old, new),)
    assert believed(snapshot, state.applied.values()) == state
    assert compacted(state, standing).view(standing) == view


def test_a_snapshot_of_what_was_erased_since_is_void() -> None:
    state, bob = edited(2)
    snapshot = snapshot_of(state)
    assert snapshot is not None
    assert snapshot_of(EntryState(state.subject)) is None
    purge = drafts.draft_purge(seen(state), BOB.agent, seen(state).maximal)
    after = state.add(bob.write(purge, 9))
    assert believed(snapshot, state.applied.values()) == state
    with pytest.raises(SnapshotVoid, match="erased since"):
        believed(snapshot, after.applied.values())


def test_malformed_snapshots_are_refused() -> None:
    snapshot = snapshot_of(edited(1)[0], Standing({BOB.agent: 99}, {ALICE.agent: BOB.agent}))
    assert snapshot is not None
    good = canonical.decode(snapshot.encode(), 1 << 20)
    assert good[3:5] == [[[BOB.agent, 99]], [[ALICE.agent, BOB.agent]]]
    spoiled = [[], good[:5], 7]
    for place, values in {
        0: (b"", 7),
        1: (7, [b""], [good[0]] * 16_385),
        2: (7, b"", b"\x90\x90"),
        3: (7, [[BOB.agent]], [[BOB.agent, -1]], [[b"", 1]], [[BOB.agent, 1]] * 2),
        4: (7, [[BOB.agent, 1]], [[BOB.agent, b""]]),
        5: (7, "x"),
    }.items():
        spoiled += [[*good[:place], value, *good[place + 1 :]] for value in values]
    for one in spoiled:
        with pytest.raises(SnapshotError):
            decode_snapshot(canonical.encode(one))


@settings(max_examples=50)
@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_no_snapshot(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode_snapshot(data)
