"""Histories to test merging with: two honest authors on replicas of their own, and one liar.

Choices come from a function, so that Hypothesis can shrink them and a seeded generator can replay them. The
liar forks their line, claims deps that are unknown or unrelated, sets the greatest clock, and overwrites,
deletes and untags what they like. Keys are few on purpose: collisions are where merges go wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from chain.behalf import Behalf
from chain.cid import Cid, raw_cid, record_cid
from chain.content import DECISIONS, Content, Resolution
from chain.identity import Identity
from chain.kinds import (
    ASSESS,
    CARRIES_CONTENT,
    CREATE,
    DELETE,
    DESCRIBE,
    EDIT,
    LINK,
    PURGE,
    PURGEABLE,
    RETRACT,
    TAG,
    UNLINK,
    UNTAG,
    VOTE,
)
from chain.record import MAX_DEPS, MAX_INT, VERSION, Header, Record, encode_payload, sign_record
from chain.reference import Reference, Relation, Source, reference_to_wire
from chain.source_chain import Draft, Head, head_of, next_record
from crdt import drafts
from crdt.entry import Entry, EntryState

Choose = Callable[[int], int]
"""choose(n) is an integer from 0 to n - 1."""
T = TypeVar("T")

NETWORK = raw_cid(b"a network for tests of merging")
ALICE, BOB, MALLORY = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
TAGS = ("moss", "rose")
TEXTS = ("one", "two")
TITLES = ("first", "second")
FIELDS = ("title", "type")
FOR_OTHERS = (None, Behalf("a crawler"), Behalf("a crawler", bytes(32)))
SIGNED = tuple(Behalf("a robot", bytes([1] * 32), bytes(64), time) for time in (1, 2))
"""Of votes that a robot has signed: laws of merging look at no signature, `validation` has done that."""
UNKNOWN = tuple(record_cid(bytes([number])) for number in range(2))
RESOLVE = "a resolution"
"""Beside the kinds: an edit that ends a conflict."""
UNREADABLE = (b"", b"\xc1", b"\x92\xc4\x00\x80", b"\xdc\x00\x02\xc4\x10" + bytes(16) + b"\x80")
"""Payloads that are not canonical, the last an empty body whose array has its length in two bytes more."""
STRANGE: tuple[dict[str, Any], ...] = (
    {"tag": 3, "value": 2**64 - 1, "confidence": -1, "records": [b"no CID"], "adds": {}, "seen": None},
    {"over": ["no CID"], "text": "", "codes": b"", "fields": {"title": 1}, "reference": [], "records": []},
)
"""Bodies that are of no kind."""


REFERENCES: tuple[Reference, ...] = (Source("a book"), Relation("supports", UNKNOWN[0]))


def content(choose: Choose, over: tuple[Cid, ...] = ()) -> Content:
    tags = tuple(tag for tag in TAGS if choose(3) == 0)
    references = REFERENCES[:1] if choose(4) == 3 else ()
    return Content(TEXTS[choose(len(TEXTS))], b"\x7f\x01", tags, over=over, references=references)


def described(choose: Choose) -> dict[str, str]:
    """A value for one field or for both."""
    names = FIELDS if choose(3) == 2 else (FIELDS[choose(2)],)
    return {name: TITLES[choose(2)] for name in names}


@dataclass
class Scribe:
    """Signs drafts as an agent's next records; salts count up."""

    identity: Identity
    head: Head | None = None
    written: int = 0

    def write(self, draft: Draft, now_us: int) -> Record:
        self.written += 1
        salt = self.written.to_bytes(16, "big")
        clock = max(now_us, draft.deps_hlc)  # a clock that is as far ahead: what merges is any valid record
        record = next_record(self.identity, NETWORK, NETWORK, self.head, draft, clock, salt)
        self.head = head_of(record)
        return record


