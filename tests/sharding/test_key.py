"""A shard key is a pure function of atlas, code and CID, sorted along the curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import digest, record_cid
from sharding import hilbert
from sharding.atlas import Atlas, nearest_cells
from sharding.errors import AtlasError, ShardKeyError
from sharding.key import KEY_BYTES, places, shard_keys

DIM = 5


def atlas_of(rank_bits: int) -> Atlas:
    cells = 1 << rank_bits
    centroids = [
        [(cell * 37 + axis * 59 + cell * axis * 11) % 201 - 100 for axis in range(DIM)]
        for cell in range(cells)
    ]
    positions = [hilbert.decode_point(cell << (32 - rank_bits), 2, 16) for cell in range(cells)]
    return Atlas("golden", np.array(centroids, dtype=np.int8), np.array(positions, dtype=np.uint16))


ATLASES = {bits: atlas_of(bits) for bits in (1, 3, 12, 13)}
rows = st.lists(st.integers(-127, 127), min_size=DIM, max_size=DIM).filter(any)


GOLDEN_KEYS = [
    "0694e4cf7a65262f6e340b9cffb37a989ca544e6bb780a2c78901d3fb3373876",
    "07db364b2accd52c4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5",
    "07e460fd16294bd6dbc1b4c900ffe48d575b5da5c638040125f65db0fe3e2449",
    "0a1765c148fbea00084fed08b978af4d7d196a7446a86b58009e636b611db162",
]
GOLDEN_PLACES = ["0bf39a0b1c7c9a0e", "0c0b9078962d47d0", "d5ecd84bb78ef24e", "09becbbfc5927d9f"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@given(st.sampled_from(sorted(ATLASES)), st.lists(rows, min_size=1, max_size=6))
def test_a_key_is_rank_then_position_then_digest(rank_bits: int, drawn: list[list[int]]) -> None:
    atlas, codes = ATLASES[rank_bits], np.array(drawn, np.int8)
    cids = [record_cid(bytes([i])) for i in range(len(codes))]
    keys = shard_keys(atlas, codes, cids)
    ranks = nearest_cells(atlas, codes).tolist()
    for key, rank, cid in zip(keys, ranks, cids, strict=True):
        assert len(key) == KEY_BYTES
        assert int.from_bytes(key, "big") >> (256 - rank_bits) == rank
        assert key[8:] == digest(cid)[:24]


@given(st.sampled_from(sorted(ATLASES)), rows)
def test_inside_a_cell_the_nearer_neighbour_gives_the_half(rank_bits: int, row: list[int]) -> None:
    atlas, code = ATLASES[rank_bits], np.array(row, np.int8)
    rank = int(nearest_cells(atlas, code[np.newaxis])[0])
    before, after = atlas.centroids[max(rank - 1, 0)], atlas.centroids[min(rank + 1, atlas.cells - 1)]
    lead = cosine(code, after) - cosine(code, before)
    width = 64 - rank_bits
    inside = places(atlas, code[np.newaxis])[0] & ((1 << width) - 1)
    if abs(lead) > 1e-6:
        assert (inside >= 1 << (width - 1)) == (lead > 0)


@given(st.lists(rows, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_key_does_not_depend_on_its_company(drawn: list[list[int]], random: object) -> None:
    atlas, codes = ATLASES[12], np.array(drawn, np.int8)
    cids = [record_cid(bytes([i])) for i in range(len(codes))]
    alone = [shard_keys(atlas, codes[i : i + 1], cids[i : i + 1])[0] for i in range(len(codes))]
    assert shard_keys(atlas, codes, cids) == alone
    assert shard_keys(atlas, codes[::-1], cids[::-1]) == alone[::-1]


def test_only_the_direction_of_a_code_counts() -> None:
    atlas = ATLASES[12]
    code = np.array([[11, -3, 7, 0, 20]], np.int8)
    place, double = places(atlas, code)[0], places(atlas, code * np.int8(6))[0]
    assert abs(place - double) < 1 << 36  # of 2**64: the norms' rounding


def test_positions_move_with_the_code_along_the_line_between_the_neighbours() -> None:
    centroids = np.array([[100, -60, 0], [100, 0, 0], [100, 60, 0], [-1, 0, 100]], np.int8)
    atlas = Atlas("line", centroids, np.zeros((4, 2), np.uint16))
    codes = np.array([[100, y, 0] for y in range(-25, 26)], np.int8)
    found = places(atlas, codes)
    assert {place >> 62 for place in found} == {1}
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[25] == 1 << 62 | 1 << 61


def test_neighbours_of_equal_direction_leave_the_middle() -> None:
    atlas = Atlas("flat", np.array([[2, 2], [0, 1], [1, 1], [0, -1]], np.int8), np.zeros((4, 2), np.uint16))
    assert places(atlas, np.array([[0, 9]], np.int8)) == [1 << 62 | 1 << 61]


def test_the_extremes_stay_inside_their_cell() -> None:
    codes = np.array([[127] * 4096, [-127] * 4096, [127] + [0] * 4095, [1, -1] * 2048], np.int8)
    atlas = Atlas("wide", codes, np.zeros((4, 2), np.uint16))
    assert [place >> 62 for place in places(atlas, codes)] == [0, 1, 2, 3]


def test_no_codes_have_no_keys() -> None:
    assert shard_keys(ATLASES[3], np.empty((0, DIM), np.int8), []) == []


def test_bad_input_is_refused_by_name() -> None:
    code = np.ones((1, DIM), np.int8)
    with pytest.raises(ShardKeyError, match="1 codes and 2 CIDs"):
        shard_keys(ATLASES[3], code, [record_cid(b"a"), record_cid(b"b")])
    with pytest.raises(ShardKeyError, match="no key without a CID"):
        shard_keys(ATLASES[3], code, [b"short"])
    with pytest.raises(AtlasError, match="zero"):
        shard_keys(ATLASES[3], np.zeros((1, DIM), np.int8), [record_cid(b"a")])


def test_golden_values() -> None:
    codes = np.array(
        [[(row * row * 17 + axis * 31) % 255 - 127 for axis in range(DIM)] for row in range(4)], np.int8
    )
    cids = [record_cid(bytes([i])) for i in range(4)]
    assert [key.hex() for key in shard_keys(ATLASES[12], codes, cids)] == GOLDEN_KEYS
    assert [place.to_bytes(8, "big").hex() for place in places(ATLASES[3], codes)] == GOLDEN_PLACES
