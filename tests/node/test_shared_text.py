"""Texts written apart are put together: both sides' words stay, everywhere alike, whatever liars write.

The engine is Loro itself. Histories are those of whole editors, not of single operations: each edit carries
its text, and every one of them is held against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid
from chain.content import Content
from chain.identity import Identity
from chain.kinds import EDIT
from chain.manifest import Limits
from chain.record import Record
from chain.splices import Splice, spliced
from crdt import drafts, shared_text
from crdt.entry import EntryState
from crdt.purging import operations
from crdt.shared_text import MAX_STEPS, Script, Step, Texts, merged, peer_of, texts_of, version_text
from crdt.standing import CLEAR, Standing
from node.entry_reader import view_of
from node.errors import InvalidInput
from node.models import SharedText, Write, WrittenText
from node.text_difference import splices_between
from node.text_engine import NEEDS_EXTRA, engine, replay
from node.writing import FAILED, Desk
from node.writing import shared_text as text_of
from tests.crdt.event_graphs import LETTERS, History, begin, random_history, random_splices, write
from tests.crdt.histories import ALICE, BOB, MALLORY, Scribe

CODES = b"\x7f"
RANDOMS = st.integers(0, 2**32).map(Random)


def together(history: History, shown: Iterable[Cid] | None = None) -> str:
    texts = texts_of(history.ends() if shown is None else shown, history.said)
    (script,) = texts.scripts
    done = merged(script, replay)
    assert done is not None
    assert (done.values, done.left_out, texts.apart) == (script.values, (), ())
    return done.text


@settings(max_examples=40, deadline=None)
@given(RANDOMS)
def test_all_that_anybody_wrote_and_nobody_deleted_is_there_once(random: Random) -> None:
    """Marks are inserted whole; nobody deletes, so each is there once, and the first text in its order."""
    history = begin("0123456789")
    (create,) = history.said
    written: list[Cid] = [create]
    for number in range(random.randrange(2, 10)):
        over = (random.choice(written),)
        at = random.randrange(len(history.said[over[0]].text) + 1)
        cid = write(history, over, (Splice(at, 0, f"<{number}>"),), replay)
        assert cid is not None
        written.append(cid)
    ends = history.ends()
    if len(ends) > 1:
        text = together(history)
        assert sorted(text) == sorted(
            "0123456789" + "".join(f"<{number}>" for number in range(len(written) - 1))
        )


@settings(max_examples=40, deadline=None)
@given(RANDOMS)
def test_every_version_is_what_its_writer_saw_and_no_order_shows(random: Random) -> None:
    """Also edits over several values hold wherever a replay begins: nothing honest is ever left out."""
    history = random_history(random, random.randrange(2, 14), replay)
    ends = list(history.ends())
    if len(ends) == 1:
        return
    text = together(history)
    items = list(history.said.items())
    random.shuffle(items)
    random.shuffle(ends)
    again = texts_of(ends, dict(items))
    done = merged(again.scripts[0], replay)
    assert done is not None
    assert done.text == text
    over = tuple(sorted(ends))
    ended = write(history, over, (), replay)
    if ended is not None:
        assert history.said[ended].text == text
        assert texts_of([ended], history.said).apart == (ended,)


@settings(max_examples=60, deadline=None)
@given(RANDOMS)
def test_lies_are_left_out_and_take_nothing_of_others_with_them(random: Random) -> None:
    history = random_history(random, random.randrange(2, 10), replay)
    ends = history.ends()
    honest = texts_of(ends, history.said)
    lies: list[Cid] = []
    for _ in range(random.randrange(1, 5)):
        there = list(history.said)
        over = tuple(sorted(random.sample(there, min(len(there), random.randrange(1, 4)))))
        splices = tuple(
            Splice(random.choice((0, 3, 65_536)), random.choice((0, 1, 65_536)), random.choice(("", "x")))
            for _ in range(random.randrange(0, 4))
        )
        lies.append(
            history.add(Content("".join(random.choices(LETTERS, k=5)), CODES, over=over, splices=splices))
        )
    texts = texts_of((*ends, *lies), history.said)
    for script in texts.scripts:
        done = replay(script)
        assert done is not None, "the engine failed"
        for value in done.values:
            assert value not in done.left_out
    if honest.scripts:
        script = next(one for one in texts.scripts if set(ends) <= set(one.values))
        done = replay(script)
        assert done is not None
        assert set(ends) <= set(done.values)


def test_whose_splices_do_not_give_its_text_stands_alone_with_all_on_top_of_it() -> None:
    history = begin("roses climb")
    (create,) = history.said
    one = write(history, (create,), (Splice(0, 5, "Roses"),), replay)
    other = write(history, (create,), (Splice(11, 0, "."),), replay)
    liar = history.add(Content("roses", CODES, over=(create,), splices=(Splice(0, 0, "x"),)))
    on_top = history.add(Content("roses!", CODES, over=(liar,), splices=(Splice(5, 0, "!"),)))
    assert one is not None
    assert other is not None
    texts = texts_of((one, other, on_top), history.said)
    (script,) = texts.scripts
    assert (texts.apart, texts.left_out) == ((on_top,), (on_top,))
    assert script.left_out == tuple(sorted((liar, on_top))), "seen without an engine: it counts for no bound"
    done = replay(script)
    assert done is not None
    assert (done.text, done.values) == ("Roses climb.", tuple(sorted((one, other))))
    assert done.left_out == tuple(sorted((liar, on_top)))


def test_an_edit_may_overwrite_a_value_and_what_came_before_it() -> None:
    history = begin("roses")
    (create,) = history.said
    one = write(history, (create,), (Splice(0, 0, "1"),), replay)
    assert one is not None
    two = write(history, (one,), (Splice(0, 0, "2"),), replay)
    assert two is not None
    three = write(history, (two,), (Splice(0, 0, "3"),), replay)
    assert three is not None
    four = history.add(
        Content("4321roses", CODES, over=tuple(sorted((create, one, three))), splices=(Splice(0, 0, "4"),))
    )
    beside = write(history, (create,), (Splice(5, 0, "."),), replay)
    assert beside is not None
    assert together(history, (four, beside)) == "4321roses."


def test_two_records_with_one_peer_are_not_taken_for_one_author() -> None:
    """Who finds two CIDs with the same first 8 bytes gets one of two changes in, the same one everywhere."""
    base = bytes(4) + b"\0" * 32
    twins = [bytes(4) + b"twintwin" + bytes([n]) * 24 for n in (1, 2)]
    steps = tuple(
        Step(twin, (base,), (Splice(0, 0, twin[-1:].decode()),), twin[-1:].decode() + "ab") for twin in twins
    )
    done = replay(Script(base, "ab", steps, tuple(twins)))
    assert done is not None
    assert (done.values, done.left_out) == ((twins[0],), (twins[1],))
    assert peer_of(twins[0]) == peer_of(twins[1]) == int.from_bytes(b"twintwin", "big")


def test_texts_without_a_common_origin_stay_apart() -> None:
    history = begin("roses")
    (create,) = history.said
    plain = history.add(Content("tulips", CODES, over=(create,)))
    typed = write(history, (create,), (Splice(5, 0, "!"),), replay)
    assert typed is not None
    apart = texts_of((plain, typed), history.said)
    assert apart == Texts((), tuple(sorted((plain, typed))))
    assert version_text((plain, typed), history.said, replay) is None
    both = history.add(Content("x", CODES, over=tuple(sorted((plain, typed))), splices=()))
    assert texts_of((both, typed), history.said).apart == tuple(sorted((both, typed)))
    # From where they were put together by hand, they have a common origin.
    on_both = [write(history, (both,), (Splice(1, 0, mark),), replay) for mark in "!?"]
    (script,) = texts_of([one for one in on_both if one is not None], history.said).scripts
    assert (script.base, len(script.steps)) == (both, 2)
    # What was purged cannot be replayed: who wrote on top of it goes on from the own text.
    said = {cid: one for cid, one in history.said.items() if cid != create}
    assert not texts_of((plain, typed), said).scripts


@pytest.mark.parametrize("bound", ["MAX_STEPS", "MAX_TOUCHED", "MAX_SCRIPT_SPLICES"])
def test_who_writes_too_much_crowds_out_themselves(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history = begin("roses")
    (create,) = history.said
    values = [write(history, (create,), (Splice(5, 0, str(n)),), replay) for n in range(9)]
    shown = [value for value in values if value is not None]
    authors = dict.fromkeys(shown, MALLORY.agent) | {shown[0]: ALICE.agent, shown[1]: BOB.agent}
    assert texts_of(shown, history.said, authors).scripts[0].values == tuple(sorted(shown))
    monkeypatch.setattr(shared_text, bound, 3)
    first, *others = texts_of(shown, history.said, authors).scripts
    assert {*shown[:2]} < {*first.values}
    assert [len(script.values) for script in (first, *others)] == [3, 3, 3]
    monkeypatch.setattr(shared_text, "MAX_ROUNDS", 1)
    texts = texts_of(shown, history.said, authors)
    assert texts.scripts == (first,)
    assert texts.too_long == texts.apart == tuple(sorted(set(shown) - set(first.values)))
    monkeypatch.setattr(shared_text, bound, 1)
    assert texts_of(shown, history.said, authors).too_long == tuple(sorted(shown))


def test_nobody_keeps_others_apart_by_writing_on_what_is_long_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_text, "MAX_STEPS", 5)
    history = begin("roses")
    (create,) = history.said
    late = write(history, (create,), (Splice(5, 0, "x"),), replay)
    now = create
    for _ in range(9):
        now = write(history, (now,), (Splice(0, 0, "xx"),), replay) or now
    pair = [write(history, (now,), (Splice(0, 0, mark * 3),), replay) for mark in "!?"]
    honest = tuple(sorted(cid for cid in pair if cid is not None))
    assert late is not None
    texts = texts_of((late, *honest), history.said)
    assert ([script.values for script in texts.scripts], texts.too_long) == ([honest], (late,))


def test_a_long_past_is_not_replayed_when_all_have_it_in_common() -> None:
    history = begin("roses")
    (last,) = history.said
    for _ in range(MAX_STEPS + 10):
        last = history.add(Content("roses", CODES, over=(last,), splices=()))
    values = [write(history, (last,), (Splice(5, 0, mark),), replay) for mark in "!?"]
    (script,) = texts_of([one for one in values if one is not None], history.said).scripts
    assert (script.base, len(script.steps)) == (last, 2)


class Entry:
    """An entry with signed records, and what replicas show of it."""

    def __init__(self, text: str) -> None:
        self.scribes = {one.agent: Scribe(one) for one in (ALICE, BOB, MALLORY)}
        create = self.scribes[ALICE.agent].write(drafts.draft_create(Content(text, CODES)), 1)
        self.state = EntryState(create.cid, {create.cid: create})
        self.create = create

    def write(
        self, who: Identity, over: Iterable[Record], *splices: Splice, seen: EntryState | None = None
    ) -> Record:
        state = self.state if seen is None else seen
        view = state.view()
        assert view is not None
        cids = tuple(sorted(one.cid for one in over))
        before = self.text(cids)
        content = Content(spliced(before, splices), CODES, splices=splices)
        scribe = self.scribes[who.agent]
        record = scribe.write(drafts.draft_writing(view, scribe.identity.agent, content, cids), 5)
        self.state = self.state.add(record)
        return record

    def text(self, cids: tuple[Cid, ...]) -> str:
        said = operations(self.state.applied)
        text = version_text(cids, said, replay)
        assert text is not None
        return text

    def shown(self, standing: Standing = CLEAR, records: Iterable[Record] | None = None) -> SharedText:
        view = view_of(
            self.create.cid, list(self.state.applied.values() if records is None else records), standing
        )
        assert view is not None
        return text_of(view, standing, replay)


def test_both_branches_of_an_equivocator_are_put_together_until_a_warrant_excludes_them() -> None:
    entry = Entry("roses climb")
    fork = replace(entry.scribes[MALLORY.agent])
    seen = entry.state
    one = entry.write(MALLORY, [entry.create], Splice(0, 0, "1"), seen=seen)
    entry.scribes[MALLORY.agent] = fork
    two = entry.write(MALLORY, [entry.create], Splice(0, 0, "2"), seen=seen)
    assert one.header.subject_seq == two.header.subject_seq
    bob = entry.write(BOB, [entry.create], Splice(11, 0, "."), seen=seen)
    records = list(entry.state.applied.values())
    both = entry.shown()
    assert sorted(both.shown.text or "") == sorted("12roses climb.")
    assert entry.shown(records=records[::-1]) == both
    standing = Standing({MALLORY.agent: 0})
    assert entry.shown(standing) == alone("roses climb.", bob)
    # Who wrote on top of an offender's words has made them the own ones: as with any edit.
    alice = entry.write(ALICE, [one], Splice(12, 0, "!"))
    now = entry.shown(standing).shown
    assert sorted(now.text or "") == sorted("1roses climb.!")
    assert now.version == tuple(sorted((alice.cid, bob.cid)))


def alone(text: str, record: Record) -> SharedText:
    return SharedText(WrittenText(text, (record.cid,), (record.header.author,)), (), 0, None)


@settings(max_examples=25, deadline=None)
@given(RANDOMS)
def test_edits_deletes_purges_and_warrants_show_alike_in_any_order(random: Random) -> None:
    entry = Entry("roses climb")
    identities = (ALICE, BOB, MALLORY)
    for number in range(random.randrange(2, 9)):
        who = random.choice(identities)
        scribe = entry.scribes[who.agent]
        # Some saw all, some only what was there some records ago; a second line of the liar's is a fork.
        records = list(entry.state.applied.values())
        seen = entry.state
        if who is MALLORY and random.random() < 0.4:
            seen = EntryState(entry.create.cid).add_all(records[: random.randrange(1, len(records) + 1)])
        view = seen.view()
        assert view is not None
        deed = random.choice(("write", "write", "write", "edit", "delete", "purge"))
        own = [one.cid for one in records if one.header.author == who.agent and one.header.kind == EDIT]
        if deed == "purge" and own:
            draft = drafts.draft_purge(view, who.agent, random.sample(own, 1))
        elif deed == "delete":
            draft = drafts.draft_delete(view, who.agent)
        elif deed == "edit" or not view.contents:
            draft = drafts.draft_edit(view, who.agent, Content(f"text {number}", CODES))
        else:
            values = [cid for cid, _ in view.contents]
            over = tuple(sorted(random.sample(values, random.randrange(1, len(values) + 1))))
            before = version_text(over, operations(seen.applied), replay)
            splices = random_splices(random, before or "lies", f"<{number}>")
            text = spliced(before or "lies", splices) or "gone"
            draft = drafts.draft_writing(view, who.agent, Content(text, CODES, splices=splices), over)
        entry.state = entry.state.add(scribe.write(draft, 5 + number))
    records = list(entry.state.applied.values())
    for standing in (CLEAR, Standing({MALLORY.agent: random.randrange(4)})):
        shown = entry.shown(standing)
        random.shuffle(records)
        assert entry.shown(standing, records) == shown
        assert EntryState(entry.create.cid).add_all(records) == entry.state
        folded = entry.state.view(standing)
        assert folded is not None
        texts = [shown.shown, *shown.apart]
        assert {cid for one in texts for cid in one.version} == {cid for cid, _ in folded.contents}
        assert all(purged not in one.version for one in texts for purged, _ in folded.purged)


def test_what_was_purged_is_gone_from_the_text() -> None:
    entry = Entry("roses climb")
    seen = entry.state
    secret = entry.write(BOB, [entry.create], Splice(5, 0, " (secret)"), seen=seen)
    alice = entry.write(ALICE, [entry.create], Splice(11, 0, "."), seen=seen)
    assert entry.shown().shown.text == "roses (secret) climb."
    view = entry.state.view()
    assert view is not None
    purge = entry.scribes[BOB.agent].write(drafts.draft_purge(view, BOB.agent, [secret.cid]), 9)
    entry.state = entry.state.add(purge)
    assert entry.shown() == alone("roses climb.", alice)


def test_without_the_extra_the_last_value_is_shown_and_that_the_extra_is_needed() -> None:
    entry = Entry("roses climb")
    seen = entry.state
    entry.write(BOB, [entry.create], Splice(0, 5, "Roses"), seen=seen)
    entry.write(ALICE, [entry.create], Splice(11, 0, "."), seen=seen)
    view = view_of(entry.create.cid, list(entry.state.applied.values()))
    assert view is not None
    told = text_of(view, CLEAR, None)
    assert (told.shown.text, told.reason, len(told.apart)) == (view.text, NEEDS_EXTRA, 1)
    assert text_of(view, CLEAR, replay).shown.text == "Roses climb."
    assert text_of(view, CLEAR, lambda script: None).reason == FAILED
    assert engine() is replay
    # Who writes without it writes on one value, and cannot on what others put together.
    folded = entry.state.view()
    assert folded is not None
    desk = Desk(ALICE.agent, Limits(), None, lambda text: CODES)
    insert = (Splice(0, 0, "x"),)
    draft = desk.asked(folded, entry.state.applied, Write(told.shown.version, insert), None)
    assert draft is not None
    assert draft.body["over"] == list(told.shown.version)
    assert draft.body["text"] == f"x{told.shown.text}"
    with pytest.raises(InvalidInput, match=r"install roseforest\[text\]"):
        desk.asked(folded, entry.state.applied, Write(tuple(dict(folded.contents)), insert), None)


@settings(max_examples=60, deadline=None)
@given(RANDOMS)
def test_what_an_editor_did_is_said_by_splices(random: Random) -> None:
    old = "".join(random.choices(LETTERS + "abc \n", k=random.randrange(1, 80)))
    new = old
    for _ in range(random.randrange(4)):
        new = spliced(new, random_splices(random, new, "word"))
    assert spliced(old, splices_between(old, new)) == new
    assert bool(splices_between(old, new)) == (old != new)


def test_two_words_of_one_line_are_two_places_and_a_new_text_is_one() -> None:
    assert splices_between("red roses climb", "Red roses ramble") == (
        Splice(10, 5, "ramble"),
        Splice(0, 3, "Red"),
    )
    many = " ".join("ab"[n % 2] for n in range(1500))
    assert len(splices_between(many, many.replace("b", "c"))) == 1
