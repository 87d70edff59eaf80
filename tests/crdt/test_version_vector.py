"""Version vectors: comparison against a model of forked lines, and an encoding that bounds its reader."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, digest, record_cid
from crdt import version_vector as version_vector_module
from crdt.errors import VersionVectorError
from crdt.version_vector import (
    MAX_AUTHORS,
    MAX_BRANCHES,
    MAX_VECTOR,
    Order,
    Slot,
    VersionVector,
    compare,
    decode_version_vector,
    delta,
    join,
    network_vector,
    version_vector,
)

AUTHORS = [bytes([number]) * 32 for number in (1, 2)]
Tree = tuple[tuple[int, ...], ...]
"""Paths from the root; a path's prefixes are the positions below it. Siblings are a fork."""


def cid_of(author: int, path: tuple[int, ...]) -> Cid:
    return record_cid(bytes([author, *path]))


def line(author: int, path: tuple[int, ...]) -> Slot:
    below = tuple(cid_of(author, path[:height]) for height in range(1, len(path)))
    return Slot(len(path) - 1, cid_of(author, path), below)


def held(lines: tuple[Tree, ...]) -> set[Cid]:
    """The truth: every record that the heads stand for."""
    return {
        cid_of(author, path[:height])
        for author, tree in enumerate(lines)
        for path in tree
        for height in range(1, len(path) + 1)
    }


def vector_of(lines: tuple[Tree, ...]) -> VersionVector:
    return version_vector({AUTHORS[n]: [line(n, path) for path in tree] for n, tree in enumerate(lines)})


paths = st.lists(st.integers(0, 1), min_size=1, max_size=3).map(tuple)
trees = st.lists(paths, max_size=3, unique=True).map(tuple)
worlds = st.tuples(trees, trees)
chains = st.integers(0, 4).map(lambda height: ((0,) * height,) if height else ())
honest = st.tuples(chains, chains)


def truth(a: set[Cid], b: set[Cid]) -> Order:
    if a == b:
        return Order.EQUAL
    return Order.BEFORE if a < b else Order.AFTER if a > b else Order.CONCURRENT


def test_every_pair_of_small_vectors_compares_as_their_sets_do() -> None:
    """Exhaustive: one author, all sets of heads on a tree of height 2, against one another."""
    tree = [path for height in (1, 2) for path in itertools.product((0, 1), repeat=height)]
    sets = [heads for size in range(len(tree) + 1) for heads in itertools.combinations(tree, size)]
    for a, b in itertools.product(sets, repeat=2):
        assert compare(vector_of((a,)), vector_of((b,))) is truth(held((a,)), held((b,)))


@given(a=worlds, b=worlds)
def test_with_trails_the_order_is_set_inclusion_and_has_a_converse(
    a: tuple[Tree, ...], b: tuple[Tree, ...]
) -> None:
    order = compare(vector_of(a), vector_of(b))
    assert order is truth(held(a), held(b))
    converse = {Order.BEFORE: Order.AFTER, Order.AFTER: Order.BEFORE}
    assert compare(vector_of(b), vector_of(a)) is converse.get(order, order)


@given(a=worlds, b=worlds)
def test_join_is_the_union_and_delta_the_difference(a: tuple[Tree, ...], b: tuple[Tree, ...]) -> None:
    both = tuple((*x, *y) for x, y in zip(a, b, strict=True))
    assert join(vector_of(a), vector_of(b)) == vector_of(both)
    assert set(delta(vector_of(a), vector_of(b))) == held(a) - held(b)


@given(a=honest, b=honest)
def test_heads_of_honest_chains_order_by_height_where_a_holder_knows_the_chain(
    a: tuple[Tree, ...], b: tuple[Tree, ...]
) -> None:
    """The network's vector: bare heads, and a lineage from the headers that the caller holds."""

    def heads(lines: tuple[Tree, ...]) -> VersionVector:
        return network_vector(
            {AUTHORS[n]: [(len(p) - 1, cid_of(n, p)) for p in tree] for n, tree in enumerate(lines)}
        )

    place = {cid_of(n, (0,) * height): (n, height) for n in range(2) for height in range(1, 5)}

    def lineage(low: Cid, high: Cid) -> bool:
        return place[low][0] == place[high][0] and place[low][1] < place[high][1]

    assert compare(heads(a), heads(b), lineage) is truth(held(a), held(b))


@given(a=worlds, b=worlds)
def test_bare_vectors_may_be_silent_but_are_never_wrong(a: tuple[Tree, ...], b: tuple[Tree, ...]) -> None:
    right = truth(held(a), held(b))
    for left, other in (
        (vector_of(a).bare(), vector_of(b).bare()),
        (vector_of(a).bare(), vector_of(b)),
        (vector_of(a), vector_of(b).bare()),
    ):
        order = compare(left, other)
        assert order is right or (order is Order.CONCURRENT and right is not Order.EQUAL)


def test_one_height_and_two_cids_are_concurrent() -> None:
    a, b = (network_vector({AUTHORS[0]: [(7, record_cid(name))]}) for name in (b"a", b"b"))
    assert compare(a, b) is Order.CONCURRENT
    assert compare(a, a) is Order.EQUAL


