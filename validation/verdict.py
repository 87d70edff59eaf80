"""The three outcomes of judging a record.

Valid and Invalid are final: no later knowledge changes them. Pending says what has to come first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from chain.cid import Cid
from chain.identity import AgentId


@dataclass(frozen=True, slots=True)
class Valid:
    """Every rule holds."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """The record breaks the rule of this name, for ever."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pending:
    """Not to be decided yet: fetch `missing` (ascending) and, if given, `opening_of`'s first two records.

    An epoch whose rule version this node is too old for is `missing` too: only an update brings it. `epochs`
    are those of `missing` that are epochs.
    """

    missing: tuple[Cid, ...] = ()
    opening_of: AgentId | None = None
    epochs: tuple[Cid, ...] = field(default=(), compare=False)


Verdict: TypeAlias = Valid | Invalid | Pending
VALID = Valid()


def unknown_epochs(*epochs: Cid) -> Pending:
    """Nothing can be said before these epochs are known."""
    missing = tuple(sorted(set(epochs)))
    return Pending(missing, epochs=missing)
