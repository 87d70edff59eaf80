"""Who sits out, why, and until when: a pure function of the chain of a task's results.

A signed result names whom it refuses and by which code (`federated.faults`). What that costs follows from the
results alone, so everybody who follows the chain bars the same agents, and a result that seats one of them
all the same continues nothing (`federated.ledger.result_fault`), whoever signed it.

**Lies** are the codes that no crash and no bad line can cause: an honest node checks its own update before it
promises it, keeps its promise on disk, and makes one. The first costs `FIRST_ROUNDS` rounds, the second twice
as many, the third puts the agent out of the task for good. A liar that comes back as soon as it may thus
makes the others fetch and refuse three updates in a task, not one in every four rounds; a member whose memory
is broken has two warnings. Nothing is forgotten: a task has an end, and who mended a node can join the next
one.

**A promise that is not kept** (`WITHHELD`) costs `WITHHELD_ROUNDS` rounds, however often it happens, and
counts as no lie. Who looks at the others' updates and then keeps its own back has a say in what comes out (in
groups, where revealed salts draw the next ones, in more than that), so it must cost more than it is worth;
but a member that crashes or is cut off between promise and update looks the same, so it never costs the task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from chain.identity import AgentId
from chain.learning_outcome import Outcome
from chain.learning_task import MAX_ROUNDS
from federated.faults import PENALISED, WITHHELD

FIRST_ROUNDS: Final = 3
"""Rounds that the first lie costs; each further one twice as many as the one before."""
LIES_FOR_GOOD: Final = 3
"""With so many lies an agent is out of the task for good."""
WITHHELD_ROUNDS: Final = 3
COSTS_ROUNDS: Final = PENALISED | {WITHHELD}
"""The codes that bar an agent for some rounds, at least."""


@dataclass(frozen=True, slots=True, order=True)
class Penalty:
    """What an agent has earned so far: `lies` of it in all, and `until`, the last round that it sits out.

    `reason` is the code that it was refused for last, of those that cost rounds.
    """

    agent: AgentId
    lies: int
    until: int
    reason: str

    @property
    def for_good(self) -> bool:
        """Whether no round will see it again."""
        return self.lies >= LIES_FOR_GOOD

    def bars(self, number: int) -> bool:
        """Whether the agent has no seat in a round."""
        return self.for_good or number <= self.until


def after(penalties: tuple[Penalty, ...], outcome: Outcome) -> tuple[Penalty, ...]:
    """The penalties, ascending by agent, once an outcome is the result of its round."""
    refused = [(agent, code) for agent, code in outcome.refused if code in COSTS_ROUNDS]
    if not refused:
        return penalties  # the same object: a chain of results holds one tuple for every round
    known = {penalty.agent: penalty for penalty in penalties}
    for agent, code in refused:
        before = known.get(agent, Penalty(agent, 0, 0, code))
        lies = before.lies + (code != WITHHELD)
        rounds = WITHHELD_ROUNDS if code == WITHHELD else rounds_out(lies)
        known[agent] = Penalty(agent, lies, max(before.until, outcome.round + rounds), code)
    return tuple(sorted(known.values()))


def rounds_out(lies: int) -> int:
    """How many rounds the last of so many lies costs."""
    return MAX_ROUNDS if lies >= LIES_FOR_GOOD else FIRST_ROUNDS << (lies - 1)


def barred(penalties: Iterable[Penalty], number: int) -> dict[AgentId, Penalty]:
    """Who has no seat in a round."""
    return {penalty.agent: penalty for penalty in penalties if penalty.bars(number)}
