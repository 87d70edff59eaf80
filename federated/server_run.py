"""The run of a task's ServerApp as one node follows it: messages come and go, and somebody coordinates.

The coordinator is whoever made the last call, and the task's author before the first. When nothing has been
heard of it for a lease (the time for answers and the time for a coordinator, as the task says;
`federated.presence`), the next member in an order that follows from a hash may take the run over, a lease
later the one after it. It runs the app from the beginning on the log, and goes on live where the log ends,
so what is lost is at most what the app had not yet been told. Members answer a new coordinator only once the
old one has been silent for a lease, so nobody takes a run away from somebody who is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import ANSWER, CALL, END, JOIN, TOPOLOGIES_FROM
from chain.record import Record
from chain.server_app import (
    MAX_MESSAGE_BYTES,
    Answer,
    Call,
    End,
    Sent,
    answer_body,
    call_body,
    end_body,
)
from federated.call_log import Answered, CallLog, Step
from federated.errors import Refused, UnknownTask, WrongState
from federated.following import Following, Tools
from federated.messages import ALIVE, encode_alive
from federated.ports import TooLarge
from federated.presence import Presence
from federated.turns import Turns

KEPT_CALLS = 2
"""Calls, the last ones, whose answers every member fetches."""
SERVING_S = 90.0
"""The user's process counts as coordinating for so long after it was heard of; one wait takes a minute."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class Duty:
    """What the user's process is to do: answer a message, coordinate, wait, or stop.

    `state` is "answer", "coordinate", "wait" or "finished". `number` counts the calls. For "answer", `call`
    and `place` name the message, `blob` has it, and `deadline_s` is how long an answer is waited for.
    """

    state: str
    number: int
    call: Cid | None = None
    place: int = 0
    blob: Cid | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """The answers to a call that are here, by place; `done` when no more are waited for."""

    answers: tuple[Answered, ...]
    done: bool


