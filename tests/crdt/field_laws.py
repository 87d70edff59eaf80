"""Laws of what stands beside an entry's text: fields, references, votes for others, assessments."""

from __future__ import annotations

from chain.behalf import Behalf
from chain.cid import Cid
from chain.content import Resolution
from chain.kinds import CREATE, DESCRIBE, VOTE
from chain.record import Record
from crdt import drafts
from crdt.ballots import newest_signed
from crdt.conflicts import DELETED, conflicts_of
from crdt.entry import EntryState
from crdt.entry_view import Entry
from crdt.operations import Vote
from crdt.purging import operations
from tests.crdt.histories import (
    FIELDS,
    FOR_OTHERS,
    MALLORY,
    REFERENCES,
    TITLES,
    Choose,
    History,
    content,
    described,
    fork,
    lie_over,
    seen,
    shuffled,
    some,
)


def values_of(entry: Entry, name: str) -> dict[Cid, object]:
    return dict(dict(entry.fields).get(name, ()))


def concurrent_descriptions_are_kept(story: History, choose: Choose) -> None:
    """Both sides of a concurrent description stand, the later first, until one that saw both."""
    start, name = story.state(), FIELDS[choose(2)]
    story.replicas[:] = [start, start]
    made = []
    for place, scribe in enumerate(story.scribes):
        fields = dict.fromkeys(FIELDS if place == 0 else (name,), TITLES[place])
        draft = drafts.draft_describe(seen(start), scribe.identity.agent, fields)
        made.append(story.publish(place, draft, choose(3)))
    both = story.replicas[0].join(story.replicas[1])
    assert values_of(seen(both), name) == {made[0].cid: TITLES[0], made[1].cid: TITLES[1]}
    assert seen(both).conflict
    first = dict(seen(both).fields)[name][0][0]
    assert first == max(made, key=lambda one: (one.header.hlc, one.cid)).cid
    others = {other: values_of(seen(both), other) for other in FIELDS if other != name}
    story.replicas[0] = both
    last = drafts.draft_describe(seen(both), story.scribes[0].identity.agent, {name: "settled"})
    settled = story.publish(0, last, choose(3))
    after = seen(story.replicas[0])
    assert values_of(after, name) == {settled.cid: "settled"}
    assert {other: values_of(after, other) for other in others} == others


def a_value_survives_a_concurrent_clearing(story: History, choose: Choose) -> None:
    start = story.state()
    story.replicas[:] = [start, start]
    alice, bob = (scribe.identity.agent for scribe in story.scribes)
    first = story.publish(0, drafts.draft_describe(seen(start), alice, {"title": "first"}), 0)
    story.replicas[1] = story.replicas[0]
    story.publish(0, drafts.draft_describe(seen(story.replicas[0]), alice, {}, ["title"]), choose(3))
    assert not values_of(seen(story.replicas[0]), "title")
    second = story.publish(
        1, drafts.draft_describe(seen(story.replicas[1]), bob, {"title": "second"}), choose(3)
    )
    both = seen(story.replicas[0].join(story.replicas[1]))
    assert values_of(both, "title") == {second.cid: "second"}
    assert first.cid not in values_of(both, "title")


def an_erased_description_brings_nothing_back(story: History, choose: Choose) -> None:
    state = story.state()
    place = choose(2)
    story.replicas[place] = state
    author = story.scribes[place].identity.agent
    before = seen(state)
    fields = described(choose)
    said = story.publish(place, drafts.draft_describe(before, author, fields), choose(3))
    view = seen(story.replicas[place])
    story.publish(place, drafts.draft_purge(view, author, [said.cid]), choose(3))
    after = seen(story.replicas[place])
    for name in FIELDS:
        kept = set(values_of(after, name))
        assert said.cid not in kept
        assert kept <= set(values_of(view, name))
        assert not kept & set(values_of(before, name)) or name not in fields


