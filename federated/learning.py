"""The learning service of a node: the tasks that it follows, and the verbs of its owner.

It composes: what follows a task by its mode (`modes`), `Post` for the network, what other members ask
(`serving`) and the audits (`auditing`). The node hands every record that it comes to hold to `take`. Nothing
here decides; see `round` and `proposal`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import trio

from chain.aggregation_rule import ROBUST
from chain.cid import Cid, is_record_cid
from chain.errors import ChainError
from chain.kinds import FIELDS_FROM, FLOAT16_FROM, KINDS_BY_RULE_VERSION, ROUNDS_FROM, TASK
from chain.learning import MAX_METRIC, MAX_METRICS
from chain.learning_task import FEDAVG, GOSSIP, MAX_NAME, PEER_ROUNDS, Task
from chain.manifest import Manifest
from chain.record import SALT_SIZE, Record, encode_payload
from chain.source_chain import Draft
from dht.network import Network
from federated.auditing import audit, own_rounds, result
from federated.engagement import Engagement
from federated.errors import LearningError, Refused, UnknownTask, WrongState
from federated.faults import REASONS
from federated.following import Line, Tools
from federated.gossip_run import GossipRun
from federated.modes import (
    Followed,
    Log,
    follow,
    ledger_of,
    rounds_done,
    view_of,
    view_of_followed,
)
from federated.penalties import LIES_FOR_GOOD
from federated.post import belongs
from federated.server_run import ServerRun
from federated.serving import Serving
from federated.update import UpdateError, decode
from federated.views import UNREAD, AuditView, Barred, TaskView, barred_from

MAX_FOLLOWED = 256
"""Tasks that one node follows at a time."""
MAX_PEEKED = 32
"""Tasks of others that a listing looks into, the newest first; also how many of them are remembered."""
PEEK_S = 10.0
"""For so long what was read of a task that is not followed is taken for current."""
LIST_TIMEOUT_S = 3.0
PPM = 1_000_000

log = logging.getLogger(f"roseforest.{__name__}")


Guard = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class UnknownKind(LearningError):
    """The network's rules are older than learning."""


