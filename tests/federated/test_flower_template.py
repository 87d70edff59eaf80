"""What a ServerApp sends survives the way through a task record; a stranger's text does no harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated.flower.errors import TemplateError
from federated.flower.template import CONFIG_KEY, MAX_TEXT, Template, Value, from_config, in_round

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)
LISTS = st.one_of(
    st.lists(st.integers(-9, 9), max_size=4), st.lists(st.text(max_size=4), max_size=4), st.just([b"a"])
)
NAMES = st.text(min_size=1, max_size=20)
RECORDS = st.dictionaries(NAMES, st.dictionaries(NAMES, st.one_of(SCALARS, LISTS), max_size=4), max_size=3)


@given(RECORDS, RECORDS, NAMES, NAMES)
def test_a_template_comes_back_with_its_types(train: dict, evaluate: dict, arrays: str, weight: str) -> None:
    template = Template("train.my_way", arrays, weight, train, evaluate)
    back = from_config({CONFIG_KEY: template.to_text()})
    assert back == template
    for name, record in train.items():
        for key, value in record.items():
            assert type(back.train_records[name][key]) is type(value)


@given(
    st.recursive(
        st.none() | SCALARS.filter(lambda v: not isinstance(v, bytes)),
        lambda s: st.lists(s) | st.dictionaries(NAMES, s),
    )
)
def test_any_json_is_a_template_or_refused(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"form": 1, "train": value})):
        with pytest.raises(TemplateError):
            from_config({CONFIG_KEY: text})


@pytest.mark.parametrize(
    "change",
    [
        {"form": 2},
        {"train": "evaluate"},
        {"train": "train.a-b"},
        {"train": "train."},
        {"arrays": ""},
        {"weight": "x" * 201},
        {"train_records": {"config": {"x": None}}},
        {"train_records": {"config": {"x": [1, "a"]}}},
        {"train_records": {"config": {"x": {"b64": "!"}}}},
        {"train_records": {"config": {"x": {"y": 1}}}},
        {"train_records": []},
    ],
)
def test_hostile_templates_are_refused(change: dict) -> None:
    text = json.dumps({**json.loads(Template().to_text()), **change})
    with pytest.raises(TemplateError) as caught:
        from_config({CONFIG_KEY: text})
    assert "\n" not in str(caught.value)


def test_texts_that_are_too_long_or_not_finite_are_refused_on_both_sides() -> None:
    with pytest.raises(TemplateError, match="room for"):
        Template(train_records={"config": {"x": "y" * MAX_TEXT}}).to_text()
    with pytest.raises(TemplateError, match="finite"):
        Template(train_records={"config": {"x": float("nan")}}).to_text()
    with pytest.raises(TemplateError):
        from_config({CONFIG_KEY: "x" * (MAX_TEXT + 1)})
    with pytest.raises(TemplateError):
        from_config({CONFIG_KEY: "[" * 9_000})
    assert from_config({}) == Template()


def test_only_what_counts_rounds_changes_from_round_to_round() -> None:
    records: dict[str, dict[str, Value]] = {
        "config": {"server-round": 1, "server_round": 1, "lr": 0.1, "current-round": "one", "n": 1}
    }
    assert in_round(records, 7) == {
        "config": {"server-round": 7, "server_round": 7, "lr": 0.1, "current-round": "one", "n": 1}
    }
