"""A task that this node follows, in whatever mode: its records come in, the own ones go out.

Records are delivered, polled for at the task's holders, stored here as a holder, or our own; all of them go
into the ledger, each new one becomes a line of the log. What others are to see is appended to the own chain
first, and is durable, before it leaves.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from typing import Any, Generic, TypeVar

import trio

from chain.cid import Cid
from chain.identity import AgentId, Identity, peer_id
from chain.kinds import JOIN, LEAVE
from chain.learning import Commit, Join, Leave, Reveal, Start, draft_on_task
from chain.learning_outcome import GroupResult, Result
from chain.record import Record
from chain.secure_part import Part
from chain.server_app import Answer, Call, End
from chain.share import Share
from dht.errors import NetworkError
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from federated.membership import Membership, in_order
from federated.ports import Blobs, Memory, OwnChain
from federated.post import Post
from validation.named import learning_of

POLL_FIRST_S = 1.0
POLL_MOST_S = 30.0
"""A task's basis is polled after this long without news, twice as long each time, up to the second number."""
POLL_ACTIVE_S = 4.0
"""The longest pause while this node takes part in something that is under way."""
POLL_IDLE_S = 600.0
"""The same once the task is finished: only a better result for an old round could still come."""
RETRY_S = 1.0
"""Seconds before a blob that could not be had is asked for again."""
MAX_LOG = 10_000
"""Lines of a task's log that are kept."""
REREAD_S = 30.0
"""Seconds at least between two readings of all that is kept of a task, because some of it was forgotten."""
MAX_TAKEN_UP = 256
"""Records fetched at most from one agent because it says that they are missing here."""

PHASES = (
    "has an update to sum, and shows keys",
    "shares out what its masks are made of",
    "shows its update under masks",
    "signs whose updates are summed",
    "opens its shares of the masks",
)
"""What the parts of a secure sum are, in the log of a task."""

log = logging.getLogger(f"roseforest.{__name__}")


async def _nothing_to_compare(_agent: AgentId) -> None:
    """Where nobody is ever excluded."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What all tasks that a node follows share."""

    identity: Identity
    kademlia: Kademlia
    post: Post
    own: OwnChain
    blobs: Blobs
    memory: Memory
    clock: Clock
    random: Random
    run_blocking: RunBlocking
    published: Callable[[], None]
    """Called when the own chain has grown."""
    excluded: Callable[[], frozenset[AgentId]] = frozenset
    """The agents that the network does not hear now."""
    compare: Callable[[AgentId], Awaitable[None]] = _nothing_to_compare
    """Fetches from an agent what it knows of who is not heard and why, and this node does not."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a task's log: a record, as people read it. `number` counts from 1, `hlc` is in µs."""

    number: int
    hlc: int
    event: str
    agent: AgentId
    round: int | None
    record: Cid
    text: str


L = TypeVar("L", bound=Membership)


