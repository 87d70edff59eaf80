"""Which chunk to ask of whom next: the decisions of fetching one blob, without waiting or IO.

Chunks are asked in the order given, each of one agent, as agents become free; so a slow agent is asked for
less, and who has not delivered yet, or failed last time, is asked for one at a time. When every missing chunk
is asked for already, one that has been under way for `HEDGE_S` is asked of a second agent too (the end game
of BitTorrent, but only for what is late). What was asked of agents that do not deliver never keeps one that
does from being asked, and while one does, the others get no second tries. An agent that fails `MAX_FAILURES`
times in a row, or lies once, is dropped and what it was asked goes to the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chain.identity import AgentId

HEDGE_S = 1.5
"""Seconds after which a chunk that is under way may be asked of a second agent."""
MAX_ASKED = 2
"""Agents that one chunk is asked of at a time: so many that deliver, and so many others."""
MAX_FAILURES = 3
"""Failures in a row after which an agent is dropped."""
MAX_BUSY = 20
"""Times in a row that an agent may say that it has too much to do, before that is a failure."""


class ChunkPlan:
    """The state of one fetch; times are seconds of a monotonic clock. Each method is O(1) for agents that
    have everything, O(missing) for others."""

    def __init__(self, order: Sequence[int]) -> None:
        self._waiting = dict.fromkeys(order)
        self._under_way: dict[int, dict[AgentId, float]] = {}
        self._has: dict[AgentId, set[int] | None] = {}
        self._failures: dict[AgentId, int] = {}
        self._busy: Counter[AgentId] = Counter()
        self._asked: Counter[AgentId] = Counter()
        self._delivers: set[AgentId] = set()

    @property
    def done(self) -> bool:
        """Whether nothing is missing any more."""
        return not self._waiting and not self._under_way

    @property
    def missing(self) -> list[int]:
        """What is still missing, ascending."""
        return sorted([*self._waiting, *self._under_way])

    def offers(self, agent: AgentId, has: frozenset[int] | None) -> None:
        """`agent` says that it has these chunks; None: all."""
        self._has[agent] = None if has is None else set(has)
        self._failures[agent] = 0

    def useful(self, agent: AgentId) -> bool:
        """Whether `agent` has something that is missing, be it asked of others at the moment."""
        if agent not in self._has:
            return False
        return any(self._offered(agent, index) for part in (self._waiting, self._under_way) for index in part)

    def take(self, agent: AgentId, now: float) -> int | None:
        """The chunk to ask `agent` for now; None: nothing at the moment."""
        delivers = agent in self._delivers
        if agent not in self._has or (self._asked[agent] and not delivers):
            return None
        for index in self._waiting:
            if self._offered(agent, index):
                del self._waiting[index]
                return self._ask(agent, index, now)
        if self._delivers and not delivers:
            return None
        for index, asked in self._under_way.items():
            alike = [at for other, at in asked.items() if (other in self._delivers) == delivers]
            late = now - max(alike or asked.values()) >= HEDGE_S
            if late and len(alike) < MAX_ASKED and agent not in asked and self._offered(agent, index):
                return self._ask(agent, index, now)
        return None

    def is_missing(self, index: int) -> bool:
        """Whether a chunk has not arrived yet."""
        return index in self._under_way or index in self._waiting

    def got(self, agent: AgentId, index: int) -> None:
        """A chunk arrived from `agent`, and is here now, whoever was first."""
        self._asked[agent] -= 1
        self._failures[agent] = self._busy[agent] = 0
        if agent in self._has:
            self._delivers.add(agent)
        self._under_way.pop(index, None)
        self._waiting.pop(index, None)

    def lacks(self, agent: AgentId, index: int) -> None:
        """`agent` does not have this chunk after all."""
        self._asked[agent] -= 1
        self._release(agent, index)
        has = self._has.get(agent, set())
        if has is None:
            has = self._has[agent] = {*self._waiting, *self._under_way}
        has.discard(index)

    def busy(self, agent: AgentId, index: int) -> int:
        """`agent` has too much to do: it is asked for less, and dropped only if it always says so.

        Returns how often it has failed in a row.
        """
        self._busy[agent] += 1
        if self._busy[agent] > MAX_BUSY:
            return self.failed(agent, index)
        self._release(agent, index)
        self._asked[agent] -= 1
        self._delivers.discard(agent)
        return 0

    def failed(self, agent: AgentId, index: int) -> int:
        """Asking failed. Returns how often in a row; the agent is dropped with the `MAX_FAILURES`th time."""
        self._release(agent, index)
        self._asked[agent] -= 1
        self._delivers.discard(agent)
        if agent not in self._has:
            return MAX_FAILURES
        self._failures[agent] += 1
        if self._failures[agent] >= MAX_FAILURES:
            self.drop(agent)
            return MAX_FAILURES
        return self._failures[agent]

    def drop(self, agent: AgentId) -> None:
        """Ask `agent` for nothing more."""
        self._has.pop(agent, None)
        self._delivers.discard(agent)
        for index in [index for index, asked in self._under_way.items() if agent in asked]:
            self._release(agent, index)

    def _ask(self, agent: AgentId, index: int, now: float) -> int:
        self._under_way.setdefault(index, {})[agent] = now
        self._asked[agent] += 1
        return index

    def _offered(self, agent: AgentId, index: int) -> bool:
        has = self._has[agent]
        return has is None or index in has

    def _release(self, agent: AgentId, index: int) -> None:
        asked = self._under_way.get(index)
        if asked is not None:
            asked.pop(agent, None)
            if not asked:
                del self._under_way[index]
                self._waiting[index] = None
