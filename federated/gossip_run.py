"""A task of the topology gossip as one node follows it: the thin layer around `ShareLog` and `Mixing`.

Train, show, combine, and again, each member at its own pace: nothing here waits for an agreement. Where this
node stands follows from its own shares; the one thing that is in no record yet, the model combined last,
is remembered on disk, so that a restart goes on from it. Of the records on disk, those of all members and
rounds, only what the log keeps is taken up, a page at a time. Which round the node takes next, and with whom,
is decided in `federated.gossip`. An update is shown in the round in which most of the others are by then, not
in the one in which its training began: who is slow is heard all the same, with an older base.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from math import inf

import trio

from chain import canonical
from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import JOIN, LEAVE, SHARE
from chain.record import Record
from chain.share import Share, share_body
from federated.compression import most_sent
from federated.errors import WrongState
from federated.following import RETRY_S, Following, Tools
from federated.gossip import Combine, Look, Mixed, Mixing, audience, fanout, step_after
from federated.half import expanded
from federated.lies import Lies
from federated.models import Models
from federated.ports import TooLarge
from federated.proposal import Verdict
from federated.robust import round_model
from federated.share_book import ShareBook
from federated.share_log import MAX_KEPT, ShareLog, Shown
from federated.update import Model, update_size

MAX_MIXED = 8192
"""Bytes of a `Mixed` as it is remembered: `MAX_FANOUT` + 1 and `MAX_REFUSED` CIDs fit."""
READ_UP = 8 * MAX_KEPT
"""Records of a member read when it comes to a seat, its newest: two shares a round, joins and leaves."""

log = logging.getLogger(f"roseforest.{__name__}")


class GossipRun(Following[ShareLog]):
    """This node and one such task. `run` follows it; the verbs may be called from other tasks."""

    def __init__(self, tools: Tools, task: Record, wanted: bool) -> None:
        super().__init__(tools, ShareLog(task, tools.identity.agent), wanted)
        self.models = Models(tools, self.ledger.terms)
        self.mixing: Mixing | None = None
        """The step under way."""
        self.mixed: Mixed | None = None
        """What is trained from now, or shown as the result."""
        self.lies = Lies()
        """The lies that this node named in its shares."""
        self._away: dict[AgentId, Cid | None] = {}
        self._caught_up = False
        self._given_at = -inf
        self._showing = trio.Lock()

    # -- following --

    @property
    def book(self) -> ShareBook:
        """The task's shares in full, on disk."""
        post, ledger = self._tools.post, self.ledger
        by = partial(post.kept_by, ledger.cid)
        return ShareBook(ledger.task, ledger.terms, post.records, by)

    async def _take_kept(self) -> None:
        """Who takes part, then the newest of those who have a seat; of the own shares also the lies named."""
        tools = self._tools
        pages = tools.post.pages(self.ledger.cid)
        while (page := await tools.run_blocking(next, pages, None)) is not None:
            self.take([record for record in page if record.header.kind in (JOIN, LEAVE)])
        for named in await tools.run_blocking(_lies_named, self.book, self._me):
            self.lies.told(*named)
        await self._read_up()
        lines = sorted(self.log, key=lambda line: (line.hlc, line.record))
        self.log.clear()
        self.log.extend(replace(line, number=number) for number, line in enumerate(lines, 1))
        self._lines = len(lines)

    async def _read_up(self) -> None:
        """Take up what those have shown before who have come to a seat."""
        post, cid = self._tools.post, self.ledger.cid
        while agents := self.ledger.unread():
            for agent in agents:
                newest = islice(post.kept_by(cid, agent), READ_UP)
                self.take(await self._tools.run_blocking(list, newest))

    def _seats(self) -> tuple[AgentId, ...]:
        self.ledger.exclude(self._tools.excluded())
        return self.ledger.seats()

    async def _keep_polling(self) -> None:
        """As always; but nothing is begun before the holders were asked once where the others are."""
        await self._tools.post.poll(self.ledger.cid, True, 0)
        self._caught_up = True
        self.wake()
        await super()._keep_polling()

    @property
    def own(self) -> Shown | None:
        """This node's newest share."""
        return self.ledger.newest(self._me)

    @property
    def done(self) -> bool:
        """Whether this node has shown its result."""
        own = self.own
        return own is not None and self.ledger.is_result(own)

    @property
    def phase(self) -> tuple[str | None, float | None]:
        """What this node is at, "train" or "combine", and in how many seconds it goes on without the rest."""
        if not self._may_go_on():
            return None, None
        if self.mixed is not None or self.mixing is None:
            return "train", None
        return "combine", max(0.0, round(self.mixing.deadline() - self._tools.clock.monotonic(), 3))

    @property
    def frontier(self) -> int:
        """The round in which the others are."""
        self.ledger.exclude(self._tools.excluded())
        return self.ledger.frontier(self._me, self._tools.clock.wall_us())

    @property
    def _active(self) -> bool:
        return self.wanted and not self.done

    def _wake_at(self) -> float:
        return inf if self.mixing is None else self.mixing.wake_at

    def _audience(self) -> list[AgentId]:
        """For a share those with a seat who are likely to draw it; for a join or a leave everybody."""
        ledger, own = self.ledger, self.own
        if own is not None and self._showing.locked():
            return audience(ledger.cid, own.round, self._me, self._seats(), fanout(ledger.terms))
        return list(dict.fromkeys([*ledger.members(), ledger.task.header.author]))

    async def _go_on(self) -> None:
        self._seats()
        await self._read_up()
        if not self._may_go_on() or self._showing.locked():
            return
        if self.mixed is None and self.mixing is None:
            self.mixed = await self._remembered()
        if self.mixed is not None and self._is_behind(self.mixed):
            behind, self.mixed, self.mixing = self.mixed, None, None
            await self._release(behind.base)
        if self.mixed is None:
            await self._mix()
        elif self.mixed.round == 0:
            self._want(self.mixed.base, self._sources())
        elif self.mixed.round >= self.ledger.terms.rounds:
            await self._show_result(self.mixed)

    def _may_go_on(self) -> bool:
        """Whether this node has a seat, and there were ever enough of them."""
        ledger, seats = self.ledger, self._seats()
        if not self._caught_up or self._me not in seats or self.done or self._tools.own.frozen is not None:
            return False
        return self.own is not None or len(seats) >= ledger.terms.min_members or self.frontier > 0

    def _is_behind(self, mixed: Mixed) -> bool:
        """Whether the others have gone on so far, with nobody training here, that training begins anew."""
        idle = self._tools.clock.monotonic() - self._given_at > self.ledger.terms.commit_ms / 1_000
        return idle and self.frontier >= mixed.round + 2 and mixed.round < self.ledger.terms.rounds

    async def _remembered(self) -> Mixed | None:
        """The model that was combined before a restart, unless a share came of it, or it has gone."""
        data = self._tools.memory.mixed(self.ledger.cid)
        own = self.own
        if data is None:
            return None
        try:
            number, base, combined, refused = canonical.decode(data, MAX_MIXED)
        except (ChainError, ValueError, TypeError) as error:
            log.error("what was combined before the restart cannot be read, and is combined again: %s", error)
            return None
        mixed = Mixed(number, base, tuple(combined), tuple((cid, reason) for cid, reason in refused))
        used = own is not None and mixed.round < own.round
        if used or await self._tools.blobs.map(base) is None:
            return None
        self._here.add(base)
        return mixed

    async def _mix(self) -> None:
        tools, now = self._tools, self._tools.clock.monotonic()
        step = self.mixing
        if step is None or step.over:
            number, own = step_after(self.ledger, self._me, self.frontier)
            if number == 0:
                self.mixed, self.mixing = Mixed(0, self.ledger.terms.parameters), None
                self.wake()
                return
            if own is not None and await tools.blobs.map(own.blob) is None:
                log.warning("the model shown in round %d has gone; the next is made without", own.round)
                own = None
            if step is not None:
                self._away.clear()
            for agent in self._away.keys() - set(self._seats()):
                del self._away[agent]
            barred = self.lies.barred(number)
            step = self.mixing = Mixing(self.ledger, self._me, number, own, now, barred)
            step.away = self._away
        for action in step.step(now):
            assert self._nursery is not None
            match action:
                case Look():
                    self._nursery.start_soon(self._look, step, action.shown)
                case Combine():
                    self._nursery.start_soon(self._combine, step, action)
        if step.over:
            self.wake()

    async def _look(self, step: Mixing, shown: Shown) -> None:
        step.looked(shown.record, await self.verdict(shown, step.own, self._me))
        self.wake()

    async def verdict(self, shown: Shown, own: Shown | None, by: AgentId) -> Verdict:
        """What is wrong with a share's model, for who combines it with `own`, which is `by`; `UNAVAILABLE`
        when it cannot be had in time.

        How far it may lie from the own one (`max_norm`) is asked only where there is an own one.
        """
        terms = self.ledger.terms if own is not None else replace(self.ledger.terms, max_norm=None)
        sizes = most_sent(terms), shown.size
        sources = self._others([*self.ledger.holders(shown), by])

        async def base_of() -> Model | None:
            return None if own is None else await self._begun_with(own)

        return await self.models.examined(terms, shown.blob, sizes, sources, base_of)

    async def _combine(self, step: Mixing, combine: Combine) -> None:
        tools = self._tools
        data = await self.combination(combine.own, combine.others)
        base = None if data is None else await self.models.keep(data)
        if base is None:
            await trio.sleep(RETRY_S)
            step.failed()
        else:
            step.combined(base)
            assert step.mixed is not None
            with trio.CancelScope(shield=True):
                await tools.memory.keep_mixed(self.ledger.cid, _encoded(step.mixed))
            self._here.add(base)
            if self.mixing is step:
                self.mixed = step.mixed
        self.wake()

    async def combination(self, own: Shown | None, others: Sequence[Shown]) -> bytes | None:
        """What the task's strategy makes of these shares; None when a model of them cannot be had.

        A robust rule looks at differences from the own share, or where there is none, from what the task
        began with. The models of the others have been looked at, and so are here; of an audit, too.
        """
        tools, terms = self._tools, self.ledger.terms
        parts: list[tuple[Cid, Model, int]] = []
        for one in (*(() if own is None else (own,)), *others):
            data = await self._model_of(one)
            if data is None:
                return None
            parts.append((one.blob, data, one.examples))
        base: Model | None = b""
        if terms.rule is not None and own is not None:
            base = await self._begun_with(own)
        elif terms.rule is not None:
            base = await self.models.start(terms.parameters, self._sources())
        if base is None:
            return None
        return await tools.run_blocking(round_model, terms, base, parts)

    async def base_of(self, own: Shown | None, others: Sequence[Shown]) -> Cid | None:
        """The CID of the combination; nothing is kept."""
        data = await self.combination(own, others)
        return None if data is None else self._tools.blobs.cid_of(data)

    async def _model_of(self, shown: Shown) -> Model | None:
        """The model of a share that was looked at, from here or whoever has it."""
        most, sources = most_sent(self.ledger.terms), self._others(self.ledger.holders(shown))
        try:
            return await self.models.in_time(shown.blob, most, sources)
        except TooLarge:
            return None

    async def _begun_with(self, own: Shown) -> Model | None:
        """The own model, from which distances are taken, as the task's arrays."""
        data = await self._model_of(own)
        return None if data is None else await self._tools.run_blocking(expanded, self.ledger.terms, data)

    # -- what the task begins with --

    def _sources(self) -> list[AgentId]:
        return self._others([self.ledger.task.header.author, *self._seats()])

    async def _bring(self, blob: Cid, sources: Sequence[AgentId]) -> bool | None:
        return await self.models.start(blob, sources) is not None

    # -- showing --

    async def _show(self, share: Share) -> None:
        before = self.own
        key = b"share" + share.round.to_bytes(4, "big")
        await self.append(SHARE, share_body(share), key)
        self.mixed = self.mixing = None
        for named in await self._tools.run_blocking(self.book.lies_named, share):
            self.lies.told(*named)
        if before is not None and before.base != share.base:
            await self._release(before.base)

    async def _release(self, base: Cid) -> None:
        """A model that this node combined once may go when room is short."""
        if base != self.ledger.terms.parameters:
            await self._tools.blobs.release(base)

    async def _show_result(self, mixed: Mixed) -> None:
        """Say what this node came to; its model stays."""
        size = update_size(self.ledger.terms.arrays)
        number = self.ledger.terms.rounds + 1
        async with self._showing:
            share = Share(number, mixed.base, size, 0, {}, mixed.base, mixed.combined, mixed.refused)
            await self._show(share)
        self.wake()

    # -- the user's verbs --

    async def hand_in(self, number: int, blob: Cid, examples: int, metrics: dict[str, int]) -> None:
        """The user's update, shown to the others when this returns.

        Raises `Refused` when it does not match the task, `WrongState` when it comes too late or twice.
        """
        terms = self.ledger.terms
        async with self._showing:
            mixed = self.mixed
            over = number > terms.rounds
            if mixed is None or mixed.round + 1 != number or over or not self._may_go_on():
                raise WrongState(f"this node waits for no update of round {number}")
            data = await self.models.handed_in(blob, examples)
            shown_in = max(number, self.frontier)
            await self._show(
                Share(shown_in, blob, len(data), examples, metrics, mixed.base, mixed.combined, mixed.refused)
            )
        self.wake()

    async def work(self, wait_s: float) -> tuple[str, int, Cid, float | None]:
        """What the user's process is to do: ("train" | "wait" | "finished", round, from which model, seconds
        it has)."""
        with trio.move_on_after(wait_s):
            while (now := self._work_now())[0] == "wait":
                await self._changed.wait()
        now = self._work_now()
        if now[0] == "train":
            self._given_at = self._tools.clock.monotonic()
        return now

    def _work_now(self) -> tuple[str, int, Cid, float | None]:
        terms, own, mixed = self.ledger.terms, self.own, self.mixed
        if own is not None and self.ledger.is_result(own):
            return "finished", terms.rounds, own.base, None
        number = 0 if own is None else own.round
        ready = mixed is not None and mixed.round < terms.rounds and mixed.base in self._here
        if mixed is None or not ready or not self._may_go_on():
            return "wait", number, terms.parameters, None
        return "train", mixed.round + 1, mixed.base, terms.commit_ms / 1_000


def _lies_named(book: ShareBook, me: AgentId) -> list[tuple[AgentId, int, str]]:
    """The lies that a member named in its shares; blocks."""
    shares = (told.share for told in book.all_by(me) if told.share.refused)
    return [named for share in shares for named in book.lies_named(share)]


def _encoded(mixed: Mixed) -> bytes:
    return canonical.encode(
        [mixed.round, mixed.base, list(mixed.combined), [list(pair) for pair in mixed.refused]]
    )
