"""Searching by filters first: every posting of the shards is asked whether it passes, the best of those win.

The vector index proposes by nearness, which helps nothing where hardly anything that is near passes. Here the
database goes over the postings once, giving number and codes of those that pass, numpy ranks them, and only
the best are read whole; so what a filter costs is bounded by the size of the shards, however rare is what it
lets through. The order is the holder's: exact scores, ties by CID.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chain.vector import PPM, Codes, codes_from_bytes, score_ppm
from node.query.filters import Filters
from node.storage.derived_state import KEY_SIZE, DerivedState, Posting
from sharding.tree import MAX_DEPTH, Prefix

CANDIDATES = 256
"""Postings read whole at a time, best first."""
ROUNDING_PPM = 4
"""How far the float order of candidates may be from that of their exact scores."""
EVERYTHING = (bytes(KEY_SIZE), b"\xff" * KEY_SIZE)

Found = tuple[Posting, int]
"""A posting and its score in ppm."""


def best_of_all(
    derived: DerivedState,
    shards: Sequence[Prefix] | None,
    codes: Codes,
    k: int,
    tags: Sequence[str],
    filters: Filters,
) -> list[Found]:
    """The `k` best postings with keys under these prefixes (None: all) that carry `tags` and pass `filters`.

    Blocking. O(postings under the prefixes), of which those that pass are ranked.
    """
    numbers: list[int] = []
    parts: list[NDArray[np.float32]] = []
    query = codes.astype(np.float32)
    ranges = [EVERYTHING] if shards is None else key_ranges(shards)
    for page in derived.matching(ranges, tags, *filters.condition()):
        rows = np.frombuffer(b"".join(row for _, row in page), dtype=np.int8).reshape(-1, len(codes))
        wide = rows.astype(np.float32)
        numbers += [number for number, _ in page]
        parts.append(wide @ query / (np.linalg.norm(wide, axis=1) * np.linalg.norm(query)))
    if not numbers:
        return []
    near = np.concatenate(parts)
    order = np.argsort(-near, kind="stable")
    ranked: list[Found] = []
    for start in range(0, len(order), CANDIDATES):
        places = order[start : start + CANDIDATES]
        if len(ranked) >= k and ranked[k - 1][1] > float(near[places[0]]) * PPM + ROUNDING_PPM:
            break
        ranked.extend(
            (posting, score_ppm(codes, codes_from_bytes(posting.codes, len(codes))))
            for posting in derived.get_many([numbers[place] for place in places])
            if posting is not None and set(tags).issubset(posting.tags)
        )
        ranked.sort(key=lambda pair: (-pair[1], pair[0].record))
    return ranked[:k]


def key_ranges(shards: Sequence[Prefix]) -> list[tuple[bytes, bytes]]:
    """The keys under these prefixes as ranges, ends included, ascending; neighbours are joined."""
    below = 8 * KEY_SIZE - MAX_DEPTH
    joined: list[tuple[int, int]] = []
    for start, end in sorted((shard.start, shard.end) for shard in shards):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return [
        ((start << below).to_bytes(KEY_SIZE, "big"), ((end << below) - 1).to_bytes(KEY_SIZE, "big"))
        for start, end in joined
    ]
