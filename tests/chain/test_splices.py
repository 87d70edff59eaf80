"""Splices: what is within their limits is read, and applied as it says; all else is refused before use."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import RecordError
from chain.splices import MAX_SPLICED, MAX_SPLICES, Splice, read_splices, spliced, splices_to_wire, touched

TEXTS = st.text("ab é😀\n", max_size=12)


@pytest.mark.parametrize(
    "wire",
    [
        None,
        {},
        [[0, 0, ""]],
        [[0, 1]],
        [[0, 1, "a", 0]],
        [[-1, 1, ""]],
        [[0, -1, "a"]],
        [[True, 1, ""]],
        [[0.0, 1, ""]],
        [[0, 1, b"a"]],
        [[0, 1, None]],
        [[0, 1, "\ud800"]],
        [[MAX_SPLICED + 1, 0, "a"]],
        [[0, MAX_SPLICED + 1, ""]],
        [[0, 0, "é" * (MAX_SPLICED // 2) + "a"]],
        [[0, 0, "a" * (MAX_SPLICED // 2)], [0, 0, "b" * (MAX_SPLICED // 2 + 1)]],
        [[0, 1, ""]] * (MAX_SPLICES + 1),
    ],
)
def test_what_is_malformed_or_over_a_limit_is_refused(wire: Any) -> None:
    with pytest.raises(RecordError):
        read_splices(wire)


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_splice_replaces_what_it_names_in_code_points(a: str, b: str, c: str, new: str) -> None:
    one = Splice(len(a), len(b), new)
    assert spliced(a + b + c, (one,)) == a + new + c
    assert spliced(a + b + c, (one, Splice(0, len(a), ""))) == new + c
    assert touched((one,)) == len(b) + len(new)
    if b or new:
        assert read_splices(splices_to_wire((one,))) == (one,)
    with pytest.raises(RecordError, match="the text has"):
        spliced(a + b, (Splice(len(a + b), 1, new),))
