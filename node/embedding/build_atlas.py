"""Build the packaged atlas: ``python -m node.embedding.build_atlas --wordnet DIR --out FILE``.

The sample is every gloss of WordNet (definition and examples), embedded by the built-in embedder: general
language, chosen before anything was stored in a network. A regular share of it, `SAMPLE` glosses spread
evenly over the file order, keeps the build within minutes. The same seed, libraries and machine give the
same bytes; another machine may build another atlas, which is why networks name theirs by its hash.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from chain.cid import to_text
from node.atlas_making import SAMPLE as SAMPLE
from node.embedding.packaged import ATLAS_FILE
from node.embedding.static import SPACE, StaticEmbedder
from node.embedding.wordnet import read_glosses
from sharding.atlas_build import CELLS, build_atlas

SEED = 0


def sample_texts(wordnet: Path, count: int) -> list[str]:
    """``count`` glosses, or all if there are fewer, spread evenly over the files."""
    texts = ["; ".join((gloss.definition, *gloss.examples)) for gloss in read_glosses(wordnet)]
    if len(texts) <= count:
        return texts
    return [texts[number * len(texts) // count] for number in range(count)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m node.embedding.build_atlas", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun …"
    )
    parser.add_argument("--out", type=Path, required=True, help=f"file to write, such as {ATLAS_FILE}")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"glosses to use (default {SAMPLE})")
    options = parser.parse_args(arguments)

    codes = StaticEmbedder().embed(sample_texts(options.wordnet, options.sample))
    atlas = build_atlas(codes, SPACE, cells=CELLS, seed=SEED)
    encoded = atlas.encode()
    options.out.write_bytes(encoded)
    print(f"{atlas.cells} cells of {len(codes)} glosses, {len(encoded)} bytes, atlas {to_text(atlas.cid)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
