"""What each agent thinks of an entry: its vote, and how sure it is that the entry is right.

Both are one register for each agent, written as a function of all records: of an agent's records the one of
the greatest (place on its author's line, CID) counts, so a forked line gives nobody a second say. An erased
record revives none: nothing that its agent said before it counts, as nobody can tell for whom it was. Votes
that an agent passes on for others are registers beside its own, one for each name and key. Who goes on under
a new key speaks once: what a later key says counts instead.

A vote that another has signed with its time is that other's, whoever brings it. All records that carry one
by a key are one register: the greatest (time, words) counts, a maximum over a set, so neither order nor
repetition shows, and who kept an older one cannot bring it back. Once a key has signed so, nobody else's word
is taken for it: what was passed on for it unsigned, or signed without a time, does not count any more.
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
    signed = _newest_signed(applied, said, standing)
    found = [one for one in signed.values() if one.vote.value]
    for agent, cid in _last(applied, said, VOTE, standing):
        vote = said[cid]
        if isinstance(vote, Vote) and vote.value and not is_timed(vote):
            key = None if vote.behalf is None else vote.behalf.key
            if key is None or standing.line_of(key)[-1] not in signed:
                found.append(Ballot(agent, cid, vote))
    return tuple(sorted(found, key=lambda one: (one.agent, _for_whom(one.vote))))


def newest_signed(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], key: bytes, standing: Standing = CLEAR
) -> Vote | None:
    """The vote with the greatest time that `key`, or one that went on as it or will, has signed; also 0."""
    found = _newest_signed(applied, said, standing).get(standing.line_of(key)[-1])
    return None if found is None else found.vote


def is_timed(vote: Vote) -> bool:
    """Whether another has signed it, with its time."""
    return vote.behalf is not None and vote.behalf.signed_ms is not None


def supersedes(one: Vote, other: Vote) -> bool:
    """Whether of two signed votes of one key `one` counts, and `other` does not."""
    return _rank(one) > _rank(other)


def _rank(vote: Vote) -> tuple[int, int, int, str, str]:
    """The order of a key's signed votes; the words decide between those of one millisecond."""
    behalf = vote.behalf
    assert behalf is not None
    assert behalf.signed_ms is not None
    sure = -1 if vote.confidence is None else vote.confidence
    return behalf.signed_ms, vote.value, sure, vote.reason or "", behalf.name


def _newest_signed(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], standing: Standing
) -> dict[bytes, Ballot]:
    """By the last key of each line that signed votes with times: the one that counts.

    A later key of the line beats an earlier one, which may be in a thief's hands. Of several records that
    carry the same vote the one by the smallest agent is shown.
    """
    unread: dict[AgentId, tuple[int, Cid]] | None = None
    found: dict[bytes, tuple[tuple[int, int, int, int, str, str], Ballot]] = {}
    for cid, vote in said.items():
        if not isinstance(vote, Vote) or not is_timed(vote) or not standing.counts(applied[cid]):
            continue
        assert vote.behalf is not None
        assert vote.behalf.key is not None
        if unread is None:
            unread = _unread(applied, said, VOTE, standing)
        header = applied[cid].header
        if (header.subject_seq, cid) <= unread.get(header.author, (-1, b"")):
            continue
        line = standing.line_of(vote.behalf.key)
        rank, one = (-len(line), *_rank(vote)), Ballot(header.author, cid, vote)
        before = found.setdefault(line[-1], (rank, one))
        if rank > before[0] or (rank == before[0] and (one.agent, cid) < (before[1].agent, before[1].record)):
            found[line[-1]] = rank, one
    return {key: ballot for key, (_, ballot) in found.items()}


def _unread(
    applied: Mapping[Cid, Record], said: Mapping[Cid, Operation], kind: str, standing: Standing
) -> dict[AgentId, tuple[int, Cid]]:
    """The last place of each agent at which a record of this kind cannot be read any more."""
    unread: dict[AgentId, tuple[int, Cid]] = {}
    for cid, record in applied.items():
        if record.header.kind == kind and cid not in said and standing.counts(record):
            author, place = record.header.author, (record.header.subject_seq, cid)
            unread[author] = max(place, unread.get(author, place))
    return unread


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
    # For whom these spoke nobody can tell: nothing before them counts any more.
    unread = _unread(applied, said, kind, standing)
    for cid, record in applied.items():
        value = said.get(cid)
        if value is not None and record.header.kind == kind and standing.counts(record):
            author, place = record.header.author, (record.header.subject_seq, cid)
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