@dataclass
class History:
    """All records in the order of their making, the create first; replicas 0 and 1 are Alice's and Bob's."""

    records: list[Record]
    replicas: list[EntryState]
    scribes: tuple[Scribe, Scribe]
    lies: int = 0
    subject: Cid = field(init=False)

    def __post_init__(self) -> None:
        self.subject = self.records[0].cid

    def copy(self) -> History:
        """The same history, which can go on by itself."""
        first, second = self.scribes
        return History(list(self.records), list(self.replicas), (replace(first), replace(second)), self.lies)

    def state(self, records: Iterable[Record] | None = None) -> EntryState:
        return EntryState(self.subject).add_all(self.records if records is None else records)

    def publish(self, place: int, draft: Draft, now_us: int) -> Record:
        record = self.scribes[place].write(draft, now_us)
        self.records.append(record)
        self.replicas[place] = self.replicas[place].add(record)
        return record


def history(choose: Choose, steps: int, *, liar: bool = True) -> History:
    """A history of `steps` operations and exchanges after the create."""
    scribes = (Scribe(ALICE), Scribe(BOB))
    first = content(choose)
    if choose(2):
        first = replace(first, fields=tuple(sorted(described(choose).items())))
    create = scribes[0].write(drafts.draft_create(first), choose(3))
    story = History([create], [EntryState(create.cid).add(create)] * 2, scribes)
    for _ in range(steps):
        what = choose(7 if liar else 4)
        if what < 3:
            place = choose(2)
            story.publish(place, honest_draft(choose, story.replicas[place], scribes[place]), choose(3))
        elif what == 3:
            place = choose(2)
            story.replicas[place] = story.replicas[place].join(story.replicas[1 - place])
        else:
            story.records.append(lie(choose, story))
    return story


def honest_draft(choose: Choose, state: EntryState, scribe: Scribe) -> Draft:
    entry, author = seen(state), scribe.identity.agent
    kinds = (
        EDIT,
        TAG,
        UNTAG,
        DELETE,
        EDIT,
        TAG,
        RETRACT,
        VOTE,
        PURGE,
        DESCRIBE,
        DESCRIBE,
        LINK,
        UNLINK,
        ASSESS,
        RESOLVE,
    )
    kind = kinds[choose(len(kinds))]
    own = [cid for cid in sorted(state.applied) if _is_words(state.applied[cid], author)]
    if kind == PURGE and own:
        return drafts.draft_purge(entry, author, {own[choose(len(own))], own[choose(len(own))]})
    if kind == UNTAG and entry.tags:
        return drafts.draft_untag(entry, author, entry.tags[choose(len(entry.tags))])
    if kind == DELETE:
        return drafts.draft_delete(entry, author)
    if kind == RETRACT and author == entry.author:
        return drafts.draft_retract(entry, author)
    if kind == TAG:
        return drafts.draft_tag(entry, author, TAGS[choose(len(TAGS))])
    if kind == VOTE:
        behalf = (*FOR_OTHERS, *SIGNED)[choose(len(FOR_OTHERS) + len(SIGNED))]
        return drafts.draft_vote(entry, author, choose(3) - 1, behalf=behalf)
    if kind == DESCRIBE:
        there = [name for name, _ in entry.fields]
        if there and choose(3) == 2:
            return drafts.draft_describe(entry, author, {}, there[:1])
        return drafts.draft_describe(entry, author, described(choose))
    if kind == LINK:
        return drafts.draft_link(entry, author, (REFERENCES[choose(2)],))
    if kind == UNLINK and entry.reference_adds:
        return drafts.draft_unlink(entry, author, entry.reference_adds[choose(len(entry.reference_adds))][0])
    if kind == ASSESS:
        return drafts.draft_assess(entry, author, choose(3))
    if kind == RESOLVE and len(entry.contents) > 1:
        return resolved(choose, entry, author)
    return drafts.draft_edit(entry, author, content(choose))


def resolved(choose: Choose, entry: Entry, author: bytes) -> Draft:
    decision = DECISIONS[choose(len(DECISIONS))]
    if decision == "merge":
        return drafts.draft_resolution(entry, author, Resolution(decision, "both are so"), content(choose))
    chosen = entry.contents[choose(len(entry.contents))][0]
    return drafts.draft_resolution(entry, author, Resolution(decision, "so it is", chosen))


