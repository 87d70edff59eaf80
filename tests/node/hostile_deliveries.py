"""A campaign against the methods of learning on the wire: deliveries, questions to sign, signs of life.

Three whole nodes in virtual time have four tasks under way, of each kind one. One of them, the liar, sends
another what its own node would send with something changed in it: the bytes, a field, a record in a bundle,
an operation on the task whose author signed what no node writes. Every answer must be one that the protocol
has, never that of a defect; the rounds of the others stand as they stood, nobody that the network knows has
lost its seat, and when all is over the three compute their rounds as if nothing had been.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from chain import canonical
from chain.cid import Cid, blob_cid, record_cid
from chain.errors import ChainError
from chain.kinds import ANSWER, CALL, COMMIT, END, GROUP, JOIN, LEAVE, PART, RESULT, REVEAL, SHARE, START
from chain.learning import Commit, Reveal, Start, commit_body, draft_on_task, reveal_body, start_body
from chain.learning_outcome import Outcome, Result, result_body
from chain.learning_task import FEDAVG, GOSSIP, SERVER_APP
from chain.record import Record
from chain.secure_part import Part, part_body
from chain.server_app import Answer, Call, End, Sent, answer_body, call_body, end_body
from chain.share import Share, share_body
from dht.errors import NetworkError, RefusalCode, RequestRefused
from dht.records.bundle import Item, bundle_value
from federated.engagement import Engagement
from federated.membership import MAX_AGENTS, MAX_WAITING
from federated.messages import ALIVE, DELIVER, SIGN, Question, decode_reply, encode_alive
from federated.post import MAX_DELIVERED
from tests.dht.authors import Author
from tests.mutation import Mutator
from tests.node.learners import Learner, initial, join_all, learn, publish, soon
from tests.node.simulated_nodes import Network, identity, simulate

AUTHOR, VICTIM, LIAR = 0, 1, 2
PACE_S = 0.25
"""Virtual seconds between two messages; who asks faster is told so, and that is tested elsewhere."""
EXPECTED = frozenset(
    {RefusalCode.BAD_REQUEST, RefusalCode.FORBIDDEN, RefusalCode.OVERLOADED, RefusalCode.BANNED}
)
OF_ONE_AUTHOR = 6
"""Inputs after which another stranger writes: who is found to break a rule is heard no more."""
KINDS = (JOIN, LEAVE, START, COMMIT, REVEAL, RESULT, GROUP, PART, SHARE, CALL, ANSWER, END)


class Stage:
    """The three nodes with their tasks, and a stranger who writes on these."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.victim = network.nodes[VICTIM]
        self.liar = network.nodes[LIAR]
        self.tasks: list[Cid] = []
        self.strangers = 0
        self.stranger: Author | None = None
        self.last: dict[Cid, Record | None] = {}

    async def set_up(self) -> None:
        slow = {"commit_ms": 36_000_000, "min_members": 3, "strategy": FEDAVG}
        owner = self.network.nodes[AUTHOR]
        for terms in ({}, {"secure": 3}, {"topology": GOSSIP}, {"mode": SERVER_APP, "arrays": ()}):
            task = await publish(owner, **slow, **terms)
            await join_all(self.network, task, [AUTHOR, VICTIM, LIAR])
            self.tasks.append(task)
        for task in self.tasks[:2]:
            await soon(lambda task=task: self.round_of(task) is not None)  # type: ignore[misc]

    def round_of(self, task: Cid) -> Any:
        engagement = self.victim.learning._engaged[task]
        return engagement.round if isinstance(engagement, Engagement) else None

    def state(self) -> list[Any]:
        """What nobody but the members may change: their standings, and where the rounds are."""
        found: list[Any] = []
        for task in self.tasks:
            ledger = self.victim.learning._engaged[task].ledger
            members = [ledger.standings[identity(n).agent].joins for n in (AUTHOR, VICTIM, LIAR)]
            assert len(ledger.standings) <= MAX_AGENTS
            assert ledger._waits <= MAX_WAITING
            assert (
                ledger._waits
                == sum(map(len, ledger._waiting.values()))
                == sum(map(len, ledger._waiters.values()))
            )
            tip = getattr(ledger, "tip", None)
            steps = getattr(ledger, "steps", ())
            found.append((task, members, tip, len(steps), ledger.finished))
        return found

    # -- what is sent --

    def body(self, rng: random.Random) -> tuple[str, bytes]:
        """A message with something wrong in it, mostly."""
        task = rng.choice(self.tasks)
        method = rng.choice((DELIVER, DELIVER, DELIVER, SIGN, ALIVE))
        if method == DELIVER:
            data = canonical.encode([task, self.bundle(rng, task)])
        elif method == SIGN:
            data = self.question(rng, task)
        else:
            data = encode_alive(task, rng.choice((task, record_cid(b"a call"))))
        mutator = self.mutator(rng, task)
        match rng.randrange(4):
            case 0:
                return method, mutator.data(data)
            case 1 | 2:
                try:
                    return method, canonical.encode(mutator.value(canonical.decode(data, 1 << 20)))
                except (ChainError, ValueError, TypeError, RecursionError):
                    return method, data
        return method, data

    def mutator(self, rng: random.Random, task: Cid) -> Mutator:
        records = [one for one in self.victim.learning._tools.post.kept(task) if one.payload]
        others: list[Any] = [*self.tasks, identity(LIAR).agent, *(one.cid for one in records[:4])]
        return Mutator(rng, [*others, [one.encode() for one in records[:2]], {}])

    def question(self, rng: random.Random, task: Cid) -> bytes:
        """A question that stands where the task's round stands."""
        round_ = self.round_of(task)
        agents = tuple(sorted(identity(n).agent for n in (AUTHOR, VICTIM, LIAR)))
        ledger = self.victim.learning._engaged[task].ledger
        previous = rng.randbytes(32) if round_ is None else round_.tip.digest
        view = [one.cid for one in ledger.standings.values()] + [
            record_cid(rng.randbytes(4))
        ] * rng.randrange(2)
        unavailable = [record_cid(rng.randbytes(4)) for _ in range(rng.randrange(3))]
        members = rng.choice((agents, agents[:2], agents[::-1], agents * 3, (rng.randbytes(32),)))
        return Question(task, previous, members, tuple(view), tuple(unavailable), rng.randbytes(32)).encode()

    def bundle(self, rng: random.Random, task: Cid) -> list[Any]:
        """Records of the task by its members, and by the stranger, who writes whatever there is."""
        post = self.victim.learning._tools.post
        known = [one for one in post.kept(task) if one.payload]
        if self.stranger is None or rng.randrange(OF_ONE_AUTHOR) == 0:
            self.strangers += 1
            manifest = self.network.founding.manifest
            now_us = self.victim.learning._tools.clock.wall_us()
            self.stranger, self.last = Author(self.strangers, manifest, now_us), {}
        author, record = self.stranger, next(one for one in known if one.cid == task)
        author.now_us = self.victim.learning._tools.clock.wall_us()
        written: list[Record] = []
        for _ in range(rng.choice((1, 1, 2, 5))):
            kind = rng.choice(KINDS)
            body = self.operation(rng, kind, task)
            try:
                one = author.append(draft_on_task(record, self.last.get(task), kind, body))
            except (ChainError, ValueError, TypeError, AttributeError):
                continue
            self.last[task] = one
            written.append(self.altered(rng, author, one))
        items = [Item(one, 0) for one in [*written, *rng.sample(known, min(len(known), 2))]]
        headers = [one.without_payload() for one in [*author.records, *known]]
        return bundle_value([author.opening], headers, items)

    def operation(self, rng: random.Random, kind: str, task: Cid) -> Any:
        """The body of an operation of this kind, right or not."""
        round_ = self.round_of(task)
        previous = rng.choice((rng.randbytes(32), bytes(32) if round_ is None else round_.tip.digest))
        blob, number = blob_cid(rng.randbytes(2)), rng.choice((1, 1, 2, 3))
        author = self.stranger
        assert author is not None
        join = self.last.get(task) or author.records[-1]
        outcome = Outcome(
            number, previous, (author.agent,), (join.cid,), (), blob, ((author.agent, join.cid),)
        )
        signatures = ((author.agent, outcome.sign(task, author.identity)),)
        on = tuple(sorted(record_cid(rng.randbytes(3)) for _ in range(3)))
        bodies: dict[str, Callable[[], Any]] = {
            START: lambda: start_body(Start(((author.agent, join.cid),))),
            COMMIT: lambda: commit_body(Commit(number, previous, rng.randbytes(32))),
            REVEAL: lambda: reveal_body(
                Reveal(number, previous, join.cid, bytes(32), blob, 1_500, 10, {"loss": 1}, ())
            ),
            RESULT: lambda: result_body(Result(outcome, signatures)),
            GROUP: lambda: result_body(Result(outcome, signatures)),
            PART: lambda: part_body(Part(number, previous, 1, on, rng.randbytes(300))),
            SHARE: lambda: share_body(Share(number, blob, 1_500, 10, {}, blob, (), ())),
            CALL: lambda: call_body(Call(1, task, (author.agent,), (), (Sent(author.agent, blob, 5),), None)),
            ANSWER: lambda: answer_body(Answer(join.cid, 0, blob, 5)),
            END: lambda: end_body(End(task, (), blob, None)),
        }
        body = bodies.get(kind, dict)()
        return self.mutator(rng, task).value(body) if rng.random() < 0.5 else body

    def altered(self, rng: random.Random, author: Author, record: Record) -> Record:
        """Now and then with another header, which its author signed."""
        if rng.random() > 0.2:
            return record
        header = record.header
        changes: tuple[dict[str, Any], ...] = (
            {"lamport": rng.choice((0, header.lamport + 1, 1 << 62))},
            {"hlc": rng.choice((0, header.hlc + (1 << 40), (1 << 62)))},
            {"subject": rng.choice(self.tasks)},
            {"subject_seq": rng.choice((0, header.subject_seq + 1, 1 << 40))},
            {"deps": ()},
            {"prev": record.cid},
            {"seq": header.seq + 7},
            {"kind": rng.choice(KINDS)},
        )
        try:
            return author.signed(record, **rng.choice(changes))
        except (ChainError, ValueError, TypeError):
            return record

    # -- what comes back --

    async def send(self, method: str, body: bytes) -> str:
        """What the victim says: "read", or the name of its refusal."""
        await trio.sleep(PACE_S)
        try:
            reply = await self.liar.kademlia.request(self.victim.agent, method, body, 30.0)
        except RequestRefused as refusal:
            code = RefusalCode(refusal.code)
            if code not in EXPECTED or "\n" in str(refusal):
                raise AssertionError(f"refused by {code!r}: {refusal}") from refusal
            return code.name
        except NetworkError as error:
            # The asker's own node refuses to send what is beyond a limit, or takes the victim for gone.
            return type(error).__name__
        value = canonical.decode(reply, 1 << 20)
        if method == DELIVER:
            assert type(value) is list
            assert len(value) <= MAX_DELIVERED
            assert all(type(one) is int for one in value)
        elif method == SIGN:
            assert decode_reply(reply).signature == b"", "nothing is signed that does not follow"
        else:
            assert value is False, "the liar leads nothing"
        return "read"

    def forgive(self) -> None:
        """What the liar did is forgotten, so that the next message is read."""
        self.victim.pardon(self.liar.agent)
        self.liar.pardon(self.victim.agent)


def campaign(folder: Path, seed: int, more: Callable[[int], bool]) -> dict[str, int]:
    """Send hostile messages as long as `more(how many so far)`; how many had which answer."""
    answers: dict[str, int] = {}

    async def scenario(network: Network) -> None:
        stage = Stage(network)
        await stage.set_up()
        before, number = stage.state(), 0
        while more(number):
            method, body = stage.body(random.Random(f"{seed}/{number}"))
            try:
                answer = await stage.send(method, body)
                assert stage.state() == before
            except Exception as error:
                error.add_note(f"input {number} of seed {seed}: {method} {body[:4_000].hex()}")
                raise
            answers[answer] = answers.get(answer, 0) + 1
            stage.forgive()
            number += 1
        learners = [Learner(network, n, stage.tasks[0]) for n in (AUTHOR, VICTIM, LIAR)]
        await learn(network, learners)
        assert len({one.final for one in learners}) == 1
        assert learners[0].final not in (None, initial())

    logging.getLogger("roseforest").setLevel(logging.CRITICAL)
    try:
        simulate(folder, [100] * 3, scenario)
    finally:
        logging.getLogger("roseforest").setLevel(logging.NOTSET)
    return answers
