"""Aggregation rules as text: one spelling each, nothing else is read, liars are always fewer than half."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.aggregation_rule import (
    FINISHES,
    MAX_PERCENT,
    MAX_STEPS,
    ROBUST,
    TRANSFORMS,
    AggregationRule,
    parse_rule,
)
from chain.errors import RecordError

rules = st.builds(
    AggregationRule,
    st.lists(st.sampled_from(sorted(TRANSFORMS)), max_size=MAX_STEPS - 1).map(tuple),
    st.sampled_from(sorted(FINISHES)),
    st.integers(0, MAX_PERCENT),
)


@settings(max_examples=40)
@given(rule=rules)
def test_a_rule_reads_back_from_its_text(rule: AggregationRule) -> None:
    assert parse_rule(str(rule)) == rule


pieces = st.sampled_from([*"|:0259 \u0662", "clip", "nnm", "mean", "median"])


@given(text=st.lists(pieces, max_size=8).map("".join))
def test_what_is_read_has_that_one_spelling(text: str) -> None:
    try:
        rule = parse_rule(text)
    except RecordError:
        return
    assert str(rule) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "fedavg", "clip", "mean|clip", "clip|", "|mean", "mean:", "mean:25", "mean:050", "mean:50"),
        *("mean:-1", "clip|clip|clip|clip|mean", "Mean", "mean ", "mean:1:2", "clip|" * 1_000 + "mean"),
    ],
)
def test_anything_else_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(RecordError) as error:
        parse_rule(text)
    assert len(str(error.value)) < 300


@settings(max_examples=40)
@given(rule=rules, members=st.integers(1, 64))
def test_liars_are_fewer_than_half_and_as_many_as_the_share_says(rule: AggregationRule, members: int) -> None:
    f = rule.liars(members)
    assert 0 <= 2 * f < members
    assert f <= max(1, members * rule.percent / 100)
    assert f or not rule.percent or members < 3


def test_the_default_stands_against_a_quarter() -> None:
    assert [parse_rule(ROBUST).liars(n) for n in (1, 2, 3, 4, 8, 10, 16, 20)] == [0, 0, 1, 1, 2, 2, 4, 5]
    assert parse_rule("median:0").liars(20) == 0
