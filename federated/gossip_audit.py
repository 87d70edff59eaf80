"""Auditing gossip: how a member made the model that it trained from is computed again, from what it says.

A share names the shares that its base was made of and those that its author found at fault. Both can be
checked by anybody who gets the models: that each is of another member, of one round or the round before it,
without fault, that what was refused has the fault, and that the task's strategy makes just this base of them.
So who shows a base out of nowhere, or lets a liar in, is found. What nobody can check is what the member did
not say: whether it drew whom it should have drawn, and whether the training began with the base.

What a share says in full is read from the records (`federated.share_book`), so that steps long past can be
looked at, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from chain.cid import Cid
from chain.identity import AgentId
from dht.ports import RunBlocking
from federated.admission import announced
from federated.errors import UnknownTask
from federated.faults import DOUBLE, UNAVAILABLE
from federated.gossip import fanout
from federated.proposal import Verdict
from federated.share_book import Evidence, ShareBook, Told, is_made, step_round
from federated.share_log import ShareLog, Shown
from federated.views import AuditView, Contributor, RoundView, TaskView

MAX_LOOKED_BACK = 64
"""Rounds of the own ones that people are shown, the newest; by its number each can be had."""

VerdictOf = Callable[[Shown, Shown | None, AgentId], Awaitable[Verdict]]
"""What is wrong with a share's model for one who combines it with its own one, and who did."""
BaseOf = Callable[[Shown | None, tuple[Shown, ...]], Awaitable[Cid | None]]
"""What the task's strategy makes of the own share and those of others; None when a model is not to be had."""


def step_view(evidence: Evidence) -> RoundView:
    """The step by which a share's base was made, as people see it."""
    there = [one for one in evidence.combined if one is not None]
    refused = [(liar.shown.agent, reason) for liar, reason in evidence.refused if liar is not None]
    contributors = (
        Contributor(one.shown.agent, one.shown.examples, one.share.metrics, one.shown.size) for one in there
    )
    return RoundView(
        round=step_round(evidence),
        record=evidence.told.shown.record,
        parameters=evidence.told.shown.base,
        contributors=tuple(sorted(contributors, key=lambda one: one.agent)),
        refused=tuple(sorted(refused)),
        absent=(),
        signers=(),
        roster=tuple(sorted(one.shown.agent for one in there)),
        known=len(there) == len(evidence.combined),
    )


def gossip_view(
    log: ShareLog,
    me: AgentId,
    phase: str | None = None,
    deadline_s: float | None = None,
    history: Sequence[RoundView] = (),
) -> TaskView:
    """The view of a task; `history` are the own rounds, where this node takes part. O(members)."""
    terms, own, standing = log.terms, log.newest(me), log.standings.get(me)
    seats = log.seats()
    newest = [one.round for agent in seats if (one := log.newest(agent)) is not None]
    over = log.finished if own is None else log.is_result(own)
    number = max(newest, default=0) if own is None else own.round
    return TaskView(
        id=log.cid,
        author=log.task.header.author,
        terms=terms,
        state="finished" if over else "running" if newest else "open",
        round=min(number, terms.rounds),
        parameters=terms.parameters if own is None else own.base,
        joined=standing is not None and standing.joins,
        own=log.task.header.author == me,
        members=log.members(),
        roster=seats,
        history=tuple(history),
        phase=phase,
        deadline_s=deadline_s,
    )


def own_steps(book: ShareBook, me: AgentId) -> list[RoundView]:
    """The newest steps of a member, from the oldest on; blocks."""
    return [step_view(evidence) for evidence in book.steps_of(me, MAX_LOOKED_BACK)]


def own_model(book: ShareBook, me: AgentId, number: int | None) -> tuple[int, Cid, Cid]:
    """(round, model, the share that names it) of the newest own step, or of a round; blocks.

    Raises `UnknownTask`.
    """
    if next(book.all_by(me), None) is None:
        raise UnknownTask("each member of a gossip has a model of its own, and this node has none")
    step = _step_of(book, me, number)
    if step is None:
        raise UnknownTask("there is no result yet" if number is None else f"round {number} has no result")
    return step_round(step), step.told.shown.base, step.told.shown.record


