"""Who wants to take part in a task: of each agent its latest join or leave, in whatever order they came."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
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


class Membership:
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
        self.forgot = False
        """Whether something that waited was forgotten; whoever reads it all again takes this back."""

    def add(self, record: Record) -> bool:
        """Take a valid record of this task; whether anything was new."""
        raise NotImplementedError

    def add_all(self, records: Iterable[Record]) -> bool:
        """Take several, in an order in which few have to wait; whether anything was new."""
        changed = False
        for record in in_order(records):
            changed |= self.add(record)
        return changed

    @property
    def finished(self) -> bool:
        """Whether nothing more is to follow."""
        raise NotImplementedError

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
        self._waits += 1
        if len(mine) > MAX_WAITING_OF_ONE:
            self._forget(mine)
        elif self._waits > MAX_WAITING:
            self._forget(max(self._waiting.values(), key=len))
        return True

    def _forget(self, waiting: OrderedDict[Cid, tuple[bytes, Record]]) -> None:
        forgotten, _ = waiting.popitem(last=False)
        self._seen.discard(forgotten)
        self._waits -= 1
        self.forgot = True

    def _release(self, ready: Callable[[bytes, Record], bool]) -> None:
        """Add what waited and is `ready`, by what it builds on and itself."""
        found = [
            (author, cid)
            for author, waiting in self._waiting.items()
            for cid, (on, record) in waiting.items()
            if ready(on, record)
        ]
        for author, cid in found:
            waited = self._waiting.get(author, OrderedDict()).pop(cid, None)
            if waited is not None:
                self._waits -= 1
                self._seen.discard(cid)
                self.add(waited[1])
        for author in [author for author, waiting in self._waiting.items() if not waiting]:
            del self._waiting[author]

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
