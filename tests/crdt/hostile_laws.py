"""Laws about what liars and broken senders do: forks, forged places, greatest clocks, bytes of no meaning.

None of it makes honest replicas differ, hides what others said, or takes more room than was set aside.
"""

from __future__ import annotations

import pytest

from chain.cid import Cid
from chain.errors import ChainError
from chain.kinds import RETRACT
from chain.record import Record, decode_record, verify_signature
from crdt import drafts, entry
from crdt.compaction import compacted
from crdt.entry import EntryState
from crdt.trust import VOTE, trust_of
from tests.crdt.histories import (
    ALICE,
    MALLORY,
    UNKNOWN,
    Choose,
    History,
    claim_and_purge,
    content,
    forged,
    fork,
    lie_over,
    seen,
    shuffled,
    some,
)

ROOM, SHARE = 4, 2
"""A waiting room so small that histories of a dozen records overrun it."""


def forks_stand_side_by_side(story: History, choose: Choose) -> None:
    """Two records at one place of a line are both kept, shown, and named by the version."""
    state = story.state()
    left, right = fork(choose, story, seen(state).maximal)
    one, other = state.add(left), state.add(right)
    both = one.join(other)
    assert other.join(one).encode() == both.encode()
    assert both.applied.keys() == {*state.applied, left.cid, right.cid}
    assert {left.cid, right.cid} <= both.version.cids()
    assert {slot.cid for slot in both.version.slots(MALLORY.agent)} >= {left.cid, right.cid}
    assert {cid for cid, _ in seen(both).contents} == {left.cid, right.cid}
    assert seen(both).conflict


def forged_places_change_nothing(story: History, choose: Choose) -> None:
    """What names predecessors that do not exist, or are another's, is never applied and never seen."""
    state = story.state()
    lies = [forged(choose, story) for _ in range(1 + choose(3))]
    after = state.add_all(shuffled(choose, [*lies, *some(choose, lies)]))
    assert after.applied.keys() == state.applied.keys()
    assert {one.cid for one in lies} <= after.waiting.keys()
    assert seen(after).encode() == seen(state).encode()
    assert after.version == state.version
    named = {cid for one in lies for cid in (one.header.subject_prev, *one.header.deps)}
    assert set(after.missing) <= {*state.missing, *(named & {*UNKNOWN})}
    mixed = story.state(shuffled(choose, [*story.records, *lies]))
    assert mixed.encode() == after.encode()


def the_waiting_room_is_bounded(story: History, choose: Choose) -> None:
    """Whatever comes in whatever order, few wait; what was refused and comes again is taken as if at first.

    So replicas that each refused others end equal, and have applied all that can be applied.
    """
    everything = [*story.records, *(forged(choose, story) for _ in range(choose(5)))]
    first, second = shuffled(choose, everything), shuffled(choose, everything)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "MAX_WAITING", ROOM)
        patch.setattr(entry, "MAX_WAITING_PER_AUTHOR", SHARE)
        a, b = _offered(story.subject, first), _offered(story.subject, second)
        assert a.encode() == b.encode()
        assert a.missing == b.missing
        assert a.join(b).encode() == a.encode()
    assert a.applied.keys() == story.state(everything).applied.keys()


def _offered(subject: Cid, records: list[Record]) -> EntryState:
    """These records added one by one, those left out offered again until none is taken any more."""
    state = EntryState(subject)
    while True:
        before = state.encode()
        for record in records:
            known = {*state.applied, *state.waiting}
            state = state.add(record)
            assert len(state.waiting) <= ROOM
            authors = [one.header.author for one in state.waiting.values()]
            assert all(authors.count(author) <= SHARE for author in authors)
            assert set(state.refused) == {*known, record.cid} - {*state.applied, *state.waiting}
        if state.encode() == before:
            return state


