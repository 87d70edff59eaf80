"""The three outcomes of judging a record.

Valid and Invalid are final: no later knowledge changes them. Pending says what has to come first.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    An epoch whose rule version this node is too old for is `missing` too: only an update brings it.
    """

    missing: tuple[Cid, ...] = ()
    opening_of: AgentId | None = None


Verdict: TypeAlias = Valid | Invalid | Pending
VALID = Valid()
