"""Robust aggregation in fixed point: a rule's pipeline over a round's updates, in two passes over the
elements.

The first pass gives the inner products of the updates' differences from the old model
(`federated.differences`). From these the transforms, and all finishes but two, follow as a small matrix
of integers (`federated.mixing`). The second pass multiplies each block by that matrix and finishes it:
the **coordinate-wise median** and the **trimmed mean** (Yin et al., 2018) sort every coordinate; the
others have one row left. The new model is the old one plus what came out.

Memory: some blocks, and the result twice; updates may be mapped from disk. Every member counts the same: the
number of examples that it claims has no weight here, because nobody can check it.

**No overflow.** With the bounds of `differences`, limbs of at most 2**19 and rows whose coefficients sum
to at most D ≤ 2**31 in magnitude, a row times a limb is a whole number of at most 2**50: float64 has no
rounding. The quotient (high · 2**20 + low) / D is taken limb by limb: high = q · D + r with 0 ≤ r < D
leaves r · 2**20 + low, at most 2**51 + 2**50, and q · 2**20 is at most 2**39. Sums of up to 64 such
values stay below 2**46. All quotients are rounded half to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chain.aggregation_rule import (
    CENTRED_CLIP,
    CLIP,
    COORDINATE_WISE,
    GEOMETRIC_MEDIAN,
    KRUM,
    MEAN,
    MEDIAN,
    MULTI_KRUM,
    AggregationRule,
)
from chain.cid import Cid
from chain.learning_task import Task
from federated.aggregation import average, divide
from federated.differences import CHUNK, LIMB_BITS, Differences, Gram, split
from federated.mixing import (
    Mixture,
    bound_two,
    centred_clip,
    clip,
    geometric_median,
    krum,
    mean,
    nnm,
    unmixed,
)
from federated.update import Model, header_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from federated.differences import Floats


def combine(
    task: Task, rule: AggregationRule, base: Model, updates: Sequence[tuple[Cid, Model]], chunk: int = CHUNK
) -> bytes:
    """The new model that `rule` makes of these updates, whatever their order; a pure function.

    `base` is what the round began with; it and the updates were checked (`federated.admission`). Raises
    `ValueError` for no updates or over `MAX_ROWS`. O(n² · elements).
    """
    ordered = [data for _, data in sorted(updates, key=lambda pair: pair[0])]
    differences = Differences(task, base, ordered, chunk)
    return _apply(differences, rule, mixture_of(rule, differences.gram()))


def round_model(task: Task, base: Model, updates: Sequence[tuple[Cid, Model, int]]) -> bytes:
    """What the task's strategy makes of (CID, update, examples), all checked; a pure function."""
    if task.rule is None:
        return average(task, [(data, examples) for _, data, examples in updates], base)
    return combine(task, task.rule, base, [(cid, data) for cid, data, _ in updates])


def mixture_of(rule: AggregationRule, gram: Gram) -> Mixture:
    """What the transforms, and a finish that is not coordinate-wise, make of updates with these products."""
    mixture = unmixed(len(gram))
    f = rule.liars(len(gram))
    if f:
        for step in rule.transforms:
            seen = mixture.gram(gram)
            mixture = mixture.then(*(clip(seen) if step == CLIP else nnm(seen, f)))
    elif rule.bounds_two and rule.percent and len(gram) == 2:
        mixture = mixture.then(*bound_two(gram))
    if rule.finish in COORDINATE_WISE and f:
        return mixture
    return mixture.then(*_finished(rule.finish if f else MEAN, mixture.gram(gram), f))


def _finished(finish: str, gram: Gram, f: int) -> tuple[list[list[int]], int]:
    if finish == GEOMETRIC_MEDIAN:
        return geometric_median(gram)
    if finish == CENTRED_CLIP:
        return centred_clip(gram)
    if finish == KRUM:
        return krum(gram, f)
    if finish == MULTI_KRUM:
        return krum(gram, f, len(gram) - f)
    return mean(gram)


def _apply(differences: Differences, rule: AggregationRule, mixture: Mixture) -> bytes:
    """The second pass."""
    import numpy as np

    count = len(mixture.rows)
    cut = (count - 1) // 2 if rule.finish == MEDIAN else rule.liars(count)
    coefficients = np.array(mixture.rows, np.float64)
    parts: list[bytes | memoryview] = []
    for place, array in enumerate(differences.arrays):
        out = np.empty(array.count, array.dtype)
        for start, base, block in differences.blocks(place):
            rows = (
                block.astype(np.int64)
                if mixture.unmixed
                else _mixed(coefficients, block, mixture.denominator)
            )
            if count > 1:
                rows.sort(axis=0)
                moved = divide(rows[cut : count - cut].sum(axis=0), count - 2 * cut)
            else:
                moved = rows[0]
            found = base.astype(np.int64) + moved
            if array.dtype != "<i8":
                out[start : start + found.size] = found.astype(np.float64) * 2.0**-differences.bits
            else:
                out[start : start + found.size] = found
        parts += [header_of(array), out.data]
    return b"".join(parts)


def _mixed(coefficients: Floats, block: Floats, denominator: int) -> NDArray[np.int64]:
    """coefficients · block / denominator, rounded half to even; exact before that."""
    import numpy as np

    high, low = ((coefficients @ limb).astype(np.int64) for limb in split(block))
    whole = np.floor_divide(high, denominator)
    high -= whole * denominator
    high <<= LIMB_BITS
    high += low
    whole <<= LIMB_BITS
    whole += divide(high, denominator)
    return whole
