"""Making an atlas from a sample of a space: done once by whoever publishes it, never by the nodes that use
it.

Spherical k-means (Dhillon and Modha, 2001) finds the cells; a two-dimensional map of their centroids by t-SNE
(van der Maaten and Hinton, 2008) finds the positions, whose Hilbert order becomes the cells' rank. Without
scikit-learn the order is that of the Hilbert curve through the centroids' first eight principal components,
and positions are spread evenly along the plane's curve in that order. Floating point is allowed here and
nowhere else on this floor: an atlas is named by its bytes, so another machine's slightly different one is
simply another atlas. The same seed on the same machine and libraries gives the same atlas.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chain.vector import CODE_LIMIT
from sharding import hilbert
from sharding.atlas import MAX_CELLS, MIN_CELLS, POSITION_BITS, Atlas
from sharding.errors import AtlasError

CELLS = 4096
ROUNDS = 25
"""Rounds of k-means at most; it stops when no vector changes its cell."""

ROWS_AT_ONCE = 4096
PLANE_AXES = 8
PLANE_BITS = 8
"""The fallback's grid: eight principal components of eight bits."""

MIN_MAPPED_CELLS = 16
"""Below this many cells t-SNE has no neighbourhoods to keep, and the fallback's order is used."""

PERPLEXITY = 30

Floats = NDArray[np.float32]

Progress = Callable[[str, int, int | None], None]
"""Told which step is under way, how much of it is done, and of how much; None: that cannot be said."""


def untold(step: str, done: int, of: int | None) -> None:
    """Progress that nobody watches."""


def build_atlas(
    vectors: NDArray[Any],
    space: str,
    cells: int = CELLS,
    seed: int = 0,
    learned_map: bool = True,
    progress: Progress = untold,
) -> Atlas:
    """The atlas of a sample: `vectors` float32 or int8 of shape (n, dim), only directions count.

    `cells` is a power of two, at most n. `learned_map=False` takes the fallback order even where scikit-learn
    is installed. Raises `AtlasError`. Cost O(rounds * n * cells * dim): 36,000 vectors of 256 dimensions and
    4,096 cells take about a minute of one core, and the map as long again.
    """
    units = _units(vectors)
    if not MIN_CELLS <= cells <= MAX_CELLS or cells & (cells - 1):
        raise AtlasError(f"{cells} cells: choose a power of two between {MIN_CELLS} and {MAX_CELLS}")
    if len(units) < cells:
        raise AtlasError(
            f"{len(units)} vectors cannot make {cells} cells: give a larger sample or ask for fewer cells"
        )
    centroids = quantise(spherical_kmeans(units, cells, seed, progress))
    progress("laying out the cells", 0, None)
    mapped = _map_by_tsne(_units(centroids), seed) if learned_map and cells >= MIN_MAPPED_CELLS else None
    if mapped is None:
        order, positions = order_by_components(_units(centroids))
        return Atlas(space, centroids[order], positions)
    positions = _on_grid(mapped)
    order = np.argsort(hilbert.encode(positions, POSITION_BITS), kind="stable")
    return Atlas(space, centroids[order], positions[order])


def spherical_kmeans(units: Floats, cells: int, seed: int, progress: Progress = untold) -> Floats:
    """Unit centroids (cells, dim) of unit vectors (n, dim), n >= cells.

    Lloyd's rounds from `cells` random vectors. An empty cell restarts at the vector that fits its own cell
    worst.
    """
    generator = np.random.default_rng(seed)
    centroids = units[np.sort(generator.choice(len(units), cells, replace=False))].copy()
    labels = np.full(len(units), -1, dtype=np.int64)
    for done in range(ROUNDS):
        progress("dividing into cells", done, ROUNDS)
        nearest, fit = _assign(units, centroids)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        sums = _sums(units, labels, cells)
        empty = np.flatnonzero(np.bincount(labels, minlength=cells) == 0)
        sums[empty] = units[np.argsort(fit, kind="stable")[: len(empty)]]
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # Vectors of a cell may cancel out; such a cell stays where it was.
        centroids = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), centroids).astype(np.float32)
    return centroids


def order_by_components(units: Floats) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """The order of unit centroids along the Hilbert curve of their principal components, and positions to
    match.

    Each component is stretched to the grid by its own range, so that the first ones do not leave the others
    flat.
    """
    centred = (units - units.mean(axis=0)).astype(np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    plane = centred @ axes[:, ::-1][:, :PLANE_AXES]
    low, high = plane.min(axis=0), plane.max(axis=0)
    top = (1 << PLANE_BITS) - 1
    grid = np.clip(np.rint((plane - low) / np.maximum(high - low, 1e-12) * top), 0, top).astype(np.uint8)
    order = np.argsort(hilbert.encode(grid, PLANE_BITS), kind="stable")
    spacing = (1 << 2 * POSITION_BITS) // len(units)
    along = np.arange(len(units), dtype=np.uint64) * np.uint64(spacing) + np.uint64(spacing // 2)
    return order, hilbert.decode(along, 2, POSITION_BITS)


def quantise(vectors: Floats) -> NDArray[np.int8]:
    """Directions as int8 codes: each row scaled until its largest component is 127. Rows must not be zero."""
    peaks = np.abs(vectors).max(axis=1, keepdims=True)
    codes: NDArray[np.int8] = np.rint(vectors / peaks * CODE_LIMIT).astype(np.int8)
    return codes


def _units(vectors: NDArray[Any]) -> Floats:
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype not in (np.float32, np.int8):
        found = (
            f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        )
        raise AtlasError(f"vectors are {found}: pass float32 or int8 of shape (n, dim)")
    floats = vectors.astype(np.float32)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    broken = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if broken.size:
        raise AtlasError(f"vector {int(broken[0])} is zero or not finite: leave it out of the sample")
    return np.asarray(floats / lengths, dtype=np.float32)


def _assign(units: Floats, centroids: Floats) -> tuple[NDArray[np.int64], Floats]:
    nearest = np.empty(len(units), dtype=np.int64)
    fit = np.empty(len(units), dtype=np.float32)
    columns = np.ascontiguousarray(centroids.T)
    for begin in range(0, len(units), ROWS_AT_ONCE):
        block = slice(begin, begin + ROWS_AT_ONCE)
        similarity = units[block] @ columns
        nearest[block] = similarity.argmax(axis=1)
        fit[block] = similarity.max(axis=1)
    return nearest, fit


def _sums(units: Floats, labels: NDArray[np.int64], cells: int) -> Floats:
    order = np.argsort(labels, kind="stable")
    present, begins = np.unique(labels[order], return_index=True)
    sums = np.zeros((cells, units.shape[1]), dtype=np.float32)
    sums[present] = np.add.reduceat(units[order], begins, axis=0)
    return sums


def _map_by_tsne(units: Floats, seed: int) -> NDArray[np.float64] | None:
    """Positions (n, 2) learned by t-SNE; None where scikit-learn is not installed."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    perplexity = min(PERPLEXITY, (len(units) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        mapped = TSNE(
            2, perplexity=perplexity, metric="cosine", init="random", random_state=seed
        ).fit_transform(units)
    return np.asarray(mapped, dtype=np.float64)


def _on_grid(plane: NDArray[np.float64]) -> NDArray[np.uint16]:
    """A plane map scaled, keeping its proportions, to fill the positions' grid."""
    top = (1 << POSITION_BITS) - 1
    low = plane.min(axis=0)
    extent = max(float((plane - low).max()), 1e-12)
    grid: NDArray[np.uint16] = np.clip(np.rint((plane - low) / extent * top), 0, top).astype(np.uint16)
    return grid
