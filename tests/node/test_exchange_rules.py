"""What the exchange decides without a network: how often, by which key and name, in what conflict."""

from __future__ import annotations

import base64
import os
import stat
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid, record_cid
from chain.identity import Identity
from chain.reference import Relation
from node.errors import HomeDamaged, InvalidInput, NotFound
from node.exchange.agents import (
    Agents,
    ExternalAgent,
    KeyTaken,
    NameTaken,
    is_public_key,
    succession_statement,
)
from node.exchange.disagreement import CONTRADICTS, NEAR_PPM, Claim, disagree, disagreeing
from node.exchange.keys import MAX_KEYS, KeyRing, add_key, presented_in, read_keys, revoke_key
from node.exchange.packages import read_bytes
from node.exchange.rate_limit import RateLimit

ONE, TWO, THREE = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
A, B = record_cid(b"a"), record_cid(b"b")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=60))
@settings(max_examples=60)
def test_never_more_than_the_limit_in_any_window_and_as_soon_as_it_says(asks: list[tuple[str, int]]) -> None:
    limit = RateLimit(3, 10.0, 8)
    now, let_in = 0.0, defaultdict[str, list[float]](list)
    for client, pause in asks:
        now += pause
        wait = limit.enter(client, now)
        recent = [at for at in let_in[client] if now - at < 10.0]
        assert (wait == 0.0) == (len(recent) < 3)
        if wait:
            assert now + wait == recent[0] + 10.0
        else:
            let_in[client].append(now)
        if wait and pause == 9:  # who waits as long as told gets in, and not before
            assert limit.enter(client, now + wait / 2) > 0
            now += wait
            assert limit.enter(client, now) == 0.0
            let_in[client].append(now)


def test_the_table_of_clients_is_bounded_and_forgets_who_came_longest_ago() -> None:
    limit = RateLimit(1, 60.0, 2)
    assert limit.enter("a", 0) == limit.enter("b", 1) == 0.0
    assert limit.enter("b", 2) == 59.0
    assert limit.enter("c", 3) == 0.0
    assert len(limit) == 2
    assert limit.enter("b", 4) == 57.0
    assert limit.enter("a", 5) == 0.0


def test_a_key_opens_until_it_is_revoked_and_the_file_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(path)
    assert ring.find(b"anything") is None
    made, text = add_key(path, "lab", 5, bytes(32))
    other, other_text = add_key(path, "field", 6, bytes(31) + b"\1")
    assert ring.find(text.encode()) == made
    assert ring.find(other_text.encode()) == other
    assert ring.find(text.encode()[:-1]) is None
    assert ring.find(made.digest) is None
    assert ring.ids() == {made.id, other.id}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text not in path.read_text()
    assert [key.name for key in read_keys(path)] == ["lab", "field"]
    revoke_key(path, "lab")
    assert ring.find(text.encode()) is None
    assert ring.find(other_text.encode()) == other
    with pytest.raises(NotFound, match="lab"):
        revoke_key(path, "lab")


def test_names_and_numbers_of_keys_are_bounded_and_a_file_that_is_none_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for name in ("", "x" * 65, "line\nfeed", "Käse"):
        with pytest.raises(InvalidInput):
            add_key(path, name, 0, bytes(32))
    _, text = add_key(path, "lab", 0, bytes(32))
    with pytest.raises(InvalidInput, match="lab"):
        add_key(path, "lab", 0, bytes(32))
    ring = KeyRing(path)
    assert ring.find(text.encode()) is not None
    good = path.read_bytes()
    os.chmod(path, 0o644)  # readable by others: whoever read it knows hashes only, but somebody changed it
    path.write_bytes(good + b" ")
    assert ring.find(text.encode()) is None
    with pytest.raises(HomeDamaged, match="chmod 600"):
        KeyRing(path)
    os.chmod(path, 0o600)
    for bad in (b"{}", b"[1]", b'[{"name": "x", "created_us": 1, "sha256": "00"}]', b"[" * 9_999):
        path.write_bytes(bad)
        assert ring.find(text.encode()) is None
        with pytest.raises(HomeDamaged):
            read_keys(path)
    path.write_bytes(good)
    assert ring.find(text.encode()) is not None
    row = good.decode().strip("[]\n ")
    path.write_text(f"[{','.join([row] * MAX_KEYS)}]")
    with pytest.raises(InvalidInput, match=str(MAX_KEYS)):
        add_key(path, "one more", 0, bytes(32))


