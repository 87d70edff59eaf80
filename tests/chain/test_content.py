"""Content values and vectors: limits at their edges, and scores that are the same everywhere."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import raw_cid, record_cid
from chain.content import MAX_TAGS, MAX_TEXT, Content, content_from_body
from chain.errors import ChainError, RecordError
from chain.membrane import MAX_NONCE, find_nonce, position, work_bits
from chain.vector import PPM, Codes, codes_from_bytes, score_ppm, squared_norm
from tests.chain.samples import ALICE, BOB, NETWORK, values

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
contents = st.builds(
    Content,
    text=words,
    codes=st.binary(min_size=1, max_size=8),
    tags=st.sets(words, max_size=4).map(lambda tags: tuple(sorted(tags))),
    domain=st.none() | words,
    confidence=st.none() | st.integers(0, PPM),
    citations=st.lists(words, max_size=3).map(tuple),
    over=st.sets(st.binary(max_size=2).map(record_cid), max_size=3).map(lambda over: tuple(sorted(over))),
)
codes = (
    st.lists(st.integers(-127, 127), min_size=3, max_size=3)
    .filter(any)
    .map(lambda row: np.array(row, dtype=np.int8))
)


@given(content=contents)
def test_content_round_trips(content: Content) -> None:
    assert content_from_body(content.to_body()) == content


@given(
    content=contents,
    name=st.sampled_from(["text", "codes", "tags", "domain", "confidence", "citations", "over", "x"]),
    value=values,
)
def test_no_body_raises_anything_but_the_floors_errors(content: Content, name: str, value: Any) -> None:
    body = {**content.to_body(), name: value}
    try:
        found = content_from_body(body)
    except ChainError:
        return
    assert found.to_body() == body


BAD: list[tuple[str, Any]] = [
    ("text", ""),
    ("text", None),
    ("text", "x" * (MAX_TEXT + 1)),
    ("text", "é" * (MAX_TEXT // 2 + 1)),
    ("text", "\ud800"),
    ("codes", b""),
    ("codes", bytes(4097)),
    ("codes", [1]),
    ("tags", []),
    ("tags", "rose"),
    ("tags", ["b", "a"]),
    ("tags", ["a", "a"]),
    ("tags", [f"{n:03}" for n in range(MAX_TAGS + 1)]),
    ("tags", ["x" * 101]),
    ("tags", [""]),
    ("domain", ""),
    ("domain", None),
    ("domain", "x" * 101),
    ("confidence", -1),
    ("confidence", PPM + 1),
    ("confidence", True),
    ("confidence", None),
    ("citations", []),
    ("citations", ["x" * 1001]),
    ("citations", ["x"] * 65),
    ("citations", [1]),
    ("over", []),
    ("over", None),
    ("over", [raw_cid(b"x")]),
    ("over", [record_cid(b"x")] * 2),
    ("over", sorted(record_cid(bytes([n])) for n in range(65))),
    ("score", 1),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda part: repr(part)[:30])
def test_a_malformed_field_is_refused(name: str, value: Any) -> None:
    with pytest.raises(RecordError, match=name if name != "score" else "unknown field"):
        content_from_body({"text": "x", "codes": b"\x01", name: value})


@pytest.mark.parametrize(
    ("data", "dim", "reason"),
    [
        (b"\x01", 2, "1 codes, the network's space has 2"),
        (b"", 1, "0 codes"),
        (b"\x80\x01", 2, "-128"),
        (bytes(3), 3, "zero"),
    ],
)
def test_malformed_codes_are_refused(data: bytes, dim: int, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        codes_from_bytes(data, dim)


@given(a=codes, b=codes)
def test_a_score_is_the_cosine_to_one_ppm(a: Codes, b: Codes) -> None:
    """Against exact arithmetic: |cos| in ppm, rounded down, or one more where it is that close."""
    score = score_ppm(a, b)
    dot = sum(int(x) * int(y) for x, y in zip(a, b, strict=True))
    square = Fraction(dot * dot, squared_norm(a) * squared_norm(b)) * PPM * PPM
    exact = isqrt(square.numerator // square.denominator)
    assert exact <= abs(score) <= min(exact + 1, PPM)
    assert (score >= 0) == (dot >= 0) or score == 0
    assert score == score_ppm(b, a)
    assert score_ppm(a, a) == PPM
    assert score_ppm(a, -a) == -PPM


def test_the_largest_vectors_do_not_overflow() -> None:
    most = np.full(65_536, 127, dtype=np.int8)
    assert score_ppm(most, most) == PPM
    assert squared_norm(most) == 127 * 127 * 65_536
    assert score_ppm(most, -most) == -PPM


def test_vectors_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(RecordError, match="shapes"):
        score_ppm(np.ones(2, dtype=np.int8), np.ones(3, dtype=np.int8))
    with pytest.raises(RecordError, match="zero"):
        score_ppm(np.zeros(2, dtype=np.int8), np.ones(2, dtype=np.int8))


@given(bits=st.integers(0, 6), start=st.integers(0, 1 << 40))
def test_a_found_nonce_pays_for_one_agent_and_fixes_one_place(bits: int, start: int) -> None:
    nonce = find_nonce(NETWORK, ALICE.agent, bits, start)
    assert nonce >= start
    assert work_bits(NETWORK, ALICE.agent, nonce) >= bits
    assert all(
        work_bits(NETWORK, ALICE.agent, other) < bits for other in range(start, min(nonce, start + 50))
    )
    places = {position(NETWORK, agent, n) for agent in (ALICE.agent, BOB.agent) for n in (nonce, nonce + 1)}
    assert len(places) == 4
    assert all(len(place) == 32 for place in places)


@pytest.mark.parametrize("nonce", [-1, MAX_NONCE + 1, True, None, "0", 0.0])
def test_a_malformed_nonce_is_refused(nonce: Any) -> None:
    for use in (work_bits, position):
        with pytest.raises(RecordError, match="nonce"):
            use(NETWORK, ALICE.agent, nonce)
    with pytest.raises(RecordError, match="join_bits"):
        find_nonce(NETWORK, ALICE.agent, 41)
