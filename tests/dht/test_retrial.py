"""Retrial: what a record waits with is all that it takes to judge it, once what is missing has come."""

from __future__ import annotations

from dataclasses import replace

from chain.kinds import RULE_VERSION
from crdt.drafts import draft_purge
from crdt.entry_view import view_of
from dht.records.bundle import Bundle, Item
from dht.records.intake import Intake
from dht.records.layouts import Layouts
from dht.records.placement import Role
from dht.records.replies import StoreStatus
from dht.records.retrial import brought_along
from tests.dht.authors import Author
from tests.dht.people import MANIFEST as OLDER
from tests.dht.people import NOW_US
from tests.dht.test_intake import CODES, LAYOUT, Desk
from validation.rules import MAX_AHEAD_US
from validation.verdict import Pending

MANIFEST = replace(OLDER, rules=RULE_VERSION)


def desk_intake() -> Intake:
    """Of a node that holds nothing yet."""
    desk = Desk()
    return Intake(MANIFEST, desk.records_of, desk.openings.get, Layouts(LAYOUT), None, desk)


def test_an_erased_record_waits_with_the_purge_that_says_so() -> None:
    """Without it the record would be one whose payload is missing, and its honest sender blamed for that."""
    author = Author(1, MANIFEST, NOW_US)
    create = author.create("what shall not be read", CODES)
    last = author.create("something else", CODES)
    seen = view_of(create.cid, {create.cid: create})
    assert seen is not None
    purge = author.append(draft_purge(seen, author.agent, [create.cid]))
    item = Item(create.without_payload(), int(Role.SUBJECT))
    headers = {one.cid: one for one in (author.records[2].without_payload(), purge)}
    bundle = Bundle({author.agent: author.opening}, headers, (item,))
    intake = desk_intake()
    (judged,) = intake.judge(bundle)
    assert (judged.status, judged.needs) == (StoreStatus.PENDING, Pending((last.cid,)))
    (along,) = brought_along(bundle, [item.record])
    later = replace(bundle, headers={one.cid: one for one in (*along, last.without_payload())})
    (judged,) = intake.judge(later)
    assert (judged.status, judged.erased) == (StoreStatus.HELD, True)


def test_an_erased_record_waits_for_a_purge_from_the_future() -> None:
    author = Author(1, MANIFEST, NOW_US)
    create = author.create("what shall not be read", CODES)
    seen = view_of(create.cid, {create.cid: create})
    assert seen is not None
    purge = author.append(draft_purge(seen, author.agent, [create.cid]), NOW_US + MAX_AHEAD_US + 1)
    headers = {one.cid: one for one in (author.records[2].without_payload(), purge)}
    item = Item(create.without_payload(), int(Role.SUBJECT))
    (judged,) = desk_intake().judge(Bundle({author.agent: author.opening}, headers, (item,)))
    assert (judged.status, judged.needs) == (StoreStatus.PENDING, Pending((purge.cid,)))
