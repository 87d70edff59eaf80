"""The parts of secure sums that a ledger holds, by round, author and phase, whatever their order.

Nothing is judged here but how many there are: two of one author in one phase prove that it said two things,
more prove no more. Kept are the first on the author's chain, so nothing that is said later takes the place of
what others have built on. What they come to is worked out in `federated.sum_chain`.

Messages are long, and of no use once a round is over, except to an audit. So whoever follows a task lets go
of those of old rounds, `trim`, and brings them back from disk where one is audited, `restore`; who said what
on whose parts stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chain.cid import Cid
from chain.identity import AgentId
from chain.secure_part import LAST_PHASE, Part

MAX_OF_ONE = 2
"""Parts kept of one member in one phase of a round, the first on its chain."""
KEPT_ROUNDS = 4
"""Rounds whose messages stay in memory."""


class PartBook:
    """The fold. `add` takes the parts of agents who are in the roster of their round."""

    def __init__(self) -> None:
        self.parts: dict[Cid, tuple[AgentId, Part]] = {}
        self.changes = 0
        """Grows with whatever is kept."""
        self._by_place: dict[tuple[bytes, AgentId, int], list[tuple[int, Cid]]] = {}
        self._whole: dict[bytes, set[Cid]] = {}
        """The parts that have their messages, by what their round builds on."""

    def add(self, cid: Cid, author: AgentId, place: int, part: Part) -> bool:
        """Take a part, which stands at this place of its author's chain; whether it is kept."""
        known = self._by_place.setdefault((part.previous, author, part.phase), [])
        if cid in self.parts or (len(known) == MAX_OF_ONE and (place, cid) > known[-1]):
            return False
        known.append((place, cid))
        known.sort()
        self.parts[cid] = (author, part)
        self._whole.setdefault(part.previous, set()).add(cid)
        for _, dropped in known[MAX_OF_ONE:]:
            del self.parts[dropped]
            self._whole[part.previous].discard(dropped)
        del known[MAX_OF_ONE:]
        self.changes += 1
        return True

    def of(self, previous: bytes, agent: AgentId, phase: int) -> tuple[Cid, ...]:
        """What an agent said in one phase of the round that builds on `previous`, by its chain."""
        return tuple(cid for _, cid in self._by_place.get((previous, agent, phase), ()))

    def all_of(self, previous: bytes, agent: AgentId) -> tuple[Cid, ...]:
        """The same of all phases, in their order."""
        return tuple(cid for phase in range(LAST_PHASE + 1) for cid in self.of(previous, agent, phase))

    def trim(self, number: int) -> None:
        """Let go of the messages of rounds before this one's last `KEPT_ROUNDS`."""
        for previous, cids in list(self._whole.items()):
            if all(self.parts[cid][1].round <= number - KEPT_ROUNDS for cid in cids):
                for cid in self._whole.pop(previous):
                    author, part = self.parts[cid]
                    self.parts[cid] = (author, replace(part, message=b""))

    def is_whole(self, previous: bytes) -> bool:
        """Whether the messages of the round that builds on `previous` are here."""
        return previous in self._whole

    def restore(self, parts: Iterable[tuple[Cid, Part]]) -> None:
        """Bring messages back, until the next `trim`."""
        for cid, part in parts:
            if cid in self.parts:
                self.parts[cid] = (self.parts[cid][0], part)
                self._whole.setdefault(part.previous, set()).add(cid)
        self.changes += 1
