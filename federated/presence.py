"""Who of a ServerApp's run is there, as one node sees it: the coordinator by its calls and signs of life,
the members by their answers.

A coordinator is gone when nothing was heard of it for the time that answers and a coordinator are waited
for. One whose app is at work between two calls (it evaluates a large model, say) makes no call all the
while, so its node says that it is there (`learning.alive`), as long as the app's process uses the processor;
that holds for a lease each time, and in all for no longer than `MAX_BUSY_S` beyond what a silent one gets.
So nobody keeps a run by words alone. A member is away when it has answered nothing for the time that answers
are waited for, over as many calls as that takes: an app that is in a hurry puts nobody out. Decisions only;
times are of a monotonic clock.
"""

from __future__ import annotations

from math import inf

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_task import Task

MAX_BUSY_S = 3_600.0
"""Signs of life count for so long after a coordinator would have been taken for gone without them."""
SIGN_S = 10.0
"""So often, at most, a coordinator says that it is there."""
HOLDS_S = 3 * SIGN_S
"""A sign of life holds for a lease, at least for so long."""


class Presence:
    """What was seen and heard when. `terms` are those of the task."""

    def __init__(self, terms: Task) -> None:
        self._answers_s = terms.commit_ms / 1_000
        self._lease_s = terms.result_ms / 1_000
        self._seen_at: dict[Cid, float] = {}
        self._heard_at: dict[Cid, float] = {}
        self._said_at: dict[Cid, float] = {}
        self._owing: dict[AgentId, float] = {}
        self._away: dict[AgentId, Cid] = {}

    @property
    def silence_s(self) -> float:
        """Seconds without a word after which a coordinator may be replaced."""
        return self._answers_s + self._lease_s

    # -- the coordinator --

    def saw(self, call: Cid, now: float) -> None:
        """A call (or the task) is the last one of the run, or claims to be."""
        self._seen_at.setdefault(call, now)

    def seen_at(self, call: Cid) -> float | None:
        """When it was first seen here."""
        return self._seen_at.get(call)

    def heard(self, call: Cid, now: float) -> None:
        """Who made this call says that its app is at work."""
        self._heard_at[call] = now

    def says(self, call: Cid, now: float) -> bool:
        """Whether it is time for an own sign of life after this call; True counts as one given."""
        due = now - self._said_at.get(call, -inf) >= SIGN_S
        if due:
            self._said_at[call] = now
        return due

    def gone_at(self, call: Cid) -> float:
        """From when on who made the last call counts as gone, by what is known now; never before it was
        seen."""
        seen = self._seen_at.get(call)
        if seen is None:
            return inf
        silent = seen + self.silence_s
        said = self._heard_at.get(call, -inf) + max(self._lease_s, HOLDS_S)
        return max(silent, min(said, silent + MAX_BUSY_S))

    # -- the members --

    def answered(self, agent: AgentId) -> None:
        """A member answered."""
        self._owing.pop(agent, None)

    def owes(self, agent: AgentId, since: float, now: float, join: Cid | None) -> None:
        """A member let a message wait, from `since` until now, though the app waits no longer."""
        first = self._owing.setdefault(agent, since)
        if join is not None and now - first >= self._answers_s:
            self._away[agent] = join

    def is_away(self, agent: AgentId, join: Cid) -> bool:
        """Whether a member that is there by this join gets no messages: until it joins anew."""
        return self._away.get(agent) == join
