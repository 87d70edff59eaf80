"""Parts of secure sums: what is written is read back, and the longest messages fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import record_cid
from chain.errors import ChainError, RecordError
from chain.secure_part import MAX_MESSAGE, Part, part_body, read_part
from tests.chain.samples import values

ON = tuple(sorted(record_cid(bytes([number])) for number in range(3)))
parts = st.builds(
    Part,
    st.integers(1, 10_000),
    st.binary(min_size=32, max_size=32),
    st.integers(1, 4),
    st.just(ON),
    st.binary(min_size=1, max_size=MAX_MESSAGE),
) | st.builds(
    Part,
    st.integers(1, 10_000),
    st.binary(min_size=32, max_size=32),
    st.just(0),
    st.just(()),
    st.binary(min_size=1, max_size=9),
    st.integers(0, 1 << 40),
    st.dictionaries(st.text("abc", min_size=1), st.integers(-9, 9), max_size=2),
)


@settings(max_examples=30, deadline=None)
@given(part=parts, value=values, data=st.data())
def test_a_part_round_trips_and_nothing_else_gets_through(
    part: Part, value: Any, data: st.DataObject
) -> None:
    body = part_body(part)
    assert read_part(body) == part
    body[data.draw(st.sampled_from([*sorted(body), "x"]))] = value
    try:
        read_part(body)
    except ChainError:
        return
    assert "x" not in body


def test_a_part_names_the_field_that_is_out_of_range() -> None:
    good = part_body(Part(1, bytes(32), 2, ON, b"m"))
    for field, value in (("phase", 5), ("on", []), ("on", list(ON)[::-1]), ("message", b""), ("round", 0)):
        with pytest.raises(RecordError, match=field):
            read_part(good | {field: value})
    for wrong in (good | {"examples": 1, "metrics": {}}, good | {"phase": 0, "on": []}):
        with pytest.raises(RecordError, match="fields"):
            read_part(wrong)
