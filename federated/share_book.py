"""The shares of a task of the topology gossip in full, read where their records are when somebody looks back.

What a step needs of shares is in memory, in short and of the newest rounds (`federated.share_log`). Audits,
and whoever shows people what a node has done, want all that a share says, also of a round long ago; that is
read from the records then, some at a time, and nothing of it stays. Everything here may block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_task import Task
from chain.record import Record
from chain.share import Share
from federated.share_log import Shown, share_in, shown_in

READ_FOR_EACH: Final = 4
"""Shares read for each round that is looked for: of who says more than one thing in a round, not all."""
LOOKED_AT: Final = 16
"""Rounds in which an agent's newest step is looked for."""

RecordsOf = Callable[[Sequence[Cid]], Sequence[Record | None]]
"""Records by CID, None where there is none."""
RecordsBy = Callable[[AgentId], Iterable[Record]]
"""What an agent said of the task, the newest first."""


@dataclass(frozen=True, slots=True)
class Told:
    """A share in short, and all that it says."""

    shown: Shown
    share: Share


@dataclass(frozen=True, slots=True)
class Evidence:
    """A share with those that it names; None where one is not to be had."""

    told: Told
    combined: tuple[Told | None, ...]
    refused: tuple[tuple[Told | None, str], ...]


class ShareBook:
    """The shares of one task, from records that were judged before."""

    def __init__(self, task: Record, terms: Task, records_of: RecordsOf, records_by: RecordsBy) -> None:
        self.terms = terms
        self._task = task.cid
        self._records_of = records_of
        self._records_by = records_by

    def told(self, record: Record | None) -> Told | None:
        """What a record shows in the task, if it is one of its shares."""
        share = None if record is None else share_in(self._task, self.terms, record)
        return None if record is None or share is None else Told(shown_in(record, share), share)

    def all_by(self, agent: AgentId) -> Iterator[Told]:
        """An agent's shares, the newest on its chain first; O(what it said of the task)."""
        return (told for told in map(self.told, self._records_by(agent)) if told is not None)

    def steps_of(self, agent: AgentId, most: int) -> list[Evidence]:
        """How the bases of an agent's `most` newest rounds were made, from the oldest on, each as the first
        share of its round says; what the task begins with was made by nobody, and is none."""
        return [self.evidence(told) for told in self._made_by(agent, most)]

    def newest_step(self, agent: AgentId) -> Evidence | None:
        """How the newest base of an agent was made."""
        made = self._made_by(agent, LOOKED_AT)
        return self.evidence(made[-1]) if made else None

    def step_in(self, agent: AgentId, number: int) -> Evidence | None:
        """The step by which an agent combined the shares of a round, which its next share tells of."""
        found: Told | None = None
        for told in self.all_by(agent):
            shown = told.shown
            if shown.round > number and (found is None or shown.round <= found.shown.round):
                found = told
        if found is None or not is_made(self.terms, found.share):
            return None
        evidence = self.evidence(found)
        return evidence if step_round(evidence) == number else None

    def _made_by(self, agent: AgentId, most: int) -> list[Told]:
        first: dict[int, Told] = {}
        for told in islice(self.all_by(agent), READ_FOR_EACH * most):
            first[told.shown.round] = told
        newest = sorted(first)[-most:]
        return [first[number] for number in newest if is_made(self.terms, first[number].share)]

    def evidence(self, told: Told) -> Evidence:
        """A share with those that it names; O(these)."""
        combined = tuple(map(self.told, self._records_of(told.share.combined)))
        return Evidence(told, combined, self.refused_by(told.share))

    def is_double(self, shown: Shown) -> bool:
        """Whether its author shows two things in its round; O(what it said of the task)."""
        of_round = (told for told in self.all_by(shown.agent) if told.shown.round == shown.round)
        return any(told.shown.record != shown.record for told in of_round)

    def refused_by(self, share: Share) -> tuple[tuple[Told | None, str], ...]:
        """The shares that a share refuses, and for what."""
        named = map(self.told, self._records_of([cid for cid, _ in share.refused]))
        return tuple(zip(named, (reason for _, reason in share.refused), strict=True))

    def lies_named(self, share: Share) -> list[tuple[AgentId, int, str]]:
        """Whom a share refuses, in which round, and for what."""
        refused = self.refused_by(share)
        return [(told.shown.agent, share.round, reason) for told, reason in refused if told is not None]


def is_made(terms: Task, share: Share) -> bool:
    """Whether a share's base was combined, rather than what the task begins with."""
    return bool(share.combined) or share.base != terms.parameters


def step_round(evidence: Evidence) -> int:
    """The round whose shares were combined."""
    there = [one.shown.round for one in evidence.combined if one is not None]
    return max(there, default=evidence.told.shown.round - 1)


def book_in(task: Record, terms: Task, records: Iterable[Record]) -> ShareBook:
    """The book of records that are in memory."""
    by_cid = {record.cid: record for record in records}
    by_author: dict[AgentId, list[Record]] = {}
    for record in sorted(by_cid.values(), key=lambda one: (one.header.seq, one.cid), reverse=True):
        by_author.setdefault(record.header.author, []).append(record)
    return ShareBook(
        task, terms, lambda cids: [by_cid.get(cid) for cid in cids], lambda agent: by_author.get(agent, ())
    )
