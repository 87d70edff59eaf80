"""Replies of the record methods: what a holder says about each record of a store request.

A reply is the array of statuses, each [status, rule]. Who sets `WANTS_RECEIPT` beside an item's roles is
answered [statuses, statement] by a holder that signs receipts (`dht.records.receipts`), the statement absent
(nil) when there was nothing to sign for; a holder of an older release does not know the bit and answers as
ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from chain import canonical
from chain.errors import ChainError
from chain.statement import MAX_STATEMENT
from dht.errors import FrameError

WANTS_RECEIPT = 128
"""Bit beside an item's roles: its sender takes a receipt."""
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
    return canonical.encode(_statuses_value(statuses))


def write_receipted(statuses: Sequence[tuple[StoreStatus, str]], statement: bytes | None) -> bytes:
    """Encode statuses with the receipts' statement."""
    return canonical.encode([_statuses_value(statuses), statement])


def read_statuses(reply: bytes, count: int) -> list[tuple[StoreStatus, str]]:
    """Decode exactly `count` statuses; raises `FrameError` for anything else."""
    return _read_statuses(_decoded(reply), count)


def read_receipted(reply: bytes, count: int) -> tuple[list[tuple[StoreStatus, str]], bytes | None]:
    """Decode `count` statuses with or without a statement; raises `FrameError` for anything else."""
    value = _decoded(reply)
    if type(value) is list and len(value) == 2 and (value[1] is None or type(value[1]) is bytes):
        if value[1] is not None and len(value[1]) > MAX_STATEMENT:
            raise FrameError(f"a receipt's statement has {len(value[1])} bytes, the limit is {MAX_STATEMENT}")
        return _read_statuses(value[0], count), value[1]
    return _read_statuses(value, count), None


def _statuses_value(statuses: Sequence[tuple[StoreStatus, str]]) -> list[list[int | str]]:
    return [[int(status), rule[:MAX_RULE]] for status, rule in statuses]


def _decoded(reply: bytes) -> Any:
    try:
        return canonical.decode(reply, MAX_REPLY)
    except ChainError as error:
        raise FrameError(f"store reply is malformed: {error}") from error


def _read_statuses(value: object, count: int) -> list[tuple[StoreStatus, str]]:
    if type(value) is not list or len(value) != count:
        raise FrameError(f"store reply does not hold {count} statuses")
    statuses: list[tuple[StoreStatus, str]] = []
    for pair in value:
        if type(pair) is not list or len(pair) != 2 or type(pair[1]) is not str or len(pair[1]) > MAX_RULE:
            raise FrameError("a store status is the array [status, rule]")
        try:
            statuses.append((StoreStatus(pair[0]), pair[1]))
        except (ValueError, TypeError) as error:
            raise FrameError(f"store reply is malformed: {error}") from error
    return statuses
