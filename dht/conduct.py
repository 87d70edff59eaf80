"""Conduct: what a peer's wrong answers cost it.

Each bad answer adds points that halve every few minutes; beyond a threshold the peer is ignored until the
score has fallen below it again. A mistake is forgotten, a habit is not, and there is nothing to reset by
hand. Pure: `now` is an argument, in seconds of a monotonic clock; scores of a bounded number of peers.
"""

from __future__ import annotations

from collections import OrderedDict

from chain.identity import AgentId

MAX_PEERS = 4096
"""Peers with a score; one more forgets the one that misbehaved longest ago."""
HALF_LIFE = 120.0
"""Seconds in which a score halves."""
THRESHOLD = 4.0
"""Points from which a peer is ignored."""
MAX_SCORE = 64.0
"""Points beyond which more bad answers do not lengthen the wait (10 minutes)."""


class Conduct:
    """Fading penalty points of peers."""

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._scores: OrderedDict[AgentId, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores)

    def blame(self, agent: AgentId, points: float, now: float) -> float:
        """Add `points` to the score of `agent`; return the new score."""
        score = min(MAX_SCORE, self.score(agent, now) + points)
        self._scores.pop(agent, None)
        if len(self._scores) >= self._max_peers:
            self._scores.popitem(last=False)
        self._scores[agent] = (score, now)
        return score

    def score(self, agent: AgentId, now: float) -> float:
        """The points of `agent` that have not faded yet."""
        score, since = self._scores.get(agent, (0.0, now))
        return float(score * 0.5 ** (max(0.0, now - since) / HALF_LIFE))

    def ignored(self, agent: AgentId, now: float) -> bool:
        """Whether `agent` has misbehaved too much lately to be listened to."""
        return agent in self._scores and self.score(agent, now) >= THRESHOLD
