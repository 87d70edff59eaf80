"""Repair: what to send to whom, and when a copy may go; decided for one basis from what is known of it.

Every basis should lie at the R live storing nodes nearest to it. A node looks at each basis that it holds:
who the nearest are now, and what they say they hold there. Whoever lacks something gets it; of those that
could send it, the nearest goes first and the next only after one more look, so that R nodes do not send the
same. A node that is not among the nearest any more keeps its copy for a while (a node that flaps costs one
copy, not one a flap), and drops it only once all R nearest have proven theirs, within a look, and it has not
itself vouched for it to somebody who may be dropping (two that wait for each other both keep).

Promises, whatever comes and goes as long as one holder of each basis is left: when nothing more is to be
done, min(R, storing nodes) of the nearest hold everything and nobody else does; no drop leaves fewer than R
proven copies; equal knowledge gives equal decisions. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.identity import AgentId

DROP_AFTER_S = 300.0
"""For so long the same others must have been the R nearest before a copy beyond them goes."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a node knows of one basis that it holds.

    `near` are live storing nodes, nearest first, with this node where it is one of them; the first
    `replication` are the holders. `covers` say they hold all that this node holds there, `lacks` say they do
    not, of the rest nothing is known; `proven` have proven it. `steady` and `waited` count looks: since what
    lies here changed, and since a holder was first found lacking. `beyond_s`: seconds for which the holders
    have been these and this node none of them. `vouched`: it proved its copy to somebody a moment ago.
    `full`: have no room for what they lack; what they have of old counts, else the next nearest takes their
    place.
    """

    me: AgentId
    replication: int
    near: tuple[AgentId, ...]
    covers: frozenset[AgentId] = frozenset()
    lacks: frozenset[AgentId] = frozenset()
    proven: frozenset[AgentId] = frozenset()
    steady: int = 0
    waited: int = 0
    beyond_s: float = 0.0
    vouched: bool = False
    leaving: bool = False
    full: frozenset[AgentId] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one basis now.

    `send`: give these what they lack. `prove`: have these prove their copies; when all do, ask again. `drop`:
    hold it no longer. `short`: copies that are not known to be where they should. `settled`: nothing is to be
    done until something changes.
    """

    send: tuple[AgentId, ...] = ()
    prove: tuple[AgentId, ...] = ()
    drop: bool = False
    short: int = 0
    settled: bool = False


def holders_of(situation: Situation) -> tuple[AgentId, ...]:
    """The nodes that should hold the basis; one that is leaving counts itself out."""
    near = situation.near
    if situation.leaving:
        near = tuple(agent for agent in near if agent != situation.me)
    refusing = situation.full & situation.lacks
    if refusing:
        near = tuple(agent for agent in near if agent not in refusing)
    return near[: situation.replication]


def decide(situation: Situation) -> Decision:
    """The next step for one basis. O(near)."""
    holders = holders_of(situation)
    others = [agent for agent in holders if agent != situation.me]
    lacking = tuple(agent for agent in others if agent in situation.lacks)
    short = sum(agent not in situation.covers for agent in others)
    if lacking:
        return Decision(send=lacking if _is_turn(situation) else (), short=short)
    if short:
        return Decision(short=short)
    if situation.me in holders or situation.leaving or len(holders) < situation.replication:
        return Decision(settled=True)
    if situation.beyond_s < DROP_AFTER_S or situation.vouched:
        return Decision()
    unproven = tuple(agent for agent in others if agent not in situation.proven)
    return Decision(prove=unproven) if unproven else Decision(drop=True)


def _is_turn(situation: Situation) -> bool:
    """Whether this node sends now.

    In a burst of stores nobody does: who publishes is about to bring the rest. After its own turn a node
    sends again after 1, 2, 4, … looks, for whoever takes copies and still says that it lacks them.
    """
    if situation.leaving:
        return True
    before = 0
    for agent in situation.near:
        if agent == situation.me:
            break
        before += agent in situation.covers
    since = situation.waited - before
    return situation.steady > 0 and since >= 0 and (since + 1).bit_count() == 1
