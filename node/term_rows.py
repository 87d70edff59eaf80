"""The source of blocks of terms: in how many texts of a shard each term is (`sharding.term_sketch`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dht.records.layouts import Layouts
from dht.summaries.block import Kind
from dht.summaries.service import Source
from node.sketch_rows import key_range
from node.storage.derived_state import DerivedState
from sharding.term_sketch import BODY_BYTES, KEY_BYTES, sketch_of
from sharding.tree import Prefix

TERMS: Final = Kind("terms", KEY_BYTES, BODY_BYTES)


def term_source(
    derived: DerivedState, layouts: Layouts, moving: Callable[[], bool] = lambda: False
) -> Source:
    """Rows of the postings here; there are none while postings move to another layout.

    O(terms of the shard), some milliseconds for 512 short texts.
    """

    def rows(shard: Prefix, _before: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        if shard.generation != layouts.current.generation or moving():
            return None
        return sketch_of(derived.words_in(*key_range(shard))).rows()

    return Source(TERMS, rows)
