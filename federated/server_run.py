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
from hashlib import sha256
from math import inf

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import ANSWER, CALL, END, JOIN, LEAVE, TOPOLOGIES_FROM
from chain.record import Record
from chain.server_app import (
    MAX_MESSAGE_BYTES,
    MAX_NODES,
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

KEPT_CALLS = 2
"""Calls, the last ones, whose answers every member fetches."""
RETRY_S = 1.0
"""Seconds before a message that could not be had is asked for again."""
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
        self._here: set[Cid] = set()
        self._fetching: set[Cid] = set()
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
        for step, place in self._open():
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
        silent = self._presence.gone_at(ledger.head) <= now
        if not claims or not silent or self._serving_until > now or self._tools.own.frozen is not None:
            return
        if self._has_ended() or not (ledger.steps and self._me in ledger.steps[-1].call.nodes):
            return
        said = claims[0].end
        if said.result is not None:
            self._want(said.result, self._sources(claims[0].agent))
            if said.result not in self._here:
                return
        await self.append(END, end_body(said), b"end" + said.previous)

    def _has_ended(self) -> bool:
        """Whether this node has said that the run is over, which may not count yet."""
        return any(one.agent == self._me for one in self.ledger.claimed_ends)

    def _note_head(self, now: float) -> None:
        """Remember when the run got where it is, and when each claim to it was first seen."""
        for cid in (self.ledger.head, *(step.record for step in self.ledger.claims)):
            self._presence.saw(cid, now)

    def _open(self) -> list[tuple[Step, int]]:
        """The messages that this node may answer: of the last call, or once its coordinator has been silent
        for a lease, of the first claim."""
        ledger = self.ledger
        if ledger.finished:
            return []
        steps = [*ledger.steps[-1:], *(ledger.claims[:1] if self._is_silent() else ())]
        return [(step, place) for step in steps for place in ledger.open_in(step, self._me)]

    def _is_silent(self) -> bool:
        """Whether the coordinator counts as gone."""
        return self._presence.gone_at(self.ledger.head) <= self._tools.clock.monotonic()

    def _wake_at(self) -> float:
        times = [self._presence.gone_at(self.ledger.head), self._due_at()]
        times += [self._over_at(step) for step in self.ledger.steps[-1:]]
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
        found = [first, *self.ledger.members(), self.ledger.task.header.author]
        return [agent for agent in dict.fromkeys(found) if agent != self._me]

    def _want(self, blob: Cid, sources: Sequence[AgentId]) -> None:
        """See to it that a message is here."""
        if blob in self._here or blob in self._fetching or self._nursery is None:
            return
        self._fetching.add(blob)
        self._nursery.start_soon(self._fetch, blob, sources)

    async def _fetch(self, blob: Cid, sources: Sequence[AgentId]) -> None:
        try:
            data = await self._tools.blobs.fetch(blob, MAX_MESSAGE_BYTES, sources)
        except TooLarge:
            data = None
        if data is None:
            await trio.sleep(RETRY_S)
        else:
            self._here.add(blob)
        self._fetching.discard(blob)
        self.wake()

    # -- who coordinates --

    def _due_at(self) -> float:
        """From when on this node may coordinate, by the monotonic clock."""
        ledger = self.ledger
        if ledger.finished:
            return inf
        if ledger.coordinator == self._me:
            return -inf
        order = sorted(
            {*ledger.members(), ledger.task.header.author} - self._tools.excluded() - {ledger.coordinator},
            key=lambda agent: sha256(ledger.head + agent).digest(),
        )
        if self._me not in order:
            return inf
        return self._presence.gone_at(ledger.head) + self._presence.silence_s * order.index(self._me)

    def _may_coordinate(self) -> bool:
        ledger, now = self.ledger, self._tools.clock.monotonic()
        enough = bool(ledger.steps) or len(self.nodes()) >= ledger.terms.min_members
        return enough and self._due_at() <= now and self._serving_until <= now and not self._has_ended()

    def nodes(self) -> tuple[AgentId, ...]:
        """The members that messages can be sent to, ascending: of more than the task takes the lowest
        joins."""
        ledger = self.ledger
        there = [
            agent
            for agent in ledger.members()
            if agent not in self._tools.excluded()
            and not self._presence.is_away(agent, ledger.standings[agent].cid)
        ]
        there.sort(key=lambda agent: ledger.standings[agent].cid)
        return tuple(sorted(there[: min(ledger.terms.max_members, MAX_NODES)]))

    # -- the user's verbs --

    async def join(self) -> None:
        """Ask to take part."""
        await self._stand(JOIN)

    async def leave(self) -> None:
        """Take part no more."""
        await self._stand(LEAVE)

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
        """Whether to join once more, since messages come to this node no longer, or soon will not: it was
        away, or slow, or a message could not be had because its sender had gone."""
        ledger = self.ledger
        if not ledger.steps or ledger.finished or not self.wanted or ledger.head in self._asked_again:
            return False
        last = ledger.steps[-1]
        # By the task's time, not the call's: so long it takes to be away.
        seen = self._presence.seen_at(last.record)
        over = inf if seen is None else seen + ledger.terms.commit_ms / 1_000
        late = bool(ledger.open_in(last, self._me)) and over <= self._tools.clock.monotonic()
        return late or self._me not in last.call.nodes

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
        for step, place in self._open():
            blob = step.call.sent[place].blob
            if blob in self._here:
                left = self._over_at(step) - now
                # Who takes over from a coordinator that has gone waits as long again; else it is too late.
                left = left if left > 0 or not self._is_silent() else self._wait_s(step)
                if left <= 0:
                    continue
                return Duty("answer", number, step.record, place, blob, left)
        return Duty("wait", number)

    def _over_at(self, step: Step) -> float:
        """When the time for the answers to a call is over; never for one that was not seen yet."""
        seen = self._presence.seen_at(step.record)
        return inf if seen is None else seen + self._wait_s(step)

    def _wait_s(self, step: Step) -> float:
        """How long answers to a call are waited for: as the call says, else as the task does."""
        most = self.ledger.terms.commit_ms
        return (most if step.call.wait_ms is None else min(most, step.call.wait_ms)) / 1_000

    async def answer(self, call: Cid, place: int, blob: Cid) -> None:
        """Answer a message; durable when this returns. Raises `WrongState` when it is not this node's
        turn."""
        if (call, place) not in [(step.record, at) for step, at in self._open()]:
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
        end = began + self._wait_s(step)
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
