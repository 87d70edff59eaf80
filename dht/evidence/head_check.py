"""Whether a node's own chain is whole: what the holders of its activity say, and what follows.

A home that may be a copy, or an old state of one, must not sign the next record before it knows that there is
none yet: that record would fork the chain. Those who hold the author's activity know the end of the chain,
and show it by the author's own signed header, so that none of them can invent a longer chain or a fork; what
one of them can do is be silent, show less than it has, or speak of another running copy, so for these more
than half of those asked have to agree. With R = 3 that is two of three, and of two copies that ask the same
three at once at most one is let go on.

Pure; `node.head_guard` asks and waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from chain.cid import Cid
from chain.identity import AgentId

Point: TypeAlias = tuple[int, Cid]
"""A place in a chain: seq and the CID of the record there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one holder said: the last records that it has of the chain, several only in a fork; checked.

    `other_s`: so many seconds ago it heard of another session that writes this chain; None: of none.
    """

    holder: AgentId
    heads: tuple[Point, ...]
    other_s: float | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Enough holders know nothing beyond our head, and of nobody else who writes."""

    holders: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class Behind:
    """The chain goes on to `seq`, which these holders have."""

    seq: int
    holders: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class Forked:
    """There is another record of ours at `seq` than the one that we have: a fork, for good."""

    seq: int
    holder: AgentId


@dataclass(frozen=True, slots=True)
class Twin:
    """Another running node writes this chain; it was heard of `seconds` ago."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not enough of those asked agree yet: `have` of `need`; `need` is 0 when there was nobody to ask."""

    have: int
    need: int


Finding: TypeAlias = Confirmed | Behind | Forked | Twin | Unknown


def majority(asked: int) -> int:
    """How many of those asked have to agree: more than half of them, so two of three."""
    return asked // 2 + 1 if asked else 0


def check_head(
    head: Point | None, own_at: Callable[[int], Cid | None], answers: Sequence[Answer], asked: int
) -> Finding:
    """What the answers of `asked` holders mean for the chain that ends at `head` (None: it is empty).

    `own_at` gives the CID of our record at a seq up to the head's. What is proven comes first: a fork, then a
    longer chain. The order of the answers makes no difference; of two answers of one holder the one that says
    more counts.
    """
    seq = -1 if head is None else head[0]
    furthest = seq
    agree: set[AgentId] = set()
    ahead: dict[AgentId, int] = {}
    others: dict[AgentId, float] = {}
    forks: list[tuple[int, AgentId]] = []
    for answer in answers:
        top = max((place for place, _ in answer.heads), default=-1)
        forks.extend(
            (place, answer.holder) for place, cid in answer.heads if place <= seq and own_at(place) != cid
        )
        if top > seq:
            ahead[answer.holder] = max(top, ahead.get(answer.holder, top))
            furthest = max(furthest, top)
        elif answer.other_s is not None:
            others[answer.holder] = min(answer.other_s, others.get(answer.holder, answer.other_s))
        elif head is not None and top == seq:
            agree.add(answer.holder)
    agree -= others.keys() | ahead.keys()
    need = majority(asked)
    if forks:
        return Forked(*min(forks))
    if ahead:
        return Behind(furthest, tuple(sorted(agent for agent in ahead if ahead[agent] == furthest)))
    if need and len(others) >= need:
        return Twin(min(others.values()))
    if need and len(agree) >= need:
        return Confirmed(tuple(sorted(agree)))
    return Unknown(len(agree), need)
