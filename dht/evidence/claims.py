"""Who writes a chain: of several running copies of one agent's home, a holder lets one at a time.

Two nodes with one key fork their chain without knowing of each other. So a running node tells the holders of
its activity, every `PERIOD_S`, that it writes, under a name drawn at its start (a session), and a holder
keeps the last session of each agent for `WINDOW_S`: a lease, as in Gray and Cheriton (1989), except that
nobody is kept from anything but by its own honesty. Who may not be the only one asks first, and is told how
long ago another session was heard of. Who started in the home that wrote last takes the lease over, because a
restart must not wait for the lease of the process before it; the one it took it from hears so at its next
turn.

Pure: the clock is an argument. A lease guards against accidents and not against thieves: a stolen key is
revoked (`chain.revocation`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from chain.identity import AgentId

SESSION_SIZE: Final = 16
"""Bytes of a session, random."""
PERIOD_S: Final = 20.0
"""So often a node that writes says so."""
WINDOW_S: Final = 30.0
"""A session that was not heard of for so long is over."""
MAX_AGENTS: Final = 4096
"""Agents whose session is remembered; one more forgets the one not heard of for longest."""


@dataclass(frozen=True, slots=True)
class _Lease:
    session: bytes
    heard: float


class Claims:
    """The sessions that one holder knows of; bounded by `MAX_AGENTS`."""

    def __init__(self) -> None:
        self._leases: OrderedDict[AgentId, _Lease] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    def claim(self, agent: AgentId, session: bytes, take: bool, now: float) -> float | None:
        """Give the lease of `agent`'s chain to `session`, or say how many seconds ago another was heard of.

        `take`: give it in any case. `now` in seconds of one monotonic clock.
        """
        if not take and (age := self.other(agent, session, now)) is not None:
            return age
        self._leases[agent] = _Lease(session, now)
        self._leases.move_to_end(agent)
        while len(self._leases) > MAX_AGENTS:
            self._leases.popitem(last=False)
        return None

    def other(self, agent: AgentId, session: bytes, now: float) -> float | None:
        """How many seconds ago a session that is not `session` had the lease, unless it is over."""
        lease = self._leases.get(agent)
        if lease is None or lease.session == session or now - lease.heard >= WINDOW_S:
            return None
        return now - lease.heard

    def release(self, agent: AgentId, session: bytes) -> None:
        """`session` writes no more; another's lease stays."""
        lease = self._leases.get(agent)
        if lease is not None and lease.session == session:
            del self._leases[agent]
