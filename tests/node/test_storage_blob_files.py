"""Blobs on disk: what is given out always matches its CID, a crash costs torn chunks only, quota and pins."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.blob import CHUNK, ChunkList, chunk_list
from chain.cid import digest
from node.storage import blob_files
from node.storage.blob_files import BLOCK, BlobFiles
from node.storage.errors import BlobGone, BlobsFull, DatabaseUnavailable, DiskFull, StorageClosed

MIB = 1 << 20


def content(size: int, seed: int = 0) -> bytes:
    return blake3(bytes([seed])).digest(length=size)


class Ticks:
    """A clock that moves an hour with every reading, so that every use is written down."""

    now_us = 0

    def __call__(self) -> int:
        self.now_us += 3_600_000_000
        return self.now_us


@pytest.fixture
def clock() -> Ticks:
    return Ticks()


@pytest.fixture
def files(tmp_path: Path, clock: Ticks) -> BlobFiles:
    return BlobFiles(tmp_path, 8 * MIB, clock)


def put(files: BlobFiles, data: bytes, *, pin: bool = False) -> bytes:
    draft = files.draft()
    draft.write(data)
    return draft.finish(pin=pin).cid


def part(data: bytes, index: int) -> bytes:
    return data[index * CHUNK : (index + 1) * CHUNK]


def path(files: BlobFiles, cid: bytes, kind: str) -> Path:
    return files._root / f"{digest(cid).hex()}.{kind}"


def fetched(files: BlobFiles, data: bytes) -> ChunkList:
    """Keep a blob chunk by chunk, as a fetch does."""
    chunks = chunk_list(data)
    for index in files.begin(chunks):
        assert files.keep(chunks.cid, index, part(data, index))
    files.end(chunks.cid)
    return chunks


@settings(max_examples=25)
@given(
    size=st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]) | st.integers(0, 3 * CHUNK),
    cuts=st.lists(st.integers(0, 3 * CHUNK), max_size=4),
)
def test_what_is_written_in_any_portions_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, size: int, cuts: list[int]
) -> None:
    files = BlobFiles(tmp_path_factory.mktemp("blobs"), 8 * MIB, Ticks())
    data = content(size)
    draft = files.draft()
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    for low, high in zip(edges, edges[1:], strict=False):
        draft.write(data[low:high])
    info = draft.finish(pin=False)
    draft.abandon()
    assert info.cid == chunk_list(data).cid
    again = BlobFiles(files._root, 8 * MIB, Ticks())
    for store in (files, again):
        assert store.read(info.cid) == data
        mapped = store.map(info.cid)
        assert mapped is not None
        assert mapped[:] == data
        assert store.missing(info.cid) == frozenset()
        parts = [store.chunk(info.cid, index) for index in range(len(chunk_list(data)))]
        assert b"".join(one or b"" for one in parts) == data
        assert store.chunk(info.cid, len(parts)) is None


def test_chunks_in_any_order_make_the_blob_and_a_wrong_one_is_not_kept(files: BlobFiles) -> None:
    data = content(3 * CHUNK + 5)
    chunks = chunk_list(data)
    assert files.begin(chunks) == {0, 1, 2, 3}
    assert not files.keep(chunks.cid, 3, part(data, 2))
    for index in (3, 1, 0):
        assert files.keep(chunks.cid, index, part(data, index))
        assert files.chunk(chunks.cid, index) == part(data, index)
    assert files.chunk(chunks.cid, 2) is None
    assert files.missing(chunks.cid) == frozenset({2})
    assert files.read(chunks.cid) is None
    assert files.keep(chunks.cid, 2, part(data, 2))
    assert files.keep(chunks.cid, 2, part(data, 2))
    assert files.read(chunks.cid) == data
    assert sorted(one.suffix for one in files._root.iterdir()) == [".data", ".list"]


def test_after_a_crash_all_chunks_but_the_torn_one_are_there(files: BlobFiles, tmp_path: Path) -> None:
    data = content(4 * CHUNK)
    chunks = chunk_list(data)
    files.begin(chunks)
    for index in (0, 1, 3):
        files.keep(chunks.cid, index, part(data, index))
    with open(path(files, chunks.cid, "part"), "r+b") as file:
        file.seek(CHUNK + CHUNK // 2)
        file.write(bytes(CHUNK // 2))  # the second half of chunk 1 did not reach the disk
    again = BlobFiles(tmp_path, 8 * MIB, Ticks())
    assert again.missing(chunks.cid) == frozenset({1, 2})
    assert again.chunk(chunks.cid, 1) is None
    assert again.begin(chunks) == {1, 2}
    for index in (1, 2):
        again.keep(chunks.cid, index, part(data, index))
    assert again.read(chunks.cid) == data


@pytest.mark.parametrize("length", [0, CHUNK + 3])
def test_a_partial_blob_cut_short_by_a_crash_goes_on(files: BlobFiles, tmp_path: Path, length: int) -> None:
    data = content(2 * CHUNK)
    chunks = chunk_list(data)
    files.begin(chunks)
    files.keep(chunks.cid, 0, part(data, 0))
    os.truncate(path(files, chunks.cid, "part"), length)
    again = BlobFiles(tmp_path, 8 * MIB, Ticks())
    assert again.begin(chunks) == ({1} if length else {0, 1})


def test_a_crash_before_the_rename_is_made_good_by_the_next_begin(files: BlobFiles, tmp_path: Path) -> None:
    data = content(CHUNK + 1)
    chunks = fetched(files, data)
    os.rename(path(files, chunks.cid, "data"), path(files, chunks.cid, "part"))
    again = BlobFiles(tmp_path, 8 * MIB, Ticks())
    assert again.read(chunks.cid) is None
    assert again.begin(chunks) == frozenset()
    assert again.read(chunks.cid) == data


def test_what_a_crash_left_half_written_is_deleted(files: BlobFiles, tmp_path: Path) -> None:
    cid = put(files, content(10))
    draft = files.draft()
    draft.write(content(CHUNK))
    (tmp_path / f"{'0' * 64}.part").write_bytes(b"no list")
    (tmp_path / f"{'1' * 64}.list").write_bytes(b"no content")
    (tmp_path / f"{'2' * 64}.list").write_bytes(b"damaged")
    (tmp_path / f"{'2' * 64}.data").write_bytes(b"x")
    (tmp_path / "notes.tmp").write_bytes(b"not ours")
    again = BlobFiles(tmp_path, 8 * MIB, Ticks())
    names = {one.name for one in tmp_path.iterdir()}
    assert names == {path(files, cid, "list").name, path(files, cid, "data").name, "notes.tmp"}
    assert [info.cid for info in again.infos()] == [cid]
    assert again.size() == 2 * BLOCK


@pytest.mark.parametrize("read", ["read", "map", "chunk"])
def test_a_bit_that_rots_is_not_given_out_and_can_be_fetched_again(files: BlobFiles, read: str) -> None:
    data = content(3 * CHUNK)
    cid = put(files, data, pin=True)
    with open(path(files, cid, "data"), "r+b") as file:
        file.seek(CHUNK + 9)
        file.write(bytes([data[CHUNK + 9] ^ 1]))
    found = files.chunk(cid, 1) if read == "chunk" else getattr(files, read)(cid)
    assert found is None
    info = files.info(cid)
    assert info is not None
    assert (info.complete, info.pinned) == (False, True)
    assert files.chunk(cid, 0) == part(data, 0)
    assert files.begin(chunk_list(data)) == {1}
    files.keep(cid, 1, part(data, 1))
    assert files.read(cid) == data


def test_a_blob_that_cannot_be_read_does_not_keep_the_others_from_being_used(
    files: BlobFiles, tmp_path: Path
) -> None:
    good, bad = put(files, content(10)), put(files, content(10, 1))
    path(files, bad, "list").unlink()
    path(files, bad, "list").mkdir()
    again = BlobFiles(tmp_path, 8 * MIB, Ticks())
    assert [info.cid for info in again.infos()] == [good]
    assert path(files, bad, "data").exists()


def test_chunks_of_a_partial_blob_are_given_out_before_all_of_it_was_looked_at(
    files: BlobFiles, tmp_path: Path
) -> None:
    data = content(3 * CHUNK)
    chunks = chunk_list(data)
    files.begin(chunks)
    files.keep(chunks.cid, 1, part(data, 1))
    again = BlobFiles(tmp_path, 8 * MIB, Ticks())
    assert [again.chunk(chunks.cid, index) for index in range(3)] == [None, part(data, 1), None]
    assert again._blobs[chunks.cid].missing is None
    assert again.missing(chunks.cid) == frozenset({0, 2})


def test_a_file_that_became_shorter_is_a_partial_blob(files: BlobFiles, tmp_path: Path) -> None:
    data = content(3 * CHUNK)
    first, second = put(files, data), put(files, content(3 * CHUNK, 1))
    for cid in (first, second):
        os.truncate(path(files, cid, "data"), CHUNK)
    assert files.read(first) is None
    assert files.missing(first) == frozenset({1, 2})
    assert BlobFiles(tmp_path, 8 * MIB, Ticks()).missing(second) == frozenset({1, 2})


def test_the_least_recently_used_go_first_also_after_a_restart(
    files: BlobFiles, tmp_path: Path, clock: Ticks
) -> None:
    ids = [put(files, content(MIB, seed)) for seed in range(4)]
    files.chunk(ids[0], 0)
    files.map(ids[2])
    again = BlobFiles(tmp_path, 5 * MIB, clock)
    order = [ids[1], ids[3], ids[0], ids[2]]
    assert [info.cid for info in again.infos()] == order
    put(again, content(2 * MIB, 9))
    assert [info.cid for info in again.infos()][:-1] == order[2:]
    assert not path(files, ids[1], "data").exists()


def test_what_is_pinned_or_under_way_is_never_evicted(files: BlobFiles, tmp_path: Path) -> None:
    pinned = put(files, content(3 * MIB), pin=True)
    loose = put(files, content(MIB, 1))
    under_way = chunk_list(content(2 * MIB, 2))
    files.begin(under_way)
    with pytest.raises(BlobsFull, match="blobs_max_mb"):
        files.begin(chunk_list(content(3 * MIB, 3)))
    assert [info.cid for info in files.infos()] == [pinned, loose, under_way.cid]
    files.begin(chunk_list(content(2 * MIB, 4)))
    assert [info.cid for info in files.infos()][:2] == [pinned, under_way.cid]
    files.end(under_way.cid)
    put(files, content(2 * MIB, 5))
    assert files.info(under_way.cid) is None
    again = BlobFiles(tmp_path, 8 * MIB, Ticks())
    assert again.pin(pinned, False)
    third = BlobFiles(tmp_path, 8 * MIB, Ticks())
    info = third.info(pinned)
    assert info is not None
    assert not info.pinned


def test_used_space_is_what_the_files_take_whatever_is_done(files: BlobFiles) -> None:
    def on_disk() -> int:
        return sum(-(-one.stat().st_size // BLOCK) * BLOCK for one in files._root.iterdir())

    data = content(CHUNK + 1)
    put(files, data)
    put(files, data, pin=True)
    assert files.size() == on_disk()
    draft = files.draft()
    draft.write(content(3 * CHUNK))
    draft.abandon()
    assert files.size() == on_disk()
    fetched(files, content(3 * CHUNK, 1))
    files.begin(chunk_list(content(2 * CHUNK, 2)))
    assert files.size() == on_disk()
    for info in files.infos():
        assert files.delete(info.cid)
    assert files.size() == on_disk() == 0


def test_a_draft_that_does_not_fit_leaves_nothing(files: BlobFiles) -> None:
    kept = put(files, content(6 * MIB), pin=True)
    draft = files.draft()
    draft.write(content(MIB))
    with pytest.raises(BlobsFull):
        draft.write(content(2 * MIB))
    draft.abandon()
    assert [info.cid for info in files.infos()] == [kept]
    assert not list(files._root.glob("*.tmp"))
    put(files, content(MIB))


def test_at_most_so_many_blobs_however_small(files: BlobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_files, "MAX_BLOBS", 3)
    ids = [put(files, bytes([number])) for number in range(5)]
    assert [info.cid for info in files.infos()] == ids[2:]


def test_content_that_was_half_fetched_is_completed_by_a_draft(files: BlobFiles) -> None:
    data = content(2 * CHUNK)
    chunks = chunk_list(data)
    files.begin(chunks)
    files.keep(chunks.cid, 0, part(data, 0))
    put(files, data)
    assert files.keep(chunks.cid, 1, part(data, 1))
    assert files.read(chunks.cid) == data
    assert not path(files, chunks.cid, "part").exists()


def test_a_blob_deleted_under_a_fetch_ends_it_with_a_clear_error(files: BlobFiles) -> None:
    data = content(2 * CHUNK)
    chunks = chunk_list(data)
    files.begin(chunks)
    assert files.delete(chunks.cid)
    assert not files.delete(chunks.cid)
    with pytest.raises(BlobGone, match="deleted while"):
        files.keep(chunks.cid, 0, part(data, 0))
    files.end(chunks.cid)


def test_a_map_outlives_the_deletion_of_its_blob(files: BlobFiles) -> None:
    data = content(CHUNK + 1)
    cid = put(files, data)
    mapped = files.map(cid)
    files.delete(cid)
    assert mapped is not None
    assert mapped[:] == data


def test_threads_that_keep_the_same_chunks_at_once_make_one_blob(files: BlobFiles) -> None:
    data = content(7 * CHUNK)
    chunks = chunk_list(data)
    files.begin(chunks)
    wrong: list[int] = []

    def keep(order: list[int]) -> None:
        wrong.extend(index for index in order if not files.keep(chunks.cid, index, part(data, index)))

    order = list(range(7))
    threads = [threading.Thread(target=keep, args=(order[n:] + order[:n],)) for n in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert files.read(chunks.cid) == data


def test_a_closed_store_writes_nothing_more(files: BlobFiles) -> None:
    files.close()
    with pytest.raises(StorageClosed):
        files.begin(chunk_list(b"x"))
    with pytest.raises(StorageClosed):
        files.draft()


def test_a_folder_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"a file")
    with pytest.raises(DatabaseUnavailable, match="cannot use"):
        BlobFiles(tmp_path / "blobs", MIB, Ticks())


def test_a_full_disk_is_said_and_the_chunk_counts_as_missing(files: BlobFiles) -> None:
    data = content(2 * CHUNK)
    chunks = chunk_list(data)
    files.begin(chunks)
    target = path(files, chunks.cid, "part")
    target.unlink()
    target.symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        files.keep(chunks.cid, 0, part(data, 0))
    assert files.missing(chunks.cid) == frozenset({0, 1})
