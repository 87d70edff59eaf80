"""What a holder has moved so far: a line for each former shard, kept over restarts.

A former shard is gone through in order, and the line says up to which record everything has been found at its
new places. A node that is restarted goes on from there, if still the same lies there; else it begins anew, as
it does for each later look at a shard that is done. A line is a saving and no promise: nothing is dropped on
its word, see `dht.repair.migration`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from chain.cid import Cid
from dht.records.record_store import Digest

MAX_MOVES = 8_192
"""Lines kept; one more forgets the smallest basis: that shard is gone through anew after a restart."""


@dataclass(frozen=True, slots=True)
class Move:
    """Of what lies at a former shard, by its `digest`, all up to the CID `upto` is where it belongs."""

    digest: Digest
    upto: Cid


class MoveLog(Protocol):
    """Where the lines are kept."""

    def moves(self) -> dict[bytes, Move]:
        """All lines by basis."""
        ...

    async def note_move(self, basis: bytes, move: Move) -> None:
        """Write the line of a shard, in place of an earlier one; durable on return."""
        ...

    async def forget_moves(self, bases: Collection[bytes]) -> None:
        """Forget the lines of these shards; durable on return."""
        ...
