"""Whom a node's owner trusts to start with: the roots of the trust score (`crdt.trust`), as settings say.

A root is an agent by its id, or one of three words: `founder` and `stewards` of the network, and `self`, this
agent. It may carry a weight from 0 to 1: 1 is one full vote, 0 says that the agent is not to be heard at all.
A root that stands later in the list overrides what an earlier one said of the same agent, so that a list can
begin with words and make exceptions. A root is declared by each reader for itself; no record can change it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from chain.errors import IdentityError
from chain.identity import AgentId, agent_from_text
from chain.manifest import Manifest
from crdt.trust import VOTE

FOUNDER: Final = "founder"
STEWARDS: Final = "stewards"
SELF: Final = "self"
DEFAULT_ROOTS: Final = (FOUNDER, STEWARDS, SELF)
MAX_ROOTS: Final = 1024
_WEIGHT = re.compile(r"0(\.[0-9]{1,6})?|1(\.0{1,6})?")


def read_root(item: str) -> tuple[str | AgentId, int]:
    """One root as WHO or WHO=WEIGHT, its weight in millionths; raises ValueError, which says why."""
    name, separator, weight = item.partition("=")
    if separator and not _WEIGHT.fullmatch(weight):
        raise ValueError(f"{item!r:.200}: the weight is a number from 0 to 1, with at most six decimals")
    whole, _, rest = (weight if separator else "1").partition(".")
    parts = int(whole) * VOTE + int(rest.ljust(6, "0") or "0")
    if name in DEFAULT_ROOTS:
        return name, parts
    try:
        return agent_from_text(name), parts
    except IdentityError as error:
        raise ValueError(
            f"{item!r:.200} is none of {', '.join(DEFAULT_ROOTS)} nor an agent's id such as 12D3Koo…, "
            "each maybe with =WEIGHT"
        ) from error


def trust_root(items: Iterable[str], manifest: Manifest, agent: AgentId) -> dict[AgentId, int]:
    """The weights that these roots give in this network to `agent` and others; raises ValueError."""
    found: dict[AgentId, int] = {}
    named = {FOUNDER: (manifest.founder,), STEWARDS: manifest.stewards, SELF: (agent,)}
    for item in items:
        who, weight = read_root(item)
        found |= dict.fromkeys((who,) if isinstance(who, bytes) else named[who], weight)
    return found
