"""The wire form of `shard.summary`: blocks of many shards, or what changed in them, in one bounded answer.

A question names a kind and up to `MAX_ITEMS` shards, each with the version that the asker has (none: the
whole block is wanted), and, to go on with a block that did not fit, the last key that came. The answer names
the holder's instance and has for each shard, in order, one of `State`. A page belongs to the count that the
answer gives; who gets a block in several pages keeps the count of the *first* one and asks what has changed
since: rows that were put among those that it had already got come then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from chain import canonical
from chain.errors import ChainError
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.summaries.block import (
    DIGEST_BYTES,
    INSTANCE_BYTES,
    MAX_ROWS,
    Block,
    Delta,
    Kind,
    SummaryError,
    Version,
    check_rows,
    split,
)
from sharding.errors import TreeError
from sharding.tree import Prefix

METHOD: Final = "shard.summary"
MAX_ITEMS: Final = 512
"""Shards of one question."""
MAX_QUESTION: Final = 96 * 1024
"""Bytes of a question, which is decoded on the event loop: 512 shards with versions fit."""
REPLY_BYTES: Final = 256 * 1024
"""Bytes of rows in one answer."""
MAX_REPLY: Final = REPLY_BYTES + MAX_ITEMS * 96
MAX_COUNT: Final = (1 << 63) - 1
MAX_NAME: Final = 16


class State(IntEnum):
    """What an answer says of a shard."""

    ABSENT = 0
    """[0]: this holder is not complete in it, or makes no such blocks."""
    LATER = 1
    """[1]: no room was left; it is to be asked about again."""
    SAME = 2
    """[2, count, digest]: the asker has it."""
    DELTA = 3
    """[3, count, digest, removed keys, added rows], both one after the other, ascending."""
    WHOLE = 4
    """[4, count, digest, rows, more]: the block, or its next rows after the key that was named."""


@dataclass(frozen=True, slots=True)
class Item:
    """One shard of a question: `known` is the version that the asker has, `after` the last key it got."""

    shard: Prefix
    known: Version | None = None
    after: bytes | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a holder says of one shard. `version` is None where it has nothing to say (`ABSENT`, `LATER`)."""

    state: State
    version: Version | None = None
    delta: Delta | None = None
    rows: bytes = b""
    more: bool = False


def encode_question(kind: Kind, items: Sequence[Item]) -> bytes:
    """The canonical body of a question."""
    rows: list[Any] = []
    for item in items:
        known = item.known and [item.known.instance, item.known.counter, item.known.digest]
        rows.append([write_shard(item.shard), known, item.after])
    return canonical.encode([kind.name, rows])


def decode_question(body: bytes, kinds: Sequence[Kind]) -> tuple[Kind, list[Item]]:
    """Read a question about one of `kinds`; raises `RequestRefused` (bad request) naming what is wrong."""
    try:
        value = canonical.decode(body, MAX_QUESTION)
        match value:
            case [str(name), list(rows)] if 0 < len(rows) <= MAX_ITEMS and len(name) <= MAX_NAME:
                pass
            case _:
                raise FrameError(f"{METHOD} takes [kind, 1 to {MAX_ITEMS} shards]")
        found = [kind for kind in kinds if kind.name == name]
        if not found:
            raise FrameError(f"no blocks of the kind {name!r:.40} are made here")
        items = [_item(found[0], row) for row in rows]
        if len({item.shard for item in items}) < len(items):
            raise FrameError("a shard is asked for twice")
    except (ChainError, TreeError, FrameError) as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    return found[0], items


def encode_answer(instance: bytes, told: Sequence[list[Any]]) -> bytes:
    """The canonical body of an answer; `told` are what `same`, `changed` and `whole` give."""
    return canonical.encode([instance, list(told)])


def same(block: Block, counter: int) -> list[Any]:
    """The asker has the block of this count."""
    return [int(State.SAME), counter, block.digest]


def changed(block: Block, counter: int, delta: Delta) -> list[Any]:
    """What takes the asker to the block of this count."""
    added = b"".join(key + body for key, body in delta.added.items())
    return [int(State.DELTA), counter, block.digest, b"".join(delta.removed), added]


