"""The laws of merging as plain functions of a history and a source of choices.

`test_entry_laws` runs them on what Hypothesis finds; `test_seeded_bugs` checks that they notice planted bugs.
"""

from __future__ import annotations

from dataclasses import fields, replace

from chain.content import Content
from chain.kinds import DELETE, PURGEABLE, VOTE
from crdt import drafts
from crdt.entry import EntryState, fold
from crdt.entry_view import Entry
from crdt.operations import Delete, Describe, Purge
from crdt.postings import is_tag_record, overwritten, proofs, proven_tags, shown
from crdt.purging import operations, purged_by, purges_in
from crdt.standing import Standing
from crdt.version_vector import (
    Order,
    Slot,
    VersionVector,
    compare,
    decode_version_vector,
    delta,
    join,
    version_vector,
)
from tests.crdt.field_laws import FIELD_LAWS
from tests.crdt.histories import (
    ALICE,
    MALLORY,
    TAGS,
    Choose,
    History,
    content,
    lie_over,
    most,
    seen,
    shuffled,
    some,
    stripped,
)
from tests.crdt.hostile_laws import HOSTILE_LAWS


def same(a: EntryState, b: EntryState) -> None:
    """All that people or peers can see of two states is equal, byte for byte."""
    assert a.encode() == b.encode()
    assert sorted(a.waiting) == sorted(b.waiting)
    assert a.missing == b.missing
    assert a.version == b.version
    left, right = a.view(), b.view()
    assert (left is None) == (right is None)
    if left is not None and right is not None:
        assert left == right
        assert left.encode() == right.encode()


def draw_state(story: History, choose: Choose) -> EntryState:
    return story.state(stripped(choose, most(choose, story.records)))


def draw_standing(choose: Choose) -> Standing:
    """Mallory is excluded from some place on, maybe an author too."""
    first = {MALLORY.agent: choose(3)} if choose(4) else {}
    return Standing(first | ({ALICE.agent: choose(6)} if choose(4) == 0 else {}))


def commutative(story: History, choose: Choose) -> None:
    a, b = draw_state(story, choose), draw_state(story, choose)
    same(a.join(b), b.join(a))


def associative(story: History, choose: Choose) -> None:
    a, b, c = (draw_state(story, choose) for _ in range(3))
    same(a.join(b).join(c), a.join(b.join(c)))


def idempotent(story: History, choose: Choose) -> None:
    a, b = draw_state(story, choose), draw_state(story, choose)
    same(a.join(a), a)
    same(a.join(b).join(b), a.join(b))


def inflationary(story: History, choose: Choose) -> None:
    a, b = draw_state(story, choose), draw_state(story, choose)
    both = a.join(b)
    for part in (a, b):
        assert set(part.applied) <= set(both.applied)
        assert {*part.applied, *part.waiting} <= {*both.applied, *both.waiting}
        assert set(both.without_payload) & set(part.applied) <= set(part.without_payload)
        assert compare(part.version, both.version) in (Order.BEFORE, Order.EQUAL)


def order_never_shows(story: History, choose: Choose) -> None:
    records = stripped(choose, story.records)
    again = shuffled(choose, [*records, *some(choose, records)])
    state = EntryState(story.subject)
    for record in again:
        state = state.add(record)
    same(state, story.state(records))
    view = fold(again)
    assert view is not None
    assert view.encode() == seen(story.state(records)).encode()


def one_by_one_is_all_at_once(story: History, choose: Choose) -> None:
    order = shuffled(choose, story.records)
    cut = choose(len(order) + 1)
    tail = story.state(order[:cut])
    for record in order[cut:]:
        tail = tail.add(record)
    same(tail, story.state(order))


def bytes_tell_all_that_is_seen(story: History, choose: Choose) -> None:
    """Views that differ in anything that people see have other bytes."""
    view, other = seen(story.state()), seen(draw_state_with_create(story, choose))
    assert (view.encode() == other.encode()) == (_bare(view) == _bare(other))
    for field in fields(view):
        value = getattr(_bare(other), field.name)
        if field.name != "tags" and value != getattr(_bare(view), field.name):  # tags follow from their adds
            assert replace(view, **{field.name: value}).encode() != view.encode(), field.name


def _bare(view: Entry) -> Entry:
    return replace(view, version=view.version.bare())


def draw_state_with_create(story: History, choose: Choose) -> EntryState:
    return draw_state(story, choose).add(story.records[0])


def deltas_are_enough(story: History, choose: Choose) -> None:
    s, t = draw_state(story, choose), draw_state(story, choose)
    since = s.version if choose(2) else s.version.bare()
    same(s.add_all(t.delta(since, s.without_payload)), s.join(t))
    for all_of_it in (t.version, t.version.bare()):
        assert {record.cid for record in t.delta(all_of_it)} == set(t.waiting)


