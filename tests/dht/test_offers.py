"""Where an entry's records lie, so that each shard's holder shows of it what the whole view shows."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from chain.cid import Cid
from chain.content import Content
from chain.record import Record
from chain.source_chain import Draft
from crdt.drafts import draft_delete, draft_edit, draft_purge
from crdt.entry_view import Entry, view_of
from crdt.postings import shown
from crdt.purging import operations
from dht.records.basis import subject_basis
from dht.records.bundle import Item
from dht.records.placement import SHOWS, Layout, Role
from dht.records.replies import StoreStatus
from dht.repair.offers import Plan, plan
from sharding.tree import ShardTree
from tests.crdt.histories import Choose, History, histories, most, shuffled
from tests.dht.authors import Author
from tests.dht.people import MANIFEST, NOW_US
from tests.dht.test_intake import CODES, Desk, bundle
from tests.dht.test_intake import LAYOUT as SIXTY_FOUR

LAYOUT = Layout(None, ShardTree.fixed(2))
"""Four shards, by digest, so that the few values of a history spread over them."""


def at(made: Plan, role: Role, basis: bytes) -> dict[Cid, Record]:
    """The records that a holder of one place gets."""
    return {
        cid: made.records[cid] for cids in made.places.get((int(role), basis), {}).values() for cid in cids
    }


def planned(story: History) -> tuple[Plan, dict[Cid, Record]]:
    applied = dict(story.state().applied)
    return plan({story.subject: applied}, [LAYOUT]), applied


@settings(max_examples=150, deadline=None)
@given(histories(16, liar=False))
def test_a_shard_shows_of_an_entry_what_its_whole_view_shows(drawn: tuple[History, Choose]) -> None:
    """Whatever order its records come in, and whatever else the holder has of the entry."""
    story, choose = drawn
    made, applied = planned(story)
    whole = shown(story.subject, applied)
    values = {cid: said for cid, said in operations(applied).items() if isinstance(said, Content)}
    pairs = [(applied[cid], said) for cid, said in values.items()]
    own = dict(zip(values, map(LAYOUT.shard_basis, LAYOUT.keys(pairs)), strict=True))
    for leaf in LAYOUT.tree.leaves:
        mine = at(made, Role.SHARD, leaf.basis())
        more = {record.cid: record for record in most(choose, shuffled(choose, applied.values()))}
        for records in (mine, mine | more):
            part = shown(story.subject, records)
            here = tuple((cid, said) for cid, said in part.values if own[cid] == leaf.basis())
            assert here == tuple((cid, said) for cid, said in whole.values if own[cid] == leaf.basis())
            if here:
                assert part.tags == whole.tags


def test_a_purged_edit_that_followed_a_delete_brings_back_no_text() -> None:
    """What the edit had overwritten is told by the way through the delete, so that lies at the shard too."""
    creator, other, author = (Author(number, MANIFEST, NOW_US) for number in (1, 2, 3))
    create = creator.create("text", CODES)
    records = {create.cid: create}

    def view() -> Entry:
        found = view_of(create.cid, records)
        assert found is not None
        return found

    def write(by: Author, draft: Draft) -> Record:
        record = by.append(draft)
        records[record.cid] = record
        return record

    deleted = write(creator, draft_edit(view(), creator.agent, Content("next", CODES)))
    write(other, draft_delete(view(), other.agent))
    edit = write(author, draft_edit(view(), author.agent, Content("more", CODES)))
    assert [cid for cid, _ in shown(create.cid, records).values] == [edit.cid]
    write(author, draft_purge(view(), author.agent, [edit.cid]))
    made = plan({create.cid: records}, [LAYOUT])
    basis = LAYOUT.shard_of(deleted)
    assert basis is not None
    assert shown(create.cid, at(made, Role.SHARD, basis)).values == shown(create.cid, records).values == ()


@given(histories(12))
def test_all_of_an_entry_lies_at_the_entry_and_votes_nowhere_else(drawn: tuple[History, Choose]) -> None:
    story, _ = drawn
    made, applied = planned(story)
    assert at(made, Role.SUBJECT, subject_basis(story.subject)) == applied
    for (role, _), entries in made.places.items():
        if role == Role.SHARD:
            assert all(applied[cid].header.kind in SHOWS for cids in entries.values() for cid in cids)


def test_what_has_no_payload_is_not_offered() -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES).without_payload()
    assert plan({record.cid: {record.cid: record}}, [LAYOUT]).places == {}


def test_a_record_is_held_at_the_shards_it_is_sent_for_if_there_are_such() -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES)
    one, other = sorted(leaf.basis() for leaf in SIXTY_FOUR.tree.leaves)[3:5]
    given_ = bundle([], [author], author.records)

    def held(shards: tuple[bytes, ...], roles: int) -> object:
        (judged,) = Desk().intake().judge(replace(given_, items=(Item(record, roles, shards),)))
        return (judged.status, judged.rule) if judged.held is None else judged.held.bases

    shard = int(Role.SHARD)
    assert held((one, other), shard) == ((shard, one), (shard, other))
    assert held((one,), int(Role.SUBJECT)) == ((int(Role.SUBJECT), subject_basis(record.cid)),)
    assert held((bytes(32),), shard) == (StoreStatus.INVALID, "no-such-shard")
