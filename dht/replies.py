"""Replies of the record methods: what a holder says about each record of a store request."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from chain import canonical
from chain.errors import ChainError
from dht.errors import FrameError

MAX_RULE = 64
MAX_REPLY = 64 * 1024


class StoreStatus(IntEnum):
    """A holder's word on one record."""

    HELD = 0
    """Valid and durable."""
    INVALID = 1
    """Broke the rule that is named; not kept."""
    PENDING = 2
    """Names something the holder has not seen; not kept, send it again later."""
    PARKED = 3
    """Its clock is too far ahead; not kept."""
    FULL = 4
    """Valid, but the holder has no room for it; not kept, another one is to hold it."""
    QUOTA = 5
    """Valid, but its author takes up all that the holder gives to one author; not kept."""
    BLOCKED = 6
    """The holder's owner does not want it; not kept."""


REFUSES = frozenset({StoreStatus.FULL, StoreStatus.QUOTA, StoreStatus.BLOCKED})
"""What a holder says that will not take a record, whatever is sent along: the next nearest is to."""


def write_statuses(statuses: Sequence[tuple[StoreStatus, str]]) -> bytes:
    """Encode one (status, rule) for each item."""
    return canonical.encode([[int(status), rule[:MAX_RULE]] for status, rule in statuses])


def read_statuses(reply: bytes, count: int) -> list[tuple[StoreStatus, str]]:
    """Decode exactly `count` statuses; raises `FrameError` for anything else."""
    try:
        value = canonical.decode(reply, MAX_REPLY)
        if type(value) is not list or len(value) != count:
            raise FrameError(f"store reply does not hold {count} statuses")
        statuses = []
        for pair in value:
            if (
                type(pair) is not list
                or len(pair) != 2
                or type(pair[1]) is not str
                or len(pair[1]) > MAX_RULE
            ):
                raise FrameError("a store status is the array [status, rule]")
            statuses.append((StoreStatus(pair[0]), pair[1]))
    except (ChainError, ValueError, TypeError) as error:
        raise FrameError(f"store reply is malformed: {error}") from error
    return statuses