def an_added_reference_wins(story: History, choose: Choose) -> None:
    """A reference added while another replica removes it stays, and goes when the remover saw every add."""
    start, wanted = story.state(), REFERENCES[choose(2)]
    story.replicas[:] = [start, start]
    alice, bob = (scribe.identity.agent for scribe in story.scribes)
    story.publish(0, drafts.draft_link(seen(start), alice, [wanted]), 0)
    story.replicas[1] = story.replicas[0]
    story.publish(0, drafts.draft_link(seen(story.replicas[0]), alice, [wanted]), 0)
    story.publish(1, drafts.draft_unlink(seen(story.replicas[1]), bob, wanted), choose(3))
    assert wanted not in dict(seen(story.replicas[1]).reference_adds)
    both = story.replicas[0].join(story.replicas[1])
    assert wanted in dict(seen(both).reference_adds)
    story.replicas[1] = both
    story.publish(1, drafts.draft_unlink(seen(both), bob, wanted), choose(3))
    after = dict(seen(story.replicas[1]).reference_adds)
    assert after == {one: adds for one, adds in seen(both).reference_adds if one != wanted}


def votes_for_others_stand_beside(story: History, choose: Choose) -> None:
    """One vote for each that an agent speaks for; the last of each counts, and touches none of the others."""
    state = story.state()
    place = choose(2)
    agent = story.scribes[place].identity.agent
    story.replicas[place] = state
    for _ in range(3):
        before = seen(story.replicas[place])
        whose, value = FOR_OTHERS[choose(3)], choose(3) - 1
        story.publish(place, drafts.draft_vote(before, agent, value, behalf=whose), choose(3))
        after = seen(story.replicas[place])
        same = [one for one in after.votes if (one.agent, one.vote.behalf) == (agent, whose)]
        assert [one.vote.value for one in same] == [value] * bool(value)
        rest = [one for one in before.votes if (one.agent, one.vote.behalf) != (agent, whose)]
        assert [one for one in after.votes if one not in same] == rest
    last = [
        (record.header.subject_seq, record.cid)
        for record in state.applied.values()
        if record.header.kind == VOTE and record.header.author == MALLORY.agent
    ]
    counted = [one.record for one in seen(state).votes if one.agent == MALLORY.agent]
    assert len(counted) <= len(FOR_OTHERS)
    assert set(counted) <= {cid for _, cid in last}


def the_newest_signed_vote_counts(story: History, choose: Choose) -> None:
    """Whoever brings which of a key's signed votes, how often and when, and says what else for that key."""
    state = story.state()
    story.replicas[:] = [state, state]
    key = bytes([2] * 32)
    signed = [(1 + choose(3), choose(3) - 1) for _ in range(3)]
    brought: list[tuple[int, int]] = []
    for _ in range(5):
        place, (time, value) = choose(2), signed[choose(3)]
        agent = story.scribes[place].identity.agent
        behalf = Behalf("a robot", key, bytes(64), time)
        if choose(3) == 2:
            behalf = (Behalf("a robot", key), Behalf("a robot", key, bytes(64)))[choose(2)]
        else:
            brought.append((time, value))
        draft = drafts.draft_vote(seen(story.replicas[place]), agent, value, behalf=behalf)
        story.publish(place, draft, choose(3))
    both = story.replicas[0].join(story.replicas[1])
    shown = [one.vote for one in seen(both).votes if one.vote.behalf and one.vote.behalf.key == key]
    if brought:
        time, value = max(brought)
        assert [(one.behalf, one.value) for one in shown] == [
            (Behalf("a robot", key, bytes(64), time), value)
        ] * bool(value)
        newest = newest_signed(both.applied, operations(both.applied), key)
        assert newest is not None
        assert (newest.behalf, newest.value) == (Behalf("a robot", key, bytes(64), time), value)
    rest = [one for one in seen(both).votes if one.vote not in shown]
    assert rest == list(seen(state).votes)
    assert seen(story.state(shuffled(choose, story.records))).votes == seen(both).votes


