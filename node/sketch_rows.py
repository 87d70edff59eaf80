"""The source of sketch blocks: a row for each posting of a shard, named by its record.

A row's key is the first half of its record's digest, its body the sketch of the signed vector
(`sharding.sketch`), seeded by the atlas by which the shard is cut. Half a digest names a record for good: to
find two records that share one takes 2**64 hashes. A sketch is a pure function of what is signed, so those
that a block had already are taken over, and what a new one costs, some tens of microseconds, is paid once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import numpy as np

from chain.cid import Cid, digest
from dht.records.layouts import Layouts
from dht.summaries.block import Block, Kind, SummaryError
from dht.summaries.service import Source
from node.storage.derived_state import DerivedState
from sharding.errors import SketchError
from sharding.key import KEY_BYTES
from sharding.sketch import Rotation, Sketches, sketch_bytes, sketches
from sharding.tree import MAX_DEPTH, Prefix

KIND_NAME: Final = "sketch"
KEY: Final = 16
"""Bytes of a row's key."""

_HEAD = MAX_DEPTH // 8


def sketch_kind(dim: int) -> Kind:
    """Blocks of sketches in a space of `dim` dimensions."""
    return Kind(KIND_NAME, KEY, sketch_bytes(dim))


def key_of(record: Cid) -> bytes:
    """The key of a content record's row."""
    return digest(record)[:KEY]


@lru_cache(maxsize=4)
def rotation_of(atlas: Cid, dim: int) -> Rotation:
    """The rotation by which all vectors of an atlas's shards are sketched."""
    return Rotation(atlas, dim)


def sketches_in(block: Block, dim: int) -> Sketches:
    """The sketches of a block, in its order. Raises `SummaryError` for rows that are no sketches."""
    table = np.frombuffer(block.rows, dtype=np.uint8).reshape(-1, block.kind.row)
    try:
        return Sketches.decode(np.ascontiguousarray(table[:, KEY:]).tobytes(), dim)
    except SketchError as error:
        raise SummaryError(str(error)) from error


def sketch_source(
    derived: DerivedState, layouts: Layouts, dim: int, moving: Callable[[], bool] = lambda: False
) -> Source:
    """Rows of the postings here. There are none without an atlas, nor while postings move to another."""

    def rows(shard: Prefix, before: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        layout = layouts.current
        if layout.atlas is None or shard.generation != layout.generation or moving():
            return None
        low, high = key_range(shard)
        found = [(number, key_of(record)) for number, record in derived.records_in_range(low, high)]
        made = {key: before[key] for _, key in found if key in before}
        new = {number: key for number, key in found if key not in before}
        postings = [one for one in derived.get_many(list(new)) if one is not None]
        if postings:
            codes = np.frombuffer(b"".join(one.codes for one in postings), dtype=np.int8).reshape(-1, dim)
            for one, row in zip(postings, sketches(rotation_of(layout.atlas.cid, dim), codes), strict=True):
                made[new[one.number]] = row.tobytes()
        return made

    return Source(sketch_kind(dim), rows)


def key_range(shard: Prefix) -> tuple[bytes, bytes]:
    """The first and the last key of a shard."""
    rest = KEY_BYTES - _HEAD
    return (
        shard.start.to_bytes(_HEAD, "big") + bytes(rest),
        (shard.end - 1).to_bytes(_HEAD, "big") + b"\xff" * rest,
    )
