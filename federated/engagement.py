"""One task as one node follows it: the thin layer that waits around `Ledger` and `Round`.

Records come in (delivered, polled, stored here as a holder, or our own) and go into the ledger; the round's
machine says what to do; this does it. What others are to see is appended to the own chain first, and is
durable, before it leaves. Everything can be taken up again after a restart: the ledger from the records kept,
a promised update from the node's memory. Waiting is for news or for the next deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import inf
from typing import TypeAlias

import trio

from chain.cid import Cid
from chain.identity import AgentId, peer_id
from chain.kinds import COMMIT, GROUP, JOIN, RESULT, REVEAL, START
from chain.learning import Start, commit_body, reveal_body, start_body
from chain.learning_outcome import GroupResult, Result, group_body, result_body
from chain.record import Record
from dht.errors import FrameError, NetworkError
from federated.actions import Action, Ask, Average, Combine, Look, LookModel, Offer, Promise, Publish, Show
from federated.admission import examine, needs_base
from federated.compression import is_compressed
from federated.errors import Refused, WrongState
from federated.faults import REASONS
from federated.following import Following, Tools
from federated.ledger import Ledger, Tip
from federated.messages import SIGN, Question, Reply, Word, decode_reply
from federated.models import Models, builds_on_base, of_models
from federated.penalties import barred
from federated.ports import TooLarge
from federated.round import Round
from federated.secure_round import SecureRound
from federated.update import Fault, update_size
from validation.named import learning_of

START_GRACE_S = 1.0
"""Seconds that the author of a task waits for more members once there are enough."""
AT_WORK_S = 120.0
"""A user's process counts as there for so long after it asked for work; one wait takes a minute at most."""
SIGN_TIMEOUT_S = 5.0
ANSWER_WAIT_S = 2.0
"""How long a proposer's question waits here for what is still being fetched or computed."""
log = logging.getLogger(f"roseforest.{__name__}")


AnyRound: TypeAlias = Round | SecureRound


