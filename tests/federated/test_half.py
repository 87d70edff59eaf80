"""Models in half the bytes: what they stand for is exact, near what was meant, and judged as that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.errors import RecordError
from chain.learning_task import (
    FEDAVG,
    FLOAT16,
    GOSSIP,
    GROUPS,
    MAX_FLOAT16,
    NO_COMPRESSION,
    SERVER_APP,
    Array,
    task_from_body,
)
from federated.admission import announced, examine
from federated.compression import most_sent, sent_size
from federated.half import expanded, halved, halves
from federated.robust import round_model
from federated.update import Fault, UpdateError, decode, encode, update_size
from tests.federated.models import ARRAYS, model, task_of, values

TASK = task_of(topology=GOSSIP, compression=FLOAT16, max_members=8)
PLAIN = replace(TASK, compression=NO_COMPRESSION)
NUMBERS = st.floats(-TASK.max_abs, TASK.max_abs, width=32)
ONE = (Array("w", "<f4", (6,)), Array("b", "<f8", ()))


@given(st.lists(NUMBERS, min_size=6, max_size=6), st.floats(-MAX_FLOAT16, MAX_FLOAT16))
@settings(max_examples=60)
def test_what_it_stands_for_is_the_nearest_binary16(numbers: list[float], scalar: float) -> None:
    plain = encode(ONE, [np.array(numbers, "<f4"), np.array(scalar, "<f8")])
    half = halved(ONE, plain, MAX_FLOAT16)
    task = replace(TASK, arrays=ONE, max_abs=MAX_FLOAT16)
    assert len(half) == sent_size(task) == update_size(halves(ONE))
    assert examine(task, None, half) is None
    back = expanded(task, half)
    for meant, said in zip(decode(ONE, plain, MAX_FLOAT16), decode(ONE, back, MAX_FLOAT16), strict=True):
        assert said.dtype == meant.dtype
        off = np.abs(said.astype(np.float64) - meant)
        assert np.all(off <= np.maximum(np.abs(meant.astype(np.float64)) * 2.0**-11, 2.0**-25))
    assert halved(ONE, back, MAX_FLOAT16) == half, "what was read is said the same way again"


def test_integers_travel_as_they_are() -> None:
    half = halved(ARRAYS, model(1), TASK.max_abs)
    for found in (decode(halves(ARRAYS), half, 100), decode(ARRAYS, expanded(TASK, half), 100)):
        assert np.array_equal(found[2], values(1)[2])


@given(st.integers(1, MAX_FLOAT16), st.sampled_from([1, -1]))
@settings(max_examples=60)
def test_rounding_leads_nobody_over_the_bound(most: int, sign: int) -> None:
    """Above 2,048 not every integer is a binary16: the nearest may be beyond the task's `max_abs`."""
    plain = encode(ONE, [np.full(6, sign * most, "<f4"), np.array(sign * most, "<f8")])
    half = halved(ONE, plain, most)
    assert examine(replace(TASK, arrays=ONE, max_abs=most), None, half) is None
    said = decode(halves(ONE), half, most)[0].astype(np.float64)
    assert np.all(np.abs(said) > most * (1 - 2.0**-10))


@pytest.mark.parametrize("strategy", [FEDAVG, ROBUST])
@given(seeds=st.lists(st.integers(0, 1_000), min_size=1, max_size=7, unique=True))
@settings(max_examples=10)
def test_combined_and_judged_is_what_it_stands_for(strategy: str, seeds: list[int]) -> None:
    half, plain = replace(TASK, strategy=strategy), replace(PLAIN, strategy=strategy)
    sent = [halved(ARRAYS, model(seed), TASK.max_abs) for seed in seeds]
    meant = [expanded(TASK, one) for one in sent]
    base = meant[0]
    assert all(isinstance(one, bytes) for one in meant)
    cids = [blob_cid(one) for one in sent]
    examples = [1 + seed for seed in seeds]
    found = round_model(half, base, list(zip(cids, sent, examples, strict=True)))
    assert found == round_model(plain, base, list(zip(cids, meant, examples, strict=True)))
    for one, two in zip(sent, meant, strict=True):
        for norm in (1, 150, 300, 10_000):
            judged = examine(replace(half, max_norm=norm), base, one)
            assert judged == examine(replace(plain, max_norm=norm), base, two)


def test_what_is_of_another_form_is_refused() -> None:
    good = halved(ARRAYS, model(1), TASK.max_abs)
    assert examine(TASK, None, good) is None
    assert examine(PLAIN, None, good) == Fault.DTYPE
    assert examine(TASK, None, model(1)) == Fault.DTYPE
    assert examine(TASK, None, good[:-1]) == Fault.FORMAT
    assert examine(TASK, None, good + b"\0") == Fault.FORMAT
    for last, fault in ((np.nan, Fault.NOT_FINITE), (-np.inf, Fault.NOT_FINITE), (100.1, Fault.BOUND)):
        wrong = encode(halves(ONE), [np.array([0, 1, 2, 3, 4, last], "<f2"), np.array(0, "<f2")])
        assert examine(replace(TASK, arrays=ONE), None, wrong) == fault
    assert announced(TASK, 1, most_sent(TASK)) is None
    assert announced(TASK, 1, most_sent(TASK) + 1) == Fault.SIZE
    with pytest.raises(UpdateError, match="the task allows 100"):
        halved(ONE, encode(ONE, [np.full(6, 100.1, "<f4"), np.array(0, "<f8")]), 100)


def test_it_is_a_term_of_gossip_from_rule_version_7_on() -> None:
    assert task_from_body(TASK.to_body()) == TASK
    assert TASK.newer(6) == ("compression 'float16'", 7)
    assert TASK.newer(7) is None
    assert PLAIN.newer(6) is None
    for terms, why in (
        ({"topology": GROUPS}, "for the topology gossip"),
        ({"max_abs": MAX_FLOAT16 + 1}, "the most that float16 can say"),
        ({"mode": SERVER_APP}, "is for the mode"),
        ({"compression": "int8"}, "float16 does without"),
        ({"compression": "float8"}, "is none of"),
        ({"arrays": [["w", "<f2", [2]]]}, "dtype '<f2'"),
    ):
        with pytest.raises(RecordError, match=why):
            task_from_body(TASK.to_body() | terms)
    body = TASK.to_body()
    del body["topology"]
    with pytest.raises(RecordError, match="for the topology gossip"):
        task_from_body(body)
