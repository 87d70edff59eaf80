"""Auditing gossip: how a member made the model that it trained from is computed again, from what it says.

A share names the shares that its base was made of and those that its author found at fault. Both can be
checked by anybody who gets the models: that each is of another member, of one round or the round before it,
without fault, that what was refused has the fault, and that the task's strategy makes just this base of them.
So who shows a base out of nowhere, or lets a liar in, is found. What nobody can check is what the member did
not say: whether it drew whom it should have drawn, and whether the training began with the base.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from chain.cid import Cid
from chain.identity import AgentId
from federated.admission import announced
from federated.errors import UnknownTask
from federated.faults import DOUBLE, UNAVAILABLE
from federated.gossip import fanout
from federated.proposal import Verdict
from federated.share_log import ShareLog, Shown
from federated.views import AuditView, Contributor, RoundView, TaskView

VerdictOf = Callable[[Shown, Shown | None], Awaitable[Verdict]]
"""What is wrong with a share's model for one who combines it with its own one."""
BaseOf = Callable[[Shown | None, tuple[Shown, ...]], Awaitable[Cid | None]]
"""What the task's strategy makes of the own share and those of others; None when a model is not to be had."""


def step_view(log: ShareLog, shown: Shown) -> RoundView:
    """The step by which a share's base was made, as people see it."""
    parts = [log.shown(cid) for cid in shown.share.combined]
    there = [one for one in parts if one is not None]
    refused = [(log.author_of(cid), reason) for cid, reason in shown.share.refused]
    contributors = (
        Contributor(one.agent, one.share.examples, one.share.metrics, one.share.size) for one in there
    )
    return RoundView(
        round=max((one.share.round for one in there), default=shown.share.round - 1),
        record=shown.record,
        parameters=shown.share.base,
        contributors=tuple(sorted(contributors, key=lambda one: one.agent)),
        refused=tuple(sorted((agent, reason) for agent, reason in refused if agent is not None)),
        absent=(),
        signers=(),
        roster=tuple(sorted(one.agent for one in there)),
        known=len(there) == len(parts),
    )


def gossip_view(
    log: ShareLog, me: AgentId, phase: str | None = None, deadline_s: float | None = None
) -> TaskView:
    """The view of a task: the own rounds, where this node takes part; O(rounds kept)."""
    terms, own, standing = log.terms, log.newest(me), log.standings.get(me)
    seats = log.seats()
    newest = [one.share.round for agent in seats if (one := log.newest(agent)) is not None]
    over = log.finished if own is None else log.is_result(own.share)
    number = max(newest, default=0) if own is None else own.share.round
    return TaskView(
        id=log.cid,
        author=log.task.header.author,
        terms=terms,
        state="finished" if over else "running" if newest else "open",
        round=min(number, terms.rounds),
        parameters=terms.parameters if own is None else own.share.base,
        joined=standing is not None and standing.joins,
        own=log.task.header.author == me,
        members=log.members(),
        roster=seats,
        history=tuple(step_view(log, one) for one in log.history(me) if made(log, one)),
        phase=phase,
        deadline_s=deadline_s,
    )


def made(log: ShareLog, shown: Shown) -> bool:
    """Whether a share's base was combined, rather than what the task begins with."""
    return bool(shown.share.combined) or shown.share.base != log.terms.parameters


def own_model(log: ShareLog, me: AgentId, number: int | None) -> tuple[int, Cid, Cid]:
    """(round, model, the share that names it) of the newest own step, or of a round. Raises `UnknownTask`."""
    if log.newest(me) is None:
        raise UnknownTask("each member of a gossip has a model of its own, and this node has none")
    steps = [step_view(log, one) for one in log.history(me) if made(log, one)]
    steps = [step for step in steps if number in (None, step.round)]
    if not steps:
        raise UnknownTask("there is no result yet" if number is None else f"round {number} has no result")
    return steps[-1].round, steps[-1].parameters, steps[-1].record


async def audit_steps(
    log: ShareLog, number: int | None, verdict_of: VerdictOf, base_of: BaseOf
) -> list[AuditView]:
    """Make the newest base of every member again, or those made in round `number`. Raises `UnknownTask`."""
    chosen: list[Shown] = []
    for agent in sorted(log.standings):
        steps = [one for one in log.history(agent) if made(log, one)]
        if number is None:
            chosen += steps[-1:]
        else:
            chosen += [one for one in steps if step_view(log, one).round == number]
    if number is not None and not chosen:
        raise UnknownTask(f"round {number} has no result")
    return [await audit_share(log, one, verdict_of, base_of) for one in chosen]


async def audit_share(log: ShareLog, shown: Shown, verdict_of: VerdictOf, base_of: BaseOf) -> AuditView:
    """Make a share's base again; costs a look at each model that it names, and one combination."""
    view = step_view(log, shown)
    return AuditView(
        view.round,
        shown.record,
        view.contributors,
        view.refused,
        await _problem(log, shown, verdict_of, base_of),
        shown.agent,
    )


async def _problem(log: ShareLog, shown: Shown, verdict_of: VerdictOf, base_of: BaseOf) -> str | None:
    parts: list[Shown] = []
    for cid in shown.share.combined:
        one = log.shown(cid)
        if one is None:
            return "a share that it combined is not to be had"
        parts.append(one)
    mine = [one for one in parts if one.agent == shown.agent]
    others = tuple(one for one in parts if one.agent != shown.agent)
    own = mine[0] if mine else None
    problem = _misfit(log, shown, mine, others)
    if problem is not None:
        return problem
    for one in (*mine, *others):  # its own first: the others are judged, and combined, by distances from it
        beside = None if one is own else own
        fault = announced(log.terms, one.share.examples, one.share.size) or await verdict_of(one, beside)
        if fault == UNAVAILABLE:
            return f"the model of {one.agent.hex()[:16]} is not to be had any more"
        if fault is not None:
            return f"the model of {one.agent.hex()[:16]} counted although it has the fault {str(fault)!r}"
    for cid, reason in shown.share.refused:
        liar = log.shown(cid)
        if liar is not None and await _fault(log, liar, own, verdict_of) != reason:
            return f"{liar.agent.hex()[:16]} was refused for {reason!r}, which the evidence does not show"
    if not made(log, shown):
        return None
    if not parts:
        return "the model was made of nothing that it names"
    base = await base_of(own, others)
    if base is None:
        return "a model that it combined is not to be had any more"
    return None if base == shown.share.base else "the model is not what the shares make"


def _misfit(log: ShareLog, shown: Shown, mine: list[Shown], others: tuple[Shown, ...]) -> str | None:
    """Why these shares cannot be combined by this one's author, by their records alone."""
    rounds = [one.share.round for one in others]
    if len(mine) > 1 or len({one.agent for one in others}) < len(others):
        return "two of the shares that it combined are of one member"
    if len(others) > min(fanout(log.terms), log.terms.max_members - 1):
        return "it combined more shares than a step draws"
    if any(one.share.round >= shown.share.round for one in (*mine, *others)):
        return "a share that it combined is not older than itself"
    if rounds and max(rounds) - min(rounds) > 1:
        return "the shares that it combined are of rounds too far from each other"
    return None


async def _fault(log: ShareLog, one: Shown, own: Shown | None, verdict_of: VerdictOf) -> Verdict:
    """What is wrong with a share, by all that is known now."""
    if len(log.shares_of(one.agent, one.share.round)) > 1:
        return DOUBLE
    return announced(log.terms, one.share.examples, one.share.size) or await verdict_of(one, own)
