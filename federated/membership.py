"""Who wants to take part in a task: of each agent its latest join or leave, in whatever order they came."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import JOIN
from chain.learning_task import Task, task_from_body
from chain.record import Record, decode_payload

MAX_WAITING = 4096
"""Records kept that build on something not seen yet. Beyond it the oldest of whoever has the most is
forgotten, to be read again (`forgot`)."""
MAX_WAITING_OF_ONE = 512
"""The same, of one author: who writes what builds on nothing crowds out nobody."""
MAX_AGENTS = 1024
"""Agents of whom joins and leaves are kept; any member of the network may write these."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An agent's latest word on taking part: the record, its place on the agent's line, and what it says."""

    cid: Cid
    place: int
    joins: bool


class Membership(ABC):
    """A task, its terms, and who has joined it; the ledgers of both modes build on this."""

    def __init__(self, task: Record) -> None:
        """Raises `ChainError` when the record's terms cannot be read."""
        assert task.payload is not None
        self.task = task
        self.cid = task.cid
        self.terms: Task = task_from_body(decode_payload(task.payload))
        self.standings: dict[AgentId, Standing] = {}
        self._seen: set[Cid] = {task.cid}
        self._waiting: dict[AgentId, OrderedDict[Cid, tuple[bytes, Record]]] = {}
        self._waits = 0
        self._waiters: dict[bytes, dict[Cid, AgentId]] = {}
        """Of what is waited for the records that wait, with their authors."""
        self._came: deque[bytes] = deque()
        self._releasing = False
        self.forgot = False
        """Whether something that waited was forgotten; whoever reads it all again takes this back."""

    @abstractmethod
    def add(self, record: Record) -> bool:
        """Take a valid record of this task; whether anything was new."""

    def add_all(self, records: Iterable[Record]) -> bool:
        """Take several, in an order in which few have to wait; whether anything was new."""
        changed = False
        for record in in_order(records):
            changed |= self.add(record)
        return changed

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing more is to follow."""

    def has(self, cid: Cid) -> bool:
        """Whether this record was added (or waits)."""
        return cid in self._seen

    def members(self) -> tuple[AgentId, ...]:
        """Who wants to take part now, ascending."""
        return tuple(sorted(agent for agent, standing in self.standings.items() if standing.joins))

    def _wait(self, on: bytes, record: Record) -> bool:
        """Keep a record until what it builds on has come; True."""
        self._seen.add(record.cid)
        mine = self._waiting.setdefault(record.header.author, OrderedDict())
        mine[record.cid] = (on, record)
        self._waiters.setdefault(on, {})[record.cid] = record.header.author
        self._waits += 1
        if len(mine) > MAX_WAITING_OF_ONE:
            self._forget(mine)
        elif self._waits > MAX_WAITING:
            self._forget(max(self._waiting.values(), key=len))
        return True

    def _forget(self, waiting: OrderedDict[Cid, tuple[bytes, Record]]) -> None:
        cid, (_, record) = next(iter(waiting.items()))
        self._take_out(record.header.author, cid)
        self.forgot = True

    def _take_out(self, author: AgentId, cid: Cid) -> None:
        on, _ = self._waiting[author].pop(cid)
        if not self._waiting[author]:
            del self._waiting[author]
        del self._waiters[on][cid]
        if not self._waiters[on]:
            del self._waiters[on]
        self._seen.discard(cid)
        self._waits -= 1

    @abstractmethod
    def _ready(self, on: bytes, record: Record) -> bool:
        """Whether a record that waits on this can be added now."""

    def _release(self, came: Iterable[bytes]) -> None:
        """Add what waited for these, as far as it is ready, then what waited for that, and so on.

        One after the other, not one within the other: a chain of what waits may have thousands of links.
        """
        self._came.extend(came)
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._came:
                for cid, author in list(self._waiters.get(self._came.popleft(), {}).items()):
                    mine = self._waiting.get(author, OrderedDict[Cid, tuple[bytes, Record]]())
                    waited = mine.get(cid)
                    if waited is not None and self._ready(*waited):
                        self._take_out(author, cid)
                        self.add(waited[1])
        finally:
            self._releasing = False

    def _stand(self, record: Record) -> bool:
        header = record.header
        standing = Standing(record.cid, header.subject_seq, header.kind == JOIN)
        known = self.standings.get(header.author)
        if known is None and len(self.standings) >= MAX_AGENTS and header.author != self.task.header.author:
            return False
        self._seen.add(record.cid)
        if known is None or (standing.place, standing.cid) > (known.place, known.cid):
            self.standings[header.author] = standing
        return True


def in_order(records: Iterable[Record]) -> list[Record]:
    """Records by their authors' clocks: about as they were written, so what one builds on comes before it.

    A long task has more of them than may wait; from a disk they come in the order of their CIDs.
    """
    return sorted(records, key=lambda record: (record.header.hlc, record.cid))
