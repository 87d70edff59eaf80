"""The log of a ServerApp's run: what its records add up to, in whatever order, and so where the run stands.

A fold over a growing set of valid records. Calls form a tree from the task on, which is a chain unless two
members took the run over at once. The run goes on with the call of who coordinated before (before the first
call the task's author). A call by somebody else is a *claim*, and counts once at least half of the nodes of
the call before (before the first call of the members) have answered it: nobody leads a run away alone. At a
fork that call counts to which more agents have answered, then that of who coordinated before, then the lower
CID; so all who have the same records follow the same calls. Of one agent one call counts after a call, one
answer to a message, one end: the first on its chain. So nobody crowds others out, and nobody unmakes what the
run has built on by saying something else of it later. A record that builds on something unknown waits, within
a bound. Nothing is trusted to be complete, and only the task's author and who joined it have a say.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import ANSWER, JOIN, LEAVE
from chain.record import Record
from chain.server_app import Answer, Call, End
from federated.membership import Membership
from validation.named import learning_of


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: its record, who gave it, and what it says."""

    record: Cid
    agent: AgentId
    answer: Answer


@dataclass(frozen=True, slots=True)
class Step:
    """A call of the run: its record, who coordinated, and what it says."""

    record: Cid
    agent: AgentId
    call: Call


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the run: its record, by whom, and what it says."""

    record: Cid
    agent: AgentId
    end: End


class CallLog(Membership):
    """The fold. `add` takes valid records of this task in any order, as often as they come."""

    def __init__(self, task: Record) -> None:
        """Raises `ChainError` when the record's terms cannot be read."""
        super().__init__(task)
        self._calls: dict[Cid, Step] = {}
        self._after: dict[Cid, dict[AgentId, Cid]] = {}
        self._answers: dict[Cid, dict[int, Answered]] = {}
        self._ends: dict[Cid, dict[AgentId, Ended]] = {}
        self._places: dict[Cid, int] = {}
        """Where the records that count stand on their authors' chains."""
        self._chain: tuple[Step, ...] = ()
        self._heights: dict[Cid, int] = {self.cid: 0}
        """The task and the calls of the run: how many calls there were by then."""
        self.ended: Ended | None = None
        """How the run ended, once it has."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The calls of the run in order."""
        return self._chain

    @property
    def head(self) -> Cid:
        """The last call, or the task while there is none: what the next call builds on."""
        return self._chain[-1].record if self._chain else self.cid

    @property
    def coordinator(self) -> AgentId:
        """Who made the last call; before the first, the task's author."""
        return self._chain[-1].agent if self._chain else self.task.header.author

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.ended is not None

    def step(self, cid: Cid) -> Step | None:
        """A call by its record, whether it counts or not."""
        return self._calls.get(cid)

    def follows(self, cid: Cid) -> bool:
        """Whether a call is of the run, or is the task."""
        return cid in self._heights

    def answers(self, call: Cid) -> dict[int, Answered]:
        """The answers to a call by place; of two to one message the first on their author's chain."""
        return dict(self._answers.get(call, {}))

    @property
    def claims(self) -> tuple[Step, ...]:
        """Calls after the last one by others than its coordinator that do not count, ascending by record."""
        found = [cid for cid in self._after.get(self.head, {}).values() if not self._counts(cid)]
        return tuple(self._calls[cid] for cid in sorted(found))

    @property
    def claimed_ends(self) -> tuple[Ended, ...]:
        """Ends after the last call by others than its coordinator, while none counts; ascending by record."""
        ends = () if self.ended is not None else self._ends.get(self.head, {}).values()
        return tuple(sorted(ends, key=lambda one: one.record))

    def open_in(self, step: Step, agent: AgentId) -> list[int]:
        """The places of a call's messages to `agent` that it has not answered."""
        known = self._answers.get(step.record, {})
        return [p for p, sent in enumerate(step.call.sent) if sent.agent == agent and p not in known]

    def add(self, record: Record) -> bool:
        """Take a valid record of this task; whether anything was new."""
        if record.cid in self._seen or record.header.subject != self.cid:
            return False
        if record.header.kind in (JOIN, LEAVE):
            if not self._stand(record):
                return False
            self._follow(self.cid)
            # Its own records, and calls before the first one of the run: half of the members answer these.
            own = [on for on, _ in self._waiting.get(record.header.author, {}).values()]
            self._release([*own, *self._after.get(self.cid, {}).values()])
            return True
        try:
            said = learning_of(record)
        except ChainError:
            return False
        match said:
            case Call():
                on = said.previous
            case Answer():
                on = said.call
            case End():
                on = said.previous
            case _:
                return False
        if not self._ready(on, record):
            return self._wait(on, record)
        self._places[record.cid] = record.header.seq
        if not self._place(record, said):
            del self._places[record.cid]
            return False
        self._seen.add(record.cid)
        if not (isinstance(said, Answer) and self._changes_nothing(said.call)):
            self._follow(self._calls[said.call].call.previous if isinstance(said, Answer) else on)
            self._release([said.call if isinstance(said, Answer) else record.cid])
        return True

    def _may_speak(self, agent: AgentId) -> bool:
        return agent in self.standings or agent == self.task.header.author

    def _ready(self, on: bytes, record: Record) -> bool:
        """Whether a record can be placed: an answer at any call, else only what builds on one that counts."""
        if not self._may_speak(record.header.author):
            return False
        return on == self.cid or (on in self._calls and (record.header.kind == ANSWER or self._counts(on)))

    def _changes_nothing(self, call: Cid) -> bool:
        """Whether an answer leaves the chain as it is: its call is of the coordinator, and has no rival."""
        return len(self._after[self._calls[call].call.previous]) == 1 and self._is_of_the_coordinator(call)

    def _place(self, record: Record, said: Call | Answer | End) -> bool:
        author = record.header.author
        match said:
            case Call(number=number, previous=previous):
                before = self._calls.get(previous)
                if number != (1 if before is None else before.call.number + 1):
                    return False
                return self._keep_first(self._after.setdefault(previous, {}), record, said)
            case Answer(call=call, place=place):
                step = self._calls.get(call)
                sent = () if step is None else step.call.sent
                if place >= len(sent) or sent[place].agent != author:
                    return False
                known = self._answers.setdefault(call, {})
                if place not in known or self._is_earlier(record, known[place].record):
                    known[place] = Answered(record.cid, author, said)
                return True
            case End(previous=previous):
                ends = self._ends.setdefault(previous, {})
                if author not in ends or self._is_earlier(record, ends[author].record):
                    ends[author] = Ended(record.cid, author, said)
                return True

    def _is_earlier(self, record: Record, known: Cid) -> bool:
        """Whether a record stands before a known one of its author, which it then replaces."""
        return (record.header.seq, record.cid) < (self._places[known], known)

    def _keep_first(self, siblings: dict[AgentId, Cid], record: Record, said: Call) -> bool:
        author = record.header.author
        known = siblings.get(author)
        if known is not None and not self._is_earlier(record, known):
            return False
        if known is not None:
            del self._calls[known]
            self._answers.pop(known, None)
        siblings[author] = record.cid
        self._calls[record.cid] = Step(record.cid, author, said)
        return True

    def _follow(self, at: Cid) -> None:
        """Something was said on this call or on one that builds on it; if it is of the run, and another call
        counts there now, the run goes on with that. So a run is read in the time that its records take.
        """
        height = self._heights.get(at)
        if height is None:
            return
        chain = list(self._chain[height:])
        best = self._best(at)
        if best != (chain[0].record if chain else None):
            for step in chain:
                del self._heights[step.record]
            chain = []
            while best is not None:
                chain.append(self._calls[best])
                self._heights[best] = height + len(chain)
                best = self._best(best)
            self._chain = (*self._chain[:height], *chain)
        self.ended = self._end_at(self.head)

    def _best(self, at: Cid) -> Cid | None:
        """Of the calls that build on this one, or on the task, that which counts."""
        siblings = [cid for cid in self._after.get(at, {}).values() if self._counts(cid)]
        return min(siblings, key=self._rank, default=None)

    def _end_at(self, at: Cid) -> Ended | None:
        """The end after a call that counts: the coordinator's, or what half of the nodes say alike."""
        ends = self._ends.get(at, {})
        led = self._led_at(at)
        if led in ends:
            return ends[led]
        alike: dict[End, list[Ended]] = {}
        for one in ends.values():
            alike.setdefault(one.end, []).append(one)
        counted = [
            min(group, key=lambda one: one.record)
            for group in alike.values()
            if self._are_half({one.agent for one in group}, at)
        ]
        return min(counted, key=lambda one: one.record, default=None)

    def _led_at(self, at: Cid) -> AgentId:
        step = self._calls.get(at)
        return self.task.header.author if step is None else step.agent

    def _are_half(self, agents: set[AgentId], at: Cid) -> bool:
        """Whether these are at least half of the nodes of a call; before the first one, of the members."""
        step = self._calls.get(at)
        nodes = set(self.members() if step is None else step.call.nodes)
        return 2 * len(agents & nodes) >= max(1, len(nodes))

    def _answering(self, cid: Cid) -> set[AgentId]:
        return {one.agent for one in self._answers.get(cid, {}).values()}

    def _counts(self, cid: Cid) -> bool:
        previous = self._calls[cid].call.previous
        return self._is_of_the_coordinator(cid) or self._are_half(self._answering(cid), previous)

    def _rank(self, cid: Cid) -> tuple[int, bool, Cid]:
        return -len(self._answering(cid)), not self._is_of_the_coordinator(cid), cid

    def _is_of_the_coordinator(self, cid: Cid) -> bool:
        step = self._calls[cid]
        return step.agent == self._led_at(step.call.previous)
