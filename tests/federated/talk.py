"""A task of the topology gossip in records: its members, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from chain.cid import blob_cid
from chain.kinds import JOIN, SHARE, TASK
from chain.learning_task import GOSSIP
from chain.record import Record
from chain.share import Share, share_body
from chain.source_chain import Draft
from federated.gossip import draw
from federated.share_book import ShareBook, Told, book_in
from federated.share_log import ShareLog
from federated.update import update_size
from tests.federated.models import ARRAYS, task_of
from tests.federated.models import TASK as TASK_TERMS
from tests.federated.table import Scribe

MEMBERS = 7
ME = 0
SIZE = update_size(ARRAYS)


@dataclass
class Talk:
    """A task, its members' scribes, and everything that was written about it."""

    task: Record
    scribes: list[Scribe]
    records: list[Record] = field(default_factory=list)

    @classmethod
    def begun(cls, members: int = MEMBERS, **terms: object) -> Talk:
        scribes = [Scribe(number) for number in range(members)]
        fields = {"rounds": 200, "max_members": 64, "topology": GOSSIP, "fanout": 3} | terms
        talk = cls(scribes[0].write(Draft(TASK, task_of(**fields).to_body())), scribes)
        for number in range(members):
            talk.say(number, JOIN)
        return talk

    def say(self, by: int, kind: str, **body: object) -> Record:
        self.records.append(self.scribes[by].on(self.task, kind, body))
        return self.records[-1]

    def share(self, by: int, number: int, **changes: object) -> Record:
        blob = blob_cid(b"%d of %d" % (by, number))
        said = Share(number, blob, SIZE, 10, {}, TASK_TERMS.parameters)
        return self.say(by, SHARE, **share_body(replace(said, **changes)))  # type: ignore[arg-type]

    def log(self) -> ShareLog:
        log = ShareLog(self.task)
        log.add_all(self.records)
        return log

    def order(self, number: int) -> list[int]:
        """The members as `ME` draws them in a round."""
        agents = [one.agent for one in self.scribes]
        return [agents.index(one) for one in draw(self.task.cid, number, agents[ME], agents)]

    def book(self) -> ShareBook:
        return book_in(self.task, self.log().terms, self.records)

    def told(self, record: Record) -> Told:
        found = self.book().told(record)
        assert found is not None
        return found