def whole(block: Block, counter: int, rows: bytes, more: bool) -> list[Any]:
    """Rows of the block of this count."""
    return [int(State.WHOLE), counter, block.digest, rows, more]


def decode_answer(reply: bytes, kind: Kind, items: Sequence[Item]) -> list[Told]:
    """What a holder says of each of `items`, in order; raises `FrameError` for anything out of bounds."""
    try:
        value = canonical.decode(reply, MAX_REPLY)
        match value:
            case [bytes(instance), list(rows)] if len(instance) == INSTANCE_BYTES and len(rows) == len(items):
                return [_told(kind, instance, item, row) for item, row in zip(items, rows, strict=True)]
    except (ChainError, SummaryError) as error:
        raise FrameError(f"{METHOD} reply is malformed: {error}") from error
    raise FrameError(f"{METHOD} reply is not [instance, {len(items)} blocks]")


def write_shard(shard: Prefix) -> list[int]:
    """A shard as it stands in questions: its generation only where that is not 0."""
    return [shard.length, shard.bits, *([shard.generation] if shard.generation else [])]


def read_shard(value: object) -> Prefix:
    """The shard that `write_shard` wrote; raises `FrameError` or `TreeError`."""
    if type(value) is not list or len(value) not in (2, 3) or not all(type(one) is int for one in value):
        raise FrameError("a shard is the array [length, bits], or with a generation above 0")
    if len(value) == 3 and not value[2]:
        raise FrameError("generation 0 is not named")
    return Prefix(value[1], value[0], *value[2:])


def _item(kind: Kind, row: object) -> Item:
    match row:
        case [shard, known, after] if after is None or (type(after) is bytes and len(after) == kind.key):
            pass
        case _:
            raise FrameError(f"{METHOD} names a shard as [shard, version or nil, key or nil]")
    if known is not None:
        match known:
            case [bytes(instance), int(counter), bytes(digest)] if (
                type(counter) is int
                and len(instance) == INSTANCE_BYTES
                and 0 <= counter <= MAX_COUNT
                and len(digest) == DIGEST_BYTES
            ):
                known = Version(instance, counter, digest)
            case _:
                raise FrameError("a version is the array [instance, count, digest]")
    return Item(read_shard(shard), known, after)


def _told(kind: Kind, instance: bytes, item: Item, row: object) -> Told:
    match row:
        case [int(state)] if type(state) is int and state in (State.ABSENT, State.LATER):
            return Told(State(state))
        case [int(state), int(counter), bytes(digest), *rest] if (
            type(state) is int
            and type(counter) is int
            and 0 <= counter <= MAX_COUNT
            and len(digest) == DIGEST_BYTES
        ):
            version = Version(instance, counter, digest)
        case _:
            raise FrameError(f"{METHOD} reply says nothing of a shard that can be read")
    match state, rest:
        case [State.SAME, []] if item.known is not None and item.known.digest == digest:
            return Told(State.SAME, version)
        case [State.DELTA, [bytes(removed), bytes(rows)]] if (
            item.known is not None and item.known.instance == instance and item.known.counter <= counter
        ):
            return Told(State.DELTA, version, _delta(kind, removed, rows))
        case [State.WHOLE, [bytes(rows), bool(more)]]:
            found = check_rows(kind, rows)
            if found and item.after is not None and found[0][: kind.key] <= item.after:
                raise FrameError(f"{METHOD} reply does not go on")
            if more and not found:
                raise FrameError(f"{METHOD} reply promises more and brings nothing")
            return Told(State.WHOLE, version, None, rows, more)
    raise FrameError(f"{METHOD} reply says of a shard what was not asked")


def _delta(kind: Kind, removed: bytes, rows: bytes) -> Delta:
    added = check_rows(kind, rows)
    if len(removed) % kind.key or len(removed) > MAX_ROWS * kind.key:
        raise FrameError(f"{len(removed)} bytes are no keys of {kind.key}")
    gone = tuple(split(removed, kind.key))
    if any(one >= other for one, other in zip(gone, gone[1:], strict=False)):
        raise FrameError("the keys of a delta are not ascending")
    came = {row[: kind.key]: row[kind.key :] for row in added}
    if not came.keys().isdisjoint(gone):
        raise FrameError("a delta removes what it adds")
    return Delta(gone, came)