def _step_of(book: ShareBook, agent: AgentId, number: int | None) -> Evidence | None:
    """A member's newest step, or its of a round."""
    return book.newest_step(agent) if number is None else book.step_in(agent, number)


async def audit_steps(
    run_blocking: RunBlocking,
    book: ShareBook,
    agents: Iterable[AgentId],
    number: int | None,
    verdict_of: VerdictOf,
    base_of: BaseOf,
) -> list[AuditView]:
    """Make the newest base of each of these members again, or those made in round `number`.

    Raises `UnknownTask`.
    """
    found: list[AuditView] = []
    for agent in agents:
        step = await run_blocking(_step_of, book, agent, number)
        if step is not None:
            found.append(await audit_share(run_blocking, book, step, verdict_of, base_of))
    if number is not None and not found:
        raise UnknownTask(f"round {number} has no result")
    return found


async def audit_share(
    run_blocking: RunBlocking, book: ShareBook, step: Evidence, verdict_of: VerdictOf, base_of: BaseOf
) -> AuditView:
    """Make a share's base again; costs a look at each model that it names, and one combination."""
    view = step_view(step)
    return AuditView(
        view.round,
        view.record,
        view.contributors,
        view.refused,
        await _problem(run_blocking, book, step, verdict_of, base_of),
        step.told.shown.agent,
    )


async def _problem(
    run_blocking: RunBlocking, book: ShareBook, step: Evidence, verdict_of: VerdictOf, base_of: BaseOf
) -> str | None:
    terms, author = book.terms, step.told.shown.agent
    parts = [one.shown for one in step.combined if one is not None]
    if len(parts) < len(step.combined):
        return "a share that it combined is not to be had"
    mine = [one for one in parts if one.agent == author]
    others = tuple(one for one in parts if one.agent != author)
    own = mine[0] if mine else None
    problem = _misfit(book, step.told.shown, mine, others)
    if problem is not None:
        return problem
    for one in (*mine, *others):  # its own first: the others are judged, and combined, by distances from it
        beside = None if one is own else own
        fault = announced(terms, one.examples, one.size) or await verdict_of(one, beside, author)
        if fault == UNAVAILABLE:
            return f"the model of {one.agent.hex()[:16]} is not to be had any more"
        if fault is not None:
            return f"the model of {one.agent.hex()[:16]} counted although it has the fault {str(fault)!r}"

    async def fault_of(told: Told) -> Verdict:
        shown = told.shown
        if await run_blocking(book.is_double, shown):
            return DOUBLE
        return announced(terms, shown.examples, shown.size) or await verdict_of(shown, own, author)

    for liar, reason in step.refused:
        if liar is not None and await fault_of(liar) != reason:
            name = liar.shown.agent.hex()[:16]
            return f"{name} was refused for {reason!r}, which the evidence does not show"
    if not is_made(terms, step.told.share):
        return None
    if not parts:
        return "the model was made of nothing that it names"
    base = await base_of(own, others)
    if base is None:
        return "a model that it combined is not to be had any more"
    return None if base == step.told.shown.base else "the model is not what the shares make"


def _misfit(book: ShareBook, shown: Shown, mine: list[Shown], others: tuple[Shown, ...]) -> str | None:
    """Why these shares cannot be combined by this one's author, by their records alone."""
    rounds = [one.round for one in others]
    if len(mine) > 1 or len({one.agent for one in others}) < len(others):
        return "two of the shares that it combined are of one member"
    if len(others) > min(fanout(book.terms), book.terms.max_members - 1):
        return "it combined more shares than a step draws"
    if any(one.round >= shown.round for one in (*mine, *others)):
        return "a share that it combined is not older than itself"
    if rounds and max(rounds) - min(rounds) > 1:
        return "the shares that it combined are of rounds too far from each other"
    return None
