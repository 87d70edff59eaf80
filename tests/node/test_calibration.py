"""The error of estimates: measured where it counts, kept, and measured anew when it is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio

from chain.cid import record_cid
from dht.ports import ThreadedBlocking
from node.query.calibration import LEAST, MEMORY, USUAL, Calibration, error_near
from node.sketch_rows import rotation_of
from node.storage.derived_state import DerivedState, Posting
from sharding.atlas import Atlas
from sharding.atlas_build import build_atlas
from sharding.errors import RoutingError
from sharding.sketch import Sketches, sketches

DIM = 64
ROWS = np.random.default_rng(1).normal(size=(2_000, DIM))
ROWS += 2 * np.random.default_rng(2).normal(size=(40, DIM))[np.arange(2_000) % 40]
CODES = np.clip(np.round(ROWS * 20), -127, 127).astype(np.int8)


def atlas() -> Atlas:
    return build_atlas(ROWS.astype(np.float32), "test", cells=64, seed=1, learned_map=False)


def posting(number: int) -> Posting:
    name = number.to_bytes(32, "big")
    record = record_cid(name)
    return Posting(0, name, record, record, CODES[number].tobytes(), (), bytes(32), 0)


async def test_it_is_measured_on_near_vectors_kept_and_measured_again(tmp_path: Path) -> None:
    here, path = atlas(), tmp_path / "calibration.json"
    derived = DerivedState(tmp_path / "derived.db", ThreadedBlocking(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(derived.run)
        calibration = Calibration(derived, DIM, path)
        assert calibration.sigma(here) == pytest.approx(USUAL / DIM**0.5), "nothing to measure on yet"
        assert not path.exists()
        await derived.put([posting(number) for number in range(10 * LEAST)])
        sigma = calibration.sigma(here)
        assert sigma == pytest.approx(truth(here), rel=0.2)
        assert calibration.measurements == 1
        again = Calibration(derived, DIM, path)
        assert (again.sigma(here), again.measurements) == (sigma, 0), "kept for the next start"
        # Hits that are off by what was measured change nothing; those that are off by twice as much do.
        rng = np.random.default_rng(3)
        for error in rng.normal(0, sigma, 3 * MEMORY):
            again.observe(float(error))
        assert (again.sigma(here), again.measurements) == (sigma, 0)
        for error in rng.normal(0, 2 * sigma, 3 * MEMORY):
            again.observe(float(error))
        assert (again.sigma(here), again.measurements) == (sigma, 1)
        for error in rng.normal(0, 2 * sigma, 3 * MEMORY):
            again.observe(float(error))
        assert (again.sigma(here), again.measurements) == (sigma, 1), "it did not help, so it is left alone"
        await derived.put([posting(number) for number in range(10 * LEAST, 21 * LEAST)])
        again.sigma(here)
        assert again.measurements == 2, "twice as much is held"
        path.write_text('{"sigma": "much"}')
        assert Calibration(derived, DIM, path).sigma(here) == pytest.approx(sigma, rel=0.2)
        derived.close()


def truth(here: Atlas) -> float:
    """The error of estimates for the sixteen nearest to each of many questions."""
    rotation = rotation_of(here.cid, DIM)
    held, wide = Sketches.decode(sketches(rotation, CODES).tobytes(), DIM), CODES.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    errors = []
    for asker in range(100):
        true = wide @ wide[asker] / lengths / lengths[asker]
        near = np.argsort(-true)[1:17]
        errors.append(held.cosines(rotation, CODES[asker])[near] - true[near])
    return float(np.concatenate(errors).std())


def test_fewer_than_three_vectors_have_no_error() -> None:
    with pytest.raises(RoutingError):
        error_near(atlas().cid, CODES[:1])
