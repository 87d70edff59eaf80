"""Bundles: records on the wire, with what a stranger needs to judge them.

A bundle is the canonical array [openings, headers, items]: for each author the first two records of its
chain, the signed headers that the items name (`prev`, `deps`, …), and the items, each a record with the roles
it is stored in; what lies at a shard for the sake of another record of its entry names that shard's basis
too, because its own bytes do not say it. An item whose author has erased its payload comes without, and a
purge of it stands whole among the headers (`dht.records.erased`). Stores, fetches and query answers all carry
this one shape. Decoding bounds the counts first; a malformed record inside costs that record only, because
one bad item must not let a sender void a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chain.cid import DIGEST_SIZE, Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import PURGE
from chain.record import Record, decode_record
from dht.errors import DhtError

MAX_ITEMS = 512
MAX_OPENINGS = 512
MAX_HEADERS = 2048

Opening = tuple[Record, Record]
"""An author's genesis and membrane records."""


class BundleError(DhtError):
    """A bundle does not have the shape of one; nothing in it was used."""


MAX_SHARDS = 256
"""Bases of shards that one item names."""


@dataclass(frozen=True, slots=True)
class Item:
    """A record and the roles (`dht.records.placement.Role` bits) in which it is passed on.

    In the SHARD role a record lies at the bases `shards`, ascending; without any, at that of its own vector.
    """

    record: Record
    roles: int
    shards: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that is not a record; its place in the batch is kept."""

    reason: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """What arrived: openings by author, named headers by CID, items in order."""

    openings: dict[AgentId, Opening]
    headers: dict[Cid, Record]
    items: tuple[Item | BadItem, ...]


def bundle_value(openings: Iterable[Opening], headers: Iterable[Record], items: Sequence[Item]) -> list[Any]:
    """The array to be encoded; headers lose their payloads, but for purges."""
    return [
        [[genesis.encode(), membrane.encode()] for genesis, membrane in openings],
        [as_header(header).encode() for header in headers],
        [[item.roles, item.record.encode(), *([list(item.shards)] if item.shards else [])] for item in items],
    ]


def open_bundle(value: object) -> Bundle:
    """Read a decoded array; raises `BundleError` for its shape, keeps bad items as `BadItem`."""
    if type(value) is not list or len(value) != 3 or not all(type(part) is list for part in value):
        raise BundleError("a bundle is the array [openings, headers, items]")
    raw_openings, raw_headers, raw_items = value
    if len(raw_openings) > MAX_OPENINGS or len(raw_headers) > MAX_HEADERS or len(raw_items) > MAX_ITEMS:
        raise BundleError(
            f"bundle of {len(raw_openings)} openings, {len(raw_headers)} headers and {len(raw_items)} items "
            f"exceeds {MAX_OPENINGS}, {MAX_HEADERS} or {MAX_ITEMS}"
        )
    openings: dict[AgentId, Opening] = {}
    for pair in raw_openings:
        if type(pair) is list and len(pair) == 2:
            genesis, membrane = _record(pair[0]), _record(pair[1])
            if isinstance(genesis, Record) and isinstance(membrane, Record):
                openings[genesis.header.author] = (genesis, membrane)
    headers: dict[Cid, Record] = {}
    for raw in raw_headers:
        header = _record(raw)
        if isinstance(header, Record):
            headers[header.cid] = as_header(header)
    return Bundle(openings, headers, tuple(map(_item, raw_items)))


def as_header(record: Record) -> Record:
    """What of a record travels among the headers of a bundle: of a purge the whole."""
    return record if record.header.kind == PURGE else record.without_payload()


def _item(raw: object) -> Item | BadItem:
    if (
        type(raw) is not list
        or len(raw) not in (2, 3)
        or type(raw[0]) is not int
        or not 0 <= raw[0] < 256
        or not _are_shards(raw[2:])
    ):
        return BadItem("an item is the array [roles, record] or [roles, record, shards]")
    record = _record(raw[1])
    return record if isinstance(record, BadItem) else Item(record, raw[0], tuple(*raw[2:]))


def _are_shards(rest: list[object]) -> bool:
    if not rest:
        return True
    (shards,) = rest
    return (
        type(shards) is list
        and 0 < len(shards) <= MAX_SHARDS
        and all(type(basis) is bytes and len(basis) == DIGEST_SIZE for basis in shards)
        and all(a < b for a, b in zip(shards, shards[1:], strict=False))
    )


def _record(raw: object) -> Record | BadItem:
    if type(raw) is not bytes:
        return BadItem("a record is a byte string")
    try:
        return decode_record(raw)
    except ChainError as error:
        return BadItem(str(error))
