"""Backups: one tar file with what cannot be made again, and a new home out of it.

    backup.json   whose home, of which network, when it was taken
    instance      the mark that this home came out of a backup (`node.instance`), however it is unpacked
    key, recovery-key, manifest, config.toml, blocked.json, peers, grant, privacy.json, chain.db, held.db,
                  learning.db, atlas/…, blobs/…
    hashes.json   size and sha256 of every file before it; without it the backup is incomplete

Databases are snapshots, so a daemon may go on writing meanwhile. Keys stay as they are, sealed or not.
Restoring trusts nothing: only these names, plain files only, no size beyond the archive's own, and a new
folder that appears under its name when every hash agrees. Header blocks are read one by one, because the
extensions of tar let a few bytes ask for any amount of memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

from chain.cid import to_text
from chain.errors import ChainError
from chain.identity import peer_id
from chain.manifest import decode_manifest
from node.durable_files import sync_folder
from node.errors import HomeError, InvalidInput
from node.home import Home
from node.instance import restored_mark
from node.storage.snapshot import take_snapshot

FORMAT: Final = 1
BLOCK: Final = 512
CHUNK: Final = 1 << 20
MAX_FILES: Final = 100_000
MAX_DESCRIPTION: Final = 4096
"""Bytes of backup.json."""
MAX_HASHES: Final = 32 << 20
"""Bytes of hashes.json."""
DESCRIPTION: Final = "backup.json"
HASHES: Final = "hashes.json"
UNFINISHED: Final = frozenset({".part", ".tmp"})
"""Blobs that are being fetched or written; their holders have them."""
PRIVACY: Final = "privacy.json"
REQUIRED: Final = frozenset({"instance", "key", "manifest", "chain.db"})
COPIED: Final = ("key", "recovery-key", "manifest", "config.toml", "blocked.json", "peers", "grant", PRIVACY)
"""Files that are copied as they are, those of them that there are."""
_PLAIN: Final = frozenset({*REQUIRED, *COPIED, "held.db", "learning.db"})
_NESTED: Final = re.compile(r"(atlas|blobs)(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}){1,2}")


class BackupError(HomeError):
    """A file is no backup, or not a whole one; nothing was restored."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup at a glance: whose it is, its network, when it was taken, its files and their bytes."""

    agent: str
    network: str
    made: str
    files: int
    size: int