def order_is_inclusion(story: History, choose: Choose) -> None:
    """With trails `compare` is the truth; bare it may be silent, but it is never wrong."""
    a, b = draw_state(story, choose), draw_state(story, choose)
    truth = inclusion(set(a.applied), set(b.applied))
    assert compare(a.version, b.version) is truth
    bare = compare(a.version.bare(), b.version.bare())
    assert bare is truth or (bare is Order.CONCURRENT and truth is not Order.EQUAL)
    both = a.join(b).applied

    def lineage(low: bytes, high: bytes) -> bool:
        below = both[high].header.subject_prev
        while below is not None and below != low:
            below = both[below].header.subject_prev
        return below is not None

    assert compare(a.version.bare(), b.version.bare(), lineage) is truth


def inclusion(a: set[bytes], b: set[bytes]) -> Order:
    if a == b:
        return Order.EQUAL
    return Order.BEFORE if a < b else Order.AFTER if a > b else Order.CONCURRENT


def vectors_are_a_lattice(story: History, choose: Choose) -> None:
    states = [draw_state(story, choose) for _ in range(3)]
    applied = [EntryState(story.subject).add_all(state.applied.values()) for state in states]
    a, b, c = (maybe_bare(state.version, choose) for state in applied)
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert join(a, a) == a
    assert compare(a, join(a, b)) in (Order.BEFORE, Order.EQUAL)
    full = [state.version for state in applied]
    assert join(full[0], full[1]) == applied[0].join(applied[1]).version
    extra = {*applied[0].applied} - {*applied[1].applied}
    assert set(delta(full[0], full[1])) == extra
    assert decode_version_vector(a.encode()) == a


def maybe_bare(vector: VersionVector, choose: Choose) -> VersionVector:
    lines: dict[bytes, list[Slot]] = {}
    for author, slots in vector.authors:
        lines[author] = [Slot(slot.seq, slot.cid, slot.trail if choose(2) else ()) for slot in slots]
    return version_vector(lines)


def add_wins(story: History, choose: Choose) -> None:
    """A tag added while another replica removes it stays, and goes when the remover saw every add of it."""
    start = story.state()
    tag = TAGS[choose(len(TAGS))]
    story.replicas[:] = [start, start]
    story.publish(0, drafts.draft_tag(seen(start), story.scribes[0].identity.agent, tag), 0)
    before = story.replicas[1] if tag in seen(start).tags else story.replicas[0]
    story.replicas[1] = before
    remover = story.scribes[1].identity.agent
    removal = drafts.draft_untag(seen(before), remover, tag)
    readding = drafts.draft_tag(seen(story.replicas[0]), story.scribes[0].identity.agent, tag)
    story.publish(0, readding, 0)
    story.publish(1, removal, 0)
    assert tag not in seen(story.replicas[1]).tags
    both = story.replicas[0].join(story.replicas[1])
    assert tag in seen(both).tags
    story.replicas[1] = both
    story.publish(1, drafts.draft_untag(seen(both), remover, tag), 0)
    assert tag not in seen(story.replicas[1]).tags
    assert set(seen(story.replicas[1]).tags) == set(seen(both).tags) - {tag}


def edit_wins(story: History, choose: Choose) -> None:
    """A concurrent edit survives a delete, and the view flags it; a later delete of both kills."""
    start = story.state()
    story.replicas[:] = [start, start]
    edit = drafts.draft_edit(seen(start), story.scribes[0].identity.agent, content(choose))
    kill = drafts.draft_delete(seen(start), story.scribes[1].identity.agent)
    edited = story.publish(0, edit, 0)
    story.publish(1, kill, choose(3))
    assert seen(story.replicas[1]).deleted
    both = story.replicas[0].join(story.replicas[1])
    view = seen(both)
    assert not view.deleted
    assert view.delete_overruled
    assert view.conflict
    assert [cid for cid, _ in view.contents] == [edited.cid]
    story.replicas[1] = both
    story.publish(1, drafts.draft_delete(view, story.scribes[1].identity.agent), 0)
    assert seen(story.replicas[1]).deleted


def delete_kills(story: History, choose: Choose) -> None:
    """A delete that saw everything deletes; an edit after it revives, without a conflict."""
    state = story.state()
    place = choose(2)
    story.replicas[place] = state
    author = story.scribes[place].identity.agent
    story.publish(place, drafts.draft_delete(seen(state), author), choose(3))
    gone = seen(story.replicas[place])
    assert gone.deleted
    assert not gone.delete_overruled
    assert gone.heads == tuple(
        cid for cid in gone.heads if story.replicas[place].applied[cid].header.kind == DELETE
    )
    story.publish(place, drafts.draft_edit(gone, author, content(choose)), choose(3))
    back = seen(story.replicas[place])
    assert not back.deleted
    assert not back.delete_overruled
    assert len(back.contents) == 1


