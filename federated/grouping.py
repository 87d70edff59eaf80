"""Which members of a roster exchange updates: everybody with everybody, or groups drawn anew in each round.

A roster of the topology `groups` that is larger than `MAX_MEMBERS` is divided into as few groups as hold it,
of nearly equal size (so of eight at least), in the order of H(what the round builds on ‖ agent). Nobody
chooses it: what a round builds on is the digest of the result before, which hangs on secrets of all who
contributed (the salts of their commits). As in Moshpit averaging (Ryabinin et al., 2021) the groups of two
rounds have little in common, so a group in which liars are many is not so again. Of 17 to 32 members two
groups are better than three, though a rule can bear none of two: see docs/design.md.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

from chain.identity import AgentId
from chain.learning_task import GROUPS, MAX_MEMBERS, Task

Groups = tuple[tuple[AgentId, ...], ...]


def groups_of(terms: Task, previous: bytes, agents: tuple[AgentId, ...]) -> Groups:
    """The groups of a round that builds on `previous`, each ascending; one group: no groups."""
    if terms.topology != GROUPS or len(agents) <= MAX_MEMBERS:
        return (agents,)
    return _drawn(previous, agents)


def place_of(previous: bytes, group: tuple[AgentId, ...]) -> bytes:
    """What questions about this group's outcome name, 32 bytes."""
    return sha256(b"group" + previous + b"".join(group)).digest()


@lru_cache(maxsize=64)
def _drawn(previous: bytes, agents: tuple[AgentId, ...]) -> Groups:
    order = sorted(agents, key=lambda agent: sha256(previous + b"group" + agent).digest())
    count = -(-len(order) // MAX_MEMBERS)
    return tuple(
        tuple(sorted(order[len(order) * at // count : len(order) * (at + 1) // count])) for at in range(count)
    )
