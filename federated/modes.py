"""What a task's mode and topology call for: the records it is folded from, who follows it, how it is shown.

There are three kinds: rounds of a roster (`Ledger`, `Engagement`, with secure sums `SecureEngagement`),
gossip (`ShareLog`, `GossipRun`) and the run of a ServerApp (`CallLog`, `ServerRun`). What tells them apart
for the learning service is here, so that its verbs read the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_task import GOSSIP, SERVER_APP, task_from_body
from chain.record import Record
from federated.call_log import CallLog
from federated.engagement import Engagement
from federated.errors import UnknownTask
from federated.following import Tools
from federated.gossip_audit import gossip_view
from federated.gossip_run import GossipRun
from federated.ledger import Ledger
from federated.secure_engagement import SecureEngagement
from federated.server_run import ServerRun
from federated.share_log import ShareLog
from federated.views import RoundView, TaskView, run_view, task_view

Followed: TypeAlias = Engagement | ServerRun | GossipRun
"""A task that this node follows, by its mode and topology."""
Log: TypeAlias = Ledger | CallLog | ShareLog
"""What the records of a task add up to, likewise."""


def follow(tools: Tools, record: Record, wanted: bool, rules: Callable[[], int]) -> Followed:
    """What follows the task of this record, not running yet; raises `ChainError` when its terms cannot be
    read."""
    terms = task_from_body(record.body())
    if terms.mode == SERVER_APP:
        return ServerRun(tools, record, wanted, rules)
    if terms.topology == GOSSIP:
        return GossipRun(tools, record, wanted)
    rounds = Engagement if terms.secure is None else SecureEngagement
    return rounds(tools, record, wanted)


def ledger_of(record: Record) -> Log:
    """The ledger of a task's mode and topology, empty; raises `ChainError` when the record's terms cannot be
    read."""
    terms = None if record.payload is None else task_from_body(record.body())
    if terms is not None and terms.mode == SERVER_APP:
        return CallLog(record)
    return ShareLog(record) if terms is not None and terms.topology == GOSSIP else Ledger(record)


def view_of(
    ledger: Log,
    me: AgentId,
    excluded: frozenset[AgentId] = frozenset(),
    steps: Sequence[RoundView] = (),
) -> TaskView:
    """The view of a task of any kind; `steps` are the own ones in gossip, which are in no log."""
    if isinstance(ledger, CallLog):
        return run_view(ledger, me)
    if isinstance(ledger, ShareLog):
        return gossip_view(ledger, me, history=steps)
    return task_view(ledger, me, excluded=excluded)


def view_of_followed(followed: Followed, tools: Tools, steps: Sequence[RoundView] = ()) -> TaskView:
    """The view of a task that this node follows, with where it stands in what is under way."""
    me = tools.identity.agent
    if isinstance(followed, ServerRun):
        return view_of(followed.ledger, me)
    if isinstance(followed, GossipRun):
        return gossip_view(followed.ledger, me, *followed.phase, steps)
    round_ = followed.round
    running = round_ is not None and round_.takes_part and not followed.ledger.finished
    phase = str(round_.phase) if running and round_ is not None else None
    return task_view(followed.ledger, me, phase, followed.left_s, tools.excluded())


def rounds_done(followed: Followed) -> int:
    """Rounds, calls or own steps that are finished."""
    if isinstance(followed, GossipRun):
        return 0 if followed.own is None else followed.own.round
    return len(followed.ledger.steps)


def result_of(ledger: Ledger | CallLog, number: int | None) -> tuple[int, Cid, Cid]:
    """(round, parameters, record) of a finished round, the last one for None. Raises `UnknownTask`."""
    if isinstance(ledger, CallLog):
        return _result_of_run(ledger, number)
    steps = ledger.steps
    chosen = steps[-1:] if number is None else [s for s in steps if s.outcome.round == number]
    if not chosen:
        raise UnknownTask("there is no result yet" if number is None else f"round {number} has no result")
    return chosen[0].outcome.round, chosen[0].outcome.parameters, chosen[0].record


def _result_of_run(ledger: CallLog, number: int | None) -> tuple[int, Cid, Cid]:
    ended = ledger.ended
    if number is not None:
        raise UnknownTask("a ServerApp's run has one result, at its end")
    if ended is None or ended.end.result is None:
        why = "there is no result yet" if ended is None else f"the run ended without: {ended.end.failed}"
        raise UnknownTask(why)
    return len(ledger.steps), ended.end.result, ended.record
