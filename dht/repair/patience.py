"""What is remembered of holders that are slow, have no room or will not take a record, and how long.

Each peer may take a fair time for what it is asked in one look of the repairer; what it takes beyond adds up,
and who has kept a look waiting for `SLOW_MOST_S` is left out until the next: the others' copies come first.
Who said that it has no room is offered nothing new for `FULL_S`, and what a holder has refused is not offered
to it again before a look at everything. Pure: time is an argument, in seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chain.cid import Cid
from chain.identity import AgentId
from dht.records.bundle import Item
from dht.records.replies import REFUSES, StoreStatus

FAIR_S = 0.5
FAIR_BYTES_PER_S = 100_000
"""What a request may take; what it takes beyond is held against the time that its peer gets in a look."""
SLOW_MOST_S = 20.0
"""So much later in all than fair, and a peer has to wait for the next look."""
MAX_TURNED_AWAY = 10_000
"""Refusals remembered, by holder and record; beyond it all are forgotten and asked for again."""
FULL_S = 300.0
"""Who said that it has no room is offered nothing new for so long, whatever its address record says."""


class Patience:
    """Of each holder how slow it was in this look, until when it is full, and what it has refused."""

    def __init__(self) -> None:
        self._slow: dict[AgentId, float] = {}
        self._full_until: dict[AgentId, float] = {}
        self._turned_away: dict[AgentId, set[Cid]] = {}

    def begin(self, everything: bool) -> None:
        """A look begins: everybody has time again. `everything`: and may take what it refused."""
        self._slow.clear()
        if everything:
            self._full_until.clear()
            self._turned_away.clear()

    def answered(self, agent: AgentId, seconds: float, size: int) -> None:
        """It has answered a request that carried so many bytes after so long."""
        self.kept_waiting(agent, max(0.0, seconds - FAIR_S - size / FAIR_BYTES_PER_S))

    def kept_waiting(self, agent: AgentId, seconds: float) -> None:
        """So much longer than fair."""
        self._slow[agent] = self._slow.get(agent, 0.0) + seconds

    def is_slow(self, agent: AgentId) -> bool:
        """Whether this look goes on without it."""
        return self._slow.get(agent, 0.0) > SLOW_MOST_S

    def note(
        self, agent: AgentId, items: Sequence[Item], statuses: Sequence[StoreStatus], now: float
    ) -> None:
        """What it said of the first of these: it has no room, or its owner blocks a record, or the author of
        one takes up too much there, and others hold that instead."""
        if StoreStatus.FULL in statuses:
            self._full_until[agent] = now + FULL_S
        away = {
            item.record.cid
            for item, status in zip(items, statuses, strict=False)
            if status in REFUSES and status is not StoreStatus.FULL
        }
        if away:
            if sum(map(len, self._turned_away.values())) + len(away) > MAX_TURNED_AWAY:
                self._turned_away.clear()
            self._turned_away.setdefault(agent, set()).update(away)

    def is_full(self, agent: AgentId, now: float) -> bool:
        """Whether it has said so lately."""
        return self._full_until.get(agent, 0.0) > now

    def has_refused_some(self, agent: AgentId) -> bool:
        """Whether it would not take something."""
        return agent in self._turned_away

    def has_refused(self, agent: AgentId, records: Collection[Cid]) -> bool:
        """Whether it would not take any of these."""
        away = self._turned_away.get(agent)
        return away is not None and away.issuperset(records)
