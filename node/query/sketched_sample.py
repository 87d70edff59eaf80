"""A sample of what everybody holds, read back from the sketches of all shards: what an atlas can be made of.

A node holds a few shards, neighbours on the curve, so an atlas of its own vectors would know one corner of
the space. The blocks that it pulls for its questions are of all shards, and a sketch says where its vector
lies, to a cosine of .94 at 256 dimensions; means of many, which is what cells are, come out as well as of the
vectors themselves (measured in docs/sharding.md). Rows may be a liar's: those that nothing has checked yet
put cells where nobody's vectors are, which costs balance and no answer, and stewards sign what comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import trio
from numpy.typing import NDArray

from chain.cid import Cid
from dht.ports import RunBlocking
from dht.records.layouts import Layouts
from dht.summaries.block import Block
from dht.summaries.puller import Puller
from node.errors import InvalidInput
from node.sketch_rows import rotation_of, sketches_in
from sharding.sketch import restored
from sharding.tree import Prefix

MAX_VECTORS = 60_000
WITHIN_S = 120.0
"""Blocks that have not come by then are left out."""
LOOK_S = 1.0
ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True)
class SketchedSample:
    """int8 codes of shape (n, dim), of so many of the network's shards."""

    codes: NDArray[np.int8]
    shards: int
    of: int


class Sampling:
    """Samples the network by the blocks that `puller` brings."""

    def __init__(self, layouts: Layouts, puller: Puller, dim: int, run_blocking: RunBlocking) -> None:
        self._layouts = layouts
        self._puller = puller
        self._dim = dim
        self._run_blocking = run_blocking

    async def sample(self, limit: int = MAX_VECTORS) -> SketchedSample:
        """At most `limit` vectors, spread evenly over all shards whose blocks come within `WITHIN_S`.

        Of a network with more rows than a node keeps, blocks of evenly spread shards. Raises `InvalidInput`
        where there are none.
        """
        layout = self._layouts.current
        if layout.atlas is None:
            raise InvalidInput(
                "this network has no atlas yet, and so no sketches: make one of this node's own"
            )
        leaves = self._layouts.leaves_of(layout)
        blocks: dict[Prefix, Block] = {}
        with trio.move_on_after(WITHIN_S):
            while True:
                wanted = leaves[:: self._step(len(leaves))]
                found = await self._puller.blocks(wanted, frozenset(leaves))
                known = blocks | found
                blocks = {shard: known[shard] for shard in wanted if shard in known}
                if len(blocks) == len(wanted):
                    break
                await trio.sleep(LOOK_S)
        if not any(map(len, blocks.values())):
            raise InvalidInput(
                "no sketches have come: nothing is stored, nobody answers, or an atlas is being changed"
            )
        codes = await self._run_blocking(self._read_back, layout.atlas.cid, blocks, limit)
        return SketchedSample(codes, len(blocks), len(leaves))

    def _step(self, leaves: int) -> int:
        shelf = self._puller.shelf
        expected = shelf.rows / len(shelf) * leaves if len(shelf) else 0.0
        return max(1, -(-int(expected) // shelf.max_rows))

    def _read_back(self, atlas: Cid, blocks: Mapping[Prefix, Block], limit: int) -> NDArray[np.int8]:
        kind = self._puller.shelf.kind
        rows = np.frombuffer(b"".join(blocks[shard].rows for shard in sorted(blocks)), dtype=np.uint8)
        table = rows.reshape(-1, kind.row)
        table = table[:: max(1, -(-len(table) // limit))]
        rotation = rotation_of(atlas, self._dim)
        parts = [
            restored(
                rotation, sketches_in(Block(kind, table[begin : begin + ROWS_AT_ONCE].tobytes()), self._dim)
            )
            for begin in range(0, len(table), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts)