def retract_is_final(story: History, choose: Choose) -> None:
    state = story.state()
    story.replicas[:] = [state, state]
    alice, bob = (scribe.identity.agent for scribe in story.scribes)
    edit = drafts.draft_edit(seen(state), bob, content(choose))
    story.publish(0, drafts.draft_retract(seen(state), alice), 0)
    story.publish(1, edit, choose(3))
    both = story.replicas[0].join(story.replicas[1])
    assert seen(both).retracted
    assert not seen(both).alive


def one_vote_an_agent(story: History, choose: Choose) -> None:
    """Whatever branches and repeats there are, an agent's last vote counts, and only that."""
    state = story.state()
    place, value, again = choose(2), choose(3) - 1, choose(3) - 1
    agent = story.scribes[place].identity.agent
    story.replicas[place] = state
    view = seen(state)
    for said in (value, again):
        story.publish(place, drafts.draft_vote(view, agent, said, "why"), choose(3))
        after = seen(story.replicas[place])
        own = [ballot for ballot in after.votes if (ballot.agent, ballot.vote.behalf) == (agent, None)]
        others = [ballot for ballot in view.votes if (ballot.agent, ballot.vote.behalf) != (agent, None)]
        assert [ballot for ballot in after.votes if ballot not in own] == others
        assert [ballot.vote.value for ballot in own] == [said] * bool(said)
        view = after
    voters = {(ballot.agent, ballot.vote.behalf) for ballot in view.votes}
    assert len(voters) == len(view.votes) == view.up + view.down
    forked = [ballot for ballot in seen(story.state()).votes if ballot.agent == MALLORY.agent]
    votes = [
        (record.header.subject_seq, record.cid)
        for record in story.state().applied.values()
        if record.header.kind == VOTE and record.header.author == MALLORY.agent
    ]
    assert all((state.applied[one.record].header.subject_seq, one.record) == max(votes) for one in forked)


def postings_are_the_views(story: History, choose: Choose) -> None:
    """From a causally closed set a search shows what the view shows, and proves every tag that it shows."""
    state, standing = draw_state(story, choose), draw_standing(choose)
    view = state.view(standing)
    if view is None:
        return
    found = shown(story.subject, state.applied, standing)
    assert found.values == (tuple(sorted(view.contents)) if view.alive else ())
    assert found.tags == (() if view.retracted else view.tags)
    for cid, _ in found.values:
        chosen = proofs(cid, found.tags, (), state.applied, standing)
        records = [state.applied[other] for other in chosen]
        assert all(map(is_tag_record, records))
        assert proven_tags(state.applied[cid], records) == found.tags


def what_ended_stays_ended(story: History, choose: Choose) -> None:
    """However few records a holder has, and whatever comes later: no ended value is shown again."""
    some_records = {record.cid: record for record in stripped(choose, most(choose, story.records))}
    more = some_records | {record.cid: record for record in some(choose, story.records)}
    before, after = shown(story.subject, some_records), shown(story.subject, more)
    readable = {cid for cid in some_records if isinstance(operations(some_records).get(cid), Content)}
    ended = readable - {cid for cid, _ in before.values}
    # A liar who overwrites what they never saw, and purges that, takes it back; nobody else can.
    lies = purged_by(more, purges_in(more)).keys() & {
        one.cid for one in more.values() if one.header.author == MALLORY.agent
    }
    ended -= {target for _, target in overwritten(some_records[cid] for cid in lies & some_records.keys())}
    assert not ended & {cid for cid, _ in after.values}
    targets = overwritten(one for cid, one in some_records.items() if cid not in lies)
    assert not targets & {(story.subject, cid) for cid, _ in after.values}


