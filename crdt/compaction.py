"""Compaction: what a folded entry need not keep open, so that old text does not take memory for ever.

Membership is open, so a record may always come late, and no frontier is ever stable in the sense that nothing
concurrent with it will come. Dropping signed headers on the hope that nobody cites them any more would split
replicas, and a payload that is gone cannot be served, nor checked against its hash. So no record is ever
dropped: they stay whole in the store. What is dropped is what the derived state keeps of them in memory: the
payload, and of its opened form all that no view can show while the record that ended it counts:

- the text, codes and other attributes of a content value that was overwritten by a record which had it in
  its causal past by its header; its tags, references and what it overwrites itself are kept;
- the values of a field that a description ended in the same way, unless a content value that may be shown
  holds them;
- reason and confidence of a vote, when its author has voted again for the same voter; not of one signed with
  its time, whose words say which of several counts.

Concurrent records cannot bring any of these back, whenever they come, nor can a purge of the record that
ended them: what is purged ends all that lies in its causal past. One thing can: that the record which ended
them does not count any more, because its author was proven to do wrong. Then `view` raises `Reopen` naming
the records to be read from the store again. Otherwise the view is that of the whole state, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from chain.cid import Cid
from chain.content import Content
from chain.identity import AgentId
from chain.record import Record
from crdt.ballots import is_timed, voter
from crdt.causal import parents, past
from crdt.entry import EntryState
from crdt.entry_view import Entry, view_of
from crdt.errors import Reopen
from crdt.operations import Describe, Operation, Vote
from crdt.purging import operations, purged_by, purges_in
from crdt.standing import CLEAR, Standing

MAX_WALKED: Final = 4_096
"""Records that are looked through for what one record had in its past; what lies deeper stays open."""


@dataclass(frozen=True, slots=True)
class Compact:
    """An entry of which some records are without payload: `opened` says what is still known of them.

    `ended` names for each of them the records by which it ended: those must count.
    """

    state: EntryState
    opened: Mapping[Cid, Operation]
    ended: Mapping[Cid, tuple[Cid, ...]]

    def add_all(self, records: Iterable[Record]) -> Compact:
        """With these records more; one that comes again with its payload is whole again. O(n + records)."""
        state = self.state.add_all(records)
        purged = purged_by(state.applied, purges_in(state.applied))
        kept = {
            cid: one
            for cid, one in self.opened.items()
            if state.applied[cid].payload is None and cid not in purged
        }
        return Compact(state, kept, {cid: self.ended[cid] for cid in kept})

    def view(self, standing: Standing = CLEAR) -> Entry | None:
        """What the whole state shows; raises `Reopen` where that takes what is not kept. O(n)."""
        applied = self.state.applied
        again = [
            cid
            for cid, enders in self.ended.items()
            if not all(standing.counts(applied[one]) for one in enders)
        ]
        if again:
            raise Reopen(tuple(sorted(again)))
        return view_of(self.state.subject, applied, standing, self.opened)

    @property
    def bytes(self) -> int:
        """Bytes of payloads kept, as records carry them."""
        return sum(len(one.payload) for one in self.state.applied.values() if one.payload is not None)


def compacted(whole: EntryState, standing: Standing = CLEAR) -> Compact:
    """The same entry, without what no view can show while those count who count now. O(n · overwrites)."""
    applied = whole.applied
    every = operations(applied)
    counting = {cid: value for cid, value in every.items() if standing.counts(applied[cid])}
    enders = _enders(applied, counting)
    opened: dict[Cid, Operation] = {}
    ended: dict[Cid, tuple[Cid, ...]] = {}
    for cid, by in enders.items():
        value = every.get(cid)
        less = None if value is None else _less(value, by)
        if less is not None and less != value:
            opened[cid] = less
            ended[cid] = tuple(sorted(set(by.values())))
    records = {cid: one.without_payload() if cid in opened else one for cid, one in applied.items()}
    state = EntryState(whole.subject, records, whole.waiting, whole.refused)
    return Compact(state, opened, ended)


TEXT: Final = ""
"""In the mapping of what ended: the text; else a field's name. For a vote all of it."""


def _enders(applied: Mapping[Cid, Record], counting: Mapping[Cid, Operation]) -> dict[Cid, dict[str, Cid]]:
    """For each record the parts of it that ended, each with the first record, by CID, that ended it."""
    found: dict[Cid, dict[str, Cid]] = {}
    votes: dict[tuple[AgentId, bytes], list[tuple[int, Cid]]] = {}
    for cid in sorted(counting):
        value = counting[cid]
        for target in _targets(cid, value, applied):
            ends = found.setdefault(target, {})
            if isinstance(value, Content):
                ends.setdefault(TEXT, cid)
            elif isinstance(value, Describe):
                for name in (*(name for name, _ in value.fields), *value.clear):
                    ends.setdefault(name, cid)
        if isinstance(value, Vote):
            whose = applied[cid].header.author, voter(value.behalf)
            votes.setdefault(whose, []).append((applied[cid].header.subject_seq, cid))
    for cast in votes.values():
        last = max(cast)
        for place in cast:
            if place != last:
                found.setdefault(place[1], {})[TEXT] = last[1]
    return found


def _targets(cid: Cid, value: Operation, applied: Mapping[Cid, Record]) -> Iterator[Cid]:
    """What a record overwrites and had in its past, as far as the headers next to it show."""
    over = set(value.over) if isinstance(value, Content | Describe) else set()
    if not over:
        return
    near = {one for one in parents(applied[cid]) if one in applied}
    yield from sorted(over & near)
    over -= near
    if over and len(applied) <= MAX_WALKED:
        yield from sorted(over & past(near, applied))


def _less(value: Operation, ends: Mapping[str, Cid]) -> Operation | None:
    if isinstance(value, Vote):
        return None if is_timed(value) else Vote(value.value, behalf=value.behalf)
    if isinstance(value, Describe):
        return replace(value, fields=tuple((name, "" if name in ends else one) for name, one in value.fields))
    if not isinstance(value, Content):
        return None
    if TEXT not in ends:
        return None  # a view may show it, and shows the whole value
    fields = tuple((name, "" if name in ends else one) for name, one in value.fields)
    return Content("", b"", tags=value.tags, over=value.over, references=value.references, fields=fields)