def lie(choose: Choose, story: History) -> Record:
    """A record that Mallory may sign, whatever the rules say."""
    story.lies += 1
    own = [record for record in story.records if record.header.author == MALLORY.agent]
    before = ([None, *own])[choose(1 + len(own))]
    kinds = (EDIT, TAG, UNTAG, DELETE, RETRACT, VOTE, PURGE, DESCRIBE, UNLINK, ASSESS)
    kind = kinds[choose(len(kinds))]
    bodies: dict[str, dict[str, Any]] = {
        EDIT: {"codes": b"\x7f", "text": TEXTS[choose(2)], "over": targets(choose, story)}
        | ({"resolution": {"decision": "merge", "reason": "mine"}} if choose(4) == 3 else {}),
        TAG: {"tag": TAGS[choose(2)]},
        UNTAG: {"tag": TAGS[choose(2)], "adds": targets(choose, story)},
        DELETE: {"seen": targets(choose, story)},
        VOTE: {"value": choose(4) - 1},
        PURGE: {"records": sorted({story.records[choose(len(story.records))].cid, *some(choose, UNKNOWN)})},
        DESCRIBE: {"clear": ["title"], "over": targets(choose, story, {CREATE, DESCRIBE})}
        if choose(3) == 0
        else {"fields": described(choose), "over": targets(choose, story, {CREATE, DESCRIBE})},
        UNLINK: {
            "reference": reference_to_wire(REFERENCES[choose(2)]),
            "adds": targets(choose, story, {*CARRIES_CONTENT, LINK}),
        },
        ASSESS: {"confidence": choose(3)},
        RETRACT: {} if choose(2) else {"because": "no reader knows this field"},
    }
    deps = sorted(
        {
            *some(choose, [record.cid for record in story.records[-2:]]),
            *some(choose, UNKNOWN if choose(5) == 4 else ()),
        }
    )
    odd: tuple[dict[str, Any] | bytes, ...] = (*UNREADABLE, *STRANGE)
    body = odd[choose(len(odd))] if choose(10) == 9 else bodies[kind]
    return _by_mallory(
        story,
        kind,
        body,
        seq=choose(3),
        subject_seq=(0 if before is None else before.header.subject_seq + 1) + (choose(8) == 7),
        subject_prev=None if before is None else before.cid,
        deps=tuple(deps),
        lamport=choose(4),
        hlc=(choose(3), MAX_INT)[choose(2)],
    )


def lie_over(story: History, over: Sequence[Cid]) -> Record:
    """An edit of Mallory's that overwrites these values and has seen them; it can be applied at once."""
    story.lies += 1
    body = {"codes": b"\x7f", "text": "mine", "over": sorted(over)}
    deps = tuple(sorted(over))[:MAX_DEPS]
    return _by_mallory(
        story, EDIT, body, seq=0, subject_seq=0, subject_prev=None, deps=deps, lamport=9, hlc=0
    )


def forged(choose: Choose, story: History) -> Record:
    """A record of Mallory's that says of its place what cannot be: nobody may ever apply it."""
    story.lies += 1
    others = [record for record in story.records if record.header.author != MALLORY.agent]
    own = [record for record in story.records if record.header.author == MALLORY.agent]
    stolen = others[choose(len(others))]
    before, seq, deps = (
        (None, 0, UNKNOWN[:1]),
        (UNKNOWN[1], 1, ()),
        (stolen.cid, stolen.header.subject_seq + 1, ()),
        (None, 1 + choose(2), ()),
        (own[-1].cid, own[-1].header.subject_seq + 2, ()) if own else (None, MAX_INT, ()),
        (own[-1].cid, own[-1].header.subject_seq, ()) if own else (None, 2, tuple(sorted(UNKNOWN))),
    )[choose(6)]
    kind, body = (
        (EDIT, {"codes": b"\x7f", "text": "forged", "over": targets(choose, story)}),
        (DELETE, {"seen": targets(choose, story)}),
        (VOTE, {"value": 1}),
        (TAG, {"tag": TAGS[choose(2)]}),
    )[choose(4)]
    return _by_mallory(
        story,
        kind,
        body,
        seq=choose(3),
        subject_seq=seq,
        subject_prev=before,
        deps=deps,
        lamport=(0, MAX_INT)[choose(2)],
        hlc=(0, MAX_INT)[choose(2)],
    )


