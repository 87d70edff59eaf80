"""The home folder: where one node keeps its key, its configuration, its databases and what others may ask it.

| file | holds | mode |
|---|---|---|
| config.toml | settings, see `node.config` | |
| key, recovery-key | Ed25519 seeds as text, sealed by a passphrase or **not encrypted** | 0600 |
| manifest | the network's constitution, canonical bytes | |
| instance | what tells this home from a copy of it | |
| grant, invite-links | the founder's leave to invite; open invite links | links: 0600 |
| atlas/CID | atlas blobs, by content | |
| chain.db, held.db, derived.db | own chain, others' records, rebuildable state | |
| calibration.json | how far estimates from sketches are off, rebuildable | |
| learning.db | the learning tasks followed, and updates promised | |
| learning.db | what this node promised in learning tasks | |
| privacy.json | what learning tasks may cost in privacy, and have cost, see `node.privacy_ledger` | 0600 |
| blobs/ | large content by digest: model parameters, see `node.storage.blob_files` | |
| api-token | bearer token of the HTTP API | 0600 |
| mcp-token | bearer token of `roseforest mcp --http`, which gives no other access | 0600 |
| exchange-keys.json, exchange-agents.json | hashes of the exchange's keys; who is registered | 0600 |
| lock | flock held while a daemon runs here; its text is the daemon's pid | |
| daemon.json | pid, URLs and addresses of the running daemon | |

Files are written whole or not at all (temporary name, fsync, rename, fsync of the folder), and a file that
holds a secret is never replaced, except by the same key under another passphrase: what is damaged is reported
with how to recover, and left as it is. This module imports nothing heavy, because every command begins with
it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from node.durable_files import MAX_SMALL_FILE as MAX_SMALL_FILE
from node.durable_files import read_bounded, read_secret, write_new
from node.durable_files import write_atomically as write_atomically
from node.errors import HomeDamaged, HomeError, HomeInUse, HomeMissing, KeyLocked, WrongPassphrase
from node.key_file import (
    DEFAULT_COST,
    SEED_SIZE,
    Cost,
    KeyFileError,
    PlainKey,
    SealedKey,
    TooLittleMemory,
    WrongKey,
    agent_of,
    check_passphrase,
    parse,
    plain_line,
    seal,
    sealed_line,
    unseal,
)

HOME_VARIABLE = "ROSEFOREST_HOME"
DEFAULT_HOME = "~/.roseforest"
PASSPHRASE_VARIABLE = "ROSEFOREST_PASSPHRASE"
TOKEN_BYTES = 32
MAX_ATLAS_FILE = 64 << 20
LOCK_TRIES = 10
LOCK_PAUSE = 0.02
"""Seconds between tries: a command that looks whether a daemon runs holds the lock for an instant."""

_KEY_COMMENTS = {
    ("key", False): "signing key, NOT encrypted: whoever reads this file can write in your name.",
    ("recovery-key", False): "recovery key, NOT encrypted: move it to a safe place, off this machine.",
    ("key", True): "signing key, sealed by a passphrase: without it nobody can use this file.",
    (
        "recovery-key",
        True,
    ): "recovery key, sealed by a passphrase: move it to a safe place, off this machine.",
}
_NO_KEY = "without it nobody can write in this agent's name"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What a running daemon says about itself: process, API URL (`http://host:port`), libp2p multiaddrs."""

    pid: int
    api: str
    addresses: tuple[str, ...]
    exchange: str | None = None
    """The URL of the exchange, where there is one."""


