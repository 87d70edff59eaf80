"""Whose turn it is in a ServerApp's run, as one node sees it: who may coordinate, and who may answer what.

Nobody is elected. The coordinator is whoever made the last call; when it counts as gone
(`federated.presence`), the others may take the run over one after another, a lease apart, in an order that
follows from a hash of that call and their names: all know it, and nobody chose it. Decisions only, on the log
and on what was seen when; times are of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from math import inf

from chain.identity import AgentId
from chain.server_app import MAX_NODES
from federated.call_log import CallLog, Step
from federated.presence import Presence


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of `me` in the run of this log; both it and the presence go on while this is kept."""

    ledger: CallLog
    presence: Presence
    me: AgentId

    # -- who coordinates --

    def is_silent(self, now: float) -> bool:
        """Whether the coordinator counts as gone."""
        return self.presence.gone_at(self.ledger.head) <= now

    def due_at(self, excluded: Collection[AgentId]) -> float:
        """From when on this node may coordinate."""
        ledger = self.ledger
        if ledger.finished:
            return inf
        if ledger.coordinator == self.me:
            return -inf
        order = sorted(
            {*ledger.members(), ledger.task.header.author} - {*excluded, ledger.coordinator},
            key=lambda agent: sha256(ledger.head + agent).digest(),
        )
        if self.me not in order:
            return inf
        return self.presence.gone_at(ledger.head) + self.presence.silence_s * order.index(self.me)

    def has_ended(self) -> bool:
        """Whether this node has said that the run is over, which may not count yet."""
        return any(one.agent == self.me for one in self.ledger.claimed_ends)

    # -- who answers --

    def nodes(self, excluded: Collection[AgentId]) -> tuple[AgentId, ...]:
        """The members that messages can be sent to, ascending: of more than the task takes the lowest
        joins."""
        ledger = self.ledger
        there = [
            agent
            for agent in ledger.members()
            if agent not in excluded and not self.presence.is_away(agent, ledger.standings[agent].cid)
        ]
        there.sort(key=lambda agent: ledger.standings[agent].cid)
        return tuple(sorted(there[: min(ledger.terms.max_members, MAX_NODES)]))

    def open(self, now: float) -> list[tuple[Step, int]]:
        """The messages that this node may answer: of the last call, or once its coordinator has been silent
        for a lease, of the first claim."""
        ledger = self.ledger
        if ledger.finished:
            return []
        steps = [*ledger.steps[-1:], *(ledger.claims[:1] if self.is_silent(now) else ())]
        return [(step, place) for step in steps for place in ledger.open_in(step, self.me)]

    def misses_messages(self, now: float) -> bool:
        """Whether messages come to this node no longer, or soon will not: it was away, or slow, or a message
        could not be had because its sender had gone."""
        ledger = self.ledger
        if not ledger.steps or ledger.finished:
            return False
        last = ledger.steps[-1]
        # By the task's time, not the call's: so long it takes to be away.
        seen = self.presence.seen_at(last.record)
        over = inf if seen is None else seen + ledger.terms.commit_ms / 1_000
        late = bool(ledger.open_in(last, self.me)) and over <= now
        return late or self.me not in last.call.nodes

    def over_at(self, step: Step) -> float:
        """When the time for the answers to a call is over; never for one that was not seen yet."""
        seen = self.presence.seen_at(step.record)
        return inf if seen is None else seen + self.wait_s(step)

    def wait_s(self, step: Step) -> float:
        """How long answers to a call are waited for: as the call says, else as the task does."""
        most = self.ledger.terms.commit_ms
        return (most if step.call.wait_ms is None else min(most, step.call.wait_ms)) / 1_000
