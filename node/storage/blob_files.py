"""Blobs on disk: the `BlobStore` port as a folder of files named by digest.

| file | holds |
|---|---|
| DIGEST.list | the chunk list, whose BLAKE3 digest is the name; its time of change is the blob's last use |
| DIGEST.part | a blob of which chunks are missing, in full length, with holes |
| DIGEST.data | a whole blob |
| DIGEST.pin | empty; while it is there the blob is never evicted |
| *.tmp | something of ours half written, deleted at the next start |

Lists, pins and whole blobs appear by rename, after an fsync. Chunks of a partial blob are not synced one by
one: after a crash each is believed only if it still hashes to its digest, so a torn one is fetched again and
nothing else is. The same check stands before every byte that leaves; a whole blob that fails it becomes a
partial one. Quota: whole blocks of the files count, partial blobs in full; what was used longest ago goes
first, but nothing that is pinned or being fetched. All methods block and may be called from any thread; long
reads and the fsync of a blob hold nobody else up.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chain.blob import CHUNK, MAX_BLOB, BlobError, ChunkList, max_list, open_chunk_list
from chain.cid import Cid, blob_cid_of_digest, digest, to_text
from dht.blobs.blob_store import BlobInfo
from node.storage.blob_draft import Draft
from node.storage.errors import BlobGone, BlobsFull, StorageClosed, disk_error

BLOCK = 4096
"""Every file counts in whole blocks of so many bytes."""
MAX_BLOBS = 16_384
"""Blobs here at a time, however small; one more evicts as if the quota were full."""
TOUCH_US = 60_000_000
"""A blob's last use is written down at most this often."""
_NAME = re.compile(r"([0-9a-f]{64})\.(list|part|data|pin)")
_TEMPORARY = re.compile(r"([0-9a-f]{64}\.(list|pin)|draft-[0-9]+)\.tmp")

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(slots=True, eq=False)
class _Blob:
    """What is known of one blob. `missing` None: the chunks have not been looked at since it became partial.

    `users`: fetches under way, which keep it from being evicted.
    """

    cid: Cid
    chunks: ChunkList
    cost: int
    complete: bool = False
    pinned: bool = False
    missing: set[int] | None = None
    users: int = 0
    touched_us: int = 0


