"""Private records: only their owner opens them, changed ones do not open, and sizes tell little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import raw_cid, record_cid
from chain.content import Content
from chain.errors import RecordError
from chain.identity import Identity
from chain.private import NONCE_SIZE, Private, check_box, open_private, padded_size, private_key, seal

OWNER, OTHER = Identity.from_seed(b"o" * 32), Identity.from_seed(b"p" * 32)
NETWORK = raw_cid(b"a network")
ENTRY = record_cid(b"an entry")
contents = st.builds(
    Content,
    st.text(min_size=1, max_size=200).filter(lambda text: _encodes(text)),
    st.binary(min_size=1, max_size=16),
    st.just(("a", "b")),
)


def _encodes(text: str) -> bool:
    return not any(0xD800 <= ord(char) < 0xE000 for char in text)


@given(st.one_of(st.none(), contents), st.sampled_from([None, ENTRY]), st.binary(min_size=24, max_size=24))
def test_what_is_sealed_opens_to_the_same(content: Content | None, entry: bytes | None, nonce: bytes) -> None:
    said = Private(entry, content)
    body = seal(OWNER, NETWORK, said, nonce)
    check_box(body)
    assert open_private(OWNER, NETWORK, body) == said


@given(st.data())
def test_nobody_else_opens_it_and_no_changed_bit_passes(data: st.DataObject) -> None:
    body = seal(OWNER, NETWORK, Private(None, Content("a phrase", b"\x7f")), bytes(NONCE_SIZE))
    assert b"a phrase" not in body["box"]
    place, bit = data.draw(st.integers(0, len(body["box"]) - 1)), data.draw(st.integers(0, 7))
    broken = bytearray(body["box"])
    broken[place] ^= 1 << bit
    for who, network, box in (
        (OTHER, NETWORK, body["box"]),
        (OWNER, raw_cid(b"another"), body["box"]),
        (OWNER, NETWORK, bytes(broken)),
    ):
        with pytest.raises(RecordError):
            open_private(who, network, {"box": box})


@given(st.integers(0, 1 << 20))
def test_padding_hides_the_length_at_little_cost(size: int) -> None:
    padded = padded_size(size)
    assert size <= padded < size + max(256, size // 4 + 1)
    assert padded % 256 == 0
    assert padded_size(padded) == padded


def test_the_key_is_not_the_seed_and_differs_between_agents() -> None:
    assert len({private_key(OWNER), private_key(OTHER), OWNER.seed, OWNER.agent}) == 4
