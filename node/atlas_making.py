"""Making an atlas for an epoch out of what a node holds: a sample of the vectors in its derived state.

A network whose vectors nobody could sample at its founding has no atlas, and one whose subjects have changed
has one that divides others. Whoever is to propose a new one makes it here, outside of the daemon, which may
run meanwhile; what comes out is checked by everybody as any atlas is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chain.cid import blob_cid, to_text
from chain.manifest import decode_manifest
from node.errors import InvalidInput
from node.home import Home
from node.storage.inspection import vectors_in
from sharding.atlas_build import CELLS, build_atlas
from sharding.errors import AtlasError

SAMPLE = 60_000
"""Vectors used at most."""
PER_CELL = 8
"""Vectors for each cell, at least, unless a number of cells is asked for."""
LEAST_CELLS = 64
"""One for each shard: fewer would leave shards empty."""


@dataclass(frozen=True, slots=True)
class MadeAtlas:
    """An atlas as a file is to hold it, its CID as text, and what it was made of."""

    data: bytes
    cid: str
    cells: int
    vectors: int


def make_atlas(home: Home, cells: int | None) -> MadeAtlas:
    """The atlas of the vectors in a home; O(vectors · cells), blocking. Raises `InvalidInput`."""
    home.require_initialised()
    space = decode_manifest(home.read_manifest()).space
    codes = vectors_in(home.derived_db, SAMPLE)
    wanted = cells or cells_for(len(codes))
    if len(codes) < wanted:
        raise InvalidInput(
            f"{len(codes)} vectors are here, and {wanted} cells need as many at least: add entries, or hold "
            "more of the network's"
        )
    vectors = np.frombuffer(b"".join(codes), dtype=np.int8).reshape(-1, space.dim)
    try:
        atlas = build_atlas(vectors, space.model, cells=wanted)
    except AtlasError as error:
        raise InvalidInput(str(error)) from error
    data = atlas.encode()
    return MadeAtlas(data, to_text(blob_cid(data)), atlas.cells, len(codes))


def cells_for(vectors: int) -> int:
    """How many cells a sample of so many vectors is divided into: a power of two."""
    most = max(LEAST_CELLS, min(CELLS, vectors // PER_CELL))
    return 1 << (most.bit_length() - 1)