def an_erased_vote_revives_none(story: History, choose: Choose) -> None:
    state = story.state()
    place = choose(2)
    agent = story.scribes[place].identity.agent
    story.replicas[place] = state
    said = [
        story.publish(
            place,
            drafts.draft_vote(seen(story.replicas[place]), agent, 1, behalf=FOR_OTHERS[choose(3)]),
            choose(3),
        )
        for _ in range(3)
    ]
    erased = choose(3)
    view = seen(story.replicas[place])
    story.publish(place, drafts.draft_purge(view, agent, [said[erased].cid]), choose(3))
    after = seen(story.replicas[place])
    counted = {one.record for one in after.votes if one.agent == agent}
    assert counted <= {one.cid for one in said[erased + 1 :]}
    assert counted == {one.record for one in view.votes if one.record in {o.cid for o in said[erased + 1 :]}}


def the_last_assessment_counts(story: History, choose: Choose) -> None:
    state = story.state()
    place = choose(2)
    agent = story.scribes[place].identity.agent
    story.replicas[place] = state
    for sure in (choose(3), choose(3)):
        view = seen(story.replicas[place])
        story.publish(place, drafts.draft_assess(view, agent, sure), choose(3))
        after = seen(story.replicas[place]).assessments
        assert [one.confidence for one in after if one.agent == agent] == [sure]
        assert [one for one in after if one.agent != agent] == [
            one for one in view.assessments if one.agent != agent
        ]


def fields_do_not_hang_on_order(story: History, choose: Choose) -> None:
    """Of any part of the records, in any order and repeated, the fields and the rest are the same."""
    part = some(choose, story.records)
    first = EntryState(story.subject)
    for record in shuffled(choose, [*part, *part]):
        first = first.add(record)
    second = story.state(part)
    left, right = first.view(), second.view()
    assert (left is None) == (right is None)
    if left is not None and right is not None:
        assert left.fields == right.fields
        assert left.reference_adds == right.reference_adds
        assert left.assessments == right.assessments
        writers = {cid for _, values in left.fields for cid, _ in values}
        assert all(first.applied[cid].header.kind in (CREATE, DESCRIBE) for cid in writers)
        assert all(isinstance(one.vote, Vote) and one.vote.value for one in left.votes)


def conflicts_are_told_alike(story: History, choose: Choose) -> None:
    """Equal records tell equal conflicts, whatever their order; an entry that shows one tells of it."""
    records = [*story.state().applied.values(), *story.state().waiting.values()]
    told = conflicts_of(records)
    assert told == conflicts_of(shuffled(choose, [*records, *some(choose, records)]))
    view = seen(story.state())
    if view.alive:
        assert bool(told) == view.conflict
    for conflict in told:
        histories = [set(side.history) for side in conflict.sides]
        assert not set.intersection(*histories)
        assert not any(set(conflict.common) & history for history in histories)


def concurrent_resolutions_are_a_conflict(story: History, choose: Choose) -> None:
    """Two different ends of a conflict make another, as does an edit meanwhile; who saw all ends it."""
    start = story.state()
    story.replicas[:] = [start, start]
    agents = [scribe.identity.agent for scribe in story.scribes]
    sides = [
        story.publish(place, drafts.draft_edit(seen(start), agents[place], content(choose)), choose(3))
        for place in (0, 1)
    ]
    both = story.replicas[0].join(story.replicas[1])
    assert {cid for cid, _ in seen(both).contents} == {one.cid for one in sides}
    story.replicas[:] = [both, both]
    ends = [Resolution("accept", "mine", one.cid) for one in sides]
    made = [
        story.publish(place, drafts.draft_resolution(seen(both), agents[place], ends[place]), choose(3))
        for place in (0, 1)
    ]
    meanwhile = lie_over(story, [one.cid for one in sides])
    for place, one in enumerate(made):
        view = seen(story.replicas[place])
        assert [(cid, shown.resolution) for cid, shown in view.contents] == [(one.cid, ends[place])]
        assert view.contents[0][1].text == dict(seen(both).contents)[sides[place].cid].text
    story.replicas[0] = story.replicas[0].join(story.replicas[1]).add(meanwhile)
    assert {cid for cid, _ in seen(story.replicas[0]).contents} == {meanwhile.cid, *(one.cid for one in made)}
    assert seen(story.replicas[0]).conflict
    end = drafts.draft_resolution(
        seen(story.replicas[0]), agents[0], Resolution("merge", "both"), content(choose)
    )
    last = story.publish(0, end, choose(3))
    assert [cid for cid, _ in seen(story.replicas[0]).contents] == [last.cid]