class Learning:
    """The verbs; `run` must be running."""

    def __init__(
        self,
        tools: Tools,
        network: Network,
        manifest: Manifest,
        while_writable: Guard,
        rules: Callable[[], int],
    ) -> None:
        """`while_writable` runs work that writes: a full disk ends the work, not the node. `rules` gives the
        rule version of the present.
        """
        self._tools = tools
        self._while_writable = while_writable
        self._me = tools.identity.agent
        self._rules = rules
        self._limits = manifest.limits
        self._engaged: dict[Cid, Followed] = {}
        self._peeked: OrderedDict[Cid, tuple[float, Log]] = OrderedDict()
        self._nursery: trio.Nursery | None = None
        self._engaging = trio.Lock()
        self._serving = Serving(tools, network, self._engaged)

    # -- what the node calls --

    def follows(self, task: Cid) -> bool:
        """Whether this node follows a task."""
        return task in self._engaged

    def take(self, records: Sequence[Record]) -> None:
        """Records that have become held here, from wherever; those of followed tasks are taken up."""
        by_task: dict[Cid, list[Record]] = {}
        for record in records:
            followed = record.payload is not None and record.subject in self._engaged
            if followed and belongs(record.subject, record):
                by_task.setdefault(record.subject, []).append(record)
        for task, found in by_task.items():
            self._engaged[task].take(found)

    def heed(self) -> None:
        """Whom the network hears has changed."""
        for engagement in self._engaged.values():
            engagement.wake()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the tasks that are remembered, and those that come, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for task, wanted in self._tools.memory.tasks():
                try:
                    await self._engage(task, wanted)
                except UnknownTask as error:
                    log.warning("a task cannot be followed now: %s", error)
            task_status.started()
            await trio.sleep_forever()

    @property
    def signed(self) -> int:
        """Results of others that this node has signed."""
        return self._serving.signed

    def counters(self) -> dict[str, int]:
        """For metrics."""
        rounds = sum(rounds_done(one) for one in self._engaged.values())
        return {
            "learning_tasks": len(self._engaged),
            "learning_rounds": rounds,
            "learning_records_delivered_total": self._tools.post.delivered,
            "learning_results_signed_total": self.signed,
        }

    # -- the owner's verbs --

    @property
    def strategy(self) -> str:
        """What a new task gets unless its author says another: a robust rule, if the network knows such."""
        return ROBUST if self._rules() >= FIELDS_FROM else FEDAVG

    @property
    def halves(self) -> bool:
        """Whether the network knows whole models in 16 bits an element."""
        return self._rules() >= FLOAT16_FROM

    async def create(self, terms: Task) -> Cid:
        """Publish a task; it is durable, and followed from here, when this returns.

        Its rounds are computed by the network's rule version, unless the terms say another.

        Raises `Refused` when the initial parameters are not here or do not match the arrays, `ChainError` for
        terms out of range.
        """
        self._require_heard()
        rules = self._rules()
        if TASK not in KINDS_BY_RULE_VERSION.get(rules, frozenset()):
            raise UnknownKind(
                f"this network's rules (version {rules}) know no learning tasks: its stewards can change "
                "them by an epoch, or found a new network for them"
            )
        newer = terms.newer(rules)
        if newer is not None:
            raise UnknownKind(
                f"this network's rules (version {rules}) know no {newer[0]}: its stewards can go to "
                f"version {newer[1]} by an epoch"
            )
        rounds = terms.mode == PEER_ROUNDS and terms.topology != GOSSIP
        if rounds and terms.rules is None and rules >= ROUNDS_FROM:
            terms = replace(terms, rules=rules)
        tools, body = self._tools, terms.to_body()
        if len(self._engaged) >= MAX_FOLLOWED:
            raise WrongState(f"this node follows {MAX_FOLLOWED} tasks already")
        size, most = len(encode_payload(bytes(SALT_SIZE), body)), self._limits.payload
        if size > most:
            raise Refused(f"the terms have {size} bytes, this network's limit for a record is {most}")
        data = await tools.blobs.get(terms.parameters)
        if data is None:
            raise Refused("the initial parameters are not here; post their blob first")
        try:
            if terms.mode == PEER_ROUNDS:
                await tools.run_blocking(decode, terms.arrays, data, terms.max_abs)
        except UpdateError as error:
            raise Refused(f"the initial parameters do not match the task ({error.fault}): {error}") from error
        with trio.CancelScope(shield=True):
            ((cid, _),) = await tools.own.append([Draft(TASK, body)], [None])
            (record,) = [found for found in tools.own.get_many([cid]) if found is not None]
            await tools.post.keep(cid, [record])
            await tools.memory.follow(cid, False)
        tools.published()
        self._start(record, False)
        return cid

    async def observe(self, cid: Cid) -> None:
        """Follow a task from here on without taking part. Raises `UnknownTask`."""
        await self._engage(cid, False)

    async def tasks(self) -> list[TaskView]:
        """The tasks that this node follows and those that the network lists, newest first."""
        views = {cid: view_of_followed(one, self._tools) for cid, one in self._engaged.items()}
        with trio.move_on_after(LIST_TIMEOUT_S):
            excluded = self._tools.excluded()
            listed = [one for one in await self._tools.post.listed() if one.header.author not in excluded]
            async with trio.open_nursery() as nursery:

                async def peek(record: Record) -> None:
                    views[record.cid] = view_of(await self._peek(record.cid, record), self._me)

                for record in [one for one in listed if one.cid not in views][-MAX_PEEKED:]:
                    views[record.cid] = replace(view_of(ledger_of(record), self._me), state=UNREAD)
                    nursery.start_soon(peek, record)
        return sorted(views.values(), key=lambda view: view.id)

    async def task(self, cid: Cid) -> TaskView:
        """One task; raises `UnknownTask`."""
        followed = self._engaged.get(cid)
        log = await self._ledger(cid)
        steps = await own_rounds(self._tools, log, followed)
        if followed is not None:
            return view_of_followed(followed, self._tools, steps)
        return view_of(log, self._me, self._tools.excluded(), steps)

    async def join(self, cid: Cid) -> None:
        """Follow a task and ask to take part in it. Raises `UnknownTask`, `WrongState` when it is over."""
        self._require_heard()
        engagement = await self._engage(cid, True)
        if engagement.ledger.finished:
            raise WrongState("the task is finished")
        self._require_eligible(engagement)
        await engagement.join()

    async def leave(self, cid: Cid) -> None:
        """Take part no more; the task is still followed."""
        await self._followed(cid).leave()

    async def work(self, cid: Cid, wait_s: float) -> tuple[str, int, Cid, float | None, Task]:
        """What the user's process is to do: (state, round, parameters, seconds to the deadline, terms)."""
        engagement = self._rounds(cid)
        standing = engagement.ledger.standings.get(self._me)
        if not engagement.ledger.finished and (standing is None or not standing.joins):
            raise WrongState("this node has not joined the task")
        if not engagement.ledger.finished:
            self._require_eligible(engagement)
        terms = engagement.ledger.terms
        if isinstance(engagement, GossipRun):
            return *await engagement.work(wait_s), terms
        state, tip = await engagement.work(wait_s)
        if tip is None:
            return state, 0, terms.parameters, None, terms
        number = tip.round - (state == "finished" or engagement.ledger.finished)
        return state, number, tip.parameters, engagement.left_s, terms

    def sits_out(self, cid: Cid) -> Barred | None:
        """Why this node has no seat in the round under way of a task, if it has earned that."""
        rounds = self._rounds(cid)
        barred = () if isinstance(rounds, GossipRun) else barred_from(rounds.ledger)
        return next((one for one in barred if one.agent == self._me), None)

    async def hand_in(
        self, cid: Cid, number: int, blob: Cid, examples: int, metrics: Mapping[str, float]
    ) -> None:
        """The user's update for a round; see `Engagement.hand_in`."""
        await self._rounds(cid).hand_in(number, blob, examples, metrics_ppm(metrics))

    def lines(self, cid: Cid, after: int, limit: int) -> list[Line]:
        """Lines of a followed task's log after line `after`."""
        return [line for line in self._followed(cid).log if line.number > after][:limit]

    async def result(self, cid: Cid, number: int | None) -> tuple[int, Cid, Cid]:
        """(round, parameters, record) of a finished round, the last one for None. Raises `UnknownTask`."""
        return await result(self._tools, await self._ledger(cid), self._engaged.get(cid), number)

    async def audit(self, cid: Cid, number: int | None) -> list[AuditView]:
        """Compute finished rounds again, all of them or one; costs a look at every update of each."""
        return await audit(self._tools, await self._ledger(cid), self._engaged.get(cid), number)

    # -- parts --

    def _require_eligible(self, engagement: Followed) -> None:
        out = None if isinstance(engagement, ServerRun) else self.sits_out(engagement.ledger.cid)
        if out is not None and out.until is None:
            why = REASONS[out.reason]
            raise WrongState(
                f"this node is out of the task for good, for {LIES_FOR_GOOD} lies; the last: {why}"
            )

    def _require_heard(self) -> None:
        if self._me in self._tools.excluded():
            raise Refused("nobody hears this agent now: see roseforest warrants and epoch list")

    async def _engage(self, cid: Cid, wanted: bool) -> Followed:
        if cid in self._engaged:
            return self._engaged[cid]
        record = await self._task_record(cid)  # which may take as long as strangers like: nobody waits for it
        async with self._engaging:
            if cid in self._engaged:
                return self._engaged[cid]
            if len(self._engaged) >= MAX_FOLLOWED:
                raise WrongState(f"this node follows {MAX_FOLLOWED} tasks already")
            await self._tools.post.keep(cid, [record])
            await self._tools.memory.follow(cid, wanted)
            return self._start(record, wanted)

    def _start(self, record: Record, wanted: bool) -> Followed:
        assert self._nursery is not None
        engagement = follow(self._tools, record, wanted, self._rules)
        self._engaged[record.cid] = engagement
        self._nursery.start_soon(self._while_writable, engagement.run)
        return engagement

    async def _task_record(self, cid: Cid) -> Record:
        if not is_record_cid(cid):
            raise UnknownTask("that is not the id of a task")
        for record in (*self._tools.own.get_many([cid]), *self._tools.post.kept(cid)):
            if record is not None and record.cid == cid and record.header.kind == TASK and record.payload:
                return record
        found = await self._tools.post.find_task(cid)
        if found is None:
            raise UnknownTask("no task with this id is known here or to its holders")
        return found

    async def _peek(self, cid: Cid, record: Record | None) -> Log:
        """What the holders of a task that this node does not follow say about it."""
        now = self._tools.clock.monotonic()
        known = self._peeked.get(cid)
        if known is not None and now - known[0] < PEEK_S:
            return known[1]
        try:
            ledger = ledger_of(record or await self._task_record(cid))
        except ChainError as error:
            raise UnknownTask(f"the task cannot be read: {error}") from error
        ledger.add_all(await self._tools.post.read(cid))
        self._peeked[cid] = (now, ledger)
        self._peeked.move_to_end(cid)
        while len(self._peeked) > MAX_PEEKED:
            self._peeked.popitem(last=False)
        return ledger

    async def _ledger(self, cid: Cid) -> Log:
        return self._engaged[cid].ledger if cid in self._engaged else await self._peek(cid, None)

    def _followed(self, cid: Cid) -> Followed:
        if cid not in self._engaged:
            raise UnknownTask("this node does not follow the task; join it first")
        return self._engaged[cid]

    def _rounds(self, cid: Cid) -> Engagement | GossipRun:
        found = self._followed(cid)
        if isinstance(found, ServerRun):
            raise WrongState("the task is of the mode server-app: its members answer messages")
        return found

    def server_run(self, cid: Cid) -> ServerRun:
        """A followed task in which a ServerApp runs. Raises `UnknownTask`, and `WrongState` for another
        mode."""
        found = self._followed(cid)
        if not isinstance(found, ServerRun):
            raise WrongState("no ServerApp runs in this task, its members compute rounds: leave it instead")
        if self._tools.own.frozen is not None:
            raise WrongState("this node may be a copy of another one, and takes no part")
        return found


def metrics_ppm(metrics: Mapping[str, float]) -> dict[str, int]:
    """Metrics as integers in ppm of their unit; raises `Refused` naming the one that cannot be."""
    if len(metrics) > MAX_METRICS:
        raise Refused(f"there are {len(metrics)} metrics, at most {MAX_METRICS} are carried")
    found: dict[str, int] = {}
    for name, value in metrics.items():
        if not 0 < len(name.encode()) <= MAX_NAME:
            raise Refused(f"metric name {name!r:.80} is empty or has over {MAX_NAME} bytes")
        if not abs(value) * PPM < MAX_METRIC:  # false for NaN, too
            raise Refused(f"metric {name!r} is {value}, which cannot be carried")
        found[name] = round(value * PPM)
    return found
