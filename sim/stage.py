"""Where a scenario is played: the port between a timeline and the nodes it moves.

One stage keeps whole nodes in virtual time (`sim.simulated_stage`), the other daemons on real sockets
(`sim.real_stage`). A timeline sees nodes by name and does with them what a user does: add, ask, get; and what
fate does: kill and start. Nothing here says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chain.cid import Cid
from node.corpus import CorpusEntry
from sim.faults import Lie


class ActorDown(Exception):
    """The node that should do something is down, or died while it did."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a query; `ms` as the asker measured it."""

    ids: tuple[Cid, ...]
    unverified: int
    ms: float
    shards_missed: int
    deadline_hit: bool
    hits_refused: int


@dataclass(frozen=True, slots=True)
class Rest:
    """How near the network is to rest; `equal` is None where nobody can see all replicas."""

    pending: int
    equal: bool | None

    @property
    def reached(self) -> bool:
        """Whether nothing is left to do."""
        return self.pending == 0 and self.equal is not False


class Stage(Protocol):
    """The nodes of a scenario."""

    def up(self, name: str) -> bool:
        """Whether the node runs."""
        ...

    async def add(self, name: str, entries: Sequence[CorpusEntry]) -> list[Cid | None]:
        """Author entries; the ids of those that were acknowledged. Raises `ActorDown`."""
        ...

    async def ask(self, name: str, text: str, k: int) -> Reply:
        """Query by meaning. Raises `ActorDown`."""
        ...

    async def get(self, name: str, entry: Cid) -> str | None:
        """Fetch an entry and check its proof: the text it shows, None when it did not come. `ActorDown`."""
        ...

    async def edit(self, name: str, entry: Cid, text: str) -> bool:
        """Give an entry another text: whether that was acknowledged. Raises `ActorDown`."""
        ...

    async def kill(self, name: str) -> None:
        """End the node at once, as a power cut does."""
        ...

    async def leave(self, name: str) -> None:
        """Stop the node in order, as its owner does: it hands over first."""
        ...

    async def start(self, name: str) -> None:
        """Start the node again on its disk."""
        ...

    async def lie(self, name: str, kind: Lie) -> None:
        """Make a liar of the node, from now on and after its restarts."""
        ...

    async def unplaced(self, name: str) -> frozenset[Cid] | None:
        """The node's records that lack holders; None where that cannot be seen."""
        ...

    async def rest(self) -> Rest:
        """How near the running nodes are to rest."""
        ...

    async def has_copy(self, entry: Cid) -> bool | None:
        """Whether any running node has the entry's record; None where that cannot be seen."""
        ...
