"""The atlas: a map of an embedding space that every node of an epoch shares, and the nearest cell on it.

An atlas divides the directions of a space into cells, the Voronoi regions of its centroids, and lays the
cells on a plane so that cells of like meaning lie near each other. The Hilbert curve through that plane puts
them in a row, and a cell's place in the row, its rank, is where its knowledge lies in the network. So two
machines must never disagree about a rank: an atlas is integers named by the hash of its bytes, and the
nearest cell is found in integers. The idea of ordering clusters instead of vectors is measured in
docs/sharding.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chain import canonical
from chain.cid import Cid, blob_cid
from chain.errors import ChainError
from chain.vector import CODE_LIMIT, MAX_DIM
from sharding import hilbert
from sharding.errors import AtlasError

MIN_CELLS = 2
MAX_CELLS = 1 << 16
MAX_SPACE = 256
MAX_ATLAS_BYTES = 32 << 20
"""The longest encoding accepted; at 4,096 dimensions this leaves 4,096 cells, at 256 dimensions all of
MAX_CELLS.
"""

POSITION_BITS = 16
"""Bits of each of a position's two coordinates."""

SCORE_BITS = 39
"""A cell's reciprocal norm is floor(2**39 / norm); see `scores` for why 39."""

EXACT_DIM = 1 << 10
"""Components that float32 multiplies and adds exactly; longer vectors are taken in pieces of this length."""

ROWS_AT_ONCE = 256
"""Codes scored at a time: with 4,096 cells, 8 MiB of scores."""

FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """Centroids and positions of the cells, both in rank order along the curve.

    `space` names the embedding model; `centroids` is int8 of shape (cells, dim), directions only, each
    nonzero and within -127..127; `positions` is uint16 of shape (cells, 2) whose Hilbert indices never
    decrease. The number of cells is a power of two. The arrays are copied and read-only. Raises `AtlasError`.
    """

    space: str
    centroids: NDArray[np.int8]
    positions: NDArray[np.uint16]
    reciprocals: NDArray[np.int64] = field(init=False, repr=False)
    """floor(2**SCORE_BITS / norm) of each centroid, shape (cells,)."""
    cid: Cid = field(init=False, repr=False)
    """The blob CID of `encode()`; kept, for every question names it."""
    _columns: NDArray[np.float32] = field(init=False, repr=False)
    _scales: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_space(self.space)
        centroids, positions = np.array(self.centroids), np.array(self.positions)
        if centroids.dtype != np.int8 or centroids.ndim != 2:
            raise AtlasError(
                f"centroids have shape {centroids.shape} and dtype {centroids.dtype}: pass int8 (cells, dim)"
            )
        cells, dim = centroids.shape
        _check_shape(cells, dim)
        if positions.dtype != np.uint16 or positions.shape != (cells, 2):
            raise AtlasError(
                f"positions have shape {positions.shape}, dtype {positions.dtype}: pass uint16 ({cells}, 2)"
            )
        if int(centroids.min()) < -CODE_LIMIT:
            raise AtlasError(
                f"a centroid holds {int(centroids.min())}: codes lie in -{CODE_LIMIT}..{CODE_LIMIT}"
            )
        norms = np.einsum("cd,cd->c", centroids, centroids, dtype=np.int64)
        if not norms.all():
            raise AtlasError(f"centroid {int(norms.argmin())} is zero: it has no direction to compare with")
        along = hilbert.encode(positions, POSITION_BITS)
        falls = np.flatnonzero(along[1:] < along[:-1])
        if falls.size:
            rank = int(falls[0]) + 1
            raise AtlasError(
                f"cell {rank} lies before cell {rank - 1} on the curve: store cells in rank order"
            )
        # floor(2**39 / sqrt(N)) = isqrt(floor(2**78 / N)), as taking a floor first never changes an integer
        # root.
        reciprocals = np.array(
            [isqrt((1 << 2 * SCORE_BITS) // norm) for norm in norms.tolist()], dtype=np.int64
        )
        columns = np.ascontiguousarray(centroids.T, dtype=np.float32)
        for name, array in (
            ("centroids", centroids),
            ("positions", positions),
            ("reciprocals", reciprocals),
            ("_columns", columns),
            ("_scales", reciprocals.astype(np.float64)),
        ):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "cid", blob_cid(self.encode()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Atlas):
            return NotImplemented
        return self.cid == other.cid

    def __hash__(self) -> int:
        return hash(self.cid)

    @property
    def cells(self) -> int:
        """The number of cells, a power of two."""
        return int(self.centroids.shape[0])

    @property
    def dim(self) -> int:
        """Components of a centroid, and of every code placed with this atlas."""
        return int(self.centroids.shape[1])

    @property
    def rank_bits(self) -> int:
        """Bits of a rank: log2 of the number of cells."""
        return self.cells.bit_length() - 1

    def encode(self) -> bytes:
        """Canonical bytes: [format, space, cells, dim, centroids by row, positions as big-endian pairs]."""
        return canonical.encode(
            [
                FORMAT,
                self.space,
                self.cells,
                self.dim,
                self.centroids.tobytes(),
                self.positions.astype(">u2").tobytes(),
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> Atlas:
        """The atlas in these bytes. Every bound is checked before an array is made. Raises `AtlasError`."""
        try:
            value = canonical.decode(data, MAX_ATLAS_BYTES)
        except ChainError as error:
            raise AtlasError(f"atlas of {len(data)} bytes is not canonical: {error}") from error
        match value:
            case [int(version), str(space), int(cells), int(dim), bytes(centroids), bytes(positions)]:
                pass
            case _:
                raise AtlasError("atlas is not [format, space, cells, dim, centroids, positions]")
        if version != FORMAT or type(version) is not int:
            raise AtlasError(f"atlas has format {version}, this version reads {FORMAT}")
        if type(cells) is not int or type(dim) is not int:
            raise AtlasError("atlas counts its cells or dimensions with a truth value")
        _check_space(space)
        _check_shape(cells, dim)
        if len(centroids) != cells * dim or len(positions) != 4 * cells:
            raise AtlasError(
                f"atlas of {cells} cells and {dim} dimensions holds {len(centroids)} bytes of centroids and "
                f"{len(positions)} of positions: expected {cells * dim} and {4 * cells}"
            )
        return cls(
            space=space,
            centroids=np.frombuffer(centroids, dtype=np.int8).reshape(cells, dim),
            positions=np.frombuffer(positions, dtype=">u2").astype(np.uint16).reshape(cells, 2),
        )


def scores(atlas: Atlas, codes: NDArray[np.int8]) -> NDArray[np.float64]:
    """How well each code fits each cell: dot product times reciprocal norm, shape (n, cells). Memory O(n *
    cells).

    The values are integers, held exactly in float64, and the same on every machine. Proof:

    1. A float32 holds every integer up to 2**24. Codes and centroids lie within 127 of zero, so a product of
       two components is an integer below 2**14, and any sum of at most 1,024 such products is one below
       2**24. Whatever order, blocking or fused multiply-add a BLAS chooses, each intermediate value is such a
       sum: nothing rounds.
    2. Pieces of 1,024 components are added in float64: at most 4 pieces, below 2**26, exact up to 2**53.
    3. By Cauchy-Schwarz |dot| <= |code| * |centroid|, and the reciprocal is at most 2**39 / |centroid|, so
       their product is at most |code| * 2**39. With 4,096 components within 127, |code| < 2**13: the product
       is an integer below 2**52, which float64 holds, and a correctly rounded multiplication returns an exact
       result unchanged.
    """
    total = np.zeros((len(codes), atlas.cells), dtype=np.float64)
    for begin in range(0, atlas.dim, EXACT_DIM):
        piece = codes[:, begin : begin + EXACT_DIM].astype(np.float32)
        total += piece @ atlas._columns[begin : begin + EXACT_DIM]
    total *= atlas._scales
    return total


def nearest_cells(atlas: Atlas, codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """Rank of the cell nearest to each code by cosine similarity, shape (n,); of equals, the lowest rank.

    `codes` is int8 of shape (n, dim), each row nonzero and within -127..127. Exact, see `scores`. Raises
    `AtlasError`. Cost O(n * cells * dim); memory O(cells) beyond the result.
    """
    checked = check_codes(atlas, codes)
    ranks = np.empty(len(checked), dtype=np.int64)
    for begin in range(0, len(checked), ROWS_AT_ONCE):
        block = slice(begin, begin + ROWS_AT_ONCE)
        ranks[block] = scores(atlas, checked[block]).argmax(axis=1)  # argmax returns the first of equals
    return ranks


def check_codes(atlas: Atlas, codes: NDArray[Any]) -> NDArray[np.int8]:
    """`codes` itself if the atlas can place every row; raises `AtlasError` otherwise."""
    if not isinstance(codes, np.ndarray) or codes.dtype != np.int8 or codes.ndim != 2:
        found = f"{codes.dtype} {codes.shape}" if isinstance(codes, np.ndarray) else type(codes).__name__
        raise AtlasError(f"codes are {found}: pass an int8 array of shape (n, {atlas.dim})")
    if codes.shape[1] != atlas.dim:
        raise AtlasError(
            f"codes have {codes.shape[1]} components, the atlas of {atlas.space!r} has {atlas.dim}"
        )
    if codes.size and int(codes.min()) < -CODE_LIMIT:
        raise AtlasError(f"a code holds {int(codes.min())}: codes lie in -{CODE_LIMIT}..{CODE_LIMIT}")
    zero = np.flatnonzero(~codes.any(axis=1))
    if zero.size:
        raise AtlasError(f"code {int(zero[0])} is zero: it has no direction, so no place on the atlas")
    return codes


def _check_space(space: str) -> None:
    if not isinstance(space, str) or not 1 <= len(space) <= MAX_SPACE or not space.isprintable():
        raise AtlasError(f"space {space!r:.80} must be a printable name of 1 to {MAX_SPACE} characters")


def _check_shape(cells: int, dim: int) -> None:
    if not MIN_CELLS <= cells <= MAX_CELLS or cells & (cells - 1):
        raise AtlasError(f"{cells} cells: an atlas has a power of two between {MIN_CELLS} and {MAX_CELLS}")
    if not 1 <= dim <= MAX_DIM:
        raise AtlasError(f"{dim} dimensions: an atlas has 1 to {MAX_DIM}")
    if cells * dim > MAX_ATLAS_BYTES:
        raise AtlasError(f"{cells} cells of {dim} dimensions exceed {MAX_ATLAS_BYTES} bytes: use fewer cells")
