"""Challenges: whom to ask next whether it still has what it signed for, and what the answer means.

A signed receipt costs a liar nothing unless somebody looks. So every node now and then picks a holder and a
few records at random, of those that the holder signed for (their author asks) or says it holds (another
holder asks), and has it prove them (`dht.records.proofs`). Whoever was asked longest ago comes next, so
nobody is passed over; the records are drawn at random, so who has thrown away a share f of them is found out
with 1 - (1 - f)^n by n records. One failure puts a holder in doubt: it is asked again within seconds about
others, and if it fails then too, nothing that it signed counts any more. Not answering is no way out: who is
there for everything else and leaves `SILENT_MOST` challenges in a row unanswered has failed one. (Ateniese et
al., Provable Data Possession, 2007, sample like this; with the bytes at hand a plain hash does.)

A holder may let go what others are responsible for by now, and need not keep what it was told to erase; only
what it should hold still counts against it, but in no case does its receipt count further. Pure.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from chain.cid import Cid
from chain.identity import AgentId

AT_ONCE = 8
"""Records of one challenge."""
SILENT_MOST = 3
"""Challenges in a row that may stay unanswered."""
MAX_HOLDERS = 4096
"""Holders whose last challenge is remembered; beyond it the one asked longest ago is forgotten."""


class Outcome(Enum):
    """What a challenge showed."""

    KEPT = "it has what it should"
    LET_GO = "it has not, and need not any more"
    DOUBTED = "it has not what it signed for"
    CONVICTED = "it has not, twice in a row"


@dataclass(frozen=True, slots=True)
class Next:
    """The next challenge: a holder, and records that it signed for, ascending."""

    holder: AgentId
    cids: tuple[Cid, ...]


@dataclass(slots=True)
class _History:
    asked: float
    doubted: bool = False
    silent: int = 0


class Challenges:
    """What is known of challenges so far; O(claims) a choice, bounded by `MAX_HOLDERS`."""

    def __init__(self) -> None:
        self._histories: OrderedDict[AgentId, _History] = OrderedDict()

    @property
    def in_doubt(self) -> frozenset[AgentId]:
        """Holders that failed their last challenge: asked again before all others."""
        return frozenset(agent for agent, one in self._histories.items() if one.doubted)

    def choose(self, claims: Iterable[tuple[AgentId, Cid]], usable: Collection[AgentId]) -> Next | None:
        """Whom to challenge on which of its claims; None when nobody usable claims anything.

        Of `claims`, drawn at random, the first `AT_ONCE` of a holder are taken.
        """
        by_holder: dict[AgentId, list[Cid]] = {}
        for agent, cid in claims:
            if agent in usable:
                cids = by_holder.setdefault(agent, [])
                if cid not in cids and len(cids) < AT_ONCE:
                    cids.append(cid)
        if not by_holder:
            return None
        holder = min(by_holder, key=self._turn)
        return Next(holder, tuple(sorted(by_holder[holder])))

    def least_asked(self, agents: Sequence[AgentId]) -> AgentId | None:
        """Whose turn it is among these."""
        return min(agents, key=self._turn, default=None)

    def answered(
        self, holder: AgentId, due: Collection[Cid], missing: Collection[Cid], now: float
    ) -> Outcome:
        """Note an answer that left out `missing`; `due` is what the holder should hold now."""
        history = self._asked(holder, now)
        history.silent = 0
        if not missing:
            history.doubted = False
            return Outcome.KEPT
        if not set(missing) & set(due):
            return Outcome.LET_GO
        convicted, history.doubted = history.doubted, not history.doubted
        return Outcome.CONVICTED if convicted else Outcome.DOUBTED

    def unanswered(self, holder: AgentId, now: float) -> bool:
        """Note that a challenge was not answered; whether that is once too often, and counts as failed."""
        history = self._asked(holder, now)
        history.silent += 1
        if history.silent < SILENT_MOST:
            return False
        history.silent = 0
        return True

    def _turn(self, agent: AgentId) -> tuple[bool, float, AgentId]:
        history = self._histories.get(agent)
        return (True, -math.inf, agent) if history is None else (not history.doubted, history.asked, agent)

    def _asked(self, holder: AgentId, now: float) -> _History:
        history = self._histories.pop(holder, None) or _History(now)
        history.asked = now
        self._histories[holder] = history
        while len(self._histories) > MAX_HOLDERS:
            self._histories.popitem(last=False)
        return history