@dataclass(frozen=True, slots=True)
class Protection:
    """How a key is sealed: the passphrase, where salt and nonce come from, and what opening it costs."""

    passphrase: str = field(repr=False)
    random_bytes: Callable[[int], bytes] = field(repr=False)
    cost: Cost = DEFAULT_COST


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one home folder, and its small files. Making a `Home` touches nothing on disk."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def key(self) -> Path:
        return self.root / "key"

    @property
    def app_states(self) -> Path:
        """Folder of what ClientApps keep from message to message."""
        return self.root / "app-states"

    @property
    def recovery_key(self) -> Path:
        return self.root / "recovery-key"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest"

    @property
    def founding(self) -> Path:
        """The manifest of a network that `init` has begun to found and not finished."""
        return self.root / "manifest.founding"

    @property
    def instance(self) -> Path:
        """The note that tells this home from a copy of it, see `node.instance`."""
        return self.root / "instance"

    @property
    def grant(self) -> Path:
        """The founder's word that this agent may invite others."""
        return self.root / "grant"

    @property
    def blocked(self) -> Path:
        """What the owner does not want here, see `node.moderation`."""
        return self.root / "blocked.json"

    @property
    def peers(self) -> Path:
        """Addresses of the peers seen last."""
        return self.root / "peers"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def atlases(self) -> Path:
        return self.root / "atlas"

    @property
    def chain_db(self) -> Path:
        return self.root / "chain.db"

    @property
    def held_db(self) -> Path:
        return self.root / "held.db"

    @property
    def learning_db(self) -> Path:
        return self.root / "learning.db"

    @property
    def derived_db(self) -> Path:
        return self.root / "derived.db"

    @property
    def token(self) -> Path:
        return self.root / "api-token"

    @property
    def mcp_token(self) -> Path:
        """What agents show to `roseforest mcp --http`: it opens nothing else."""
        return self.root / "mcp-token"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def daemon(self) -> Path:
        return self.root / "daemon.json"

    def is_initialised(self) -> bool:
        """Whether `init` finished here: the manifest is the last file that it writes."""
        return self.manifest.exists() and self.key.exists()

    def require_initialised(self) -> None:
        """Raise `HomeMissing` unless `init` finished here."""
        if not self.root.is_dir():
            raise HomeMissing(
                f"there is no home folder {self.root}: create one with roseforest init{self.flag()}"
            )
        for path in (self.key, self.manifest):
            if not path.exists():
                raise HomeMissing(
                    f"{path} is missing: restore it from a backup, or finish roseforest init{self.flag()}"
                )

    def require_unsigned(self) -> None:
        """Raise `HomeDamaged` when something here was made with a key that is gone."""
        for path in (self.manifest, self.chain_db):
            if path.exists():
                raise HomeDamaged(
                    f"{self.key} is missing although {path} is there: restore it from a backup, "
                    "or found a new agent in another --home"
                )

    def require_chain(self) -> None:
        """Raise `HomeDamaged` when the chain that `init` began is gone: a new one would fork it."""
        if not self.chain_db.exists():
            raise HomeDamaged(
                f"{self.chain_db} is missing: restore it from a backup, "
                "or found a new agent in another --home"
            )

    def create_folders(self) -> None:
        """Make the folder (0700) and its subfolders; existing ones are left as they are."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.atlases.mkdir(exist_ok=True)
        except OSError as error:
            raise HomeError(f"cannot create the home folder {self.root}: {error.strerror}") from error

    def remove_former_index(self) -> None:
        """Delete the files in which releases before kept copies of vectors, of erased entries too perhaps."""
        folder = self.root / "index"
        try:
            for file in (folder / "stamp.json", folder / "codes.npy", *folder.glob("*.faiss")):
                file.unlink(missing_ok=True)
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        except OSError as error:
            raise HomeError(
                f"cannot delete {folder}, which is not used any more: {error.strerror}"
            ) from error

    def key_file(self, path: Path) -> PlainKey | SealedKey:
        """What the file `key` or `recovery_key` holds, still sealed if it is.

        Raises `HomeMissing` (moved away?) or `HomeDamaged`.
        """
        text = read_secret(path, f"restore it from a backup; {_NO_KEY}")
        try:
            return parse(text)
        except KeyFileError as error:
            raise HomeDamaged(
                f"{path} is damaged ({error}): restore it from a backup, "
                "or move it away and found a new agent in another --home"
            ) from error

    def agent(self, path: Path) -> bytes:
        """Whose key a file holds (32 bytes), without its passphrase; raises as `key_file`."""
        return agent_of(self.key_file(path))

    def is_sealed(self) -> bool:
        """Whether the signing key is under a passphrase; raises as `key_file`."""
        return isinstance(self.key_file(self.key), SealedKey)

    def read_key(self, passphrase: str | None = None) -> bytes:
        """The 32-byte seed of the signing key; half a second when it is sealed.

        Raises `HomeMissing` or `HomeDamaged`, `KeyLocked` for a sealed key and no passphrase, and
        `WrongPassphrase`. A passphrase for a key that needs none is not looked at.
        """
        return self._open_key(self.key, passphrase)

    def read_recovery_key(self, passphrase: str | None = None) -> bytes:
        """The 32-byte seed of the recovery key; raises as `read_key`."""
        return self._open_key(self.recovery_key, passphrase)

    def write_key(self, seed: bytes, protection: Protection | None = None) -> None:
        """Keep the signing key, sealed or in the clear; raises `HomeError` when there is one already."""
        write_new(self.key, _key_text(self.key, seed, protection), 0o600)

    def install_key(self, key: PlainKey | SealedKey) -> None:
        """Keep a signing key as it came, sealed or not; raises `HomeError` when there is one already."""
        sealed = isinstance(key, SealedKey)
        line = sealed_line(key) if isinstance(key, SealedKey) else plain_line(key.seed)
        text = f"# Rose Forest {_KEY_COMMENTS['key', sealed]}\n{line}\n"
        write_new(self.key, text.encode(), 0o600)

    def write_recovery_key(self, seed: bytes, protection: Protection | None = None) -> None:
        """Keep the recovery key, sealed or in the clear; raises `HomeError` when there is one already."""
        write_new(self.recovery_key, _key_text(self.recovery_key, seed, protection), 0o600)

    def protect_keys(self, passphrase: str | None, protection: Protection | None) -> list[Path]:
        """Seal the keys of this home anew (None: keep them in the clear); returns the files written.

        All are opened with the old `passphrase` before one is written, the signing key last. After a crash
        the same call goes on where it stopped: a file that opens with the new passphrase only is done.
        Hold the lock. Raises as `read_key`.
        """
        opened: list[tuple[Path, bytes]] = []
        for path in (self.recovery_key, self.key):
            if path == self.recovery_key and not path.exists():
                continue  # moved away, as it should be
            try:
                opened.append((path, self._open_key(path, passphrase)))
            except (KeyLocked, WrongPassphrase):
                if path == self.key or protection is None:
                    raise
                self._open_key(path, protection.passphrase)
        for path, seed in opened:
            write_atomically(path, _key_text(path, seed, protection), 0o600)
        return [path for path, _ in opened]

    def read_token(self) -> str:
        """The API's bearer token; raises `HomeMissing` or `HomeDamaged`."""
        return _read_token(self.token, f"restart the daemon: roseforest run{self.flag()} makes a new one")

    def ensure_token(self, token: str) -> str:
        """Keep `token` unless there is one already; returns the one that counts."""
        return self.read_token() if self.token.exists() else _new_token(self.token, token)

    def ensure_mcp_token(self, token: str) -> str:
        """As `ensure_token`, for `mcp_token`."""
        if self.mcp_token.exists():
            return _read_token(self.mcp_token, f"start roseforest mcp{self.flag()} again for a new one")
        return _new_token(self.mcp_token, token)

    def read_manifest(self) -> bytes:
        """The manifest's bytes, unchecked; raises `HomeMissing` or `HomeDamaged`."""
        return read_bounded(
            self.manifest, MAX_SMALL_FILE, "restore it from a backup or from any peer of the network"
        )

    def write_manifest(self, data: bytes) -> None:
        """Keep the manifest; raises `HomeError` when another one is there."""
        if self.manifest.exists():
            if self.read_manifest() == data:
                return
            raise HomeError(f"{self.root} belongs to another network: use another --home for this one")
        write_new(self.manifest, data, 0o644)

    def read_atlas(self, name: str) -> bytes | None:
        """The atlas blob kept under `name` (its CID as text), unchecked; None when it is not here."""
        path = self.atlases / name
        return read_bounded(path, MAX_ATLAS_FILE, "delete it: it is fetched again") if path.exists() else None

    def has_atlas(self) -> bool:
        """Whether any atlas is here."""
        return self.atlases.exists() and any(self.atlases.iterdir())

    def write_atlas(self, name: str, data: bytes) -> None:
        """Keep an atlas blob under `name`."""
        write_atomically(self.atlases / name, data)

    def write_daemon(self, info: DaemonInfo) -> None:
        """Tell the commands where the running daemon is; written when it is ready to answer."""
        body: dict[str, object] = {"pid": info.pid, "api": info.api, "addresses": list(info.addresses)}
        if info.exchange is not None:
            body["exchange"] = info.exchange
        write_atomically(self.daemon, (json.dumps(body) + "\n").encode())

    def remove_daemon(self) -> None:
        """Forget the daemon: the last step of a clean exit."""
        self.daemon.unlink(missing_ok=True)

    def read_daemon(self) -> DaemonInfo | None:
        """The daemon that holds this home's lock, once it is ready; None when none runs.

        A file that a killed daemon left behind does not count, because its lock is gone: otherwise the API
        token could be sent to whoever listens on that port now.
        """
        if self.locked_by() is None:
            return None
        try:
            body = json.loads(self.daemon.read_bytes())
            exchange = body.get("exchange")
            return DaemonInfo(
                int(body["pid"]),
                str(body["api"]),
                tuple(map(str, body["addresses"])),
                None if exchange is None else str(exchange),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise HomeDamaged(
                f"{self.daemon} is not readable ({error}): stop the daemon and start it again"
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home folder for this process; raises `HomeInUse` naming the process that has it."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _take_lock(descriptor):
                raise HomeInUse(
                    f"{self.root} is in use by process {_pid_in(descriptor)}: "
                    f"stop it with roseforest stop{self.flag()}, or use another --home"
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def locked_by(self) -> str | None:
        """The pid of the process that holds this home, as text; None when nobody does."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid_in(descriptor)
        finally:
            os.close(descriptor)
        return None

    def flag(self) -> str:
        """What a command needs to be said to work on this home: nothing for the default one."""
        return "" if self.root == default_root() else f" --home {self.root}"

    def _open_key(self, path: Path, passphrase: str | None) -> bytes:
        key = self.key_file(path)
        if isinstance(key, PlainKey):
            return key.seed
        if passphrase is None:
            raise KeyLocked(
                f"{path} is protected by a passphrase: give it at the terminal, "
                f"with --passphrase-file FILE or in {PASSPHRASE_VARIABLE}"
            )
        try:
            return unseal(key, passphrase)
        except WrongKey as error:
            raise WrongPassphrase(f"this is not the passphrase of {path}") from error
        except TooLittleMemory as error:
            raise HomeError(_too_little(path, key.cost)) from error
        except KeyFileError as error:
            raise HomeDamaged(f"{path} is damaged ({error}): restore it from a backup") from error


def default_root() -> Path:
    """`$ROSEFOREST_HOME`, or `~/.roseforest`."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser().absolute()


def open_home(path: str | Path | None) -> Home:
    """The home folder at `path`, or the default one; nothing is read yet."""
    return Home(default_root() if path is None else Path(path).expanduser().absolute())


def _read_token(path: Path, anew: str) -> str:
    text = read_secret(path, f"delete it and {anew}").strip()
    if not _TOKEN.fullmatch(text):
        raise HomeDamaged(f"{path} does not hold an API token: delete it and {anew}")
    return text


def _new_token(path: Path, token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise HomeError("an API token is 32 to 128 URL-safe characters")
    write_new(path, f"{token}\n".encode(), 0o600)
    return token


def _key_text(path: Path, seed: bytes, protection: Protection | None) -> bytes:
    if len(seed) != SEED_SIZE:
        raise HomeError(f"a key seed has {SEED_SIZE} bytes, not {len(seed)}")
    if protection is None:
        line = plain_line(seed)
    else:
        check_passphrase(protection.passphrase)
        try:
            line = sealed_line(seal(seed, protection.passphrase, protection.random_bytes, protection.cost))
        except TooLittleMemory as error:
            raise HomeError(_too_little(path, protection.cost)) from error
    comment = _KEY_COMMENTS[path.name, protection is not None]
    return f"# Rose Forest {comment}\n{line}\n".encode()


def _too_little(path: Path, cost: Cost) -> str:
    return f"{path} needs {cost.memory >> 20} MiB of free memory to be sealed or opened: close something"


def _take_lock(descriptor: int) -> bool:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE)
        else:
            return True
    return False


def _pid_in(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