class Following(ABC, Generic[L]):
    """This node and one task; a mode's own class says what is to be done (`_go_on`) and when (`_wake_at`)."""

    def __init__(self, tools: Tools, ledger: L, wanted: bool) -> None:
        self.ledger = ledger
        self.log: deque[Line] = deque([_line(1, ledger.task)], maxlen=MAX_LOG)
        """The newest of the task's records, in the order in which they came to be known here."""
        self.wanted = wanted
        self._lines = 1
        self._tools = tools
        self._me = tools.identity.agent
        self._last: Record | None = ledger.task if ledger.task.header.author == self._me else None
        self._here: set[Cid] = set()
        self._fetching: set[Cid] = set()
        self._appending = trio.Lock()
        self._news = trio.Event()
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._follows = False

    # -- what a mode decides --

    @abstractmethod
    async def _go_on(self) -> None:
        """Do what is to be done now."""

    @abstractmethod
    def _wake_at(self) -> float:
        """When there will be something to do without news, by the monotonic clock."""

    @property
    @abstractmethod
    def _active(self) -> bool:
        """Whether this node takes part in something that is under way."""

    @abstractmethod
    def _audience(self) -> list[AgentId]:
        """Who wants to hear at once of what is appended."""

    @abstractmethod
    async def _bring(self, blob: Cid, sources: Sequence[AgentId]) -> bool | None:
        """Fetch a blob that was wanted: whether it is here now; None when it will never be what it should."""

    # -- what comes in --

    def take(self, records: Sequence[Record]) -> None:
        """Valid records, with payload, of this task; known ones are passed over."""
        news = False
        for record in in_order(records):
            known = self.ledger.has(record.cid)
            if record.header.author == self._me and record.header.subject == self.ledger.cid:
                last = self._last
                if last is None or record.header.subject_seq > last.header.subject_seq:
                    self._last = record
            if self.ledger.add(record):
                news = True
            if not known and self.ledger.has(record.cid):
                self._lines += 1
                self.log.append(_line(self._lines, record, self._costs(record)))
        if news:
            self.wake()

    def _costs(self, record: Record) -> str:
        """What a record that the ledger has taken costs whom, for the log."""
        return ""

    def wake(self) -> None:
        """Something happened."""
        self._news.set()
        self._changed.set()
        self._changed = trio.Event()

    # -- following --

    async def run(self) -> None:
        """Follow the task until cancelled, or a disk that takes no writes ends it."""
        self._follows = True
        try:
            await self._follow()
        finally:
            self._follows = False
            self.wake()

    async def _follow(self) -> None:
        tools = self._tools
        await self._take_kept()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_polling)
            while True:
                self._news = trio.Event()
                await self._go_on()
                with trio.move_on_after(max(0.0, self._wake_at() - tools.clock.monotonic())):
                    await self._news.wait()

    async def _take_kept(self) -> None:
        """Take up what is on disk."""
        self.take(await self._tools.run_blocking(self._tools.post.kept, self.ledger.cid))

    async def _keep_polling(self) -> None:
        """Look at the task's holders for what was not delivered, more rarely while nothing happens there."""
        tools, pause, turn, again_at = self._tools, POLL_FIRST_S, 0, -inf
        while True:
            came = await tools.post.poll(self.ledger.cid, not turn, turn)
            turn += 1
            if self.ledger.forgot and tools.clock.monotonic() >= again_at:
                again_at = tools.clock.monotonic() + REREAD_S
                self.ledger.forgot = False
                await self._take_kept()
            most = POLL_ACTIVE_S if self._active else POLL_IDLE_S if self.ledger.finished else POLL_MOST_S
            pause = POLL_FIRST_S if came else min(2 * pause, most)
            await trio.sleep(pause * tools.random.choice.uniform(0.8, 1.2))

    def _others(self, agents: Iterable[AgentId]) -> list[AgentId]:
        """Each of these once, in this order, without this node."""
        return [agent for agent in dict.fromkeys(agents) if agent != self._me]

    def _want(self, blob: Cid, sources: Sequence[AgentId]) -> None:
        """See to it that a blob is here."""
        if blob in self._here or blob in self._fetching or self._nursery is None:
            return
        self._fetching.add(blob)
        self._nursery.start_soon(self._fetch_wanted, blob, sources)

    async def _fetch_wanted(self, blob: Cid, sources: Sequence[AgentId]) -> None:
        found = await self._bring(blob, sources)
        if found is None:
            return
        if found:
            self._here.add(blob)
        else:
            await trio.sleep(RETRY_S)
        self._fetching.discard(blob)
        self.wake()

    # -- acting --

    async def append(
        self,
        kind: str,
        body: dict[str, Any],
        key: bytes | None = None,
        to: Sequence[AgentId] | None = None,
    ) -> Record:
        """Append an operation on the task to the own chain, durably; then deliver it, to all or `to` some.

        With `key` it is appended at most once, also across restarts. Not cancelled halfway.
        """
        tools = self._tools
        unique = None if key is None else sha256(b"learning" + self.ledger.cid + key).digest()
        with trio.CancelScope(shield=True):
            async with self._appending:
                draft = draft_on_task(self.ledger.task, self._last, kind, body)
                ((cid, _),) = await tools.own.append([draft], [unique])
                (record,) = [found for found in tools.own.get_many([cid]) if found is not None]
                await tools.post.keep(self.ledger.cid, [record])
                self.take([record])
        tools.published()
        if self._nursery is not None:
            self._nursery.start_soon(
                tools.post.deliver, self.ledger.cid, [record], self._audience() if to is None else to
            )
        return record

    async def _take_up(self, agent: AgentId, cids: Sequence[Cid]) -> None:
        """Fetch records that this node lacks from somebody who has them."""
        unknown = [cid for cid in cids if not self.ledger.has(cid)][:MAX_TAKEN_UP]
        if unknown:
            try:
                await self._tools.post.get(self.ledger.cid, agent, unknown)
            except NetworkError as error:
                log.info("fetching from %s failed: %s", agent.hex()[:8], error)

    async def join(self) -> None:
        """Take part, from now on."""
        await self._stand(JOIN)

    async def leave(self) -> None:
        """Take part no more."""
        await self._stand(LEAVE)

    async def _stand(self, kind: str, *, spent: bool = False) -> None:
        """Say that this node takes part, or does not, unless that is what it said last."""
        standing = self.ledger.standings.get(self._me)
        self.wanted = kind == JOIN
        await self._tools.memory.follow(self.ledger.cid, self.wanted)
        joined = standing is not None and standing.joins
        if joined != self.wanted or (spent and self.wanted):
            await self.append(kind, {})
        self.wake()


