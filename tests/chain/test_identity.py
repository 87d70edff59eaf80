"""Identity: one key, three spellings, and signatures that others verify."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import IdentityError
from chain.identity import Identity, agent_from_text, did_key, peer_id, verify
from tests.chain.samples import ALICE, damage, seeds


@given(seed=seeds, message=st.binary(max_size=80))
def test_another_library_makes_and_verifies_the_same_signatures(seed: bytes, message: bytes) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    theirs = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    ours = Identity.from_seed(seed)
    assert theirs.public_key().public_bytes_raw() == ours.agent
    signature = ours.sign(message)
    assert theirs.sign(message) == signature
    theirs.public_key().verify(signature, message)
    assert verify(ours.agent, message, signature)


@given(seed=seeds)
def test_peer_id_and_did_key_agree_with_other_libraries(seed: bytes) -> None:
    peers = pytest.importorskip("libp2p.peer.id")
    keys = pytest.importorskip("libp2p.crypto.ed25519")
    base58 = pytest.importorskip("base58")
    agent = Identity.from_seed(seed).agent
    assert peer_id(agent) == peers.ID.from_pubkey(keys.Ed25519PublicKey.from_bytes(agent)).to_base58()
    assert did_key(agent) == "did:key:z" + base58.b58encode(b"\xed\x01" + agent).decode()


@given(agent=seeds)
def test_spellings_round_trip(agent: bytes) -> None:
    assert peer_id(agent).startswith("12D3Koo")
    assert did_key(agent).startswith("did:key:z6Mk")
    for text in (peer_id(agent), did_key(agent), agent.hex(), agent.hex().upper()):
        assert agent_from_text(text) == agent


@given(data=st.data(), agent=seeds)
def test_damaged_spellings_are_refused_or_are_other_agents(data: st.DataObject, agent: bytes) -> None:
    whole = data.draw(st.sampled_from([peer_id(agent), did_key(agent), agent.hex()]))
    text = data.draw(damage(whole.encode())).decode("latin-1")
    for candidate in (text, data.draw(st.text(max_size=90))):
        try:
            found = agent_from_text(candidate)
        except IdentityError:
            continue
        assert candidate in (peer_id(found), did_key(found)) or candidate.lower() == found.hex()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "12D3Koo",
        "did:key:z",
        "did:key:z6Mk",
        "did:web:example.org",
        "0" * 63,
        "0" * 65,
        "g" * 64,
        " " * 64,
        "ab " * 21 + "a",
        "٣" * 64,
        peer_id(ALICE.agent)[:-1],
        "1" + peer_id(ALICE.agent),
        "1" * 80,
        "z" * 80,
        "x" * 1_000_000,
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_an_agent_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        agent_from_text(text)


@given(data=st.data(), seed=seeds, message=st.binary(max_size=40))
def test_forged_signatures_do_not_verify(data: st.DataObject, seed: bytes, message: bytes) -> None:
    identity = Identity.from_seed(seed)
    signature = identity.sign(message)
    forged = data.draw(damage(signature))
    assert verify(identity.agent, message, forged) == (forged == signature)
    assert not verify(identity.agent, message + b"\0", signature)
    other = data.draw(st.binary(max_size=40))
    assert verify(other, message, signature) == (other == identity.agent)


LOW_ORDER = ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f"]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_keys_of_low_order_sign_nothing(point: str) -> None:
    """With such a key one signature would fit every message; libsodium refuses them."""
    key = bytes.fromhex(point)
    for r in (key, bytes(32), bytes([1]) + bytes(31)):
        assert not verify(key, b"any", r + bytes(32))


def test_a_scalar_that_is_not_reduced_is_refused() -> None:
    """s + L is the same number modulo L: without the check every signature would have a twin."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = ALICE.sign(b"m")
    twin = int.from_bytes(signature[32:], "little") + order
    assert not verify(ALICE.agent, b"m", signature[:32] + twin.to_bytes(32, "little"))


def test_the_secret_does_not_show() -> None:
    assert ALICE.seed.hex() not in repr(ALICE)
    assert repr(ALICE.seed) not in repr(ALICE)
    with pytest.raises(IdentityError, match="32 bytes, not 31"):
        Identity.from_seed(bytes(31))
    with pytest.raises(IdentityError, match="32 bytes, not 5"):
        peer_id(b"short")