def a_rejection_leaves_the_others(story: History, choose: Choose) -> None:
    """Of three values one is rejected: another is put in the place of both, the third stays."""
    start = story.state()
    story.replicas[:] = [start, start]
    alice, bob = (scribe.identity.agent for scribe in story.scribes)
    lies = fork(choose, story, seen(start).maximal)
    story.publish(0, drafts.draft_edit(seen(start), alice, content(choose)), choose(3))
    story.replicas[1] = story.replicas[0].add_all(lies)
    before = dict(seen(story.replicas[1]).contents)
    assert len(before) == 3
    rejected = sorted(before)[choose(3)]
    draft = drafts.draft_resolution(seen(story.replicas[1]), bob, Resolution("reject", "wrong", rejected))
    made = story.publish(1, draft, choose(3))
    after = dict(seen(story.replicas[1]).contents)
    kept = after.pop(made.cid)
    assert len(after) == 1
    assert rejected not in after
    (gone,) = before.keys() - after.keys() - {rejected}
    assert kept.text == before[gone].text


def conflicts_tell_both_sides(story: History, choose: Choose) -> None:
    """Of a title, and of a text that was deleted: who says what, and what they had seen since they parted."""
    start = story.state()
    story.replicas[:] = [start, start]
    alice, bob = (scribe.identity.agent for scribe in story.scribes)

    def title(place: int, agent: bytes) -> Record:
        draft = drafts.draft_describe(seen(story.replicas[place]), agent, {"title": TITLES[place]})
        return story.publish(place, draft, choose(3))

    edit = story.publish(0, drafts.draft_edit(seen(start), alice, content(choose)), choose(3))
    kill = story.publish(1, drafts.draft_delete(seen(start), bob), choose(3))
    titles = [title(0, alice), title(1, bob)]
    both = story.replicas[0].join(story.replicas[1])
    told = {one.about: one for one in conflicts_of(both.applied.values())}
    view = seen(both)
    if view.retracted:
        assert not told
        return
    assert told.keys() >= {"title", DELETED}
    assert [side.record for side in told[DELETED].sides] == [edit.cid, kill.cid]
    assert [side.record for side in told["title"].sides] == [cid for cid, _ in dict(view.fields)["title"]]
    past_of = {edit.cid: [edit], kill.cid: [kill], titles[0].cid: [edit, titles[0]]}
    past_of[titles[1].cid] = [kill, titles[1]]
    for side in (*told[DELETED].sides, *told["title"].sides):
        header = both.applied[side.record].header
        assert (side.author, side.hlc) == (header.author, header.hlc)
        own = [cid for cid in side.history if cid not in start.applied]
        assert own == [one.cid for one in past_of[side.record]]
        assert list(side.history) == sorted(
            side.history, key=lambda cid: (both.applied[cid].header.lamport, cid)
        )
    for conflict in (told[DELETED], told["title"]):
        assert conflict.common == seen(start).heads


FIELD_LAWS = (
    conflicts_tell_both_sides,
    concurrent_resolutions_are_a_conflict,
    a_rejection_leaves_the_others,
    concurrent_descriptions_are_kept,
    a_value_survives_a_concurrent_clearing,
    an_erased_description_brings_nothing_back,
    an_added_reference_wins,
    votes_for_others_stand_beside,
    the_newest_signed_vote_counts,
    an_erased_vote_revives_none,
    the_last_assessment_counts,
    fields_do_not_hang_on_order,
    conflicts_are_told_alike,
)