def _line(number: int, record: Record, costs: str = "") -> Line:
    header = record.header
    round_: int | None = None
    text = ""
    said = learning_of(record)
    match said:
        case Start(roster=roster):
            text = f"{len(roster)} members start"
        case Commit(round=number_):
            round_ = number_
            text = "promises an update"
        case Reveal(round=number_, examples=examples, size=size):
            round_ = number_
            text = f"shows an update of {size} bytes from {examples} examples"
        case GroupResult(outcome=of_group, signatures=signatures):
            round_ = of_group.round
            text = f"a group of {len(of_group.members)} agrees on {len(of_group.contributors)} updates"
        case Result(outcome=outcome, signatures=signatures):
            round_ = outcome.round
            refused = ", ".join(f"{peer_id(agent)} ({reason})" for agent, reason in outcome.refused)
            text = f"result signed by {len(signatures)} of {len(outcome.members)}"
            text += f"; refused: {refused}" if refused else ""
            text += costs
        case Part(round=number_, phase=phase):
            round_ = number_
            text = PHASES[phase]
        case Call(number=number_, sent=sent):
            round_ = number_
            text = f"sends {len(sent)} messages of {sum(one.size for one in sent)} bytes"
        case Answer(size=size):
            text = f"answers with {size} bytes"
        case End(failed=failed):
            text = "ends the run" if failed is None else f"ends the run: {failed}"
        case Share(round=number_):
            round_ = number_
            text = _shared(said)
        case Join():
            text = "wants to take part"
        case Leave():
            text = "takes part no more"
    event = header.kind.removeprefix("learning.")
    return Line(number, header.hlc, event, header.author, round_, record.cid, text or "publishes the task")


def _shared(share: Share) -> str:
    others = f"made of {len(share.combined)} shares"
    refused = ", ".join(reason for _, reason in share.refused)
    if not share.examples:
        text = f"shows its result, {others}"
    else:
        base = f"one {others}" if share.combined else "what the task begins with"
        text = f"shows a model of {share.size} bytes from {share.examples} examples, trained from {base}"
    return text + (f"; refused: {refused}" if refused else "")
