"""What a posting shows and proves where there is more than fits, and what goes first."""

from __future__ import annotations

import pytest

from chain.content import MAX_TAGS, Content
from crdt import drafts, postings
from crdt.entry import EntryState
from crdt.postings import is_tag_record, proofs, proven_tags, shown
from tests.crdt.histories import ALICE, BOB, Scribe, seen


def tagged(tags: int) -> tuple[EntryState, Scribe, Scribe]:
    """An entry of Alice's with one tag in its text and one given later, and so many by Bob in between."""
    alice, bob = Scribe(ALICE), Scribe(BOB)
    create = alice.write(drafts.draft_create(Content("rose", b"\x7f", ("y of the text",))), 10)
    state = EntryState(create.cid).add(create)
    for number in range(tags):
        state = state.add(bob.write(drafts.draft_tag(seen(state), BOB.agent, f"bob {number:03}"), 20))
    state = state.add(alice.write(drafts.draft_tag(seen(state), ALICE.agent, "z of the creator"), 30))
    return state, alice, bob


@pytest.mark.parametrize("tags", [MAX_TAGS - 2, MAX_TAGS + 1])
def test_of_too_many_tags_those_of_texts_and_of_the_creator_stay(tags: int) -> None:
    state, _, _ = tagged(tags)
    bobs = [f"bob {number:03}" for number in range(min(tags, MAX_TAGS - 2))]
    assert shown(state.subject, state.applied).tags == (*bobs, "y of the text", "z of the creator")
    without = {cid: one for cid, one in state.applied.items() if cid != state.subject}
    there = shown(state.subject, without).tags  # the creator is not known: nobody's go first
    every = sorted([*(f"bob {number:03}" for number in range(tags)), "z of the creator"])
    assert there == tuple(every[:MAX_TAGS])


def test_wanted_tags_are_proven_first_by_the_smallest_records_that_add_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, alice, bob = tagged(3)
    edit = alice.write(
        drafts.draft_edit(seen(state), ALICE.agent, Content("moss", b"\x7f", ("bob 000",))), 40
    )
    state = state.add(edit)
    again = bob.write(drafts.draft_tag(seen(state), BOB.agent, "y of the text"), 50)
    state = state.add(again)
    tags = shown(state.subject, state.applied).tags
    adds = dict(seen(state).tag_adds)
    assert proofs(edit.cid, tags, (), state.applied) == [
        adds["bob 001"][0],
        adds["bob 002"][0],
        again.cid,  # a tag record rather than the text that also gives it
        adds["z of the creator"][0],
    ]
    wanted = proofs(edit.cid, tags, ("z of the creator", "bob 002"), state.applied)
    assert wanted[:2] == [adds["bob 002"][0], adds["z of the creator"][0]]
    assert proofs(edit.cid, ("unheard of",), (), state.applied) == []
    monkeypatch.setattr(postings, "MAX_PROOFS", 2)
    few = proofs(edit.cid, tags, ("z of the creator", "bob 002"), state.applied)
    assert few == wanted[:2]
    assert proven_tags(edit, [state.applied[cid] for cid in few]) == (
        "bob 000",
        "bob 002",
        "z of the creator",
    )


def test_only_what_says_something_about_tags_is_a_proof() -> None:
    state, alice, _ = tagged(1)
    untag = alice.write(drafts.draft_untag(seen(state), ALICE.agent, "bob 000"), 40)
    vote = alice.write(drafts.draft_vote(seen(state), ALICE.agent, 1), 50)
    assert is_tag_record(untag)
    assert is_tag_record(state.applied[state.subject])
    assert not is_tag_record(vote)
    assert not is_tag_record(untag.without_payload())


def test_a_retracted_entry_shows_nothing() -> None:
    state, alice, _ = tagged(1)
    gone = state.add(alice.write(drafts.draft_retract(seen(state), ALICE.agent), 60))
    assert shown(gone.subject, gone.applied) == postings.Shown((), ())
    assert shown(state.subject, state.applied).values
