"""The laws of deltas as plain functions of a history and a source of choices."""

from __future__ import annotations

from chain.cid import Cid
from chain.content import Content
from chain.identity import Identity
from chain.record import Record, verify_signature
from chain.source_chain import head_of, next_record
from crdt import drafts
from crdt.causal import in_causal_order, merge_copies, parents
from crdt.delta import contiguous, network_delta, network_version, page_of
from crdt.delta_codec import decode_delta, delta_pages
from crdt.entry import EntryState
from crdt.version_vector import decode_version_vector
from tests.crdt.histories import MALLORY, NETWORK, TAGS, Choose, History, most, seen, shuffled, stripped
from tests.crdt.laws import draw_state, same


def pages_are_enough(story: History, choose: Choose) -> None:
    """Page by page s becomes s ⊔ t, every record is applied as it comes, and nothing is left to ask for."""
    s, t = story.state(most(choose, story.records)), draw_state(story, choose)
    union = s.join(story.state(t.applied.values()))
    lacking = set(t.applied) - set(s.applied)
    full = choose(2)
    since = s.version if full else s.version.spaced()
    sent = 0
    while True:
        page = page_of(t, since, 1 + choose(3))
        before = set(s.waiting)
        s = s.add_all(page.records)
        sent += len(page.records)
        assert set(s.waiting) <= before
        since = decode_version_vector(page.version.encode())
        if not page.more:
            break
        assert page.records
    same(s, union)
    assert page_of(t, since).records == ()
    assert sent == len(lacking) or (not full and sent > len(lacking))


def networks_meet(story: History, choose: Choose) -> None:
    """s with t's delta since s's version is the union, whatever forks and gaps there are."""
    records = [*story.records, *forked_chain(choose, story)]
    s, t = ({one.cid: one for one in stripped(choose, most(choose, records))} for _ in range(2))
    bare = {cid for cid, one in s.items() if one.payload is None}
    got = dict(s)
    for one in network_delta(t, network_version(s), bare):
        got[one.cid] = merge_copies(got[one.cid], one) if one.cid in got else one
    assert got.keys() == s.keys() | t.keys()
    for cid, one in got.items():
        said = [side[cid].payload for side in (s, t) if cid in side and side[cid].payload is not None]
        assert one.payload == (said[0] if said else None)
    gone = {one.cid for one in network_delta(t, network_version(t))}
    assert gone == t.keys() - contiguous(t).keys()


def forked_chain(choose: Choose, story: History) -> list[Record]:
    """Records of Mallory's with a whole chain below them, which forks where it likes."""
    view = seen(story.state(story.records[:1]))
    written: list[Record] = []
    for number in range(choose(6)):
        before = ([None, *written])[choose(1 + len(written))]
        draft = drafts.draft_tag(view, MALLORY.agent, TAGS[choose(len(TAGS))])
        head = None if before is None else head_of(before)
        written.append(next_record(MALLORY, NETWORK, NETWORK, head, draft, choose(3), bytes([number]) * 16))
    return written


def compact_is_lossless(story: History, choose: Choose) -> None:
    """Any records in any order come back bit by bit, and verify."""
    records = stripped(choose, shuffled(choose, [*story.records, *forked_chain(choose, story)]))
    got = [one for _, page in delta_pages(records, NETWORK) for one in decode_delta(page, NETWORK)]
    assert [one.encode() for one in got] == [one.encode() for one in records]
    assert [one.cid for one in got] == [one.cid for one in records]
    assert all(map(verify_signature, got))


def causal_order_is_causal(story: History, choose: Choose) -> None:
    records = {one.cid: one for one in shuffled(choose, most(choose, story.records))}
    ordered = in_causal_order(records)
    assert sorted(one.cid for one in ordered) == sorted(records)
    come: set[Cid] = set()
    for one in ordered:
        assert all(parent in come for parent in parents(one) if parent in records)
        come.add(one.cid)
    assert ordered == in_causal_order(dict(sorted(records.items())))


def long_line(identity: Identity, count: int) -> list[Record]:
    """An entry and the tags that its author adds to it, one after the other."""
    first = next_record(
        identity, NETWORK, NETWORK, None, drafts.draft_create(Content("x", b"\1")), 1, bytes(16)
    )
    records = [first]
    state = EntryState(first.cid).add(first)
    for number in range(1, count):
        draft = drafts.draft_tag(seen(state), identity.agent, f"tag {number}")
        salt = number.to_bytes(16, "big")
        records.append(next_record(identity, NETWORK, NETWORK, head_of(records[-1]), draft, number, salt))
        state = state.add(records[-1])
    return records


DELTA_LAWS = (pages_are_enough, networks_meet, compact_is_lossless, causal_order_is_causal)
