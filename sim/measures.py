"""What a run measured, and the result made of it.

Counts and samples are kept by step and for the run; `figures` turns them into the metrics that
`sim.assertions` names. Recall is against an exhaustive search with the network's own codes over everything
acknowledged when the question was asked: what one local index would have found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chain.cid import Cid
from node.embedding.embedder import Embedder


@dataclass(slots=True)
class StepMeasures:
    """Counts and samples of one step."""

    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    recalls: list[float] = field(default_factory=list)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + by

    def sample(self, name: str, value: float) -> None:
        """Add to a distribution."""
        self.samples.setdefault(name, []).append(value)

    def figures(self) -> dict[str, Any]:
        """Counts, distributions and the mean recall."""
        found: dict[str, Any] = dict(self.counts)
        found.update((name, distribution(values)) for name, values in self.samples.items())
        if self.recalls:
            found["recall"] = round(sum(self.recalls) / len(self.recalls), 6)
        return found


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Count, mean, median, 95th percentile (nearest rank) and maximum, rounded to 6 places."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {
        "count": len(ordered),
        "mean": round(math.fsum(ordered) / len(ordered), 6),
        "p50": round(rank(0.5), 6),
        "p95": round(rank(0.95), 6),
        "max": round(ordered[-1], 6),
    }


class Oracle:
    """Exhaustive search over all acknowledged entries."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._places: dict[Cid, int] = {}
        self._unit: NDArray[np.float64] = np.empty((0, embedder.dim))

    def __len__(self) -> int:
        return len(self._places)

    def learn(self, ids: Sequence[Cid], texts: Sequence[str]) -> None:
        """Entries that were acknowledged."""
        if ids:
            self._places.update((one, place) for place, one in enumerate(ids, len(self._places)))
            self._unit = np.concatenate([self._unit, _unit(self._embedder.embed(texts))])

    def replace(self, entry: Cid, text: str) -> None:
        """The entry shows another text now."""
        self._unit[self._places[entry]] = _unit(self._embedder.embed([text]))[0]

    def scores(self, text: str) -> NDArray[np.float64]:
        """The cosine of a question with every entry so far, in order of learning."""
        scores: NDArray[np.float64] = self._unit @ _unit(self._embedder.embed([text]))[0]
        return scores

    def recall(self, scores: NDArray[np.float64], found: Sequence[Cid], k: int) -> float:
        """The share of the k best of these scores among `found`; entries that tie with the k-th count."""
        k = min(k, len(scores))
        if k == 0:
            return 1.0
        worst = np.partition(scores, -k)[-k] - 1e-9
        places = {self._places[one] for one in found if one in self._places}
        right = sum(place < len(scores) and bool(scores[place] >= worst) for place in places)
        return min(right, k) / k


def _unit(codes: NDArray[np.int8]) -> NDArray[np.float64]:
    wide = codes.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
