"""The view of an entry: what a causally closed set of records about one subject amounts to.

Each field is a known CRDT (Shapiro et al., 2011), written as a function of the whole set instead of as a
merge of two views, so there is no order to get wrong:

- **content** is a multi-value register: a content record ends those that it lists under `over`, all maximal
  ones are kept, the one shown first is the greatest by (hlc, CID).
- **fields** beside the text are registers of their own (`crdt.registers`), **tags** and **references**
  add-wins observed-remove sets (`crdt.observed_sets`).
- **liveness** is observed-remove, for each content value by itself: a delete ends the values in the causal
  past of the heads it saw. Every maximal value that no delete ended keeps the entry alive, so a concurrent
  edit wins; then `delete_overruled` says that a delete was not heeded. The holder of one value can tell from
  that value's records alone whether it lives.
- **retract** by the creator dominates all edits.
- **votes** and **assessments** are one register for each agent (`crdt.ballots`).
- **purge** erases what its author said in records of their own, whether the payload is still at hand or not,
  and whatever came first: equal sets of records show the same with and without it. A content value that was
  purged keeps its place and shows nothing; since nobody can read any more what it overwrote, it ends all that
  lies in its causal past, so that no text comes back which it had replaced. Also an offender's purge erases.

Records of an agent that has been proven to do wrong (`crdt.standing`) are listed under `excluded`. They keep
their place among causes and effects, so what others built on them can be applied, but say nothing: no value,
tag, vote, delete or retract of theirs counts. What an excluded edit had overwritten is shown again, unless a
value that counts was written on top of that edit.

A record without a payload that can be read is listed under `erased`: its header still counts as an operation
(a retract retracts, a content record keeps its place), what it said does not.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from chain import canonical
from chain.cid import Cid
from chain.content import Content
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT, DELETE, HEADS, RETRACT
from chain.metadata import to_wire
from chain.record import MAX_DEPS, Record
from chain.reference import Reference, reference_to_wire
from chain.splices import splices_to_wire
from crdt.ballots import Assessment, Ballot, assessments, ballots
from crdt.causal import parents, past
from crdt.observed_sets import reference_adds, tag_adds
from crdt.operations import Delete, Operation, Vote
from crdt.purging import known_before, operations, purged_by
from crdt.registers import FieldValues, field_values
from crdt.standing import CLEAR, Standing
from crdt.version_vector import MAX_BRANCHES, Slot, VersionVector, version_vector


@dataclass(frozen=True, slots=True)
class Entry:
    """What people see of an entry.

    `author` is the creator. `contents` are the values shown, the winner first: the living maximal ones,
    or, when the entry is deleted, the maximal ones that were deleted. `maximal` names all maximal content
    records, shown or not: what an edit overwrites. `tag_adds` and `reference_adds` give for each tag and
    reference the adds that a removal lists. `fields` have their maximal values, the winner first. `conflict`:
    more than one value of the text or of a field is shown, or a delete was overruled. `heads` are all heads,
    `deps` at most `MAX_DEPS` of them, for the next operation; `lamport` and `hlc` (µs) are their greatest.
    `votes` has at most one ballot an agent, and one for each that it passes votes on for, agents ascending;
    votes taken back are not among them.
    `erased` are applied records whose payload cannot be read here, `purged` those among them that their
    authors purged, each with the purge that did it (the first by clock and CID), `excluded` those that do not
    count because of what their author did. All CIDs ascend but for `contents`.
    """

    id: Cid
    author: AgentId
    contents: tuple[tuple[Cid, Content], ...]
    winner: Cid | None
    maximal: tuple[Cid, ...]
    tags: tuple[str, ...]
    tag_adds: tuple[tuple[str, tuple[Cid, ...]], ...]
    deleted: bool
    delete_overruled: bool
    retracted: bool
    conflict: bool
    heads: tuple[Cid, ...]
    deps: tuple[Cid, ...]
    lamport: int
    hlc: int
    erased: tuple[Cid, ...]
    purged: tuple[tuple[Cid, Cid], ...]
    excluded: tuple[Cid, ...]
    votes: tuple[Ballot, ...]
    assessments: tuple[Assessment, ...]
    fields: tuple[tuple[str, FieldValues], ...]
    reference_adds: tuple[tuple[Reference, tuple[Cid, ...]], ...]
    version: VersionVector

    @property
    def alive(self) -> bool:
        """Whether the entry is to be shown as knowledge: neither deleted nor retracted, nor all excluded."""
        return bool(self.maximal) and not (self.deleted or self.retracted)

    @property
    def up(self) -> int:
        """How many agents are for the entry."""
        return sum(ballot.vote.value > 0 for ballot in self.votes)

    @property
    def down(self) -> int:
        """How many agents are against it."""
        return sum(ballot.vote.value < 0 for ballot in self.votes)

    def encode(self) -> bytes:
        """Canonical bytes of the view, equal on all replicas that hold the same records."""
        return canonical.encode(
            {
                "assessments": [[one.agent, one.record, one.confidence] for one in self.assessments],
                "author": self.author,
                "conflict": self.conflict,
                "contents": [[cid, _content_fields(content)] for cid, content in self.contents],
                "delete_overruled": self.delete_overruled,
                "deleted": self.deleted,
                "deps": list(self.deps),
                "erased": list(self.erased),
                "excluded": list(self.excluded),
                "fields": {
                    name: [[cid, to_wire(value)] for cid, value in values] for name, values in self.fields
                },
                "heads": list(self.heads),
                "hlc": self.hlc,
                "id": self.id,
                "lamport": self.lamport,
                "maximal": list(self.maximal),
                "purged": [list(pair) for pair in self.purged],
                "references": [[reference_to_wire(one), list(adds)] for one, adds in self.reference_adds],
                "retracted": self.retracted,
                "tags": [[tag, list(adds)] for tag, adds in self.tag_adds],
                "version": [
                    [author, [[slot.seq, slot.cid] for slot in slots]]
                    for author, slots in self.version.authors
                ],
                "votes": [[one.agent, one.record, *_vote_fields(one.vote)] for one in self.votes],
                "winner": self.winner,
            }
        )


def view_of(
    subject: Cid,
    applied: Mapping[Cid, Record],
    standing: Standing = CLEAR,
    opened: Mapping[Cid, Operation] | None = None,
) -> Entry | None:
    """The view of a causally closed set of records; None while the create is not among them. O(records).

    `opened`: what some of them say whose payload is not here.
    """
    create = applied.get(subject)
    if create is None:
        return None
    every = operations(applied, opened or {})
    said = {cid: value for cid, value in every.items() if standing.counts(applied[cid])}
    creator = create.header.author

    maximal = maximal_values(applied, every, standing)
    killed = killed_by(applied, every, standing)
    living = [cid for cid in maximal if cid not in killed]
    shown = [cid for cid in living or maximal if cid in said]
    shown.sort(key=lambda cid: (applied[cid].header.hlc, cid), reverse=True)
    contents = tuple((cid, value) for cid in shown if isinstance(value := said[cid], Content))
    overruled = bool(living) and _unheeded_delete(living, applied, said)

    adds = tag_adds(said)
    fields = field_values(applied, every, standing)
    heads = _heads(applied)
    deps = sorted(heads, key=lambda cid: (applied[cid].header.lamport, cid))[-MAX_DEPS:]
    return Entry(
        id=subject,
        author=creator,
        contents=contents,
        winner=contents[0][0] if contents else None,
        maximal=maximal,
        tags=tuple(tag for tag, _ in adds),
        tag_adds=adds,
        deleted=bool(maximal) and not living,
        delete_overruled=overruled,
        retracted=is_retracted(creator, applied.values(), standing),
        conflict=overruled or len(contents) > 1 or any(len(values) > 1 for _, values in fields),
        heads=heads,
        deps=tuple(sorted(deps)),
        lamport=max(applied[cid].header.lamport for cid in deps),
        hlc=max(applied[cid].header.hlc for cid in deps),
        erased=tuple(cid for cid in sorted(applied) if cid not in every),
        purged=tuple(sorted(purged_by(applied, every).items())),
        excluded=tuple(cid for cid in sorted(applied) if not standing.counts(applied[cid])),
        votes=ballots(applied, said, standing),
        assessments=assessments(applied, said, standing),
        fields=fields,
        reference_adds=reference_adds(said),
        version=version_of(applied),
    )


def version_of(applied: Mapping[Cid, Record]) -> VersionVector:
    """The version vector of a causally closed set: per author the ends of their lines, with trails.

    An author with more than `MAX_BRANCHES` branches gets slots without trails, to keep a liar's vector linear
    in what they wrote.
    """
    continued = {record.header.subject_prev for record in applied.values()}
    ends: dict[AgentId, list[Cid]] = {}
    for cid in sorted(applied):
        if cid not in continued:
            ends.setdefault(applied[cid].header.author, []).append(cid)
    return version_vector(
        {
            author: [_slot(cid, applied, stated=len(cids) <= MAX_BRANCHES) for cid in cids]
            for author, cids in ends.items()
        }
    )


def _slot(cid: Cid, applied: Mapping[Cid, Record], *, stated: bool) -> Slot:
    trail: list[Cid] = []
    below = applied[cid].header.subject_prev
    while stated and below is not None:
        trail.append(below)
        below = applied[below].header.subject_prev
    return Slot(applied[cid].header.subject_seq, cid, tuple(reversed(trail)))


def maximal_values(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], standing: Standing = CLEAR
) -> tuple[Cid, ...]:
    """The content records that count and that none of the others which count overwrites, ascending."""
    contents = [
        cid
        for cid in sorted(applied)
        if applied[cid].header.kind in CARRIES_CONTENT and standing.counts(applied[cid])
    ]
    over = overwrites(contents, applied, said, standing, purged_by(applied, said))
    return tuple(cid for cid in contents if cid not in over)


def overwrites(
    cids: Iterable[Cid],
    records: Mapping[Cid, Record],
    said: Mapping[Cid, Operation],
    standing: Standing = CLEAR,
    purged: Container[Cid] = (),
) -> set[Cid]:
    """What content records overwrite, and what the excluded ones among that had overwritten; O(records).

    One that was purged overwrites all that lies in its causal past: the best that its header tells.
    """
    reached: set[Cid] = set()
    before_erased: list[Cid] = []
    stack = list(cids)
    while stack:
        one = stack.pop()
        value = said.get(one)
        if one in purged:
            before_erased.extend(parents(records[one]))
        for target in value.over if isinstance(value, Content) else ():
            if target not in reached:
                reached.add(target)
                if target in records and not standing.counts(records[target]):
                    stack.append(target)
    return reached | past(before_erased, records, lambda record: known_before(record, said))


def killed_by(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], standing: Standing = CLEAR
) -> set[Cid]:
    """What the deletes among these records that count had seen."""
    seen = [
        target
        for cid, value in said.items()
        if isinstance(value, Delete) and standing.counts(applied[cid])
        for target in value.seen
    ]
    return past(seen, applied, lambda record: known_before(record, said))


def is_retracted(creator: AgentId, records: Iterable[Record], standing: Standing = CLEAR) -> bool:
    """Whether the creator took the entry back by a record that counts."""
    return any(
        one.header.kind == RETRACT and one.header.author == creator and standing.counts(one)
        for one in records
    )


def _unheeded_delete(living: list[Cid], applied: Mapping[Cid, Record], said: Mapping[Cid, Operation]) -> bool:
    heeded = past(living, applied)
    return any(applied[cid].header.kind == DELETE and cid not in heeded for cid in said)


def _heads(applied: Mapping[Cid, Record]) -> tuple[Cid, ...]:
    candidates = [cid for cid in sorted(applied) if applied[cid].header.kind in HEADS]
    behind = past((parent for cid in candidates for parent in parents(applied[cid])), applied)
    return tuple(cid for cid in candidates if cid not in behind)


def _content_fields(content: Content) -> list[canonical.Value]:
    behalf, resolution = content.behalf, content.resolution
    return [
        content.text,
        content.codes,
        list(content.tags),
        content.domain,
        content.confidence,
        list(content.citations),
        list(content.over),
        content.format,
        content.generated_by,
        None if behalf is None else behalf.to_wire(),
        None if resolution is None else resolution.to_wire(),
        None if content.splices is None else splices_to_wire(content.splices),
    ]


def _vote_fields(vote: Vote) -> list[canonical.Value]:
    behalf = None if vote.behalf is None else vote.behalf.to_wire()
    return [vote.value, vote.reason, vote.confidence, behalf]
