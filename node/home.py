"""The home folder: where one node keeps its key, its configuration, its databases and what others may ask it.

| file | holds | mode |
|---|---|---|
| config.toml | settings, see `node.config` | |
| key, recovery-key | Ed25519 seeds as text, **not encrypted** | 0600 |
| manifest | the network's constitution, canonical bytes | |
| atlas/CID | atlas blobs, by content | |
| chain.db, held.db, derived.db | own chain, others' records, rebuildable state | |
| index/ | the vector index, rebuildable | |
| api-token | bearer token of the HTTP API | 0600 |
| lock | flock held while a daemon runs here; its text is the daemon's pid | |
| daemon.json | pid, API URL and addresses of the running daemon | |

Files are written whole or not at all (temporary name, fsync, rename, fsync of the folder), and a file that
holds a secret is never replaced: what is damaged is reported with how to recover, and left as it is. This
module imports nothing heavy, because every command begins with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from node.errors import HomeDamaged, HomeError, HomeInUse, HomeMissing

HOME_VARIABLE = "ROSEFOREST_HOME"
DEFAULT_HOME = "~/.roseforest"
SEED_SIZE = 32
TOKEN_BYTES = 32
MAX_SMALL_FILE = 64 * 1024
"""Bytes read of a key, token or manifest; a longer file is damaged."""
MAX_ATLAS_FILE = 64 << 20
LOCK_TRIES = 10
LOCK_PAUSE = 0.02
"""Seconds between tries: a command that looks whether a daemon runs holds the lock for an instant."""

_KEY_HEADERS = {
    "key": "# Rose Forest signing key, NOT encrypted: whoever reads this file can write in your name.",
    "recovery-key": "# Rose Forest recovery key, NOT encrypted: move it to a safe place, off this machine.",
}
_KEY_LINE = re.compile(r"ed25519-seed ([0-9a-f]{64}) check ([0-9a-f]{8})")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What a running daemon says about itself: process, API URL (`http://host:port`), libp2p multiaddrs."""

    pid: int
    api: str
    addresses: tuple[str, ...]


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
    def atlases(self) -> Path:
        return self.root / "atlas"

    @property
    def chain_db(self) -> Path:
        return self.root / "chain.db"

    @property
    def held_db(self) -> Path:
        return self.root / "held.db"

    @property
    def derived_db(self) -> Path:
        return self.root / "derived.db"

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def token(self) -> Path:
        return self.root / "api-token"

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
                f"there is no home folder {self.root}: create one with roseforest init{self._flag()}"
            )
        for path in (self.key, self.manifest):
            if not path.exists():
                raise HomeMissing(
                    f"{path} is missing: restore it from a backup, or finish roseforest init{self._flag()}"
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
            self.index.mkdir(exist_ok=True)
        except OSError as error:
            raise HomeError(f"cannot create the home folder {self.root}: {error.strerror}") from error

    def read_key(self) -> bytes:
        """The 32-byte seed of the signing key; raises `HomeMissing` or `HomeDamaged`."""
        return self._read_seed(self.key)

    def read_recovery_key(self) -> bytes:
        """The 32-byte seed of the recovery key; raises `HomeMissing` (moved away?) or `HomeDamaged`."""
        return self._read_seed(self.recovery_key)

    def write_key(self, seed: bytes) -> None:
        """Keep the signing key; raises `HomeError` when there is one already."""
        self._write_seed(self.key, seed)

    def write_recovery_key(self, seed: bytes) -> None:
        """Keep the recovery key; raises `HomeError` when there is one already."""
        self._write_seed(self.recovery_key, seed)

    def read_token(self) -> str:
        """The API's bearer token; raises `HomeMissing` or `HomeDamaged`."""
        text = _read_secret(
            self.token, f"delete it and restart the daemon: roseforest run{self._flag()} makes a new one"
        )
        if not _TOKEN.fullmatch(text.strip()):
            raise HomeDamaged(
                f"{self.token} does not hold an API token: delete it and restart the daemon for a new one"
            )
        return text.strip()

    def ensure_token(self, token: str) -> str:
        """Keep `token` unless there is one already; returns the one that counts."""
        if self.token.exists():
            return self.read_token()
        if not _TOKEN.fullmatch(token):
            raise HomeError("an API token is 32 to 128 URL-safe characters")
        _write_new(self.token, f"{token}\n".encode(), 0o600)
        return token

    def read_manifest(self) -> bytes:
        """The manifest's bytes, unchecked; raises `HomeMissing` or `HomeDamaged`."""
        return _read(
            self.manifest, MAX_SMALL_FILE, "restore it from a backup or from any peer of the network"
        )

    def write_manifest(self, data: bytes) -> None:
        """Keep the manifest; raises `HomeError` when another one is there."""
        if self.manifest.exists():
            if self.read_manifest() == data:
                return
            raise HomeError(f"{self.root} belongs to another network: use another --home for this one")
        _write_new(self.manifest, data, 0o644)

    def read_atlas(self, name: str) -> bytes | None:
        """The atlas blob kept under `name` (its CID as text), unchecked; None when it is not here."""
        path = self.atlases / name
        return _read(path, MAX_ATLAS_FILE, "delete it: it is fetched again") if path.exists() else None

    def write_atlas(self, name: str, data: bytes) -> None:
        """Keep an atlas blob under `name`."""
        write_atomically(self.atlases / name, data)

    def write_daemon(self, info: DaemonInfo) -> None:
        """Tell the commands where the running daemon is; written when it is ready to answer."""
        body = {"pid": info.pid, "api": info.api, "addresses": list(info.addresses)}
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
            return DaemonInfo(int(body["pid"]), str(body["api"]), tuple(map(str, body["addresses"])))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
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
                    f"stop it with roseforest stop{self._flag()}, or use another --home"
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

    def _flag(self) -> str:
        return "" if self.root == default_root() else f" --home {self.root}"

    def _read_seed(self, path: Path) -> bytes:
        text = _read_secret(
            path, "restore it from a backup; without it nobody can write in this agent's name"
        )
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        match = _KEY_LINE.fullmatch(lines[0].strip()) if len(lines) == 1 else None
        if match is None or _check(bytes.fromhex(match[1])) != match[2]:
            raise HomeDamaged(
                f"{path} is damaged (its check does not match): restore it from a backup, "
                "or move it away and found a new agent in another --home"
            )
        return bytes.fromhex(match[1])

    def _write_seed(self, path: Path, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise HomeError(f"a key seed has {SEED_SIZE} bytes, not {len(seed)}")
        _write_new(
            path,
            f"{_KEY_HEADERS[path.name]}\ned25519-seed {seed.hex()} check {_check(seed)}\n".encode(),
            0o600,
        )


def default_root() -> Path:
    """`$ROSEFOREST_HOME`, or `~/.roseforest`."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser().absolute()


def open_home(path: str | Path | None) -> Home:
    """The home folder at `path`, or the default one; nothing is read yet."""
    return Home(default_root() if path is None else Path(path).expanduser().absolute())


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a crash leaves the old bytes or the new ones; durable on return."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_durably(temporary, data, mode)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HomeError(f"cannot write {path}: {error.strerror}") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Like `write_atomically`, but never replaces a file: the link fails when one is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_durably(temporary, data, mode)
        os.link(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise HomeError(f"{path} exists already and is not overwritten") from error
    except OSError as error:
        raise HomeError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_durably(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, limit: int, recovery: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise HomeMissing(f"{path} is missing: {recovery}") from error
    except OSError as error:
        raise HomeDamaged(f"{path} cannot be read ({error.strerror}): {recovery}") from error
    if not data or len(data) > limit:
        raise HomeDamaged(f"{path} is {'empty' if not data else f'longer than {limit} bytes'}: {recovery}")
    return data


def _read_secret(path: Path, recovery: str) -> str:
    data = _read(path, MAX_SMALL_FILE, recovery)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise HomeDamaged(f"{path} can be read by others (mode {mode:04o}): run chmod 600 {path}")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise HomeDamaged(f"{path} is damaged (byte {error.start} is not text): {recovery}") from error


def _check(seed: bytes) -> str:
    return sha256(b"roseforest/key-file/1\0" + seed).hexdigest()[:8]


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
