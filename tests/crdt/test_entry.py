"""Entries by example: what the view says, and how the waiting room is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.cid import Cid, record_cid
from chain.content import Content, Resolution
from chain.identity import Identity
from chain.kinds import DELETE, EDIT, PROFILE, TAG
from chain.record import MAX_DEPS, Record
from chain.source_chain import Draft
from crdt import drafts
from crdt.entry import MAX_WAITING, MAX_WAITING_PER_AUTHOR, EntryState, fold
from crdt.errors import OperationError, SubjectError
from crdt.operations import delete_body, tag_body
from crdt.postings import proofs, proven_tags, shown
from crdt.version_vector import MAX_BRANCHES, Order, compare
from tests.crdt.histories import ALICE, BOB, MALLORY, Scribe, seen

ROSE = Content("roses climb", b"\x7f\x01", ("flower", "rose"))


def planted() -> tuple[Scribe, Scribe, EntryState]:
    alice, bob = Scribe(ALICE), Scribe(BOB)
    create = alice.write(drafts.draft_create(ROSE), 10)
    return alice, bob, EntryState(create.cid).add(create)


def test_a_create_alone_is_an_entry() -> None:
    _, _, state = planted()
    view = seen(state)
    assert view.id == state.subject
    assert view.author == ALICE.agent
    assert view.contents == ((state.subject, ROSE),)
    assert view.winner == state.subject
    assert view.tags == ("flower", "rose")
    assert view.heads == view.deps == (state.subject,)
    assert (view.lamport, view.hlc) == (0, 10)
    assert view.alive
    assert not view.conflict
    assert view.version.slots(ALICE.agent)[0].seq == 0


NAMES = """assessments author conflict contents delete_overruled deleted deps erased excluded fields heads hlc
id lamport maximal purged references retracted tags version votes winner"""


def test_a_views_bytes_name_their_parts_as_they_always_did() -> None:
    """Nodes of different releases compare snapshots by these bytes."""
    _, _, state = planted()
    told = canonical.decode(seen(state).encode(), 10_000)
    assert sorted(told) == NAMES.split()
    assert told["author"] == ALICE.agent
    assert [cid for cid, _ in told["contents"]] == [told["winner"]] == [state.subject]


def test_concurrent_edits_are_both_kept_and_the_later_clock_is_shown_first() -> None:
    alice, bob, state = planted()
    early = alice.write(drafts.draft_edit(seen(state), ALICE.agent, Content("early", b"\x7f")), 20)
    late = bob.write(drafts.draft_edit(seen(state), BOB.agent, Content("late", b"\x7f")), 30)
    view = seen(state.add_all([late, early]))
    assert [(cid, value.text) for cid, value in view.contents] == [(late.cid, "late"), (early.cid, "early")]
    assert view.winner == late.cid
    assert view.conflict
    assert view.heads == tuple(sorted([early.cid, late.cid]))
    healed = bob.write(drafts.draft_edit(view, BOB.agent, Content("both", b"\x7f")), 30)
    view = seen(state.add_all([late, early, healed]))
    assert [value.text for _, value in view.contents] == ["both"]
    assert not view.conflict
    assert view.heads == (healed.cid,)


def test_what_proves_a_tag_of_a_replaced_value_does_not_prove_another_that_was_removed() -> None:
    alice, _, state = planted()
    untag = alice.write(drafts.draft_untag(seen(state), ALICE.agent, "flower"), 20)
    state = state.add(untag)
    edit = alice.write(drafts.draft_edit(seen(state), ALICE.agent, Content("bare", b"\x7f")), 30)
    state = state.add(edit)
    chosen = proofs(edit.cid, shown(state.subject, state.applied).tags, (), state.applied)
    assert chosen == [untag.cid, state.subject]
    assert proven_tags(edit, [state.applied[cid] for cid in chosen]) == ("rose",) == seen(state).tags


def test_a_value_that_was_deleted_stays_gone_when_a_concurrent_edit_survives() -> None:
    alice, bob, state = planted()
    edit = alice.write(drafts.draft_edit(seen(state), ALICE.agent, Content("seen", b"\x7f")), 20)
    other = bob.write(drafts.draft_edit(seen(state), BOB.agent, Content("unseen", b"\x7f")), 20)
    delete = alice.write(drafts.draft_delete(seen(state.add(edit)), ALICE.agent), 30)
    view = seen(state.add_all([edit, other, delete]))
    assert [value.text for _, value in view.contents] == ["unseen"]
    assert view.delete_overruled
    assert view.maximal == tuple(sorted([edit.cid, other.cid]))


def test_a_deleted_entry_still_shows_what_was_deleted() -> None:
    alice, _, state = planted()
    delete = alice.write(drafts.draft_delete(seen(state), ALICE.agent), 20)
    view = seen(state.add(delete))
    assert view.deleted
    assert not view.alive
    assert view.contents == ((state.subject, ROSE),)


def test_what_an_edit_overwrites_it_has_seen_with_all_that_came_before() -> None:
    """Though its deps do not say so: a delete of the edit ends the values that those knew."""
    _, bob, state = planted()
    mallory = Scribe(MALLORY)

    def edit(scribe: Scribe, over: Cid, deps: tuple[Cid, ...], lamport: int) -> Record:
        body = Content("text", b"\x7f", over=(over,)).to_body()
        return scribe.write(Draft(EDIT, body, state.subject, deps=deps, deps_lamport=lamport), 20)

    first = edit(bob, state.subject, (state.subject,), 0)
    beside = edit(Scribe(ALICE), state.subject, (first.cid,), 1)
    last = edit(mallory, beside.cid, (state.subject,), 0)
    grown = state.add_all([first, beside, last])
    assert seen(grown).maximal == tuple(sorted([first.cid, last.cid]))
    delete = mallory.write(
        Draft(DELETE, delete_body([last.cid]), state.subject, deps=(last.cid,), deps_lamport=2), 30
    )
    assert seen(grown.add(delete)).deleted


def test_a_delete_that_cannot_be_read_overrules_nothing() -> None:
    alice, bob, state = planted()
    edit = bob.write(drafts.draft_edit(seen(state), BOB.agent, Content("unseen", b"\x7f")), 20)
    delete = alice.write(drafts.draft_delete(seen(state), ALICE.agent), 20)
    assert seen(state.add_all([edit, delete])).delete_overruled
    view = seen(state.add_all([edit, delete.without_payload()]))
    assert not view.delete_overruled
    assert view.erased == (delete.cid,)


def test_of_too_many_heads_the_next_operation_names_the_latest() -> None:
    _, bob, state = planted()
    crowd = [Scribe(Identity.from_seed(number.to_bytes(32, "big"))) for number in range(50, 50 + MAX_DEPS)]
    text = Content("text", b"\x7f")
    early = [one.write(drafts.draft_edit(seen(state), one.identity.agent, text), 20) for one in crowd]
    for _ in range(2):
        late = bob.write(drafts.draft_edit(seen(state), BOB.agent, text), 20)
        state = state.add(late)
    view = seen(state.add_all(early))
    assert len(view.heads) == MAX_DEPS + 1
    assert len(view.deps) == MAX_DEPS
    assert late.cid in view.deps
    assert view.lamport == late.header.lamport


def test_a_stranger_cannot_retract() -> None:
    _, bob, state = planted()
    view = seen(state)
    with pytest.raises(OperationError, match="only the agent who created"):
        drafts.draft_retract(view, BOB.agent)
    forged = bob.write(
        Draft("entry.retract", {}, state.subject, deps=view.deps, deps_lamport=view.lamport), 20
    )
    assert seen(state.add(forged)).alive


def test_removing_a_tag_that_is_not_there_is_refused() -> None:
    _, _, state = planted()
    with pytest.raises(OperationError, match="no tag 'thorn'"):
        drafts.draft_untag(seen(state), BOB.agent, "thorn")


def test_removing_one_tag_of_a_create_leaves_the_other() -> None:
    _, bob, state = planted()
    removal = bob.write(drafts.draft_untag(seen(state), BOB.agent, "rose"), 20)
    assert seen(state.add(removal)).tags == ("flower",)


def test_accepting_a_value_brings_no_tag_back_that_was_removed() -> None:
    alice, bob, state = planted()
    ours = alice.write(drafts.draft_edit(seen(state), ALICE.agent, Content("ours", b"\x7f", ("moss",))), 20)
    theirs = bob.write(drafts.draft_edit(seen(state), BOB.agent, Content("theirs", b"\x7f")), 30)
    state = state.add_all([ours, theirs])
    state = state.add(bob.write(drafts.draft_untag(seen(state), BOB.agent, "moss"), 40))
    accept = Resolution("accept", "better", ours.cid)
    state = state.add(bob.write(drafts.draft_resolution(seen(state), BOB.agent, accept), 50))
    assert [value.text for _, value in seen(state).contents] == ["ours"]
    assert "moss" not in seen(state).tags


def test_an_erased_create_keeps_its_place() -> None:
    alice, bob, state = planted()
    tag = bob.write(drafts.draft_tag(seen(state), BOB.agent, "thorn"), 20)
    bare = EntryState(state.subject).add_all([state.applied[state.subject].without_payload(), tag])
    view = seen(bare)
    assert view.contents == ()
    assert view.winner is None
    assert view.erased == (state.subject,)
    assert view.tags == ("thorn",)
    assert view.maximal == (state.subject,)
    assert not view.deleted
    edit = alice.write(drafts.draft_edit(view, ALICE.agent, Content("again", b"\x7f")), 30)
    assert [value.text for _, value in seen(bare.add(edit)).contents] == ["again"]


def test_of_two_signatures_the_smallest_is_kept_and_does_not_show() -> None:
    _, _, state = planted()
    create = state.applied[state.subject]
    other = type(create)(create.header, b"\0" * 64, create.payload, create.cid, create.header_bytes)
    for order in ([create, other], [other, create]):
        both = EntryState(state.subject).add_all(order)
        assert both.applied[state.subject].signature == b"\0" * 64
        assert both.encode() == state.encode()


def test_records_of_another_entry_or_kind_are_refused() -> None:
    alice, _, state = planted()
    other = alice.write(drafts.draft_create(ROSE), 20)
    profile = alice.write(Draft(PROFILE, {"name": "a", "software": "b"}), 20)
    with pytest.raises(SubjectError, match="record is about"):
        state.add(other)
    with pytest.raises(SubjectError, match="record is about"):
        state.add(profile)
    with pytest.raises(SubjectError, match="no place in an entry"):
        fold([profile])
    with pytest.raises(SubjectError, match="cannot join"):
        state.join(EntryState(other.cid))


def orphan_tags(state: EntryState, count: int) -> list[Draft]:
    """Operations that name a dep nobody has."""
    dep = record_cid(b"nobody has this")
    return [Draft(TAG, tag_body("x"), state.subject, deps=(dep,), deps_lamport=1_000_000)] * count


def test_a_liars_waiting_records_are_bounded_and_crowd_out_nobody() -> None:
    _, bob, state = planted()
    mallory = Scribe(MALLORY)
    flood = [mallory.write(d, 20) for d in orphan_tags(state, MAX_WAITING_PER_AUTHOR + 8)]
    first = bob.write(drafts.draft_tag(seen(state), BOB.agent, "first"), 20)
    second = bob.write(drafts.draft_tag(seen(state.add(first)), BOB.agent, "second"), 20)
    flooded = state.add_all([*flood, second])
    assert len(flooded.waiting) == MAX_WAITING_PER_AUTHOR + 1
    assert len(flooded.refused) == 8
    assert set(flooded.refused) <= {record.cid for record in flood}
    assert first.cid in flooded.missing
    calm = flooded.add(first)
    assert seen(calm).tags == ("first", "flower", "rose", "second")
    assert seen(calm).encode() == seen(state.add_all([first, second])).encode()


def test_the_waiting_room_as_a_whole_is_bounded() -> None:
    _, _, state = planted()
    crowd = [Scribe(Identity.from_seed(number.to_bytes(32, "big"))) for number in range(50, 50 + 20)]
    flood = [one.write(d, 20) for one in crowd for d in orphan_tags(state, MAX_WAITING_PER_AUTHOR)]
    assert len(flood) > MAX_WAITING
    flooded = state.add_all(flood)
    assert len(flooded.waiting) == MAX_WAITING
    assert len(flooded.refused) == len(flood) - MAX_WAITING
    assert flooded.encode() == state.add_all(reversed(flood)).encode()


def test_an_author_with_too_many_branches_gets_no_trails_and_no_false_order() -> None:
    _, _, state = planted()
    mallory = Scribe(MALLORY)
    view = seen(state)
    root = mallory.write(drafts.draft_tag(view, MALLORY.agent, "root"), 20)
    grown = state.add(root)
    branches = [
        mallory.write(drafts.draft_tag(seen(grown), MALLORY.agent, f"branch {n}"), 20)
        for n in range(MAX_BRANCHES + 1)
    ]
    forked = grown.add_all(branches)
    slots = forked.version.slots(MALLORY.agent)
    assert len(slots) == MAX_BRANCHES + 1
    assert not any(slot.trail for slot in slots)
    assert compare(forked.version, forked.version) is Order.EQUAL
    assert compare(grown.version, forked.version) is Order.CONCURRENT
    assert len(forked.version.bounded().slots(MALLORY.agent)) == MAX_BRANCHES


@given(count=st.integers(0, 6))
def test_drafts_follow_the_authors_own_line(count: int) -> None:
    """The creator's first operation has place 1, everyone else's 0."""
    alice, bob, state = planted()
    for number in range(count):
        for scribe in (alice, bob):
            draft = drafts.draft_tag(seen(state), scribe.identity.agent, f"{number}")
            assert draft.subject_seq == number + (scribe is alice)
            record = scribe.write(draft, 5)
            assert record.header.hlc >= 10  # the create's clock was ahead of the wall's
            state = state.add(record)
    assert not state.waiting


def test_votes_count_once_an_agent_and_an_erased_vote_revives_none() -> None:
    alice, bob, state = planted()
    first = bob.write(drafts.draft_vote(seen(state), BOB.agent, 1, "well said", 900_000), 20)
    state = state.add(first)
    own = alice.write(drafts.draft_vote(seen(state), ALICE.agent, -1), 20)
    view = seen(state.add(own))
    assert (view.up, view.down) == (1, 1)
    assert [(one.agent, one.record) for one in view.votes] == sorted(
        [(ALICE.agent, own.cid), (BOB.agent, first.cid)]
    )
    assert view.heads == (state.subject,)
    changed = bob.write(drafts.draft_vote(seen(state), BOB.agent, -1), 30)
    assert (seen(state.add(changed)).up, seen(state.add(changed)).down) == (0, 1)
    assert seen(state.add(changed.without_payload())).votes == ()
