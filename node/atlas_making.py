"""Making an atlas: of a file of vectors when a network is founded, or, for an epoch, of what a node holds.

Whoever founds a network in a space of their own brings a sample of it (`sample_atlas`). A network without an
atlas, or one whose subjects have changed, gets one by an epoch: whoever is to propose it makes it here of the
vectors in the derived state of a node, outside of the daemon, which may run meanwhile (`make_atlas`), or of
what the daemon knows of everybody's (`network_atlas`). What comes out is checked by everybody as any atlas
is.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chain.cid import blob_cid, to_text
from chain.manifest import Space, decode_manifest
from node.embedding.sample import read_sample
from node.errors import InvalidInput
from node.home import Home
from node.storage.inspection import vectors_in
from sharding.atlas_build import CELLS, Progress, build_atlas, untold
from sharding.errors import AtlasError

SAMPLE = 60_000
"""Vectors used at most."""
PER_CELL = 4
"""Vectors for each cell, at least, unless a number of cells is asked for (measured: docs/sharding.md)."""
LEAST_CELLS = 64
"""One for each shard: fewer would leave shards empty."""


@dataclass(frozen=True, slots=True)
class MadeAtlas:
    """An atlas as a file is to hold it, its CID as text, and what it was made of.

    `learned` says whether the cells were laid out by t-SNE, or, without scikit-learn, by their principal
    components.
    """

    data: bytes
    cid: str
    cells: int
    vectors: int
    learned: bool


def make_atlas(home: Home, cells: int | None, progress: Progress = untold) -> MadeAtlas:
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
    return _atlas_of(vectors, space, wanted, progress)


def network_atlas(home: Home, codes: bytes, cells: int | None, progress: Progress = untold) -> MadeAtlas:
    """The atlas of int8 codes, one after another, that the daemon of a home sampled; as `make_atlas`."""
    space = decode_manifest(home.read_manifest()).space
    vectors = np.frombuffer(codes, dtype=np.int8).reshape(-1, space.dim)
    wanted = cells or cells_for(len(vectors))
    if len(vectors) < wanted:
        raise InvalidInput(
            f"the network's sketches are of {len(vectors)} vectors, and {wanted} cells need as many"
        )
    return _atlas_of(vectors, space, wanted, progress)


def sample_atlas(file: Path, space: Space, progress: Progress = untold) -> MadeAtlas:
    """The atlas of a file of vectors (`read_sample`), with as many cells as they allow; blocking.

    Raises `BadSample` for a file that cannot be used, and `InvalidInput` for one of too few vectors.
    """
    vectors = read_sample(file, space.dim, SAMPLE)
    cells = cells_for(len(vectors))
    if len(vectors) < cells:
        raise InvalidInput(
            f"{file} has {len(vectors)} different vectors, and an atlas of {cells} cells needs as many at "
            f"least, better {PER_CELL * cells}: give a larger sample"
        )
    return _atlas_of(vectors, space, cells, progress)


def cells_for(vectors: int) -> int:
    """How many cells a sample of so many vectors is divided into: a power of two."""
    most = max(LEAST_CELLS, min(CELLS, vectors // PER_CELL))
    return 1 << (most.bit_length() - 1)


def _atlas_of(vectors: NDArray[Any], space: Space, cells: int, progress: Progress) -> MadeAtlas:
    try:
        atlas = build_atlas(vectors, space.model, cells=cells, progress=progress)
    except AtlasError as error:
        raise InvalidInput(str(error)) from error
    data = atlas.encode()
    learned = find_spec("sklearn") is not None
    return MadeAtlas(data, to_text(blob_cid(data)), atlas.cells, len(vectors), learned)