def fork(choose: Choose, story: History, over: Sequence[Cid]) -> tuple[Record, Record]:
    """Two edits of Mallory's over the same values that both claim to be the first of hers."""
    both = []
    for text in TEXTS:
        story.lies += 1
        body = {"codes": b"\x7f", "text": text, "over": sorted(over)[:MAX_DEPS]}
        place = {"seq": 0, "subject_seq": 0, "subject_prev": None, "lamport": choose(9)}
        both.append(
            _by_mallory(
                story, EDIT, body, **place, deps=tuple(sorted(over))[:MAX_DEPS], hlc=(0, MAX_INT)[choose(2)]
            )
        )
    return both[0], both[1]


def claim_and_purge(story: History, over: Cid) -> tuple[Record, Record]:
    """An edit of Mallory's over a value that she claims not to have seen, and its purge."""
    story.lies += 2
    body = {"codes": b"\x7f", "text": "mine", "over": [over]}
    place: dict[str, Any] = {"deps": (), "lamport": 1, "hlc": 1}
    edit = _by_mallory(story, EDIT, body, seq=2, subject_seq=0, subject_prev=None, **place)
    gone = {"records": [edit.cid]}
    return edit, _by_mallory(story, PURGE, gone, seq=3, subject_seq=1, subject_prev=edit.cid, **place)


Deeds = Callable[[int, list[Record]], tuple[str, dict[str, Any]]]
"""Kind and body of a liar's next operation, by its number and those before."""


def line_of_lies(story: History, count: int, deeds: Deeds) -> list[Record]:
    """So many operations of Mallory's, one after the other, each with all before in its past."""
    line: list[Record] = []
    for number in range(count):
        story.lies += 1
        kind, body = deeds(number, line)
        place: dict[str, Any] = {"seq": number + 2, "subject_seq": number, "lamport": number + 1, "hlc": 5}
        before = line[-1].cid if line else None
        line.append(_by_mallory(story, kind, body, **place, subject_prev=before, deps=(story.subject,)))
    return line


def _by_mallory(story: History, kind: str, body: dict[str, Any] | bytes, **place: Any) -> Record:
    """Signed as she likes; a body in bytes is the whole payload."""
    payload = body if isinstance(body, bytes) else encode_payload(story.lies.to_bytes(16, "little"), body)
    header = Header(
        version=VERSION,
        network=NETWORK,
        epoch=NETWORK,
        author=MALLORY.agent,
        prev=None,
        subject=story.subject,
        kind=kind,
        payload=raw_cid(payload),
        payload_size=len(payload),
        **place,
    )
    return sign_record(MALLORY, header, payload)


def _is_words(record: Record, author: bytes) -> bool:
    return record.header.author == author and record.header.kind in PURGEABLE


def targets(choose: Choose, story: History, kinds: Collection[str] = CARRIES_CONTENT) -> list[Cid]:
    cids = [record.cid for record in story.records if record.header.kind in kinds]
    return sorted({cids[choose(len(cids))], *some(choose, cids)})


def some(choose: Choose, items: Sequence[T]) -> list[T]:
    return [item for item in items if choose(2)]


def most(choose: Choose, items: Sequence[T]) -> list[T]:
    return [item for item in items if choose(6) != 5]


def shuffled(choose: Choose, items: Iterable[T]) -> list[T]:
    rest, result = list(items), []
    while rest:
        result.append(rest.pop(choose(len(rest))))
    return result


def stripped(choose: Choose, records: Iterable[Record]) -> list[Record]:
    """The same records, some as headers only."""
    return [record.without_payload() if choose(6) == 0 else record for record in records]


def seen(state: EntryState) -> Entry:
    entry = state.view()
    assert entry is not None
    return entry


@st.composite
def histories(draw: st.DrawFn, steps: int = 12, liar: bool = True) -> tuple[History, Choose]:
    """A history, and the source of choices for what a test does with it."""

    def choose(n: int) -> int:
        return draw(st.integers(0, n - 1)) if n > 1 else 0

    return history(choose, draw(st.integers(0, steps)), liar=liar), choose