class ServerRun(Following[CallLog]):
    """This node and one such task. `run` follows it; the verbs may be called from other tasks."""

    def __init__(self, tools: Tools, task: Record, wanted: bool, rules: Callable[[], int]) -> None:
        super().__init__(tools, CallLog(task), wanted)
        self._rules = rules
        self._presence = Presence(self.ledger.terms)
        self._turns = Turns(self.ledger, self._presence, self._me)
        self._serving_until = -inf
        self._asked_again: set[Cid] = set()
        self._taken_at: dict[Cid, float] = {}
        """When this node first asked for the answers to a call of another coordinator."""

    # -- following --

    async def _go_on(self) -> None:
        ledger, now = self.ledger, self._tools.clock.monotonic()
        self._note_head(now)
        if ledger.ended is not None:
            if ledger.ended.end.result is not None:
                self._want(ledger.ended.end.result, self._sources(ledger.ended.agent))
            return
        for step, place in self._turns.open(now):
            self._want(step.call.sent[place].blob, self._sources(step.agent))
        if self.wanted:
            # Whoever may have to take the run over needs the answers, and the coordinator most of all.
            for step in (*ledger.steps[-KEPT_CALLS:], *ledger.claims[:1]):
                for one in ledger.answers(step.record).values():
                    self._want(one.answer.blob, self._sources(one.agent))
            await self._maybe_agree()

    async def _maybe_agree(self) -> None:
        """Say the same when somebody ended the run whose coordinator has been silent for a lease.

        An end by another than the coordinator counts when half of the nodes say it; its result is here then.
        """
        ledger, now = self.ledger, self._tools.clock.monotonic()
        claims = ledger.claimed_ends
        silent = self._turns.is_silent(now)
        if not claims or not silent or self._serving_until > now or self._tools.own.frozen is not None:
            return
        if self._turns.has_ended() or not (ledger.steps and self._me in ledger.steps[-1].call.nodes):
            return
        said = claims[0].end
        if said.result is not None:
            self._want(said.result, self._sources(claims[0].agent))
            if said.result not in self._here:
                return
        await self.append(END, end_body(said), b"end" + said.previous)

    def _note_head(self, now: float) -> None:
        """Remember when the run got where it is, and when each claim to it was first seen."""
        for cid in (self.ledger.head, *(step.record for step in self.ledger.claims)):
            self._presence.saw(cid, now)

    def _wake_at(self) -> float:
        times = [self._presence.gone_at(self.ledger.head), self._due_at()]
        times += [self._turns.over_at(step) for step in self.ledger.steps[-1:]]
        now = self._tools.clock.monotonic()
        return min((at for at in times if at > now), default=inf)

    @property
    def _active(self) -> bool:
        return self.wanted and not self.ledger.finished

    def _audience(self) -> list[AgentId]:
        return list(
            dict.fromkeys([*self.ledger.members(), self.ledger.coordinator, self.ledger.task.header.author])
        )

    def _sources(self, first: AgentId) -> list[AgentId]:
        return self._others([first, *self.ledger.members(), self.ledger.task.header.author])

    async def _bring(self, blob: Cid, sources: Sequence[AgentId]) -> bool | None:
        """Fetch a message."""
        try:
            return await self._tools.blobs.fetch_mapped(blob, MAX_MESSAGE_BYTES, sources) is not None
        except TooLarge:
            return False

    # -- who coordinates --

    def _due_at(self) -> float:
        """From when on this node may coordinate, by the monotonic clock."""
        return self._turns.due_at(self._tools.excluded())

    def _may_coordinate(self) -> bool:
        ledger, now = self.ledger, self._tools.clock.monotonic()
        enough = bool(ledger.steps) or len(self.nodes()) >= ledger.terms.min_members
        return enough and self._due_at() <= now and self._serving_until <= now and not self._turns.has_ended()

    def nodes(self) -> tuple[AgentId, ...]:
        """The members that messages can be sent to, ascending."""
        return self._turns.nodes(self._tools.excluded())

    # -- the user's verbs --

    async def work(self, wait_s: float, serve: bool) -> Duty:
        """What the user's process is to do; `serve`: it could coordinate."""
        await self._maybe_ask_again()
        with trio.move_on_after(wait_s):
            while True:
                now = self._work_now(serve)
                if now.state != "wait" or self._should_ask_again():
                    return now
                changed = self._changed
                left = self._wake_at() - self._tools.clock.monotonic()
                with trio.move_on_after(max(0.05, left)):
                    await changed.wait()
        return self._work_now(serve)

    def _should_ask_again(self) -> bool:
        """Whether to join once more, since messages come to this node no longer, or soon will not."""
        if not self.wanted or self.ledger.head in self._asked_again:
            return False
        return self._turns.misses_messages(self._tools.clock.monotonic())

    async def _maybe_ask_again(self) -> None:
        if self._should_ask_again():
            head = self.ledger.head
            self._asked_again.add(head)
            await self.append(JOIN, {}, b"again" + head)

    def _work_now(self, serve: bool) -> Duty:
        ledger, now = self.ledger, self._tools.clock.monotonic()
        number = len(ledger.steps)
        if ledger.ended is not None:
            result = ledger.ended.end.result
            here = result is None or result in self._here
            return Duty("finished" if here else "wait", number, blob=result)
        if serve and self._may_coordinate():
            self._serving_until = now + SERVING_S
            return Duty("coordinate", number)
        for step, place in self._turns.open(now):
            blob = step.call.sent[place].blob
            if blob in self._here:
                left = self._turns.over_at(step) - now
                # Who takes over from a coordinator that has gone waits as long again; else it is too late.
                left = left if left > 0 or not self._turns.is_silent(now) else self._turns.wait_s(step)
                if left <= 0:
                    continue
                return Duty("answer", number, step.record, place, blob, left)
        return Duty("wait", number)

    async def answer(self, call: Cid, place: int, blob: Cid) -> None:
        """Answer a message; durable when this returns. Raises `WrongState` when it is not this node's
        turn."""
        now = self._tools.clock.monotonic()
        if (call, place) not in [(step.record, at) for step, at in self._turns.open(now)]:
            raise WrongState("there is no such message to answer any more")
        size = await self._size(blob)
        key = b"answer" + call + place.to_bytes(2, "big")
        await self.append(ANSWER, answer_body(Answer(call, place, blob, size)), key)
        self.wake()

    async def call(
        self,
        previous: Cid,
        nodes: Sequence[AgentId],
        answers: Sequence[Cid],
        messages: Sequence[tuple[AgentId, Cid]],
        wait_s: float | None = None,
    ) -> Cid:
        """Send messages on top of `previous`, for whose answers the app waits `wait_s`, None: as long as the
        task says; the call's record. Raises `WrongState` for who does not lead.
        """
        self._require_lead(previous)
        sent = tuple([Sent(agent, blob, await self._size(blob)) for agent, blob in messages])
        number = len(self.ledger.steps) + 1
        wait = None if wait_s is None else round(wait_s * 1_000)
        if wait is not None and (wait >= self.ledger.terms.commit_ms or self._rules() < TOPOLOGIES_FROM):
            wait = None
        body = call_body(Call(number, previous, tuple(sorted(nodes)), tuple(answers), sent, wait))
        self._require_lead(previous)
        record = await self.append(CALL, body, b"call" + previous)
        self._serving_until = self._tools.clock.monotonic() + SERVING_S
        self._note_head(self._tools.clock.monotonic())
        self.wake()
        return record.cid

    async def collect(self, call: Cid, wait_s: float) -> Collected:
        """The answers to a call, once all are here or the time for them is over, or `wait_s` has passed.

        The time for a call that this node took over begins when it first asks: messages may have been lost
        with who sent them, and are here again only now. Its sender's own answer is not waited for.

        Raises `WrongState` for who does not lead the run, and when another call counts.
        """
        clock = self._tools.clock
        step = self.ledger.step(call)
        if step is None:
            raise UnknownTask("there is no such call")
        if step.agent != self._me and self._due_at() > clock.monotonic():
            raise WrongState("another member coordinates the run")
        taken = step.agent != self._me
        if taken:
            self._taken_at.setdefault(call, clock.monotonic())
        began = self._taken_at.get(call) if taken else self._presence.seen_at(call)
        began = clock.monotonic() if began is None else began
        end = began + self._turns.wait_s(step)
        until = clock.monotonic() + wait_s
        while True:
            now = clock.monotonic()
            self._serving_until = now + SERVING_S
            if not self.ledger.follows(call) and call not in [one.record for one in self.ledger.claims]:
                raise WrongState("another member coordinates now")
            known = self.ledger.answers(call)
            here = tuple(known[place] for place in sorted(known) if known[place].answer.blob in self._here)
            gone = self._tools.excluded() | (set(self._agents(step)) - set(self.ledger.members()))
            open_ = [p for p, one in enumerate(step.call.sent) if p not in known and one.agent not in gone]
            awaited = [p for p in open_ if not taken or step.call.sent[p].agent != step.agent]
            complete = not awaited and len(here) == len(known)
            if complete or now >= end:
                for one in known.values():
                    self._presence.answered(one.agent)
                for agent in {step.call.sent[place].agent for place in open_}:
                    standing = self.ledger.standings.get(agent)
                    since = -inf if taken and agent == step.agent else began
                    self._presence.owes(agent, since, now, None if standing is None else standing.cid)
                return Collected(here, True)
            if now >= until:
                return Collected(here, False)
            changed = self._changed
            with trio.move_on_after(min(until, end) - now):
                await changed.wait()

    async def end(
        self, previous: Cid, answers: Sequence[Cid], result: Cid | None, failed: str | None
    ) -> None:
        """End the run after `previous`. Raises `WrongState` for who does not lead it."""
        self._require_lead(previous)
        if result is not None:
            await self._size(result)
        await self.append(END, end_body(End(previous, tuple(answers), result, failed)), b"end" + previous)
        self._serving_until = -inf
        self.wake()

    async def message(self, blob: Cid) -> bytes:
        """A message or an answer of the run, from here or from who has it. Raises `UnknownTask` for none."""
        try:
            data = await self._tools.blobs.fetch(
                blob, MAX_MESSAGE_BYTES, self._sources(self.ledger.coordinator)
            )
        except TooLarge as error:
            raise Refused(f"the blob has over {MAX_MESSAGE_BYTES} bytes") from error
        if data is None:
            raise UnknownTask("none of the members has this blob")
        self._here.add(blob)
        return data

    def at_work(self, previous: Cid) -> None:
        """The app's process is at work after `previous`: the others are told, now and then.

        Raises `WrongState` for who does not lead the run.
        """
        self._require_lead(previous)
        now = self._tools.clock.monotonic()
        self._serving_until = now + SERVING_S
        self._presence.heard(previous, now)
        if self._presence.says(previous, now) and self._nursery is not None:
            body = encode_alive(self.ledger.cid, previous)
            self._nursery.start_soon(self._tools.post.tell, ALIVE, body, self._audience())

    def alive(self, agent: AgentId, call: Cid) -> bool:
        """Another node says that its app is at work after a call; whether it is the one that leads."""
        if self.ledger.finished or (agent, call) != (self.ledger.coordinator, self.ledger.head):
            return False
        self._presence.heard(call, self._tools.clock.monotonic())
        self.wake()
        return True

    def released(self) -> None:
        """The user's process does not coordinate any more."""
        self._serving_until = -inf
        self.wake()

    def _agents(self, step: Step) -> list[AgentId]:
        return [one.agent for one in step.call.sent]

    def _require_lead(self, previous: Cid) -> None:
        ledger = self.ledger
        if ledger.finished:
            raise WrongState("the run is over")
        if ledger.head != previous:
            raise WrongState("another member coordinates now, or the call is not the last one")
        if self._due_at() > self._tools.clock.monotonic():
            raise WrongState("another member coordinates the run")

    async def _size(self, blob: Cid) -> int:
        data = await self._tools.blobs.get(blob)
        if data is None:
            raise UnknownTask("the message's blob is not here; post it first")
        if len(data) > MAX_MESSAGE_BYTES:
            raise Refused(f"the message has {len(data)} bytes, the limit is {MAX_MESSAGE_BYTES}")
        self._here.add(blob)
        return len(data)