def the_excluded_say_nothing(story: History, choose: Choose) -> None:
    """Nothing of an offender shows from its offence on, whenever it came; the rest stands as if it never had.

    As if it never had: unless somebody who counts has built on it, which keeps its place.
    """
    state, standing = draw_state(story, choose), draw_standing(choose)
    same(state, story.state(shuffled(choose, [*state.applied.values(), *state.waiting.values()])))
    view = state.view(standing)
    if view is None:
        return
    out = {cid for cid, record in state.applied.items() if not standing.counts(record)}
    assert set(view.excluded) == out
    says = {cid for cid, _ in view.contents} | {cid for _, adds in view.tag_adds for cid in adds}
    says |= {cid for _, values in view.fields for cid, _ in values}
    says |= {cid for _, adds in view.reference_adds for cid in adds}
    says |= {one.record for one in view.assessments}
    assert not out & (says | set(view.maximal) | {ballot.record for ballot in view.votes})
    assert view.version == state.version
    rest = story.state(record for cid, record in state.applied.items() if cid not in out)
    without = rest.view(standing)
    said = operations(rest.applied)
    built = any(
        out & set(one.seen if isinstance(one, Delete) else one.over)
        for one in said.values()
        if isinstance(one, Content | Delete | Describe)
    )
    erased = any(purge in out and cid not in out for cid, purge in view.purged)  # for good, whoever said it
    if without is None or rest.waiting or built or erased:
        return
    for name in (
        "contents",
        "maximal",
        "tags",
        "votes",
        "fields",
        "reference_adds",
        "assessments",
        "retracted",
        "deleted",
        "winner",
    ):
        assert getattr(view, name) == getattr(without, name), name


def an_excluded_edit_brings_nothing_back_that_others_replaced(story: History, choose: Choose) -> None:
    """Bob edits what Mallory had edited: without Mallory, what Mallory replaced stays replaced."""
    state = story.state()
    view = seen(state)
    if view.retracted:
        return
    replaced = state.add(lie_over(story, view.maximal))
    by_mallory = {cid for cid, record in replaced.applied.items() if record.header.author == MALLORY.agent}
    draft = drafts.draft_edit(seen(replaced), story.scribes[1].identity.agent, content(choose))
    story.replicas[1] = replaced
    edit = story.publish(1, draft, choose(3))
    after = story.replicas[1].view(Standing({MALLORY.agent: 0}))
    assert after is not None
    assert after.maximal == (edit.cid,)
    assert by_mallory <= set(after.excluded)


def purge_is_final(story: History, choose: Choose) -> None:
    """Whoever has the purge shows nothing of what it erased, with the payload or without, in any order.

    All else stays, and no text comes back that an erased one had replaced.
    """
    state = story.state()
    place = choose(2)
    story.replicas[place] = state
    author = story.scribes[place].identity.agent
    before = seen(state)
    own = [r.cid for r in state.applied.values() if r.header.author == author and r.header.kind in PURGEABLE]
    if not own:
        return
    gone = set(some(choose, own)) or {own[0]}
    purge = story.publish(place, drafts.draft_purge(before, author, gone), choose(3))
    whole = [*story.records, *some(choose, story.records)]
    bare = [one.without_payload() if one.cid in gone else one for one in story.records]
    after = story.state(bare)
    same(story.state(shuffled(choose, whole)), after)
    same(story.state(shuffled(choose, [*bare, *whole])), after)
    view = seen(after)
    assert {cid for cid, _ in view.contents} == {cid for cid, _ in before.contents} - gone
    assert gone <= dict(view.purged).keys() & set(view.erased)
    assert all(after.applied[cid].payload is None for cid in gone)
    assert set(view.tags) <= {*before.tags, *TAGS}
    if not before.deleted:
        assert view.maximal == before.maximal
    assert not gone & {one.record for one in view.votes}
    assert set(after.applied) == {*state.applied, purge.cid}
    values = shown(story.subject, after.applied).values
    assert not gone & {cid for cid, _ in values}


def nobody_purges_another(story: History, choose: Choose) -> None:
    """A purge erases all of its author's that it names, and nothing of anybody else."""
    state = story.state()
    for cid, purge in seen(state).purged:
        assert state.applied[cid].header.author == state.applied[purge].header.author
    erased = {cid for cid, one in state.applied.items() if one.payload is None}
    assert erased == dict(seen(state).purged).keys()
    named = {
        (state.applied[purge].header.author, cid)
        for purge, said in operations(state.applied).items()
        if isinstance(said, Purge)
        for cid in said.records
    }
    own = {
        cid
        for cid, one in state.applied.items()
        if one.header.kind in PURGEABLE and (one.header.author, cid) in named
    }
    assert erased == own


LAWS = (
    *FIELD_LAWS,
    *HOSTILE_LAWS,
    commutative,
    associative,
    idempotent,
    inflationary,
    order_never_shows,
    one_by_one_is_all_at_once,
    bytes_tell_all_that_is_seen,
    deltas_are_enough,
    order_is_inclusion,
    vectors_are_a_lattice,
    add_wins,
    edit_wins,
    delete_kills,
    retract_is_final,
    one_vote_an_agent,
    postings_are_the_views,
    what_ended_stays_ended,
    the_excluded_say_nothing,
    an_excluded_edit_brings_nothing_back_that_others_replaced,
    purge_is_final,
    nobody_purges_another,
)