def make_backup(home: Home, target: Path, made: str, *, blobs: bool) -> Backup:
    """Write a backup of `home` to the new file `target`, mode 0600, whole or not at all; blocking.

    `made` is the time that it states. Raises `HomeError` when `target` exists or cannot be written, and
    `StorageError` for a database that cannot be read.
    """
    home.require_initialised()
    home.require_chain()
    if target.exists():
        raise HomeError(f"{target} exists already and is not overwritten")
    manifest = decode_manifest(home.read_manifest())
    described = (peer_id(home.agent(home.key)), to_text(manifest.network_id), made)
    folder = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        folder.mkdir(mode=0o700)
        try:
            return _write(home, target, folder, described, blobs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise HomeError(f"cannot write {target}: {error.strerror or error}") from error


def restore_backup(source: Path, home: Home) -> Backup:
    """Make the new folder of `home` from a backup; whole or not at all, blocking.

    Raises `BackupError` for what is no whole backup, `HomeError` when the folder is there already.
    """
    if home.root.exists() and (not home.root.is_dir() or any(home.root.iterdir())):
        raise HomeError(f"{home.root} exists already and is not overwritten: give --home a new folder")
    folder = home.root.with_name(f".{home.root.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        try:
            with open(source, "rb") as archive:
                backup = _unpack(source, archive, folder)
            _check(source, Home(folder), backup)
            folder.rename(home.root)  # also onto an empty folder
            sync_folder(home.root.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise HomeError(f"cannot restore {source} to {home.root}: {error.strerror or error}") from error
    return backup


def _write(home: Home, target: Path, folder: Path, described: tuple[str, str, str], blobs: bool) -> Backup:
    agent, network, made = described
    hashes: dict[str, list[Any]] = {}
    draft = folder / "backup"
    description = {"format": FORMAT, "agent": agent, "network": network, "made": made}
    with (
        open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):

        def add(name: str, source: Path) -> None:
            with open(source, "rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                hashed = _Hashed(opened)
                archive.addfile(_member(name, size), hashed)
            hashes[name] = [size, hashed.digest.hexdigest()]

        def add_bytes(name: str, data: bytes) -> None:
            place = folder / "bytes"
            place.write_bytes(data)
            add(name, place)

        add_bytes(DESCRIPTION, _json(description))
        add_bytes("instance", restored_mark(made))
        for name in COPIED:
            if (home.root / name).exists():
                add(name, home.root / name)
        for database in (home.chain_db, home.held_db, home.learning_db):
            if database.exists():
                copy = folder / database.name
                take_snapshot(database, copy)
                add(database.name, copy)
                copy.unlink()
        for name, path in _nested(home, blobs):
            try:
                add(name, path)
            except FileNotFoundError:
                continue  # dropped by the daemon meanwhile
        listed = dict(hashes)
        add_bytes(HASHES, _json(listed))
        archive.close()
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, target)
    except FileExistsError as error:
        raise HomeError(f"{target} exists already and is not overwritten") from error
    sync_folder(target.parent)
    return Backup(agent, network, made, len(listed), target.stat().st_size)


def _nested(home: Home, blobs: bool) -> Iterator[tuple[str, Path]]:
    """The files of atlas/ and blobs/ with the names that a backup gives them."""
    for top in (home.atlases, *([home.blobs] if blobs else [])):
        for path in sorted(top.rglob("*")):
            name = path.relative_to(home.root).as_posix()
            if path.suffix in UNFINISHED:
                continue
            if path.is_file() and not path.is_symlink() and _NESTED.fullmatch(name):
                yield name, path


def _unpack(source: Path, archive: IO[bytes], folder: Path) -> Backup:
    """Write the files of a backup below `folder`; what they hold is checked against hashes.json only."""
    found: dict[str, list[Any]] = {}
    left = os.fstat(archive.fileno()).st_size
    description: dict[str, Any] | None = None
    while True:
        name, size = _next_member(source, archive)
        left -= BLOCK + size
        if left < 0:
            raise BackupError(f"{source} ends in the middle of {name}: take another copy of it")
        if name == HASHES:
            if _parsed(source, name, archive, size, MAX_HASHES) != found:
                raise BackupError(f"{source} is damaged: its files are not the ones that it lists")
            break
        if description is None:
            if name != DESCRIPTION:
                raise BackupError(f"{source} is no backup of a home folder: it begins with {name[:60]!r}")
            data = _exactly(source, name, archive, size, MAX_DESCRIPTION)
            description = _described(source, data)
            found[name] = [size, sha256(data).hexdigest()]
            continue
        if name in found or not (name in _PLAIN or _NESTED.fullmatch(name)) or len(found) >= MAX_FILES:
            raise BackupError(f"{source} is no backup of a home folder: it holds {name[:60]!r}")
        found[name] = [size, _copy_out(source, name, archive, size, folder)]
    if missing := REQUIRED - found.keys():
        raise BackupError(f"{source} is no whole backup: {min(missing)} is missing")
    assert description is not None
    return Backup(
        description["agent"],
        description["network"],
        description["made"],
        len(found),
        os.fstat(archive.fileno()).st_size,
    )


def _check(source: Path, home: Home, backup: Backup) -> None:
    """Raise `BackupError` unless key and manifest are those that the backup says it is of."""
    try:
        network = to_text(decode_manifest(home.read_manifest()).network_id)
        agent = peer_id(home.agent(home.key))
    except (HomeError, ChainError) as error:
        raise BackupError(f"{source} holds a key or manifest that cannot be used: {error}") from error
    if (agent, network) != (backup.agent, backup.network):
        raise BackupError(f"{source} holds another key or manifest than it says")


def _next_member(source: Path, archive: IO[bytes]) -> tuple[str, int]:
    block = archive.read(BLOCK)
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise BackupError(f"{source} is no whole backup of a home folder ({error})") from error
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
        raise BackupError(f"{source} is no backup of a home folder: {member.name[:60]!r} is no plain file")
    return member.name, member.size


def _copy_out(source: Path, name: str, archive: IO[bytes], size: int, folder: Path) -> str:
    """Write one file below `folder`, durably; returns its sha256."""
    path = folder / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = sha256()
    left = size
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while left:
            data = archive.read(min(CHUNK, left))
            if not data:
                raise BackupError(f"{source} ends in the middle of {name}: take another copy of it")
            digest.update(data)
            file.write(data)
            left -= len(data)
        file.flush()
        os.fsync(file.fileno())
    _pass_padding(archive, size)
    return digest.hexdigest()


def _exactly(source: Path, name: str, archive: IO[bytes], size: int, limit: int) -> bytes:
    data = b"" if size > limit else archive.read(size)
    if len(data) != size or not data:
        raise BackupError(f"{source} is no whole backup: its {name} is empty, cut off or over {limit} bytes")
    _pass_padding(archive, size)
    return data


def _parsed(source: Path, name: str, archive: IO[bytes], size: int, limit: int) -> Any:
    try:
        return json.loads(_exactly(source, name, archive, size, limit))
    except (ValueError, RecursionError) as error:
        raise BackupError(f"{source} is damaged: its {name} is not JSON") from error


def _described(source: Path, data: bytes) -> dict[str, Any]:
    try:
        description = json.loads(data)
        if description["format"] != FORMAT:
            raise BackupError(
                f"{source} has format {description['format']!r:.20}, this release reads {FORMAT}: "
                "install a newer one"
            )
        if not all(type(description[key]) is str for key in ("agent", "network", "made")):
            raise TypeError("a field is no text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackupError(f"{source} is damaged: its {DESCRIPTION} makes no sense ({error})") from error
    return dict(description)


def _pass_padding(archive: IO[bytes], size: int) -> None:
    archive.read(-size % BLOCK)


def _member(name: str, size: int) -> tarfile.TarInfo:
    if len(name.encode()) > 100:
        raise InvalidInput(f"the file name {name!r} is too long for a backup")
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _json(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data