@given(a=worlds)
def test_encoding_round_trips(a: tuple[Tree, ...]) -> None:
    for vector in (vector_of(a), vector_of(a).bare()):
        assert decode_version_vector(vector.encode()) == vector
        assert vector.bounded() == vector


HEAD = digest(record_cid(b"head"))
BELOW = digest(record_cid(b"below"))
ROW = [AUTHORS[0], [[1, HEAD, BELOW]]]
BAD: dict[str, canonical.Value] = {
    "not an array": {"a": 1},
    "row": [[AUTHORS[0]]],
    "author": [[b"short", [[0, HEAD, b""]]]],
    "author type": [["a" * 32, [[0, HEAD, b""]]]],
    "no slots": [[AUTHORS[0], []]],
    "too many slots": [[AUTHORS[0], [[n, HEAD, b""] for n in range(MAX_BRANCHES + 1)]]],
    "slot": [[AUTHORS[0], [[1, HEAD]]]],
    "negative seq": [[AUTHORS[0], [[-1, HEAD, b""]]]],
    "bool seq": [[AUTHORS[0], [[True, HEAD, BELOW]]]],
    "huge seq": [[AUTHORS[0], [[1 << 63, HEAD, b""]]]],
    "head": [[AUTHORS[0], [[1, HEAD[:-1], BELOW]]]],
    "trail too short": [[AUTHORS[0], [[2, HEAD, BELOW]]]],
    "trail torn": [[AUTHORS[0], [[1, HEAD, BELOW[:-1]]]]],
    "trail at the root": [[AUTHORS[0], [[0, HEAD, BELOW]]]],
    "duplicate author": [ROW, ROW],
    "authors descend": [[AUTHORS[1], ROW[1]], ROW],
    "head on another's trail": [[AUTHORS[0], [[0, BELOW, b""], [1, HEAD, BELOW]]]],
    "duplicate slot": [[AUTHORS[0], [[1, HEAD, BELOW], [1, HEAD, BELOW]]]],
    "slots descend": [[AUTHORS[0], [[2, HEAD, b""], [1, BELOW, b""]]]],
    "too many authors": [[n.to_bytes(32, "big"), [[0, HEAD, b""]]] for n in range(MAX_AUTHORS + 1)],
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_vectors_are_refused(name: str) -> None:
    with pytest.raises(VersionVectorError):
        decode_version_vector(canonical.encode(BAD[name]))


def mutate(data: bytes, place: int, value: int) -> bytes:
    return data[: place % len(data)] + bytes([value]) + data[place % len(data) + 1 :]


@given(a=worlds, place=st.integers(0, 10_000), value=st.integers(0, 255), noise=st.binary(max_size=60))
def test_damaged_vectors_are_refused_or_are_other_vectors(
    a: tuple[Tree, ...], place: int, value: int, noise: bytes
) -> None:
    for data in (mutate(vector_of(a).encode(), place, value), noise):
        try:
            vector = decode_version_vector(data)
        except VersionVectorError:
            continue
        assert vector.encode() == data


def long_line(height: int) -> VersionVector:
    trail = tuple(record_cid(n.to_bytes(4, "big")) for n in range(height))
    return version_vector({AUTHORS[0]: [Slot(height, record_cid(b"end"), trail)]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: long_line(MAX_VECTOR // DIGEST_SIZE),
        lambda: network_vector(
            {n.to_bytes(32, "big"): [(0, record_cid(b"%d" % n))] for n in range(MAX_AUTHORS + 1)}
        ),
        lambda: network_vector({AUTHORS[0]: [(n, record_cid(bytes([n]))) for n in range(MAX_BRANCHES + 1)]}),
    ],
    ids=["bytes", "authors", "branches"],
)
def test_beyond_the_limits_encoding_is_refused_and_bounded_claims_less(
    make: Callable[[], VersionVector],
) -> None:
    vector = make()
    with pytest.raises(VersionVectorError, match="the limit is"):
        vector.encode()
    less = vector.bounded()
    assert decode_version_vector(less.encode()) == less
    assert less.cids() < vector.cids()
    assert compare(less, vector) is Order.BEFORE or less == vector.bare()


def test_of_authors_beyond_the_size_half_of_half_are_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {bytes([author]) * 32: [Slot(0, cid_of(author, ()))] for author in range(20)}
    whole = version_vector(lines)
    monkeypatch.setattr(version_vector_module, "MAX_VECTOR", 8 + 5 * (44 + 56))
    bounded = whole.bounded()
    assert bounded.authors == whole.authors[:5]
    assert len(bounded.encode()) <= version_vector_module.MAX_VECTOR
    assert compare(bounded, whole) is Order.BEFORE


def test_a_slot_with_a_torn_trail_is_refused() -> None:
    with pytest.raises(VersionVectorError, match="slot is malformed"):
        version_vector({AUTHORS[0]: [Slot(3, record_cid(b"x"), (record_cid(b"y"),))]})