class Engagement(Following[Ledger]):
    """This node and one task of peer rounds. `run` follows it; the verbs may be called from other tasks."""

    def __init__(self, tools: Tools, task: Record, wanted: bool) -> None:
        super().__init__(tools, Ledger(task), wanted)
        self.models = Models(tools, self.ledger.terms, self._here)
        self.round: AnyRound | None = None
        self._asked_again: set[bytes] = set()
        self._ready_at: float | None = None
        self._worked_at = -inf
        self._locked: dict[bytes, tuple[bytes, float] | None] = {}

    # -- following --

    def _costs(self, record: Record) -> str:
        said = learning_of(record)
        if not isinstance(said, Result):
            return ""
        named = dict(said.outcome.refused)
        reveals, missing = self.ledger.evidence(said.outcome)
        shown = [self.ledger.reveals[cid] for cid in reveals]
        sizes = [reveal.size for agent, reveal in shown if agent not in named]
        least = "at least " if missing else ""  # of a reveal that is not here yet
        return f"; updates of {least}{sum(sizes)} bytes{self._barred(said)}"

    def _barred(self, said: Result) -> str:
        """Whom a result bars, and until when."""
        place = self.ledger.place_of(said.outcome.digest(self.ledger.cid))
        named = dict(said.outcome.refused)
        return "".join(
            f"; out {'for good' if one.for_good else f'up to round {one.until}'}: {peer_id(one.agent)}"
            for one in (() if place is None else barred(place.penalties, place.round).values())
            if one.agent in named
        )

    def _wake_at(self) -> float:
        """When there will be something to do without news."""
        wake_at = inf if self.round is None else self.round.wake_at
        return wake_at if self._ready_at is None else min(wake_at, self._ready_at)

    @property
    def _active(self) -> bool:
        """Whether this node takes part in a round."""
        return self.round is not None and self.round.takes_part and not self.round.over

    async def _go_on(self) -> None:
        """Do what is to be done now."""
        ledger = self.ledger
        if ledger.tip is None:
            if self.wanted:
                self._want(ledger.terms.parameters, [ledger.task.header.author, *ledger.members()])
            await self._maybe_start()
            return
        now = self._tools.clock.monotonic()
        if self.round is None or self.round.over:
            previous, self.round = self.round, self._new_round(now)
            await self._begin(self.round, previous)
        round_ = self.round
        if ledger.finished:
            self._want(round_.tip.parameters, self._sources(round_.tip))
            return
        if not round_.takes_part:
            await self._maybe_ask_again(round_.tip)
            return
        self._want(round_.tip.parameters, self._sources(round_.tip))
        round_.excluded = self._tools.excluded()
        actions = round_.step(now)
        await self._remember_lock(round_)
        for action in actions:
            await self._act(round_, action)
        if round_.over:
            self.wake()

    def _new_round(self, now: float) -> AnyRound:
        """The machine of the round that is on."""
        return Round(self.ledger, self._tools.identity, now)

    async def _begin(self, round_: AnyRound, previous: AnyRound | None) -> None:
        round_.offer = self._tools.memory.offer(self.ledger.cid, round_.tip.digest)
        clock = self._tools.clock
        for place in round_.agreements:
            signed = self._tools.memory.lock(self._lock_of(round_, place), place)
            if signed is not None:
                left_s = (signed[1] - clock.wall_us()) / 1_000_000
                round_.relock(place, signed[0], clock.monotonic() + left_s)
        self._locked = {place: one.lock for place, one in round_.agreements.items()}
        if previous is not None:
            # What was for that round alone may go when room is short; the newest model and the first stay.
            if previous.offer is not None:
                await self._tools.blobs.release(previous.offer.blob)
            made = previous.made - {round_.tip.parameters}
            for blob in made | ({previous.tip.parameters} if previous.tip.round > 1 else set()):
                await self._tools.blobs.release(blob)
        self._changed.set()
        self._changed = trio.Event()

    async def _remember_lock(self, round_: AnyRound) -> None:
        """Make durable what was signed last, before anybody sees the signature."""
        clock = self._tools.clock
        for place, agreement in round_.agreements.items():
            lock = agreement.lock
            if lock is None or lock == self._locked.get(place):
                continue
            until_us = clock.wall_us() + round((lock[1] - clock.monotonic()) * 1_000_000)
            with trio.CancelScope(shield=True):
                await self._tools.memory.keep_lock(self._lock_of(round_, place), place, lock[0], until_us)
            self._locked[place] = lock

    def _lock_of(self, round_: AnyRound, place: bytes) -> bytes:
        """Under what the lock on an agreement is remembered: one of the task's rounds, one of its groups."""
        return self.ledger.cid if place == round_.tip.digest else self.ledger.cid + b"group"

    async def _maybe_start(self) -> None:
        """The author starts the task a moment after enough agents have joined."""
        ledger, now = self.ledger, self._tools.clock.monotonic()
        members = [agent for agent in ledger.members() if agent not in self._tools.excluded()]
        self_started = ledger.task.header.author == self._me
        if not self_started or len(members) < ledger.terms.min_members:
            self._ready_at = None
            return
        if self._ready_at is None:
            self._ready_at = now + (START_GRACE_S if len(members) < ledger.terms.max_members else 0.0)
        if now < self._ready_at:
            return
        self._ready_at = None
        joins = sorted((ledger.standings[agent].cid, agent) for agent in members)
        roster = sorted((agent, cid) for cid, agent in joins[: ledger.terms.max_members])
        await self.append(START, start_body(Start(tuple(roster))), key=b"start")
        self.wake()

    async def _maybe_ask_again(self, tip: Tip) -> None:
        """Who wants to take part and was left out (it was away, or slow) asks to join once more.

        Only while its user's process asks for work: a node that nobody trains for would be waited for again
        and again.
        """
        standing = self.ledger.standings.get(self._me)
        out = standing is None or not standing.joins or standing.cid in tip.spent
        at_work = self._tools.clock.monotonic() - self._worked_at < AT_WORK_S
        if self.wanted and at_work and out and tip.digest not in self._asked_again:
            self._asked_again.add(tip.digest)
            await self.append(JOIN, {}, key=b"join" + tip.digest)

    async def _bring(self, blob: Cid, sources: Sequence[AgentId]) -> bool | None:
        """Fetch what a round starts from."""
        try:
            data = await self._tools.blobs.fetch_mapped(blob, update_size(self.ledger.terms.arrays), sources)
        except TooLarge:
            return False
        if data is None:
            return False
        return True if await self.models.begins(data) else None  # then nothing can go on

    def _sources(self, tip: Tip) -> list[AgentId]:
        """Who may have a round's model: who signed it, who is in the roster, and the author."""
        steps = self.ledger.steps
        signers = steps[-1].signers if steps else ()
        return self._others([*signers, *tip.agents, *self.ledger.members(), self.ledger.task.header.author])

    # -- acting --

    async def _act(self, round_: AnyRound, action: Action) -> None:
        assert self._nursery is not None
        match action:
            case Promise(commit=commit):
                await self.append(COMMIT, commit_body(commit), b"commit" + round_.tip.digest, round_.group)
            case Show(reveal=reveal):
                await self.append(REVEAL, reveal_body(reveal), b"reveal" + round_.tip.digest, round_.group)
            case Look():
                self._nursery.start_soon(self._look, round_, action)
            case LookModel():
                self._nursery.start_soon(self._look_model, round_, action)
            case Average() | Combine():
                self._nursery.start_soon(self._average, round_, action)
            case Ask():
                self._nursery.start_soon(self._ask, round_, action)
            case Publish(result=GroupResult() as result):
                digest = result.outcome.digest(self.ledger.cid)
                await self.append(GROUP, group_body(result), key=b"group" + digest)
            case Publish(result=Result() as result):
                digest = result.outcome.digest(self.ledger.cid)
                await self.append(RESULT, result_body(result), key=b"result" + digest)

    def _audience(self) -> list[AgentId]:
        """Who wants to hear of it at once: the roster, who wants to be in it, and the task's author."""
        tip = self.ledger.tip
        roster = () if tip is None else tip.agents
        return list(dict.fromkeys([*roster, *self.ledger.members(), self.ledger.task.header.author]))

    async def _look(self, round_: AnyRound, look: Look) -> None:
        if not self.ledger.has(look.commit):
            for agent in look.agents:
                await self._take_up(agent, [look.commit])
                if self.ledger.has(look.commit):
                    break
        base, sources = round_.tip.parameters, self._sources(round_.tip)
        verdict = await self.models.verdict(look.blob, look.size, look.agents, base, sources)
        round_.looked(look.reveal, verdict)
        self.wake()

    async def _look_model(self, round_: AnyRound, look: LookModel) -> None:
        base, sources = round_.tip.parameters, self._sources(round_.tip)
        round_.looked(look.outcome, await self.models.model_verdict(look.blob, look.agents, base, sources))
        self.wake()

    async def _average(self, round_: AnyRound, average: Average | Combine) -> None:
        tools = self._tools
        terms = self.ledger.terms if isinstance(average, Average) else of_models(self.ledger.terms)
        while builds_on_base(terms) and average.base not in self._here:  # it is being fetched
            if round_.over:
                return
            await self._changed.wait()
        began = tools.clock.monotonic()
        data = await self.models.model_of(terms, average.base, average.parts)
        cid = None if data is None else await self.models.keep(data)
        if cid is None:
            round_.failed(average.key)
            self.wake()
            return
        self._here.add(cid)
        round_.made.add(cid)
        round_.averaged(average.key, cid, tools.clock.monotonic() - began)
        self.wake()

    async def _ask(self, round_: AnyRound, ask: Ask) -> None:
        tools, reply = self._tools, None
        try:
            await tools.post.reach(ask.agent)
            body = await tools.kademlia.request(ask.agent, SIGN, ask.question.encode(), SIGN_TIMEOUT_S)
            reply = decode_reply(body)
            if reply.word in (Word.MISSING, Word.ELSEWHERE):
                await self._take_up(ask.agent, reply.cids)
            if reply.word is Word.DISAGREE:
                await tools.compare(ask.agent)
            round_.answered(ask.agent, ask.question, reply, tools.clock.monotonic())
        except NetworkError as error:
            if isinstance(error, FrameError):
                tools.kademlia.report(ask.agent)
            log.info("%s did not answer whether it signs: %s", ask.agent.hex()[:8], error)
            round_.answered(ask.agent, ask.question, None, tools.clock.monotonic())
        except ValueError as error:
            tools.kademlia.report(ask.agent)
            log.warning("%s: %s", ask.agent.hex()[:8], error)
            round_.answered(ask.agent, ask.question, None, tools.clock.monotonic())
        self.wake()

    async def answer(self, agent: AgentId, question: Question) -> Reply:
        """Reply to a proposer of this task, after fetching from it what it has seen and we have not."""
        round_ = self.round
        if round_ is None or round_.over or question.previous not in round_.agreements:
            return Reply(Word.ELSEWHERE, cids=self.ledger.led_on(question.previous))
        if agent in round_.agreements[question.previous].agents:
            await self._take_up(agent, question.view)
        clock = self._tools.clock
        until = clock.monotonic() + ANSWER_WAIT_S
        compared = False
        while True:
            changed = self._changed
            round_.excluded = self._tools.excluded()
            reply = round_.answer(agent, question, clock.monotonic())
            if reply.word is Word.DISAGREE and not compared:
                compared = True
                await self._tools.compare(agent)
                if self._tools.excluded() != round_.excluded:
                    continue
            left = until - clock.monotonic()
            if reply.word is not Word.BUSY or left <= 0:
                await self._remember_lock(round_)
                return reply
            self._news.set()  # what is missing may be ours to fetch or to compute
            with trio.move_on_after(left):
                await changed.wait()

    # -- the user's verbs --

    @property
    def left_s(self) -> float | None:
        """Seconds to the deadline of the round under way, if this node takes part in it."""
        round_ = self.round
        if round_ is None or not round_.takes_part or self.ledger.finished:
            return None
        return max(0.0, round(round_.deadline() - self._tools.clock.monotonic(), 3))

    async def join(self) -> None:
        """Ask to take part, from the next roster on."""
        standing, tip = self.ledger.standings.get(self._me), self.ledger.tip
        spent = standing is not None and tip is not None and standing.cid in tip.spent - _seats(tip)
        await self._stand(JOIN, spent=spent)

    async def hand_in(self, number: int, blob: Cid, examples: int, metrics: dict[str, int]) -> None:
        """The user's update for a round; returns when its commit is durable.

        Raises `Refused` when it does not match the task, `WrongState` when it comes too late or twice.
        """
        round_, tools, terms = self.round, self._tools, self.ledger.terms
        if round_ is None or not round_.takes_part:
            raise WrongState("this node is not in the round's roster")
        if round_.tip.round != number:
            raise WrongState(f"round {number} is not the one under way, which is {round_.tip.round}")
        if not round_.wants_update:
            raise WrongState(f"round {number} takes no update from this node any more")
        data = await self.models.handed_in(blob, examples)
        start = await tools.blobs.map(round_.tip.parameters) if needs_base(terms) else None
        if start is None and is_compressed(terms):
            raise WrongState(f"the model that round {number} began with is not here yet")
        fault = None if start is None else await tools.run_blocking(examine, terms, start, data)
        if fault is not None and fault != Fault.NORM:
            raise Refused(f"the update does not match the task: {REASONS[fault]}")
        if fault is not None:
            raise Refused(
                f"the update lies further from the round's model than {terms.max_norm}, the task's max_norm"
            )
        offer = Offer(blob, len(data), examples, metrics, tools.random.random_bytes(32))
        await tools.memory.keep_offer(self.ledger.cid, round_.tip.digest, offer)
        if not round_.wants_update or round_.over:
            raise WrongState(f"round {number} took no update from this node any more")
        round_.offer = offer
        self.wake()
        while not round_.promised:
            if round_.over:
                raise WrongState(f"round {number} ended before the update was committed")
            if not self._follows:
                raise WrongState(
                    "this node could not keep what it does in the task: see its log and its disk"
                )
            await self._changed.wait()

    async def work(self, wait_s: float) -> tuple[str, Tip | None]:
        """What the user's process is to do: ("train" | "wait" | "finished", what the round builds on)."""
        self._worked_at = self._tools.clock.monotonic()
        self._news.set()
        with trio.move_on_after(wait_s):
            while True:
                state = self._work_now()
                if state != "wait":
                    return state, self.ledger.tip
                await self._changed.wait()
        return self._work_now(), self.ledger.tip

    def _work_now(self) -> str:
        tip = self.ledger.tip
        if tip is None:
            return "wait"
        here = tip.parameters in self._here
        if self.ledger.finished:
            return "finished" if here else "wait"
        round_ = self.round
        ready = round_ is not None and not round_.over and round_.wants_update and here
        return "train" if ready else "wait"


def _seats(tip: Tip) -> frozenset[Cid]:
    return frozenset(join for _, join in tip.roster)
