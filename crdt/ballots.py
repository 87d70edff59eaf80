"""What each agent thinks of an entry: its vote, and how sure it is that the entry is right.

Both are one register for each agent, written as a function of all records: of an agent's records the one of
the greatest (place on its author's line, CID) counts, so a forked line gives nobody a second say. An erased
record revives none: nothing that its agent said before it counts, as nobody can tell for whom it was. Votes
that an agent passes on for others are registers beside its own, one for each name and key. Who goes on under
a new key speaks once: what a later key says counts instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from chain.behalf import Behalf
from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import ASSESS, VOTE
from chain.record import Record
from crdt.operations import Assess, Operation, Vote
from crdt.standing import CLEAR, Standing


@dataclass(frozen=True, slots=True)
class Ballot:
    """An agent's vote as it counts: for (1) or against (-1), and the record that says so."""

    agent: AgentId
    record: Cid
    vote: Vote


@dataclass(frozen=True, slots=True)
class Assessment:
    """How sure an agent is that the entry is right, in ppm, and the record that says so."""

    agent: AgentId
    record: Cid
    confidence: int


def ballots(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], standing: Standing = CLEAR
) -> tuple[Ballot, ...]:
    """The votes that count, ascending by agent, then by whom it speaks for; none that were taken back."""
    found: list[Ballot] = []
    for agent, cid in _last(applied, said, VOTE, standing):
        vote = said[cid]
        if isinstance(vote, Vote) and vote.value:
            found.append(Ballot(agent, cid, vote))
    return tuple(found)


def assessments(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], standing: Standing = CLEAR
) -> tuple[Assessment, ...]:
    """What each agent says last, ascending by agent."""
    return tuple(
        Assessment(agent, cid, one.confidence)
        for agent, cid in _last(applied, said, ASSESS, standing)
        if isinstance(one := said[cid], Assess)
    )


def _last(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], kind: str, standing: Standing
) -> Iterator[tuple[AgentId, Cid]]:
    """The last record of this kind of each agent, for itself and for each other, ascending by both."""
    last: dict[tuple[AgentId, bytes], tuple[int, Cid]] = {}
    unread: dict[AgentId, tuple[int, Cid]] = {}
    for cid, record in applied.items():
        if record.header.kind == kind and standing.counts(record):
            author, place = record.header.author, (record.header.subject_seq, cid)
            value = said.get(cid)
            if value is None:  # for whom it spoke nobody can tell: nothing before it counts any more
                unread[author] = max(place, unread.get(author, place))
            else:
                key = author, _for_whom(value)
                last[key] = max(place, last.get(key, place))
    said_since = {key: place for key, place in last.items() if place > unread.get(key[0], (-1, b""))}
    spoke = {author for author, _ in last} | unread.keys()
    for (author, _), (_, cid) in sorted(said_since.items()):
        if not any(later in spoke for later in standing.line_of(author)[1:]):
            yield author, cid


def same_voter(one: Behalf | None, other: Behalf | None) -> bool:
    """Whether an agent votes for the same in both: itself, or who has that name and key."""
    return _voter(one) == _voter(other)


def _for_whom(value: Operation) -> bytes:
    return _voter(value.behalf) if isinstance(value, Vote) else b""


def voter(behalf: Behalf | None) -> bytes:
    """Bytes that tell those apart for whom an agent votes; empty for itself."""
    return _voter(behalf)


def _voter(behalf: Behalf | None) -> bytes:
    """What tells those apart for whom an agent votes; empty for itself."""
    if behalf is None:
        return b""
    return (b"\1" + behalf.key if behalf.key else b"\0") + behalf.name.encode()
