"""Draw the packaged atlas: its cells on the plane, coloured by shard, and the curve that numbers them.

`python -m benchmarks.shard_map` writes docs/shard-map.svg, the picture of docs/sharding.md. Every dot is a
cell, drawn where t-SNE laid it; the line runs through the cells in the order of the Hilbert curve, which is
the order of their ranks; one colour is one of 64 shards, so a run of ranks. Near cells are of like meaning.
The same atlas gives the same bytes.
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import ROOT
from node.embedding.packaged import packaged_atlas
from sharding.atlas import Atlas

SHARDS = 64
SIDE = 720
"""Of the picture, in units of its coordinates."""
MARGIN = 12
OUT = ROOT / "docs" / "shard-map.svg"


def drawn(atlas: Atlas, shards: int) -> str:
    """The picture as SVG; `shards` is a power of two, at most the number of cells."""
    positions = atlas.positions.astype(np.float64)
    low, extent = positions.min(axis=0), np.ptp(positions, axis=0).max()
    points = np.rint(MARGIN + (positions - low) / extent * (SIDE - 2 * MARGIN)).astype(np.int64)
    runs = points.reshape(shards, -1, 2)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" font-family="sans-serif">',
        f"<title>{atlas.cells:,} cells in {shards} shards along the Hilbert curve</title>",
        f'<rect width="{SIDE}" height="{SIDE}" fill="#fff"/>',
        '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
        *(f'<path stroke="{colour(number, shards)}" d="{curve(run)}"/>' for number, run in enumerate(runs)),
        '</g><g fill="none" stroke-linecap="round" stroke-width="5">',
        *(f'<path stroke="{colour(number, shards)}" d="{dots(run)}"/>' for number, run in enumerate(runs)),
        '</g><g font-size="11" font-weight="bold" text-anchor="middle" stroke="#fff" stroke-width="3" '
        'paint-order="stroke">',
        *labels(runs),
        "</g></svg>",
    ]
    return "\n".join(lines) + "\n"


def colour(number: int, shards: int) -> str:
    """Hues run once round along the curve, neighbours differ in lightness."""
    red, green, blue = colorsys.hls_to_rgb(number / shards, 0.42 + 0.2 * (number % 2), 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


def curve(run: NDArray[np.int64]) -> str:
    """One line through the cells of a shard."""
    steps = np.diff(run, axis=0).tolist()
    return f"M{run[0][0]} {run[0][1]}l" + " ".join(f"{x} {y}" for x, y in steps)


def dots(run: NDArray[np.int64]) -> str:
    """A line of no length at each cell, which its round ends make a dot."""
    return "".join(f"M{x} {y}h0" for x, y in run.tolist())


def labels(runs: NDArray[np.int64]) -> Iterator[str]:
    """The number of each shard, at the cell in the middle of its cells."""
    for number, run in enumerate(runs):
        middle = np.median(run, axis=0)
        x, y = run[np.abs(run - middle).sum(axis=1).argmin()].tolist()
        yield f'<text x="{x}" y="{y + 4}">{number}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the packaged atlas.")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    arguments = parser.parse_args()
    arguments.out.write_text(drawn(Atlas.decode(packaged_atlas()), SHARDS), encoding="utf-8")


if __name__ == "__main__":
    main()
