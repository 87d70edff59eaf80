"""How far estimates from sketches are from the truth, measured on what this node has whole.

The one number that expected hits take (`sharding.expectation`) is the standard deviation of an estimate's
error. It is a little smaller for what lies near to a question than for what does not, and the near ones
decide, so it is measured there: stored vectors ask, and of those nearest to each by the true cosine the
estimates are compared. The result is kept in a small file, for one atlas, and measured anew when the node
holds twice or half as much as then, or when the hits of questions, whose true scores come with them, are
found to be off by another number (`observe`).
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from chain.cid import Cid
from node.durable_files import write_atomically
from node.errors import HomeError
from node.sketch_rows import rotation_of
from node.storage.derived_state import DerivedState
from sharding.atlas import Atlas
from sharding.expectation import estimate_error
from sharding.sketch import Sketches, sketches

FILE = "calibration.json"
MAX_FILE = 4_096
SAMPLE = 4_096
"""Stored vectors that are looked at,"""
QUESTIONS = 32
"""those of them that ask,"""
NEAR = 16
"""and how many of the nearest to each are compared."""
LEAST = 64
"""With fewer stored vectors the usual error of such sketches is gone by: `USUAL` / sqrt(dim)."""
USUAL = 0.34
DRIFT = 1.3
"""Hits that are off by so many times the error, or by its inverse, call for another measurement."""
MEMORY = 256
"""Hits that the drift is judged by, about: each weighs that much less than all before it."""
AGAIN = 4_096
"""When measuring again did not help, it is not tried before so many further hits."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class Measured:
    """The error, and by which atlas, in how many dimensions and of how many postings it was found."""

    atlas: str
    dim: int
    postings: int
    sigma: float


class Calibration:
    """The error of an estimate. `sigma` and `observe` from any thread."""

    def __init__(self, derived: DerivedState, dim: int, path: Path | None) -> None:
        self._derived = derived
        self._dim = dim
        self._path = path
        self._measured = None if path is None else _read(path)
        self._seen = 0
        self._square = 0.0 if self._measured is None else self._measured.sigma**2
        self._patience = MEMORY
        self._lock = Lock()
        self.measurements = 0

    def sigma(self, atlas: Atlas) -> float:
        """The standard deviation of an estimated cosine's error. Measured when that is due; blocking."""
        with self._lock:
            known = self._measured
            count = self._derived.count()
            drifted = self._drifted()
            if known is None or drifted or not self._holds(known, atlas, count):
                known = self._measured = self._measure(atlas, count)
                self._seen, self._square = 0, known.sigma**2
                self._patience = AGAIN if drifted else MEMORY
            return known.sigma

    def observe(self, error: float) -> None:
        """A hit's estimate was so far from its score."""
        with self._lock:
            if self._measured is not None and self._square:
                self._seen += 1
                self._square += (error**2 - self._square) / MEMORY

    def _holds(self, known: Measured, atlas: Atlas, count: int) -> bool:
        if known.atlas != atlas.cid.hex() or known.dim != self._dim:
            return False
        return known.postings / 2 <= count <= max(2 * known.postings, LEAST)

    def _drifted(self) -> bool:
        if self._measured is None or self._seen < self._patience:
            return False
        off = (self._square / self._measured.sigma**2) ** 0.5
        return not 1 / DRIFT <= off <= DRIFT

    def _measure(self, atlas: Atlas, count: int) -> Measured:
        codes = np.frombuffer(b"".join(self._derived.sample(SAMPLE)), dtype=np.int8).reshape(-1, self._dim)
        sigma = USUAL / self._dim**0.5
        if len(codes) >= LEAST:
            sigma = max(error_near(atlas.cid, codes), 1e-4)
            self.measurements += 1
            log.info("estimates from sketches are off by %.4f, measured on %d vectors", sigma, len(codes))
        found = Measured(atlas.cid.hex(), self._dim, count, sigma)
        if self._path is not None and len(codes) >= LEAST:
            try:
                write_atomically(self._path, json.dumps(asdict(found)).encode("ascii"))
            except HomeError as error:
                log.warning("what sketches are off by is not kept: %s", error)
        return found


def error_near(atlas: Cid, codes: np.ndarray) -> float:
    """The error of estimates of those of `codes`, int8 (n, dim), that are nearest to some that ask.

    Raises `RoutingError` for fewer than three.
    """
    rotation = rotation_of(atlas, codes.shape[1])
    wide = codes.astype(np.float32)
    lengths = np.maximum(np.linalg.norm(wide, axis=1), 1.0)
    askers = np.arange(0, len(codes), max(1, len(codes) // QUESTIONS))[:QUESTIONS]
    estimates, truths = [], []
    for asker in askers:
        true = (wide @ wide[asker]).astype(np.float64) / lengths / lengths[asker]
        true[asker] = -2.0
        near = np.argsort(-true)[: min(NEAR, len(codes) - 1)]
        found = Sketches.decode(sketches(rotation, codes[near]).tobytes(), codes.shape[1])
        estimates.append(found.cosines(rotation, codes[asker]))
        truths.append(true[near])
    return estimate_error(np.concatenate(estimates), np.concatenate(truths))


def _read(path: Path) -> Measured | None:
    """What was kept; None when there is nothing that can be read: it is only measured again."""
    try:
        with open(path, "rb") as file:
            known = Measured(**json.loads(file.read(MAX_FILE)))
    except (OSError, ValueError, TypeError):
        return None
    if not all(type(one) is int for one in (known.dim, known.postings)) or type(known.sigma) is not float:
        return None
    return known if 0 < known.sigma < 1 else None
