"""Bodies of operations: what is built can be read, and nothing malformed passes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import record_cid
from chain.content import Content
from chain.kinds import CREATE, DELETE, EDIT, PROFILE, RETRACT, TAG, UNTAG, VOTE
from crdt.errors import CrdtError, OperationError
from crdt.operations import (
    MAX_ADDS,
    Delete,
    Retract,
    Tag,
    Untag,
    Vote,
    delete_body,
    read_operation,
    retract_body,
    tag_body,
    untag_body,
    vote_body,
)

CIDS = [record_cid(bytes([number])) for number in range(MAX_ADDS + 1)]
cids = st.lists(st.sampled_from(CIDS), min_size=1, max_size=8)
tags = st.text(min_size=1, max_size=20).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


@given(tag=tags, adds=cids)
def test_what_is_built_can_be_read(tag: str, adds: list[bytes]) -> None:
    assert read_operation(TAG, tag_body(tag)) == Tag(tag)
    assert read_operation(UNTAG, untag_body(tag, adds)) == Untag(tag, tuple(sorted(set(adds))))
    assert read_operation(DELETE, delete_body(adds)) == Delete(tuple(sorted(set(adds))))
    assert read_operation(RETRACT, retract_body()) == Retract()
    assert read_operation(VOTE, vote_body(-1, tag, 7)) == Vote(-1, tag, 7)
    assert read_operation(VOTE, vote_body(0)) == Vote(0)
    content = Content(tag, b"\x01", over=tuple(sorted(set(adds))))
    assert read_operation(EDIT, content.to_body()) == content


BAD: list[tuple[str, dict[str, Any], str]] = [
    (TAG, {}, "exactly the fields"),
    (TAG, {"tag": ""}, "tag is empty"),
    (TAG, {"tag": b"x"}, "not a string"),
    (TAG, {"tag": "é" * 51}, "102 bytes, the limit is 100"),
    (TAG, {"tag": "x", "more": 1}, "exactly the fields"),
    (UNTAG, {"tag": "x"}, "exactly the fields"),
    (UNTAG, {"tag": "x", "adds": []}, "adds is malformed"),
    (UNTAG, {"tag": "x", "adds": CIDS}, "adds is malformed"),
    (UNTAG, {"tag": "x", "adds": [b"no cid"]}, "adds is malformed"),
    (UNTAG, {"tag": "x", "adds": sorted(CIDS[:2], reverse=True)}, "not ascending"),
    (UNTAG, {"tag": "x", "adds": [CIDS[0], CIDS[0]]}, "not ascending"),
    (DELETE, {"seen": None}, "seen is malformed"),
    (DELETE, {"seen": {}}, "seen is malformed"),
    (RETRACT, {"why": "no"}, "exactly the fields"),
    (VOTE, {}, "expected a map of value"),
    (VOTE, {"value": 1, "more": 1}, "expected a map of value"),
    (VOTE, {"value": 2}, "not 1, -1 or 0"),
    (VOTE, {"value": True}, "not 1, -1 or 0"),
    (VOTE, {"value": "1"}, "not 1, -1 or 0"),
    (VOTE, {"value": 1, "reason": None}, "not a string"),
    (VOTE, {"value": 1, "reason": "é" * 501}, "1002 bytes, the limit is 1000"),
    (VOTE, {"value": 1, "confidence": None}, "not an integer from 0"),
    (VOTE, {"value": 1, "confidence": 1_000_001}, "not an integer from 0"),
    (CREATE, {"text": "x", "codes": b"\x01", "over": [CIDS[0]]}, "overwrites nothing"),
    (EDIT, {"text": "x", "codes": b"\x01"}, "at least one"),
    (EDIT, {"text": "x"}, "codes are malformed"),
    (PROFILE, {}, "not an operation"),
]


@pytest.mark.parametrize(("kind", "body", "reason"), BAD)
def test_a_malformed_body_is_refused(kind: str, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(OperationError, match=reason):
        read_operation(kind, body)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text(max_size=3)
    | st.binary(max_size=40)
    | st.sampled_from(CIDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        "adds",
        "citations",
        "codes",
        "confidence",
        "domain",
        "over",
        "reason",
        "seen",
        "tag",
        "tags",
        "text",
        "value",
    ]
)


@given(
    kind=st.sampled_from([CREATE, EDIT, TAG, UNTAG, DELETE, RETRACT, VOTE, PROFILE]),
    body=st.dictionaries(fields | st.text(max_size=3), values, max_size=5),
)
def test_no_body_raises_anything_but_the_floors_error(kind: str, body: dict[str, Any]) -> None:
    with suppress(CrdtError):
        read_operation(kind, body)
