"""One connection a peer: which of two to keep when both sides dialled at once.

Two nodes that dial each other at the same moment end up with a connection each way, and if each closed "the
newer one" they might close both. So both apply the same rule to what both can see: of two that came about at
about the same time the one dialled by the smaller key stays; of two that did not the newer one does, because
nobody dials who has a connection, so the older one is dead at one end. Nobody asks on the other one any more,
and it is closed when it has been idle for a while, so that no request is lost. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from dht.network import PeerId

SIMULTANEOUS = 5.0
"""Seconds between two connections that count as dialled at once: what a dial may take."""
RETIRE_AFTER = 2.0
"""Seconds without a request after which a connection that is not to be used any more is closed."""


class Link(Protocol):
    """What the rule looks at."""

    @property
    def outbound(self) -> bool:
        """Whether this end dialled."""
        ...

    @property
    def since(self) -> float:
        """When it came about, in seconds."""
        ...


L = TypeVar("L", bound=Link)


def surplus(local: PeerId, peer: PeerId, live: Sequence[L]) -> list[L]:
    """Those of the live connections to one peer that are not to be used any more.

    Several in the same direction are that side's business: it knows which of them it uses.
    """
    ways: dict[bool, list[L]] = {True: [], False: []}
    for link in live:
        ways[link.outbound].append(link)
    if not ways[True] or not ways[False]:
        return []
    newest_out = max(link.since for link in ways[True])
    newest_in = max(link.since for link in ways[False])
    if abs(newest_out - newest_in) <= SIMULTANEOUS:
        return ways[local > peer]
    return ways[newest_out < newest_in]
