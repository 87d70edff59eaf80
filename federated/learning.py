"""The learning service of a node: the tasks that it follows, and the verbs of its owner.

It composes: one `Engagement` a task, `Post` for the network, and the two methods that other members ask. The
node hands every record that it comes to hold to `take`. Nothing here decides; see `round` and `proposal`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import trio

from chain import canonical
from chain.aggregation_rule import ROBUST
from chain.cid import Cid, is_record_cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import FIELDS_FROM, KINDS_BY_RULE_VERSION, TASK
from chain.learning import MAX_METRIC, MAX_METRICS, Reveal
from chain.learning_task import FEDAVG, GOSSIP, MAX_NAME, PEER_ROUNDS, SERVER_APP, Task, task_from_body
from chain.manifest import Manifest
from chain.record import SALT_SIZE, Record, encode_payload
from chain.source_chain import Draft
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.network import Network
from federated.audit import audit_round
from federated.call_log import CallLog
from federated.compression import most_sent
from federated.engagement import Engagement, builds_on_base, of_models
from federated.errors import LearningError, Refused, UnknownTask, WrongState
from federated.faults import REASONS
from federated.following import Line, Tools
from federated.gossip_audit import audit_steps, gossip_view, own_model
from federated.gossip_run import GossipRun
from federated.ledger import Ledger, Step
from federated.messages import ALIVE, SIGN, decode_alive, decode_question
from federated.penalties import LIES_FOR_GOOD
from federated.ports import TooLarge
from federated.post import belongs
from federated.proposal import Verdict
from federated.secure_engagement import SecureEngagement
from federated.server_run import ServerRun
from federated.share_log import ShareLog
from federated.sum_audit import audit_sums
from federated.sum_chain import Closed
from federated.update import UpdateError, decode
from federated.views import AuditView, Barred, TaskView, barred_from, run_view, task_view

MAX_FOLLOWED = 256
"""Tasks that one node follows at a time."""
MAX_PEEKED = 32
"""Tasks of others that a listing looks into, the newest first; also how many of them are remembered."""
PEEK_S = 10.0
"""For so long what was read of a task that is not followed is taken for current."""
LIST_TIMEOUT_S = 3.0
PPM = 1_000_000

log = logging.getLogger(f"roseforest.{__name__}")


Followed: TypeAlias = Engagement | ServerRun | GossipRun
"""A task that this node follows, by its mode and topology."""
Log: TypeAlias = Ledger | CallLog | ShareLog
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
        self.signed = 0
        """Results of others that this node has signed."""
        network.register(SIGN, tools.kademlia.members_only(self._serve_sign))
        network.register(ALIVE, tools.kademlia.members_only(self._serve_alive))

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

    def counters(self) -> dict[str, int]:
        """For metrics."""
        rounds = sum(_rounds_done(one) for one in self._engaged.values())
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

    async def create(self, terms: Task) -> Cid:
        """Publish a task; it is durable, and followed from here, when this returns.

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
        views = {cid: self._view(one) for cid, one in self._engaged.items()}
        with trio.move_on_after(LIST_TIMEOUT_S):
            excluded = self._tools.excluded()
            listed = [one for one in await self._tools.post.listed() if one.header.author not in excluded]
            async with trio.open_nursery() as nursery:

                async def peek(record: Record) -> None:
                    views[record.cid] = view_of(await self._peek(record.cid, record), self._me)

                for record in [one for one in listed if one.cid not in views][-MAX_PEEKED:]:
                    views[record.cid] = view_of(ledger_of(record), self._me)
                    nursery.start_soon(peek, record)
        return sorted(views.values(), key=lambda view: view.id)

    async def task(self, cid: Cid) -> TaskView:
        """One task; raises `UnknownTask`."""
        if cid in self._engaged:
            return self._view(self._engaged[cid])
        return view_of(await self._peek(cid, None), self._me, self._tools.excluded())

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
        return state, number, tip.parameters, self._deadline_s(engagement), terms

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
        ledger = await self._ledger(cid)
        if isinstance(ledger, CallLog):
            return _result_of(ledger, number)
        if isinstance(ledger, ShareLog):
            return own_model(ledger, self._me, number)
        steps = ledger.steps
        chosen = steps[-1:] if number is None else [s for s in steps if s.outcome.round == number]
        if not chosen:
            raise UnknownTask("there is no result yet" if number is None else f"round {number} has no result")
        return chosen[0].outcome.round, chosen[0].outcome.parameters, chosen[0].record

    async def audit(self, cid: Cid, number: int | None) -> list[AuditView]:
        """Compute finished rounds again, all of them or one; costs a look at every update of each."""
        ledger = await self._ledger(cid)
        if isinstance(ledger, CallLog):
            raise WrongState("a ServerApp's run is computed again by the app itself: fl audit with its PATH")
        if isinstance(ledger, ShareLog):
            return await self._audit_gossip(ledger, number)
        steps = [s for s in ledger.steps if number is None or s.outcome.round == number]
        if number is not None and not steps:
            raise UnknownTask(f"round {number} has no result")
        if ledger.terms.secure is not None:
            return [await self._audit_sums(ledger, step) for step in steps]
        views: list[AuditView] = []
        for step in steps:
            sources = [*step.signers, *step.before.agents, ledger.task.header.author]

            async def verdict_of(
                reveal: Reveal, sources: Sequence[AgentId] = tuple(sources), step: Step = step
            ) -> Verdict:
                look = self._look(ledger)
                base = step.before.parameters
                return await look.verdict(reveal.blob, reveal.size, sources, base, sources)

            async def average_of(
                base: Cid,
                parts: tuple[tuple[Cid, int], ...],
                models: bool,
                sources: Sequence[AgentId] = tuple(sources),
            ) -> Cid | None:
                terms = of_models(ledger.terms) if models else ledger.terms
                return await self._average_of(ledger, terms, base, parts, sources)

            views.append(await audit_round(ledger, step, verdict_of, average_of, self._tools.excluded()))
        return views

    async def _audit_sums(self, ledger: Ledger, step: Step) -> AuditView:
        look, blobs = self._look(ledger), self._tools.blobs
        assert isinstance(look, SecureEngagement)
        if look.ledger is ledger:
            await look.bring_back(step.before.digest)
        sources = [*step.signers, *step.before.agents, ledger.task.header.author]

        async def verdict_of(blob: Cid, size: int) -> Verdict:
            return await look.vector_verdict(blob, size, sources)

        async def model_of(base: Cid, groups: Sequence[Closed]) -> tuple[Cid, frozenset[AgentId]] | None:
            if await look.start(base, sources) is None:
                return None
            found = await look.model_of_groups(base, groups)
            if found is None:
                return None
            return base if found[0] is None else blobs.cid_of(found[0]), found[1]

        view = await audit_sums(ledger, step, verdict_of, model_of, self._tools.excluded())
        if look.ledger is ledger and ledger.tip is not None:
            ledger.book.trim(ledger.tip.round)
        return view

    # -- what members ask --

    async def _serve_sign(self, sender: AgentId, body: bytes) -> bytes:
        try:
            question = decode_question(body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        engagement = self._engaged.get(question.task)
        if not isinstance(engagement, Engagement):
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node follows no rounds of this task")
        if self._tools.own.frozen is not None:
            # The original may have signed another result of the round.
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node may be a copy, and signs nothing")
        reply = await engagement.answer(sender, question)
        self.signed += bool(reply.signature)
        return reply.encode()

    async def _serve_alive(self, sender: AgentId, body: bytes) -> bytes:
        try:
            task, call = decode_alive(body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        run = self._engaged.get(task)
        if not isinstance(run, ServerRun):
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node follows no ServerApp of this task")
        return canonical.encode(run.alive(sender, call))

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
        async with self._engaging:
            if cid in self._engaged:
                return self._engaged[cid]
            if len(self._engaged) >= MAX_FOLLOWED:
                raise WrongState(f"this node follows {MAX_FOLLOWED} tasks already")
            record = await self._task_record(cid)
            await self._tools.post.keep(cid, [record])
            await self._tools.memory.follow(cid, wanted)
            return self._start(record, wanted)

    def _start(self, record: Record, wanted: bool) -> Followed:
        assert self._nursery is not None
        terms = task_from_body(record.body())
        engagement: Followed
        if terms.mode == SERVER_APP:
            engagement = ServerRun(self._tools, record, wanted, self._rules)
        elif terms.topology == GOSSIP:
            engagement = GossipRun(self._tools, record, wanted)
        else:
            engagement = rounds_of(terms)(self._tools, record, wanted)
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
            raise WrongState("no ServerApp runs in this task: its members compute rounds")
        if self._tools.own.frozen is not None:
            raise WrongState("this node may be a copy of another one, and takes no part")
        return found

    def _view(self, engagement: Followed) -> TaskView:
        if isinstance(engagement, ServerRun):
            return view_of(engagement.ledger, self._me)
        if isinstance(engagement, GossipRun):
            return gossip_view(engagement.ledger, self._me, *engagement.phase)
        round_ = engagement.round
        running = round_ is not None and round_.takes_part and not engagement.ledger.finished
        phase = str(round_.phase) if running and round_ is not None else None
        left_s, excluded = self._deadline_s(engagement), self._tools.excluded()
        return task_view(engagement.ledger, self._me, phase, left_s, excluded)

    def _deadline_s(self, engagement: Engagement) -> float | None:
        round_ = engagement.round
        if round_ is None or not round_.takes_part or engagement.ledger.finished:
            return None
        return max(0.0, round(round_.deadline() - self._tools.clock.monotonic(), 3))

    async def _audit_gossip(self, log: ShareLog, number: int | None) -> list[AuditView]:
        followed = self._engaged.get(log.cid)
        run = followed if isinstance(followed, GossipRun) else GossipRun(self._tools, log.task, False)
        run.ledger = log
        return await audit_steps(log, number, run.verdict, run.base_of)

    def _look(self, ledger: Ledger) -> Engagement:
        """What looks at updates of this task, whether it is followed or not."""
        known = self._engaged.get(ledger.cid)
        if isinstance(known, Engagement):
            return known
        return rounds_of(ledger.terms)(self._tools, ledger.task, False)

    async def _average_of(
        self,
        ledger: Ledger,
        terms: Task,
        base: Cid,
        parts: tuple[tuple[Cid, int], ...],
        sources: Sequence[AgentId],
    ) -> Cid | None:
        blobs = self._tools.blobs
        engaged = self._look(ledger)
        if builds_on_base(terms) and await engaged.start(base, sources) is None:
            return None
        for blob, _ in parts:
            try:
                if await blobs.fetch_mapped(blob, most_sent(terms), sources) is None:
                    return None
            except TooLarge:
                return None
        data = await engaged.model_of(terms, base, parts)
        return None if data is None else blobs.cid_of(data)


def rounds_of(terms: Task) -> type[Engagement]:
    """What follows a task of peer rounds."""
    return Engagement if terms.secure is None else SecureEngagement


def ledger_of(record: Record) -> Log:
    """The ledger of a task's mode and topology, empty; raises `ChainError` when the record's terms cannot be
    read."""
    terms = None if record.payload is None else task_from_body(record.body())
    if terms is not None and terms.mode == SERVER_APP:
        return CallLog(record)
    return ShareLog(record) if terms is not None and terms.topology == GOSSIP else Ledger(record)


def view_of(ledger: Log, me: AgentId, excluded: frozenset[AgentId] = frozenset()) -> TaskView:
    """The view of a task of any kind."""
    if isinstance(ledger, CallLog):
        return run_view(ledger, me)
    if isinstance(ledger, ShareLog):
        return gossip_view(ledger, me)
    return task_view(ledger, me, excluded=excluded)


def _rounds_done(followed: Followed) -> int:
    if isinstance(followed, GossipRun):
        return 0 if followed.own is None else followed.own.share.round
    return len(followed.ledger.steps)


def _result_of(ledger: CallLog, number: int | None) -> tuple[int, Cid, Cid]:
    ended = ledger.ended
    if number is not None:
        raise UnknownTask("a ServerApp's run has one result, at its end")
    if ended is None or ended.end.result is None:
        why = "there is no result yet" if ended is None else f"the run ended without: {ended.end.failed}"
        raise UnknownTask(why)
    return len(ledger.steps), ended.end.result, ended.record


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
