"""A campaign against gossip: members who show whatever they like, to one who combines what is right.

Each input is a task in which most members show a share a round, and two write hostile records: shares that
real code made, with fields changed, in any order and number, among joins and leaves. What the others showed
must be kept as if these two had said nothing; what is kept of anybody stays within its bound and does not
depend on the order; a step comes to its end with shares that were found good, and names those as refused that
have a fault: none of an honest member's. What it then shows is a valid record itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from chain.aggregation_rule import ROBUST
from chain.cid import Cid, blob_cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import COMMIT, JOIN, LEAVE, PART, RESULT, SHARE
from chain.learning_task import FEDAVG
from chain.record import Record
from chain.share import Share, share_body
from federated.faults import DOUBLE, REASONS, UNAVAILABLE
from federated.following import _line
from federated.gossip import Combine, Look, Mixing, fanout, step_after
from federated.gossip_audit import gossip_view, step_view
from federated.lies import Lies
from federated.proposal import Verdict
from federated.share_book import book_in
from federated.share_log import MAX_HOLDERS, MAX_KEPT, ShareLog
from federated.update import Fault
from tests.federated.talk import ME, SIZE, Talk
from tests.federated.test_share_log import in_turn, kept
from tests.mutation import Mutator

MEMBERS = 8
LIARS = (6, 7)
ROUNDS = 3
VERDICTS: tuple[Verdict, ...] = (None, Fault.NOT_FINITE, Fault.NORM, Fault.SIZE, UNAVAILABLE)


def honest_talk(strategy: str, rounds: int) -> Talk:
    """A task in which all but the liars have shown a share a round."""
    talk = Talk.begun(MEMBERS, strategy=strategy, rounds=rounds)
    for number in range(1, ROUNDS + 1):
        for by in range(MEMBERS):
            if by not in LIARS:
                talk.share(by, number)
    return talk


def hostile_records(rng: random.Random, talk: Talk) -> list[Record]:
    """What the liars write."""
    task = talk.log().terms
    shown = [one.cid for one in talk.records]
    others: list[Any] = [shown[-1], shown[-3:], [[shown[-1], "norm"]], talk.task.cid, task.parameters, {}]
    mutator = Mutator(rng, others)
    found: list[Record] = []
    for _ in range(rng.choice((1, 2, 5, 20))):
        by = rng.choice(LIARS)
        kind = rng.choice((*[SHARE] * 12, JOIN, LEAVE, COMMIT, PART, RESULT))
        number = rng.choice((1, 2, 3, 3, 3, 4, task.rounds, task.rounds + 1))
        share = Share(number, blob_cid(rng.randbytes(1)), SIZE, 10, {"loss": 5}, task.parameters)
        body = mutator.value(share_body(share))
        if kind == SHARE and rng.random() < 0.3:
            picked = sorted(rng.sample(shown, min(len(shown), rng.randrange(17))))
            body = share_body(share) | {"combined": picked, "refused": [[cid, "norm"] for cid in picked[:16]]}
        try:
            record = talk.scribes[by].on(talk.task, kind, {} if kind in (JOIN, LEAVE) else body)
        except (ChainError, ValueError, TypeError, AttributeError):
            continue  # nothing that can be written at all
        found.append(record)
        if kind == SHARE:
            shown.append(record.cid)
    return found


def state(log: ShareLog, agents: Sequence[AgentId]) -> list[Any]:
    return [(agent, kept(log, agent), log.newest(agent)) for agent in agents]


def check_log(rng: random.Random, talk: Talk, lies: list[Record]) -> ShareLog:
    """Take everything in some order; the honest are as they were, and all is bounded."""
    agents = [scribe.agent for scribe in talk.scribes]
    honest = [agent for number, agent in enumerate(agents) if number not in LIARS]
    expected = talk.log()
    everything = [*talk.records, *lies, *rng.sample(lies, len(lies) // 2)]
    logs = []
    for _ in range(2):
        rng.shuffle(everything)
        logs.append(in_turn(talk, everything))
    log, other = logs
    assert state(log, honest) == state(expected, honest)
    assert set(honest) <= set(log.seats())
    assert state(log, agents) == state(other, agents), "the order does not matter"
    for agent in agents:
        assert len(log.rounds_of(agent)) <= MAX_KEPT
        for number in log.rounds_of(agent):
            one = log.share_of(agent, number)
            assert one is not None
            assert len(log.holders(one)) <= 1 + MAX_HOLDERS
    assert len(log._of) <= 2 * MAX_KEPT * MEMBERS
    assert log._waits == 0
    assert 0 <= log.frontier(agents[ME], 1 << 62) <= log.terms.rounds
    assert log.frontier(agents[ME], 1 << 62) >= ROUNDS - 1, "two of seven others do not move it"
    gossip_view(log, agents[ME])
    book = book_in(talk.task, log.terms, everything)
    for record in everything:
        if log.has(record.cid):
            assert _line(1, record).record == record.cid
        told = book.told(record)
        if told is not None:
            view = step_view(book.evidence(told))
            assert view.round <= log.terms.rounds + 1
    for agent in agents:
        assert len(book.steps_of(agent, 5)) <= 5
        book.newest_step(agent)
    return log


def check_step(rng: random.Random, talk: Talk, lies: list[Record], log: ShareLog) -> None:
    """Take a step with what the log has; liars' models are found to be anything, those of others right."""
    me = talk.scribes[ME].agent
    liars = {talk.scribes[number].agent for number in LIARS}
    number, own = step_after(log, me, log.frontier(me, 1 << 62))
    step = Mixing(log, me, number, own, 0.0)
    now = 0.0
    verdicts: dict[Cid, Verdict] = {}
    for _ in range(200):
        actions = step.step(now)
        for action in actions:
            match action:
                case Look(shown=shown):
                    assert shown.record not in verdicts, "nothing is fetched twice"
                    verdict = rng.choice(VERDICTS) if shown.agent in liars else None
                    verdicts[shown.record] = verdict
                    step.looked(shown.record, verdict)
                case Combine(others=others):
                    assert len(others) <= fanout(log.terms)
                    assert len({one.agent for one in others} - {me}) == len(others)
                    assert all(verdicts[one.record] is None for one in others)
                    assert all(1 <= one.examples <= log.terms.max_examples for one in others)
                    step.combined(blob_cid(b"the next"))
        if step.mixed is not None or step.over:
            break
        if not actions:
            assert now < step.wake_at < 1e9
            now = step.wake_at
    assert step.mixed is not None, "five honest others are enough"
    authors = {record.cid: record.header.author for record in (*talk.records, *lies)}
    found = {authors[cid]: (cid, reason) for cid, reason in step.mixed.refused}
    assert found.keys() <= liars
    barred = Lies()
    for agent, (cid, reason) in found.items():
        assert reason in REASONS
        assert reason != UNAVAILABLE
        one = log.shown(cid)
        assert one is not None
        assert (reason == DOUBLE) is log.is_double(agent, one.round)
        barred.told(agent, number + 1, reason)
    assert barred.barred(number + 1) <= liars
    mixed, over = step.mixed, number == log.terms.rounds
    blob, examples = (mixed.base, 0) if over else (blob_cid(b"trained"), 5)
    next_ = Share(number + 1, blob, SIZE, examples, {}, mixed.base, mixed.combined, mixed.refused)
    assert log.add(talk.scribes[ME].on(talk.task, SHARE, share_body(next_)))


def campaign(seed: int, more: Callable[[int], bool]) -> int:
    """Play hostile inputs as long as `more(how many so far)`; how many there were."""
    number = 0
    while more(number):
        rng = random.Random(f"{seed}/{number}")
        try:
            talk = honest_talk(rng.choice((FEDAVG, ROBUST)), rng.choice((3, 4, 200)))
            lies = hostile_records(rng, talk)
            check_step(rng, talk, lies, check_log(rng, talk, lies))
        except Exception as error:
            error.add_note(f"input {number} of seed {seed}")
            raise
        number += 1
    return number
