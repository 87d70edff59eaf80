"""An atlas is its bytes, refuses every other bytes, and finds the nearest cell exactly on every machine."""

from __future__ import annotations

from itertools import pairwise
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import canonical
from sharding import atlas as atlases
from sharding import hilbert
from sharding.atlas import Atlas, nearest_cells, scores
from sharding.errors import AtlasError

GOLDEN_CID = "01551e20c334fdd06beb30de3869ef84425166ecc42b277ce5b669458dbd2a9c51ca18b4"
GOLDEN_RECIPROCALS = [
    3693131333,
    4799759367,
    4145000302,
    4133852919,
    4821306596,
    3924925315,
    4026353771,
    3645887385,
]
GOLDEN_RANKS = [0, 0, 6, 0, 0, 1, 2, 6, 6, 2, 1, 0]


def atlas_of(cells: int, dim: int, seed: int = 0) -> Atlas:
    generator = np.random.default_rng(seed)
    positions = generator.integers(0, 1 << 16, (cells, 2), np.uint16)
    order = np.argsort(hilbert.encode(positions, 16), kind="stable")
    centroids = generator.integers(-127, 127, (cells, dim), np.int8, endpoint=True)
    centroids[:, 0] |= 1
    return Atlas("test", centroids, positions[order])


def plain_atlas() -> Atlas:
    """Eight cells in five dimensions, made by arithmetic that no library version can change."""
    centroids = [
        [(cell * 37 + axis * 59 + cell * axis * 11) % 201 - 100 for axis in range(5)] for cell in range(8)
    ]
    positions = [hilbert.decode_point(cell << 29 | 12345 * cell, 2, 16) for cell in range(8)]
    return Atlas("golden", np.array(centroids, dtype=np.int8), np.array(positions, dtype=np.uint16))


def exact_nearest(centroids: list[list[int]], code: list[int]) -> int:
    """The nearest cell on Python integers, by the same reciprocal norms."""
    fits = []
    for centroid in centroids:
        reciprocal = isqrt((1 << 78) // sum(c * c for c in centroid))
        fits.append(sum(a * b for a, b in zip(centroid, code, strict=True)) * reciprocal)
    return fits.index(max(fits))


components = st.sampled_from([-127, -126, -1, 0, 1, 2, 126, 127]) | st.integers(-127, 127)


@st.composite
def cells_and_codes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    dim = draw(st.integers(1, 6))
    row = st.lists(components, min_size=dim, max_size=dim).filter(any)
    centroids = draw(st.lists(row, min_size=4, max_size=4))
    return np.array(centroids, np.int8), np.array(draw(st.lists(row, min_size=1, max_size=5)), np.int8)


@given(cells_and_codes())
def test_the_nearest_cell_is_exact_and_the_lowest_of_equals(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    centroids, codes = drawn
    atlas = Atlas("test", centroids, np.zeros((4, 2), dtype=np.uint16))
    assert nearest_cells(atlas, codes).tolist() == [
        exact_nearest(centroids.tolist(), c) for c in codes.tolist()
    ]


@pytest.mark.parametrize("dim", [1024, 1025, 4096])
def test_scores_stay_exact_at_the_widest_dimensions_and_the_largest_components(dim: int) -> None:
    generator = np.random.default_rng(dim)
    centroids = generator.choice(np.array([-127, 127], np.int8), (8, dim))
    centroids[1] = centroids[0]
    centroids[1, 0] = -centroids[0, 0]
    centroids[7] = 127
    codes = np.concatenate([centroids[:3], generator.integers(-127, 127, (3, dim), np.int8, endpoint=True)])
    codes = np.concatenate([codes, np.full((1, dim), 127, np.int8)])
    atlas = Atlas("test", centroids, np.zeros((8, 2), dtype=np.uint16))
    exact = [
        [
            sum(a * b for a, b in zip(code, centroid, strict=True)) * reciprocal
            for centroid, reciprocal in rows
        ]
        for rows in [list(zip(centroids.tolist(), atlas.reciprocals.tolist(), strict=True))]
        for code in codes.tolist()
    ]
    assert [[int(score) for score in row] for row in scores(atlas, codes).tolist()] == exact
    assert max(map(max, exact)) < 1 << 53


def test_equal_centroids_give_the_lowest_rank() -> None:
    atlas = Atlas(
        "test", np.array([[0, 1], [3, 3], [3, 3], [127, 127]], np.int8), np.zeros((4, 2), np.uint16)
    )
    assert nearest_cells(atlas, np.array([[5, 5]], np.int8)).tolist() == [1]


def test_a_code_is_placed_alike_alone_and_among_others() -> None:
    atlas = atlas_of(64, 48)
    codes = np.random.default_rng(9).integers(-127, 127, (700, 48), np.int8, endpoint=True)
    together = nearest_cells(atlas, codes).tolist()
    assert together == [int(nearest_cells(atlas, code[np.newaxis])[0]) for code in codes]


@given(st.sampled_from([2, 4, 16]), st.integers(1, 9), st.integers(0, 50))
@settings(max_examples=30)
def test_decoding_inverts_encoding(cells: int, dim: int, seed: int) -> None:
    atlas = atlas_of(cells, dim, seed)
    data = atlas.encode()
    again = Atlas.decode(data)
    assert again == atlas
    assert again.encode() == data
    assert again.cid == atlas.cid
    assert hash(again) == hash(atlas)
    assert (again.cells, again.dim, again.space, 1 << again.rank_bits) == (cells, dim, "test", cells)


@given(st.data())
@settings(max_examples=300)
def test_damaged_bytes_are_refused_or_are_another_atlas(data: st.DataObject) -> None:
    good = plain_atlas().encode()
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(good)) | st.just(len(good)))])
    try:
        atlas = Atlas.decode(cut)
    except AtlasError:
        return
    assert atlas.encode() == cut
    along = hilbert.encode(atlas.positions, 16).tolist()
    assert all(a <= b for a, b in pairwise(along))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(AtlasError):
        Atlas.decode(data)


