"""Intake: the status of each record of a bundle, and what has to be kept beside the valid ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import Cid, digest
from chain.content import Content
from chain.errors import RecordError
from chain.identity import AgentId
from chain.kinds import CREATE, UNTAG
from chain.record import MAX_INT, Record, sign_record
from chain.source_chain import Draft
from crdt.drafts import draft_edit, draft_tag
from crdt.entry_view import view_of
from crdt.operations import untag_body
from dht.records.basis import author_basis, subject_basis
from dht.records.bundle import BadItem, Bundle, Item, Opening
from dht.records.intake import MAX_KNOWN_RECORDS, Intake
from dht.records.layouts import Layouts
from dht.records.placement import ALL_ROLES, Layout, Role
from dht.records.replies import StoreStatus
from sharding.tree import ShardTree
from tests.dht.authors import Author, forged
from tests.dht.people import MANIFEST, NOW_US
from validation.rules import MAX_AHEAD_US
from validation.verdict import Pending

CODES = bytes([1, 2, 3, 127])
LAYOUT = Layout(None, ShardTree.fixed(6))
HELD, INVALID, PENDING, PARKED = (
    StoreStatus.HELD,
    StoreStatus.INVALID,
    StoreStatus.PENDING,
    StoreStatus.PARKED,
)


@dataclass
class Desk:
    """What a node holds already, and the clock it judges by."""

    records: dict[Cid, Record] = field(default_factory=dict)
    openings: dict[AgentId, Opening] = field(default_factory=dict)
    now_us: int = NOW_US

    def monotonic(self) -> float:
        return self.now_us / 1e6

    def wall_us(self) -> int:
        return self.now_us

    def records_of(self, cids: Sequence[Cid]) -> list[Record | None]:
        return [self.records.get(cid) for cid in cids]

    def intake(self, embed: Callable[[str], bytes | None] | None = None) -> Intake:
        return Intake(MANIFEST, self.records_of, self.openings.get, Layouts(LAYOUT), embed, self)


def bundle(
    items: Sequence[tuple[Record, int]], openings: Sequence[Author] = (), named: Sequence[Record] = ()
) -> Bundle:
    return Bundle(
        {author.agent: author.opening for author in openings},
        {record.cid: record.without_payload() for record in named},
        tuple(Item(record, int(roles)) for record, roles in items),
    )


def statuses(intake: Intake, given_: Bundle) -> list[tuple[StoreStatus, str]]:
    return [(one.status, one.rule) for one in intake.judge(given_)]


def test_a_valid_record_is_held_at_the_bases_of_its_roles_as_computed_here() -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES)
    every = {
        Role.SUBJECT: subject_basis(record.cid),
        Role.AUTHOR: author_basis(author.agent),
        Role.SHARD: LAYOUT.tree.leaf_of(digest(record.cid)).basis(),
    }
    for roles in map(Role, range(1, 8)):
        (one,) = Desk().intake().judge(bundle([(record, roles)], [author], author.records))
        assert one.status is HELD
        assert one.held is not None
        assert one.held.bases == tuple((int(role), every[role]) for role in every if role & roles)


def test_roles_that_a_kind_does_not_have_are_dropped() -> None:
    author = Author(1, MANIFEST, NOW_US)
    (one,) = Desk().intake().judge(bundle([(author.records[0], 255)]))
    assert one.held is not None
    assert one.held.bases == ((int(Role.AUTHOR), author_basis(author.agent)),)


def test_without_its_predecessor_a_record_waits_wherever_that_is_missing() -> None:
    author = Author(1, MANIFEST, NOW_US)
    first, second = author.create("one", CODES), author.create("two", CODES)
    items = [(second, ALL_ROLES)]
    assert statuses(Desk().intake(), bundle(items, [author])) == [(PENDING, "")]
    assert statuses(Desk().intake(), bundle(items, [], [first])) == [(PENDING, "")], "no opening"
    assert statuses(Desk().intake(), bundle(items, [author], [first])) == [(HELD, "")]
    assert statuses(Desk({first.cid: first}).intake(), bundle(items, [author])) == [(HELD, "")]
    held_opening = Desk(openings={author.agent: author.opening})
    assert statuses(held_opening.intake(), bundle(items, [], [first])) == [(HELD, "")]
    both = [(second, ALL_ROLES), (first, ALL_ROLES)]
    given_ = bundle(both, [author], [author.records[2]])
    assert statuses(Desk().intake(), given_) == [(HELD, "")] * 2


def test_a_clock_that_runs_ahead_parks_until_time_has_passed() -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.append(Draft(CREATE, {"text": "t", "codes": CODES}), now_us=NOW_US + 2 * MAX_AHEAD_US)
    given_ = bundle([(record, ALL_ROLES)], [author], author.records)
    desk = Desk()
    intake = desk.intake()
    assert statuses(intake, given_) == [(PARKED, "")]
    desk.now_us = NOW_US + MAX_AHEAD_US
    assert statuses(intake, given_) == [(HELD, "")]


@pytest.mark.parametrize("roles", [r for r in range(1, 8) if Role(r) & ~Role.AUTHOR])
def test_a_header_alone_is_refused_where_the_payload_is_needed(roles: int) -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES).without_payload()
    given_ = bundle([(record, roles)], [author], author.records)
    assert statuses(Desk().intake(), given_) == [(INVALID, "payload-missing")]


def test_a_header_alone_is_activity_but_not_an_opening() -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES).without_payload()
    opening = [(one.without_payload(), Role.AUTHOR) for one in author.opening]
    given_ = bundle([(record, Role.AUTHOR), *opening], [author], author.records)
    assert statuses(Desk().intake(), given_) == [(HELD, "")] + [(INVALID, "payload-missing")] * 2


def test_bad_items_cost_only_themselves_and_keep_their_place() -> None:
    author = Author(1, MANIFEST, NOW_US)
    good = author.create("good", CODES)
    foreign = Author(2, replace(MANIFEST, name="elsewhere"), NOW_US).create("foreign", CODES)
    poor = Author(3, MANIFEST, NOW_US, pays=False)
    free = poor.create("free", CODES)
    given_ = bundle(
        [(forged(good), 7), (good, 7), (foreign, 7), (free, 7)],
        [author, poor],
        [*author.records, *poor.records],
    )
    given_ = replace(given_, items=(BadItem("garbage"), *given_.items))
    found = Desk().intake().judge(given_)
    assert [(one.status, one.rule) for one in found] == [
        (INVALID, "malformed"),
        (INVALID, "signature"),
        (HELD, ""),
        (INVALID, "network"),
        (INVALID, "opening"),
    ]
    assert [one.held is not None for one in found] == [False, False, True, False, False]


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_order_and_company_change_no_verdict(order: list[int], spoilt: set[int]) -> None:
    author = Author(1, MANIFEST, NOW_US)
    records = [author.create(f"entry {number}", CODES) for number in range(6)]
    sent = [(forged(records[n]) if n in spoilt else records[n], 7) for n in order]
    found = statuses(Desk().intake(), bundle(sent, [author], [author.records[2]]))
    assert found == [(INVALID, "signature") if n in spoilt else (HELD, "") for n in order]


def test_companions_are_the_opening_and_the_headers_that_valid_items_name() -> None:
    author, other = Author(1, MANIFEST, NOW_US), Author(2, MANIFEST, NOW_US)
    first, second = author.create("one", CODES), author.create("two", CODES)
    given_ = bundle([(second, 7)], [author, other], [first, *other.records])
    desk = Desk()
    intake = desk.intake()
    kept = intake.companions(given_, intake.judge(given_))
    assert sorted(one.record.cid for one in kept) == sorted(
        [first.cid, author.opening[0].cid, author.opening[1].cid]
    )
    assert all(one.bases == () for one in kept)
    desk.openings[author.agent] = author.opening
    assert [one.record.cid for one in intake.companions(given_, intake.judge(given_))] == [first.cid]
    assert intake.companions(given_, intake.judge(bundle([(forged(second), 7)]))) == []


def test_a_header_whose_signature_was_altered_is_no_companion() -> None:
    """Its CID does not cover the signature, and of two signatures a store keeps the smallest."""
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES)
    profile = author.records[-2]
    assert record.header.prev == profile.cid
    for named, kept in ((profile, True), (forged(profile), False)):
        intake, given_ = Desk().intake(), bundle([(record, ALL_ROLES)], [author], [named])
        judged = intake.judge(given_)
        assert [one.status for one in judged] == [HELD]
        companions = [held.record.cid for held in intake.companions(given_, judged)]
        assert (profile.cid in companions) == kept


def test_an_altered_signature_of_what_a_record_names_makes_nobodys_record_invalid() -> None:
    """The signature is no part of the CID: who passed it on altered it, and another one has it right."""
    author, other = Author(1, MANIFEST, NOW_US), Author(2, MANIFEST, NOW_US)
    create = author.create("text", CODES)
    seen = view_of(create.cid, {create.cid: create})
    assert seen is not None
    tag = other.append(draft_tag(seen, other.agent, "red"))
    untag = author.append(
        Draft(UNTAG, untag_body("red", (tag.cid,)), create.cid, 1, create.cid, (create.cid,), 3)
    )
    profile = other.records[2]
    for record, altered, rest in ((tag, create, [profile]), (untag, tag, [create])):
        given_ = bundle([(record, 1)], [author, other], [forged(altered), *rest])
        (judged,) = Desk().intake().judge(given_)
        assert judged.status is PENDING
        assert judged.needs == Pending((altered.cid,))
        assert statuses(Desk({altered.cid: altered}).intake(), given_) == [(HELD, "")]
        given_ = bundle([(forged(altered), 1), (record, 1)], [author, other], [*author.records[:3], *rest])
        given_.headers.pop(altered.cid, None)
        assert statuses(Desk().intake(), given_) == [(INVALID, "signature"), (PENDING, "")]


@pytest.mark.parametrize(
    "change", [{"hlc": NOW_US + MAX_AHEAD_US + 1}, {"hlc": MAX_INT}, {"kind": "entry.sing"}]
)
def test_what_names_a_target_from_the_future_waits_and_brings_no_companion(change: dict[str, Any]) -> None:
    """Headers that a record names are kept unjudged, and who edits the entry goes on from their clocks."""
    author = Author(1, MANIFEST, NOW_US)
    create = author.create("text", CODES)
    seen = view_of(create.cid, {create.cid: create})
    assert seen is not None
    edit = author.append(draft_edit(seen, author.agent, Content("more", CODES)))
    later = author.signed(edit, seq=9, **change)
    for target, status in ((later, PENDING), (author.signed(edit, seq=9), HELD)):
        over = Content("more", CODES, over=tuple(sorted((create.cid, target.cid)))).to_body()
        given_ = bundle([(author.signed(edit, over), 1)], [author], [*author.records[2:4], target])
        intake = Desk().intake()
        judged = intake.judge(given_)
        if target.header.kind == edit.header.kind:
            assert judged[0].status is status
        kept = [held.record.cid for held in intake.companions(given_, judged)]
        assert (target.cid in kept) == (target is not later)


def test_no_record_is_held_without_a_sound_opening_even_if_its_author_is_known() -> None:
    """Else a holder would serve hits that no asker believes, and be blamed for them."""
    author = Author(1, MANIFEST, NOW_US)
    first, second = author.create("one", CODES), author.create("two", CODES)
    desk = Desk()
    intake = desk.intake()
    assert statuses(intake, bundle([(first, 7)], [author], author.records)) == [(HELD, "")]
    assert statuses(intake, bundle([(second, 7)], [], [first])) == [(PENDING, "")]
    genesis, membrane = author.opening
    poor = Author(1, MANIFEST, NOW_US, pays=False)
    bad_openings = (
        (genesis, poor.records[1]),
        poor.opening,
        (genesis, author.records[2]),
        (forged(genesis), membrane),
        (genesis.without_payload(), membrane),
        (genesis, Author(2, MANIFEST, NOW_US).opening[1]),
    )
    for bad in bad_openings:
        given_ = Bundle({author.agent: bad}, {first.cid: first.without_payload()}, (Item(second, 7),))
        judged = intake.judge(given_)
        assert judged[0].status in (INVALID, PENDING)
        assert intake.companions(given_, judged) == []
        given_ = Bundle({author.agent: bad}, {}, (Item(genesis, 2),))  # judged without an opening
        judged = intake.judge(given_)
        assert judged[0].status is HELD
        assert intake.companions(given_, judged) == []
    desk.openings[author.agent] = author.opening
    for bad in bad_openings:  # what is held counts, not what the sender brings
        given_ = Bundle({author.agent: bad}, {first.cid: first.without_payload()}, (Item(second, 7),))
        judged = intake.judge(given_)
        assert judged[0].status is HELD
        assert [one.record.cid for one in intake.companions(given_, judged)] == [first.cid]


def test_a_hit_is_checked_on_its_own_bytes_and_its_authors_opening() -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES, ("tag",))
    content = Desk().intake().verify_content(record, {author.agent: author.opening})
    assert (content.text, content.codes, content.tags) == ("text", CODES, ("tag",))
    elsewhere = Author(1, replace(MANIFEST, name="elsewhere"), NOW_US)
    poor = Author(1, MANIFEST, NOW_US, pays=False)
    other = Author(2, MANIFEST, NOW_US)
    header = replace(record.header, epoch=other.records[0].cid)
    assert record.payload is not None
    for bad, opening, reason in (
        (forged(record), author.opening, "signature"),
        (record.without_payload(), author.opening, "payload"),
        (author.records[2], author.opening, "content"),
        (elsewhere.create("x", CODES), author.opening, "network"),
        (record, None, "opening"),
        (record, poor.opening, "opening"),
        (record, other.opening, "opening"),
        (record, elsewhere.opening, "opening"),
        (record, (author.opening[0], author.opening[0]), "opening"),
        (sign_record(author.identity, header, record.payload), author.opening, "epoch"),
    ):
        with pytest.raises(RecordError, match=reason):
            Desk().intake().verify_content(bad, {} if opening is None else {author.agent: opening})


def test_a_hit_that_held_is_known_again_but_not_with_another_signature_or_payload() -> None:
    author = Author(1, MANIFEST, NOW_US)
    record = author.create("text", CODES)
    other = author.create("other", CODES)
    judged: list[str] = []

    def embed(text: str) -> bytes | None:
        judged.append(text)
        return CODES

    intake = Desk().intake(embed)
    opening = {author.agent: author.opening}
    for _ in range(3):
        intake.verify(record, opening)
    assert judged == ["text"]
    for bad in (forged(record), replace(record, payload=other.payload), record.without_payload()):
        with pytest.raises(RecordError):
            intake.verify(bad, opening)
    intake.verify(record, {})
    assert judged.count("text") <= 2
    intake.remember([other])
    intake.verify(other, {})
    assert "other" not in judged
    for number in range(MAX_KNOWN_RECORDS):
        intake.remember([replace(other, cid=number.to_bytes(8, "big"))])
    judged.clear()
    intake.verify(record, opening)
    assert judged == ["text"]
