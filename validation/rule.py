"""A rule: one question about a record, with a name that peers and people are told.

A check answers None (nothing wrong, or not its business), a reason (the record is invalid), or what is
missing (the record is pending). A rule about a named record that is not there
leaves that to the rule that misses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from chain.record import Record
from validation.context import Context
from validation.verdict import Pending

Finding: TypeAlias = str | Pending | None
Check: TypeAlias = Callable[[Record, Context], Finding]


@dataclass(frozen=True, slots=True)
class Rule:
    """`needs_links`: about records that this one names, or its author's opening; not its own bytes alone.

    `gate`: while it is pending, no later rule can be asked, since they may differ in an unknown epoch.
    """

    name: str
    check: Check
    needs_payload: bool = False
    needs_links: bool = False
    gate: bool = False