ORDERED = np.zeros((2, 2), np.uint16).tobytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, "s", 65536, 4096, b"", b""], "exceed"),
        ([1, "s", 65536, 256, b"x", b""], "holds 1 bytes"),
        ([1, "s", 2**63, 1, b"", b""], "power of two"),
        ([1, "s", 0, 1, b"", b""], "power of two"),
        ([1, "s", -2, 1, b"", b""], "power of two"),
        ([1, "s", 1, 1, b"\x01", b"\0" * 4], "power of two"),
        ([1, "s", 3, 1, b"\x01" * 3, b"\0" * 12], "power of two"),
        ([1, "s", 131072, 1, b"", b""], "power of two"),
        ([1, "s", 2, 0, b"", ORDERED], "0 dimensions"),
        ([1, "s", 2, -1, b"", ORDERED], "dimensions"),
        ([1, "s", 2, 4097, b"", ORDERED], "4097 dimensions"),
        ([1, "s", 2, True, b"\1\1", ORDERED], "truth value"),
        ([True, "s", 2, 1, b"\1\1", ORDERED], "format"),
        ([2, "s", 2, 1, b"\1\1", ORDERED], "format 2"),
        ([1, "", 2, 1, b"\1\1", ORDERED], "space"),
        ([1, "s" * 257, 2, 1, b"\1\1", ORDERED], "space"),
        ([1, "a\nb", 2, 1, b"\1\1", ORDERED], "space"),
        ([1, b"s", 2, 1, b"\1\1", ORDERED], "not \\[format"),
        ([1, "s", 2, 1, "ab", ORDERED], "not \\[format"),
        ([1, "s", 2, 1, b"\1\1", ORDERED, 0], "not \\[format"),
        ({"space": "s"}, "not \\[format"),
        ([1, "s", 2, 1, b"\1\1", ORDERED + b"\0"], "holds"),
        ([1, "s", 2, 1, b"\1\0", ORDERED], "is zero"),
        ([1, "s", 2, 1, b"\1\x80", ORDERED], "-128"),
        ([1, "s", 2, 1, b"\1\1", b"\xff\xff\0\0\0\0\0\0"], "rank order"),
    ],
)
def test_hostile_atlases_are_refused_by_name(value: object, message: str) -> None:
    with pytest.raises(AtlasError, match=message):
        Atlas.decode(canonical.encode(value))


def test_an_oversized_atlas_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = plain_atlas().encode()
    monkeypatch.setattr(atlases, "MAX_ATLAS_BYTES", len(data) - 1)
    with pytest.raises(AtlasError, match="limit"):
        Atlas.decode(data)


def test_the_arrays_are_copies_that_cannot_be_written() -> None:
    centroids = np.array([[1, 2], [3, 4]], np.int8)
    atlas = Atlas("test", centroids, np.zeros((2, 2), np.uint16))
    cid = atlas.cid
    centroids[0, 0] = 9
    assert atlas.cid == cid
    with pytest.raises(ValueError, match="read-only"):
        atlas.centroids[0, 0] = 9


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.ones((1, 4), np.int8), "4 components"),
        (np.ones(5, np.int8), "pass an int8 array"),
        (np.ones((1, 5), np.int16), "pass an int8 array"),
        (np.ones((1, 5), np.float32), "pass an int8 array"),
        ([[1, 2, 3, 4, 5]], "pass an int8 array"),
        (np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.int8), "code 1 is zero"),
        (np.array([[1, -128, 0, 0, 0]], np.int8), "-128"),
    ],
)
def test_codes_that_have_no_place_are_refused(codes: np.ndarray, message: str) -> None:
    with pytest.raises(AtlasError, match=message):
        nearest_cells(plain_atlas(), codes)


def test_no_codes_have_no_cells() -> None:
    assert nearest_cells(plain_atlas(), np.empty((0, 5), np.int8)).tolist() == []


def test_golden_values() -> None:
    atlas = plain_atlas()
    codes = np.array(
        [[(row * row * 17 + axis * 31) % 255 - 127 for axis in range(5)] for row in range(12)], np.int8
    )
    assert atlas.cid.hex() == GOLDEN_CID
    assert atlas.reciprocals.tolist() == GOLDEN_RECIPROCALS
    assert nearest_cells(atlas, codes).tolist() == GOLDEN_RANKS
