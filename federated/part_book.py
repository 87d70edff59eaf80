"""The parts of secure sums that a ledger holds, by round, author and phase, whatever their order.

Nothing is judged here but how many there are: two of one author in one phase prove that it said two things,
more prove no more. What they come to is worked out in `federated.sum_chain`.
"""

from __future__ import annotations

from chain.cid import Cid
from chain.identity import AgentId
from chain.secure_part import LAST_PHASE, Part

MAX_OF_ONE = 2
"""Parts kept of one member in one phase of a round, the lowest CIDs."""


class PartBook:
    """The fold. `add` takes the parts of agents who are in the roster of their round."""

    def __init__(self) -> None:
        self.parts: dict[Cid, tuple[AgentId, Part]] = {}
        self.changes = 0
        """Grows with whatever comes in."""
        self._by_place: dict[tuple[bytes, AgentId, int], list[Cid]] = {}

    def add(self, cid: Cid, author: AgentId, part: Part) -> bool:
        """Take a part; whether it is kept."""
        known = self._by_place.setdefault((part.previous, author, part.phase), [])
        if cid in known:
            return False
        known.append(cid)
        known.sort()
        self.parts[cid] = (author, part)
        for dropped in known[MAX_OF_ONE:]:
            del self.parts[dropped]
        del known[MAX_OF_ONE:]
        self.changes += 1
        return cid in known

    def of(self, previous: bytes, agent: AgentId, phase: int) -> tuple[Cid, ...]:
        """What an agent said in one phase of the round that builds on `previous`, ascending."""
        return tuple(self._by_place.get((previous, agent, phase), ()))

    def all_of(self, previous: bytes, agent: AgentId) -> tuple[Cid, ...]:
        """The same of all phases, in their order."""
        return tuple(cid for phase in range(LAST_PHASE + 1) for cid in self.of(previous, agent, phase))
