"""A ServerApp's run, written by hand: for the tests of its log and of whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chain.cid import Cid, blob_cid
from chain.kinds import ANSWER, CALL, END, JOIN, TASK
from chain.learning_task import SERVER_APP
from chain.record import Record
from chain.server_app import Answer, Call, End, Sent, answer_body, call_body, end_body
from chain.source_chain import Draft
from federated.call_log import CallLog
from tests.federated.models import task_of
from tests.federated.table import Scribe

MEMBERS = 4
BLOB = blob_cid(b"a message")


@dataclass
class Run:
    """A task, its members, and everything that was written about it."""

    task: Record
    scribes: list[Scribe]
    records: list[Record]

    def call(
        self,
        by: int,
        number: int,
        previous: Cid,
        to: list[int],
        answers: tuple[Cid, ...] = (),
        nodes: Sequence[int] = range(MEMBERS),
    ) -> Record:
        sent = tuple(Sent(self.scribes[one].agent, BLOB, 9) for one in to)
        there = tuple(sorted(self.scribes[one].agent for one in nodes))
        body = call_body(Call(number, previous, there, answers, sent))
        return self.keep(self.scribes[by].on(self.task, CALL, body))

    def answer(self, by: int, call: Record, place: int) -> Record:
        return self.keep(
            self.scribes[by].on(self.task, ANSWER, answer_body(Answer(call.cid, place, BLOB, 9)))
        )

    def keep(self, record: Record) -> Record:
        self.records.append(record)
        return record

    def log(self, records: list[Record] | None = None) -> CallLog:
        log = CallLog(self.task)
        log.add_all(self.records if records is None else records)
        return log


def begun(joined: Sequence[int] = range(MEMBERS)) -> Run:
    """Four members, the first of them the task's author, have joined; the last scribe has not."""
    scribes = [Scribe(number) for number in range(MEMBERS + 1)]
    terms = replace(task_of(), arrays=(), mode=SERVER_APP, strategy="line.server:app")
    task = scribes[0].write(Draft(TASK, terms.to_body()))
    scribes[0].last = task
    run = Run(task, scribes, [])
    for by in joined:
        run.keep(scribes[by].on(task, JOIN, {}))
    return run


def told() -> Run:
    """Two calls; at the second the coordinator is gone, and two others call: one of them is answered."""
    run = begun()
    first = run.call(0, 1, run.task.cid, [0, 1, 2, 3])
    answers = tuple(run.answer(by, first, by).cid for by in range(MEMBERS))
    second = run.call(0, 2, first.cid, [1, 2, 3], answers)
    lone = run.call(1, 3, second.cid, [1, 2, 3])
    taken = run.call(2, 3, second.cid, [1, 2, 3])
    run.answer(1, lone, 0)
    for place, by in enumerate((1, 2, 3)):
        run.answer(by, taken, place)
    run.keep(run.scribes[2].on(run.task, END, end_body(End(taken.cid, (), BLOB))))
    return run