class BlobFiles:
    """A folder of blobs within `max_bytes`. `now_us`: wall clock in µs, for the order of eviction.

    Raises `DatabaseUnavailable` when the folder cannot be used. One process at a time: the home's lock sees
    to that.
    """

    def __init__(self, root: Path, max_bytes: int, now_us: Callable[[], int]) -> None:
        self._root = root
        self._max = max_bytes
        self._now_us = now_us
        self._lock = threading.RLock()
        self._blobs: OrderedDict[Cid, _Blob] = OrderedDict()  # least recently used first
        self._used = 0
        self._drafts = 0
        self._closed = False
        with self._translated(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._scan()

    # -- looking --

    def info(self, cid: Cid) -> BlobInfo | None:
        """The blob, if any of it is here."""
        blob = self._blobs.get(cid)
        return None if blob is None else _info(blob)

    def infos(self) -> list[BlobInfo]:
        """All blobs, least recently used first."""
        with self._lock:
            return [_info(blob) for blob in self._blobs.values()]

    def size(self) -> int:
        """Bytes that count against the quota."""
        return self._used

    def chunk_list(self, cid: Cid) -> ChunkList | None:
        """The chunk list of a blob, if any of it is here."""
        blob = self._blobs.get(cid)
        return None if blob is None else blob.chunks

    def missing(self, cid: Cid) -> frozenset[int] | None:
        """Indexes of the chunks that are not here; reads a partial blob the first time."""
        blob = self._blobs.get(cid)
        if blob is None:
            return None
        missing = self._look(blob)
        with self._lock:
            return frozenset(missing)

    def chunk(self, cid: Cid, index: int) -> bytes | None:
        """One chunk that matches the list; None when it is not here. Reads no more than that chunk."""
        blob = self._blobs.get(cid)
        if blob is None or index >= len(blob.chunks):
            return None
        with self._lock:
            if blob.missing is not None and index in blob.missing:
                return None
            self._use(blob)
            expected = blob.complete or blob.missing is not None
            path = self._path(cid, "data" if blob.complete else "part")
        try:
            with open(path, "rb") as file:
                data = os.pread(file.fileno(), blob.chunks.length(index), index * CHUNK)
        except FileNotFoundError:
            return None  # completed, evicted or deleted since: who asks again is told what is so now
        except OSError as error:
            raise disk_error(path, error) from error
        if not blob.chunks.matches(index, data):
            if expected:
                self._damaged(blob)
            return None
        return data

    def read(self, cid: Cid) -> bytes | None:
        """A whole blob; None unless all of it is here. O(size), one copy in memory."""
        mapped = self.map(cid)
        if isinstance(mapped, mmap.mmap):
            with mapped:
                return mapped[:]
        return mapped

    def map(self, cid: Cid) -> mmap.mmap | bytes | None:
        """A whole blob mapped read-only; None unless all of it is here. O(size) to check it."""
        blob = self._blobs.get(cid)
        if blob is None or not blob.complete:
            return None
        with self._lock:
            self._use(blob)
        if not blob.chunks.size:
            return b""
        path = self._path(cid, "data")
        try:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), blob.chunks.size, prot=mmap.PROT_READ)
        except FileNotFoundError:
            return None
        except ValueError:  # the file is shorter than it was
            self._damaged(blob)
            return None
        except OSError as error:
            raise disk_error(path, error) from error
        if _mismatches(mapped, blob.chunks):
            mapped.close()
            self._damaged(blob)
            return None
        return mapped

    # -- fetching into it --

    def begin(self, chunks: ChunkList) -> frozenset[int]:
        """Make room for a blob and say which chunks are missing; raises `BlobsFull`, `DiskFull`."""
        cid = chunks.cid
        with self._lock, self._translated(self._root):
            self._refuse_closed()
            blob = self._blobs.get(cid)
            if blob is None:
                data = chunks.encode()
                blob = _Blob(cid, chunks, _cost(chunks.size, len(data)), missing=set(range(len(chunks))))
                self._make_room(blob.cost, count=1)
                _write_durably(self._path(cid, "list"), data)
                with open(self._path(cid, "part"), "wb") as file:
                    file.truncate(chunks.size)
                self._add(blob)
            blob.users += 1
            self._use(blob)
        try:
            missing = frozenset(self._look(blob))
            if not missing:
                self._complete(blob)
        except BaseException:
            self.end(cid)
            raise
        return missing

    def keep(self, cid: Cid, index: int, data: bytes) -> bool:
        """Keep a chunk of a blob that was begun; False when it does not match. The last one completes it."""
        blob = self._blobs.get(cid)
        if blob is None:
            raise _gone(cid)
        if not blob.chunks.matches(index, data):
            return False
        missing = self._look(blob)
        path = self._path(cid, "part")
        with self._lock, self._translated(path):
            self._refuse_closed()
            if self._blobs.get(cid) is not blob:
                raise _gone(cid)
            if index not in missing:
                return True
            with open(path, "r+b", buffering=0) as file:
                _write_all(file.fileno(), data, index * CHUNK)
            missing.discard(index)
            last = not missing
        if last:
            self._complete(blob)
        return True

    def end(self, cid: Cid) -> None:
        """Undo one `begin`; whatever is here stays, until it is evicted."""
        with self._lock:
            blob = self._blobs.get(cid)
            if blob is not None and blob.users:
                blob.users -= 1

    # -- our own --

    def draft(self) -> Draft:
        """Begin to write a blob of our own."""
        with self._lock:
            self._refuse_closed()
            self._drafts += 1
            return Draft(self, self._root / f"draft-{self._drafts}.tmp")

    def pin(self, cid: Cid, pinned: bool) -> bool:
        """Pin (never evicted) or unpin; False for an unknown blob."""
        path = self._path(cid, "pin")
        with self._lock, self._translated(path):
            blob = self._blobs.get(cid)
            if blob is None:
                return False
            self._refuse_closed()
            if pinned:
                _write_durably(path, b"")
            else:
                path.unlink(missing_ok=True)
                _sync_folder(self._root)
            blob.pinned = pinned
            return True

    def delete(self, cid: Cid) -> bool:
        """Delete a blob, pinned or not; False for an unknown one."""
        with self._lock, self._translated(self._root):
            blob = self._blobs.get(cid)
            if blob is None:
                return False
            self._refuse_closed()
            self._remove(blob)
            _sync_folder(self._root)
            return True

    def close(self) -> None:
        """Nothing more is written after this. Idempotent."""
        with self._lock:
            self._closed = True

    # -- what a draft asks --

    def reserve(self, more: int) -> None:
        """Make room for `more` bytes of a draft; raises `BlobsFull`."""
        with self._lock:
            self._refuse_closed()
            self._make_room(more, count=0)
            self._used += more

    def release(self, count: int) -> None:
        """Give back what a draft reserved."""
        with self._lock:
            self._used -= count

    def take_in(self, path: Path, chunks: ChunkList, pin: bool) -> BlobInfo:
        """Make a finished file, already synced, a blob. The draft's reservation ends before this."""
        data = chunks.encode()
        cid = chunks.cid
        with self._lock, self._translated(path):
            self._refuse_closed()
            blob = self._blobs.get(cid)
            if blob is None:
                blob = _Blob(cid, chunks, _cost(chunks.size, len(data)))
                self._make_room(blob.cost, count=1)
                _write_durably(self._path(cid, "list"), data)
                self._add(blob)
            if blob.complete:
                path.unlink()
            else:
                os.rename(path, self._path(cid, "data"))
                _sync_folder(self._root)
                self._path(cid, "part").unlink(missing_ok=True)
                blob.complete, blob.missing = True, set()
            self._use(blob)
            if pin and not blob.pinned:
                self.pin(cid, True)
            return _info(blob)

    # -- inside --

    def _look(self, blob: _Blob) -> set[int]:
        """The missing chunks, as the set that is kept; reads a partial blob the first time."""
        missing = blob.missing
        if missing is None:
            path = self._path(blob.cid, "part")
            with self._translated(path):
                os.truncate(path, blob.chunks.size)
                found: set[int] = set()
                if blob.chunks.size:
                    with open(path, "rb") as file:
                        found = _read_mismatches(file.fileno(), blob.chunks)
            with self._lock:
                if blob.missing is None:
                    blob.missing = found
                missing = blob.missing
        return missing

    def _complete(self, blob: _Blob) -> None:
        """All chunks are here: make them durable, and the partial blob a whole one. Idempotent."""
        part = self._path(blob.cid, "part")
        with self._translated(part):
            if not blob.complete:
                with contextlib.suppress(FileNotFoundError):  # deleted, or somebody was faster: see below
                    _sync_file(part)
            with self._lock:
                if self._blobs.get(blob.cid) is not blob:
                    raise _gone(blob.cid)
                if not blob.complete and not blob.missing:
                    os.rename(part, self._path(blob.cid, "data"))
                    _sync_folder(self._root)
                    blob.complete = True

    def _damaged(self, blob: _Blob) -> None:
        """Something read did not match: from now on the blob is a partial one, to be looked at again."""
        with self._lock, self._translated(self._root):
            if self._blobs.get(blob.cid) is not blob:
                return
            log.warning("the blob %s is damaged on disk; what is wrong counts as missing", to_text(blob.cid))
            if blob.complete:
                os.replace(self._path(blob.cid, "data"), self._path(blob.cid, "part"))
                blob.complete = False
            blob.missing = None

    def _make_room(self, cost: int, count: int) -> None:
        """Evict until `cost` bytes and `count` blobs more fit; raises `BlobsFull`, having evicted nothing."""
        over = self._used + cost - self._max
        surplus = len(self._blobs) + count - MAX_BLOBS
        if over <= 0 and surplus <= 0:
            return
        victims = []
        for blob in self._blobs.values():
            if over <= 0 and surplus <= 0:
                break
            if not blob.pinned and not blob.users:
                victims.append(blob)
                over -= blob.cost
                surplus -= 1
        if over > 0 or surplus > 0:
            raise BlobsFull(
                f"no room for {cost} bytes in {self._root}: {self._used} of {self._max} are taken, and what "
                "is pinned or under way is not evicted; delete some blobs, or raise blobs_max_mb"
            )
        for blob in victims:
            self._remove(blob)

    def _add(self, blob: _Blob) -> None:
        self._blobs[blob.cid] = blob
        self._used += blob.cost

    def _remove(self, blob: _Blob) -> None:
        """The list goes last: without it the rest is deleted at the next start."""
        for kind in ("data", "part", "pin", "list"):
            self._path(blob.cid, kind).unlink(missing_ok=True)
        del self._blobs[blob.cid]
        self._used -= blob.cost

    def _use(self, blob: _Blob) -> None:
        """Note that a blob is used now."""
        if self._blobs.get(blob.cid) is not blob:
            return
        self._blobs.move_to_end(blob.cid)
        now_us = self._now_us()
        if abs(now_us - blob.touched_us) >= TOUCH_US and not self._closed:
            blob.touched_us = now_us
            with self._translated(self._root):
                os.utime(self._path(blob.cid, "list"), ns=(now_us * 1_000, now_us * 1_000))

    def _scan(self) -> None:
        """Learn what is here; delete what a crash left half written."""
        found: dict[Cid, dict[str, Path]] = {}
        for path in self._root.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None:
                found.setdefault(blob_cid_of_digest(bytes.fromhex(match[1])), {})[match[2]] = path
            elif _TEMPORARY.fullmatch(path.name):
                path.unlink()
        blobs = []
        for cid, paths in found.items():
            try:
                blob = self._open(cid, paths)
            except OSError as error:
                log.warning("the blob %s cannot be read and is left alone: %s", to_text(cid), error)
                continue
            if blob is not None:
                blobs.append(blob)
                continue
            for kind in ("data", "part", "pin", "list"):
                self._path(cid, kind).unlink(missing_ok=True)
        for blob in sorted(blobs, key=lambda one: (one.touched_us, one.cid)):
            self._add(blob)

    def _open(self, cid: Cid, paths: dict[str, Path]) -> _Blob | None:
        """One blob as its files tell; None when they tell nothing that is of use."""
        if "list" not in paths or not ("part" in paths or "data" in paths):
            return None
        with open(paths["list"], "rb") as file:
            data = file.read(max_list(MAX_BLOB) + 1)
            touched_us = os.fstat(file.fileno()).st_mtime_ns // 1_000
        try:
            chunks = open_chunk_list(data, cid, MAX_BLOB)
        except BlobError as error:
            log.warning("a blob is deleted, as its list is damaged: %s", error)
            return None
        complete = "data" in paths and paths["data"].stat().st_size == chunks.size
        if complete and "part" in paths:
            paths["part"].unlink()
        if "data" in paths and not complete:
            log.warning("the blob %s is damaged on disk: it has not %d bytes", to_text(cid), chunks.size)
            os.replace(paths["data"], self._path(cid, "part"))
        return _Blob(
            cid,
            chunks,
            _cost(chunks.size, len(data)),
            complete=complete,
            pinned="pin" in paths,
            missing=set() if complete else None,
            touched_us=touched_us,
        )

    def _path(self, cid: Cid, kind: str) -> Path:
        return self._root / f"{digest(cid).hex()}.{kind}"

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StorageClosed(f"{self._root} is closed: the node is stopping")

    @contextlib.contextmanager
    def _translated(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(path, error) from error


def _info(blob: _Blob) -> BlobInfo:
    return BlobInfo(blob.cid, blob.chunks.size, blob.complete, blob.pinned)


def _gone(cid: Cid) -> BlobGone:
    return BlobGone(f"the blob {to_text(cid)} was deleted while it was being fetched")


def _cost(size: int, list_size: int) -> int:
    """Bytes that a blob takes of the quota."""
    return sum(-(-part // BLOCK) * BLOCK for part in (size, list_size))


def _mismatches(data: mmap.mmap, chunks: ChunkList) -> set[int]:
    """The chunks of a mapped blob that are not what the list names."""
    with memoryview(data) as view:
        wrong = set()
        for index in range(len(chunks)):
            with view[index * CHUNK : (index + 1) * CHUNK] as part:
                if not chunks.matches(index, part):
                    wrong.add(index)
        return wrong


def _read_mismatches(file: int, chunks: ChunkList) -> set[int]:
    """The same, of an open file; nothing is kept in memory."""
    return {
        index
        for index in range(len(chunks))
        if not chunks.matches(index, os.pread(file, chunks.length(index), index * CHUNK))
    }


def _write_all(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, at)
        view, at = view[count:], at + count


def _write_durably(path: Path, data: bytes) -> None:
    """A small file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
