"""Secure sums of updates are FedAvg to the bit, and robust rules can look at the means of groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chain.aggregation_rule import ROBUST
from chain.kinds import ROUNDS_FROM
from federated.aggregation import average
from federated.privacy.group_sums import GroupSum, mean_of, model_of_sums, vector_length, vector_of
from federated.privacy.secure_messages import Phase
from federated.update import Fault, encode, views
from tests.federated.models import ARRAYS, TASK, model, task_of, values
from tests.federated.privacy.members import Words, identities, plain_sum, session_of, table

ROSTER = [one.agent for one in identities(15)]


def test_a_secure_sum_of_updates_is_the_weighted_mean_to_the_bit_though_one_drops_out() -> None:
    task = task_of(max_members=16)
    updates = [(model(seed), 100 * seed + 1) for seed in range(5)]
    session = session_of(5, vector_length(task))
    game = table(session, [vector_of(task, data, examples) for data, examples in updates])
    game.run({Phase.MASKED: session.roster[4:]})
    survivors, total = game.opened()
    assert mean_of(task, total, len(survivors)) == average(task, updates[:4])


def group(number: int, task_vectors: list[Words]) -> GroupSum:
    size = len(task_vectors)
    total = plain_sum(task_vectors)
    return GroupSum(tuple(ROSTER[number * size : (number + 1) * size]), total, int(total[-1]))


def near(seed: int) -> bytes:
    """Honest updates: around 1, at most .1 away."""
    return encode(ARRAYS, [(v + 1).astype(v.dtype) for v in values(seed, most=0.1)])


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_a_rule_over_groups_stays_among_the_honest_groups_where_the_mean_of_all_does_not(rule: str) -> None:
    task = task_of(max_members=16, strategy=rule)
    base = model(0)
    honest = [near(seed) for seed in range(1, 16)]
    liar = encode(ARRAYS, [np.full_like(v, -90) for v in values(0)])
    updates = [liar, *honest[1:]]
    groups = [group(n, [vector_of(task, one, 10) for one in updates[3 * n : 3 * n + 3]]) for n in range(5)]
    robust, refused = model_of_sums(task, base, groups)
    assert not refused
    assert robust is not None
    plain, _ = model_of_sums(task_of(max_members=16), base, groups)
    assert plain == average(task, [(one, 10) for one in updates])
    means = [views(ARRAYS, mean_of(task, one.total, 3)) for one in groups[1:]]
    everybody = views(ARRAYS, average(task, [(one, 10) for one in updates]))
    for number, found in enumerate(views(ARRAYS, robust)):
        low, high = (pick([mean[number] for mean in means], axis=0) for pick in (np.min, np.max))
        step = 1e-6
        assert (found >= low - step).all()
        assert (found <= high + step).all()
        assert (everybody[number] < low - 1).all()


def test_a_group_whose_sum_cannot_come_from_allowed_updates_is_refused_by_number() -> None:
    task = task_of(max_members=16, strategy="median")
    vectors = [vector_of(task, near(seed), 10) for seed in range(1, 13)]
    groups = [group(n, vectors[3 * n : 3 * n + 3]) for n in range(4)]
    wild = groups[1].total.copy()
    wild[0] += np.uint64(2**62)
    weightless = groups[2].total.copy()
    weightless[-1] = np.uint64(2)
    changed = [
        groups[0],
        GroupSum(groups[1].members, wild, groups[1].weight),
        GroupSum(groups[2].members, weightless, groups[2].weight),
        groups[3],
        GroupSum(groups[3].members[:0], groups[1].total, groups[1].weight + 1),
    ]
    base = model(0)
    found, refused = model_of_sums(task, base, changed)
    assert refused == dict.fromkeys((1, 2, 4), Fault.BOUND), "bounds of values, none, and not as claimed"
    assert found == model_of_sums(task, base, [groups[3], groups[0]])[0]
    with pytest.raises(ValueError, match="sums of array 'w'"):
        mean_of(task, wild, 3)
    with pytest.raises(ValueError, match="2 examples"):
        mean_of(task, weightless, 3)
    assert model_of_sums(task, base, changed[1:3])[0] is None
    with pytest.raises(ValueError, match="two groups"):
        model_of_sums(task, base, [groups[0], groups[0]])
    with pytest.raises(ValueError, match="outside"):
        vector_of(TASK, model(1), TASK.max_examples + 1)


@pytest.mark.parametrize(("groups", "rules"), [(2, None), (2, ROUNDS_FROM), (3, None), (4, None)])
def test_of_three_groups_one_liar_is_borne_and_of_two_its_lie_counts_for_twice_the_other(
    groups: int, rules: int | None
) -> None:
    task = task_of(max_members=16, strategy=ROBUST, secure=3, rules=rules)
    base = encode(ARRAYS, [np.zeros_like(v) for v in values(0)])
    updates = [near(seed) for seed in range(1, 3 * groups + 1)]
    updates[0] = encode(ARRAYS, [np.full_like(v, -90) for v in values(0)])
    sums = [group(n, [vector_of(task, one, 10) for one in updates[3 * n : 3 * n + 3]]) for n in range(groups)]
    found, refused = model_of_sums(task, base, sums)
    assert not refused
    assert found is not None
    step = float(np.mean([np.mean(one) for one in views(ARRAYS, found) if one.dtype.kind == "f"]))
    if groups == 2:  # its group's mean is (-90 + 1 + 1) / 3, the other one's is 1
        assert step == pytest.approx(-14.2 if rules is None else -0.5, abs=0.1)
    else:
        assert step == pytest.approx(1, abs=0.1)


def test_the_sums_of_the_largest_values_are_the_last_that_are_taken() -> None:
    """Of every array, up and down; integers are on no grid."""
    task = task_of(max_members=16)
    for sign in (1, -1):
        most = encode(ARRAYS, [np.full(v.shape, sign * task.max_abs, v.dtype) for v in values(0)])
        total = plain_sum([vector_of(task, most, 10) for _ in range(3)])
        assert mean_of(task, total, 3) == most
        start = 0
        for array in ARRAYS:
            beyond = total.copy()
            beyond[start : start + 1] += np.array([sign]).astype(np.uint64)
            with pytest.raises(ValueError, match=f"sums of array {array.name!r}"):
                mean_of(task, beyond, 3)
            start += array.count


def test_a_group_weighs_what_it_claimed_and_its_mean_keeps_to_max_norm() -> None:
    task, base = task_of(max_members=16, max_norm=1), near(0)
    vectors = [vector_of(task, near(seed), 10) for seed in range(1, 7)]
    right = group(0, vectors[:3])
    other = group(1, vectors[3:])
    assert model_of_sums(task, base, [right, other])[1] == {}
    for wrong in (replace(other, weight=other.weight + 1), replace(other, weight=1)):
        assert model_of_sums(task, base, [right, wrong])[1] == {1: Fault.BOUND}
    far = group(1, [vector_of(task, model(seed), 10) for seed in range(3)])
    assert model_of_sums(task, base, [right, far])[1] == {1: Fault.NORM}