def test_authorization_is_read_bare_or_as_bearer() -> None:
    for value in (b"k", b"Bearer k", b"bearer  k ", b" k "):
        assert presented_in({b"authorization": value}) == b"k"
    for value in (b"", b" ", b"k" * 257):
        assert presented_in({b"authorization": value}) is None
    assert presented_in({}) is None


def test_a_name_is_its_first_api_keys_and_its_key_changes_with_the_former_ones_consent(
    tmp_path: Path,
) -> None:
    path, valid = tmp_path / "agents.json", {"k1", "k2"}
    agents = Agents(path)
    first = ExternalAgent("m", ONE.agent, "k1", 1)
    assert agents.register(first, valid, None)
    assert not agents.register(ExternalAgent("m", ONE.agent, "k1", 2), valid, None)
    assert Agents(path).get("m", valid) == agents.get("m", valid) == first
    with pytest.raises(NameTaken):
        agents.register(ExternalAgent("m", ONE.agent, "k2", 3), valid, None)
    second = ExternalAgent("m", TWO.agent, "k1", 4)
    statement = succession_statement("m", TWO.agent)
    for signature in (None, bytes(64), TWO.sign(statement), ONE.sign(succession_statement("m", THREE.agent))):
        with pytest.raises(KeyTaken):
            agents.register(second, valid, signature)
    assert agents.register(second, valid, ONE.sign(statement))
    assert Agents(path).get("m", valid) == second
    assert agents.get("m", {"k2"}) is None  # its API key was revoked
    assert agents.register(ExternalAgent("m", THREE.agent, "k2", 5), {"k2"}, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_without_order_is_no_public_key() -> None:
    assert is_public_key(ONE.agent)
    for bad in (bytes(32), b"\1" + bytes(31), b"\xff" * 32, ONE.agent[:31]):
        assert not is_public_key(bad)


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=30)
def test_bytes_are_read_in_hexadecimal_and_both_base64_alphabets(data: bytes) -> None:
    plain = base64.b64encode(data).decode()
    for text in (data.hex(), data.hex().upper(), plain, plain.replace("+", " "), plain.rstrip("=")):
        assert read_bytes(text, 32) == data
    assert read_bytes(base64.urlsafe_b64encode(data).decode(), 32) == data
    for bad in ("", data.hex()[:-1], plain + plain, "!" * 44, "z" * 64, "x" * 10_000):
        with pytest.raises(ValueError, match="32 bytes"):
            read_bytes(bad, 32)


def claims(own: Cid, other: Cid) -> st.SearchStrategy[Claim]:
    relations = st.builds(Relation, st.sampled_from([CONTRADICTS, "supports", "supersedes"]), st.just(other))
    texts = st.sampled_from(["It is so.", "it  IS so.", "It is not so."])
    return st.builds(
        Claim, st.just(own), texts, st.sampled_from([None, "d", "e"]), st.lists(relations, max_size=2)
    )


@given(claims(A, B), claims(B, A), st.sampled_from([0, NEAR_PPM - 1, NEAR_PPM, 1_000_000]))
@settings(max_examples=150)
def test_a_disagreement_is_mutual_and_ends_with_any_relation_but_a_contradiction(
    one: Claim, other: Claim, cosine: int
) -> None:
    found = disagree(one, other, cosine)
    assert found == disagree(other, one, cosine)
    assert not disagree(one, one, cosine)
    said = {relation.predicate for claim in (one, other) for relation in claim.references}  # type: ignore[union-attr]
    if said - {CONTRADICTS}:
        assert not found
    elif said:
        assert found
    else:
        differ = ("not" in one.text) != ("not" in other.text)
        assert found == (differ and cosine >= NEAR_PPM and one.domain == other.domain is not None)


def test_the_nearest_disagreement_comes_first() -> None:
    others = [(Claim(record_cid(bytes([n])), f"{n}", "d"), NEAR_PPM + n) for n in (1, 3, 2)]
    found = disagreeing(Claim(A, "a", "d"), [*others, (Claim(B, "b", "d"), NEAR_PPM - 1)])
    assert found == [record_cid(bytes([n])) for n in (3, 2, 1)]
