"""Reputation: what a peer's misdeeds cost it, and for how long.

Whoever finds that a peer misbehaved names the misdeed; its weight, here in one table, is added to a score
that halves every two minutes. From `SLOWED_FROM` points on the peer is served at a fraction of its pace, from
`BANNED_FROM` on it is banned: not asked, not answered, refused on every connection with a code. A ban lasts a
minute, each further one twice as long up to an hour, and a day without any makes the next one short again.
So a mistake is forgotten, a habit is not, and nobody is cut off for good. Standings belong to keys and
survive a reconnect; a new key costs what the membrane asks for (docs/security.md). Pure: `now` is an
argument, in seconds of a monotonic clock; state is kept of a bounded number of peers, those with a ban
longest.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from chain.identity import AgentId

MAX_PEERS = 4096
"""Peers with a score; one more forgets the one that misbehaved longest ago."""
MAX_BANNED = 1024
"""Peers whose bans are remembered, beside the others; one more forgets the one banned longest ago."""
HALF_LIFE = 120.0
"""Seconds in which a score halves."""
SLOWED_FROM = 2.0
"""Points from which a peer is served more slowly."""
BANNED_FROM = 4.0
"""Points from which a peer is banned."""
BAN_FIRST = 60.0
"""Seconds of a first ban; each further one lasts twice as long."""
BAN_CAP = 3600.0
FORGIVEN_AFTER = 86_400.0
"""Seconds since the end of the last ban after which the next one is a first one."""


class Misdeed(Enum):
    """What a peer can do wrong, and the points that it costs."""

    BAD_ANSWER = "an answer or a request that does not decode, or does not verify", 1.0
    INVALID_RECORD = "a record that breaks a rule; a false warrant is one", 1.0
    BAD_FRAME = "bytes that are no frame, or one at the wrong time", 2.0
    FAILED_CHALLENGE = "what it said it holds and cannot show", 2.5
    FALSE_SUMMARY = "a sketch that is not its record's, in what it gave of a shard", 2.5
    PRESSING = "requests far beyond its pace, for a second", 0.05

    def __init__(self, text: str, points: float) -> None:
        self.text = text
        self.points = points


@dataclass(frozen=True, slots=True)
class Standing:
    """How a peer stands now. `banned_s`: seconds until its ban ends, 0 without one."""

    score: float
    banned_s: float = 0.0
    bans: int = 0

    @property
    def banned(self) -> bool:
        """Whether it is neither asked nor answered."""
        return self.banned_s > 0

    @property
    def slowed(self) -> bool:
        """Whether it is served more slowly."""
        return self.score >= SLOWED_FROM

    @property
    def word(self) -> str:
        """`good`, `slowed` or `banned`."""
        return "banned" if self.banned else "slowed" if self.slowed else "good"


GOOD = Standing(0.0)


@dataclass(slots=True)
class _Ban:
    until: float
    count: int


class Reputation:
    """Fading points and bans of peers. Every method is O(1) but `known`."""

    def __init__(self, max_peers: int = MAX_PEERS, max_banned: int = MAX_BANNED) -> None:
        self._max_peers = max_peers
        self._max_banned = max_banned
        self._scores: OrderedDict[AgentId, tuple[float, float]] = OrderedDict()
        self._bans: OrderedDict[AgentId, _Ban] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores) + len(self._bans)

    def blame(self, agent: AgentId, points: float, now: float) -> bool:
        """Add `points` to the score of `agent`; whether that bans it.

        What a banned peer does counts nothing: it is not listened to, and what was under way when the ban
        began is the same offence.
        """
        if self.banned_for(agent, now) > 0:
            return False
        score = self._score(agent, now) + points
        self._scores.pop(agent, None)
        if score >= BANNED_FROM:
            self._ban(agent, now)
            return True
        while len(self._scores) >= self._max_peers:
            self._scores.popitem(last=False)
        self._scores[agent] = (score, now)
        return False

    def standing(self, agent: AgentId, now: float) -> Standing:
        """How `agent` stands."""
        ban = self._bans.get(agent)
        if ban is None:
            return Standing(self._score(agent, now)) if agent in self._scores else GOOD
        return Standing(self._score(agent, now), max(0.0, ban.until - now), ban.count)

    def was_banned(self, agent: AgentId) -> bool:
        """Whether `agent` is or was banned."""
        return agent in self._bans

    def banned_for(self, agent: AgentId, now: float) -> float:
        """Seconds until the ban of `agent` ends; 0 without one."""
        ban = self._bans.get(agent)
        return 0.0 if ban is None else max(0.0, ban.until - now)

    def known(self, now: float) -> dict[AgentId, Standing]:
        """Everybody who does not stand well, ascending by agent. O(peers)."""
        found = {agent: self.standing(agent, now) for agent in sorted({*self._scores, *self._bans})}
        return {agent: one for agent, one in found.items() if one.banned or one.slowed}

    def pardon(self, agent: AgentId) -> bool:
        """Forget what `agent` did; whether there was anything."""
        score, ban = self._scores.pop(agent, None), self._bans.pop(agent, None)
        return score is not None or ban is not None

    def _ban(self, agent: AgentId, now: float) -> None:
        former = self._bans.pop(agent, None)
        count = 0 if former is None or now - former.until > FORGIVEN_AFTER else former.count
        while len(self._bans) >= self._max_banned:
            self._bans.popitem(last=False)
        length = min(BAN_CAP, BAN_FIRST * 2.0 ** min(count, 16))
        self._bans[agent] = _Ban(now + length, count + 1)

    def _score(self, agent: AgentId, now: float) -> float:
        score, since = self._scores.get(agent, (0.0, now))
        return float(score * 0.5 ** (max(0.0, now - since) / HALF_LIFE))