def a_greatest_clock_hides_nothing(story: History, choose: Choose) -> None:
    """A liar's clock brings their value to the front, and takes nothing from others, before or afterwards."""
    state = story.state()
    story.replicas[:] = [state, state]
    lies = fork(choose, story, seen(state).maximal)
    mine = story.publish(
        0, drafts.draft_edit(seen(state), story.scribes[0].identity.agent, content(choose)), choose(3)
    )
    both = story.replicas[0].add_all(lies)
    assert {cid for cid, _ in seen(both).contents} == {mine.cid, *(one.cid for one in lies)}
    shown = [cid for cid, _ in seen(both).contents]
    assert shown == sorted(shown, key=lambda cid: (both.applied[cid].header.hlc, cid), reverse=True)
    assert seen(both).winner == shown[0]
    story.replicas[1] = both
    bob = story.scribes[1].identity.agent
    last = story.publish(1, drafts.draft_edit(seen(both), bob, content(choose)), choose(3))
    assert [cid for cid, _ in seen(story.replicas[1]).contents] == [last.cid]
    story.publish(1, drafts.draft_delete(seen(story.replicas[1]), bob), choose(3))
    assert seen(story.replicas[1]).deleted


def damaged_bytes_leave_replicas_equal(story: History, choose: Choose) -> None:
    """A record's bytes are read as that record, as another that its author never signed, or not at all."""
    taken: list[Record] = []
    for record in story.records:
        whole = record.encode()
        place = choose(len(whole))
        for data in (
            whole[:place] + bytes([whole[place] ^ (1 << choose(8))]) + whole[place + 1 :],
            whole[:place],
            whole + b"\0",
            b"\xdc\x00\x03" + whole[1:],  # the same array, its length in two bytes more
        ):
            try:
                found = decode_record(data)
            except ChainError:
                continue
            assert data not in (whole + b"\0", b"\xdc\x00\x03" + whole[1:])
            if verify_signature(found):
                taken.append(found)
    assert story.state(shuffled(choose, [*story.records, *taken])).encode() == story.state().encode()
    assert [decode_record(record.encode()) for record in story.records] == story.records


def only_the_creator_retracts(story: History, choose: Choose) -> None:
    state = story.state()
    by = {record.header.author for record in state.applied.values() if record.header.kind == RETRACT}
    view = seen(state)
    assert view.retracted == (view.author in by)
    assert not (view.retracted and view.alive)
    after = seen(state.add(lie_over(story, view.maximal)))
    assert after.retracted == view.retracted


def a_claim_that_is_taken_back_ends_nothing(story: History, choose: Choose) -> None:
    """Who overwrites what they never saw, and purges that, brings it back, also from a compacted entry."""
    state = story.state()
    story.replicas[1] = state
    bob = story.scribes[1].identity.agent
    edit = story.publish(1, drafts.draft_edit(seen(state), bob, content(choose)), choose(3))
    claim, purge = claim_and_purge(story, edit.cid)
    claimed = story.replicas[1].add(claim)
    assert {cid for cid, _ in seen(claimed).contents} == {claim.cid}
    after = seen(claimed.add(purge))
    assert dict(after.contents)[edit.cid] == dict(seen(story.replicas[1]).contents)[edit.cid]
    assert compacted(claimed).add_all((purge,)).view() == after


def trust_does_not_hang_on_order(story: History, choose: Choose) -> None:
    """The score is that of the records, for readers with any root."""
    root = {ALICE.agent: VOTE, MALLORY.agent: choose(3)}
    scores = {
        trust_of(seen(story.state(order)), root)
        for order in (story.records, shuffled(choose, [*story.records, *some(choose, story.records)]))
    }
    (trust,) = scores
    assert 0 <= trust.low <= trust.score <= trust.high <= VOTE


HOSTILE_LAWS = (
    forks_stand_side_by_side,
    forged_places_change_nothing,
    the_waiting_room_is_bounded,
    a_greatest_clock_hides_nothing,
    damaged_bytes_leave_replicas_equal,
    only_the_creator_retracts,
    a_claim_that_is_taken_back_ends_nothing,
    trust_does_not_hang_on_order,
)
