"""Whom one member draws no more for now, because it found it lying: a pure function of its own shares.

For as long as in rounds with a roster (`federated.penalties`), where all bar the same agents; in gossip each
member bars those that lied to it. Of each liar the first `LIES_FOR_GOOD` rounds are kept, which are enough to
bar it for good, and of at most `MAX_LIARS` liars; beyond them the one that lied longest ago is forgotten.
"""

from __future__ import annotations

from typing import Final

from chain.identity import AgentId
from federated.faults import PENALISED
from federated.membership import MAX_AGENTS
from federated.penalties import FIRST_ROUNDS, LIES_FOR_GOOD

MAX_LIARS: Final = MAX_AGENTS


class Lies:
    """The lies that a member named in its shares."""

    def __init__(self) -> None:
        self._rounds: dict[AgentId, list[int]] = {}

    def told(self, liar: AgentId, number: int, reason: str) -> None:
        """The member's share of round `number` refuses one of `liar`'s for `reason`; in any order."""
        known = self._rounds.get(liar, [])
        if reason not in PENALISED or number in known:
            return
        self._rounds[liar] = sorted([*known, number])[:LIES_FOR_GOOD]
        if len(self._rounds) > MAX_LIARS:
            del self._rounds[min(self._rounds, key=lambda agent: (self._rounds[agent][-1], agent))]

    def barred(self, number: int) -> frozenset[AgentId]:
        """Whom the member does not draw in a round."""
        return frozenset(
            agent
            for agent, rounds in self._rounds.items()
            if len(rounds) == LIES_FOR_GOOD or number < rounds[-1] + FIRST_ROUNDS * 2 ** (len(rounds) - 1)
        )
