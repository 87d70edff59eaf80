"""The keys that open the exchange: a file of hashes in the home folder, changed by the owner's commands.

A key is 32 random bytes as text and is shown once, when it is made; kept is its SHA-256, which is enough
because a random key cannot be guessed, with a name and the time it was made. A key that is presented is
compared with every hash in constant time. The daemon looks at the file's stamp before each comparison, so
that a revoked key ends with the request after it. A file that cannot be read opens for nobody.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from node.durable_files import read_secret, write_atomically
from node.errors import HomeDamaged, HomeMissing, InvalidInput, NotFound

FILE = "exchange-keys.json"
PREFIX = "rfx_"
SECRET_SIZE = 32
MAX_KEYS = 100
MAX_NAME = 64
"""ASCII characters of a key's name."""
MAX_PRESENTED = 256
"""Bytes of a key as a request presents it."""
ID_DIGITS = 16

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its hash: what it is called and when it was made, in µs."""

    name: str
    created_us: int
    digest: bytes

    @property
    def id(self) -> str:
        """What tells it from a later key of the same name; no secret."""
        return self.digest.hex()[:ID_DIGITS]


class KeyRing:
    """The keys of a home as they stand in the file at this moment."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises `HomeDamaged`."""
        self._path = path
        self._stamp = _stamp_of(path)
        self._keys = read_keys(path)

    def find(self, presented: bytes) -> ApiKey | None:
        """The key that was presented, or None. Reads the file again when it has changed; O(keys)."""
        self._refresh()
        digest = sha256(presented).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def ids(self) -> frozenset[str]:
        """The keys that are valid now."""
        self._refresh()
        return frozenset(key.id for key in self._keys)

    def _refresh(self) -> None:
        stamp = _stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp, self._keys = stamp, ()
        try:
            self._keys = read_keys(self._path)
        except HomeDamaged as error:
            log.error("the exchange is closed: %s", error)


def presented_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key in `Authorization`, bare or after `Bearer`; None where there is none that could be one."""
    value = headers.get(b"authorization", b"").strip()
    if value[:7].lower() == b"bearer ":
        value = value[7:].strip()
    return value if 0 < len(value) <= MAX_PRESENTED else None


def add_key(path: Path, name: str, now_us: int, secret: bytes) -> tuple[ApiKey, str]:
    """Keep a new key; returns it and its text, which is nowhere else. Durable on return.

    Raises `InvalidInput` for a name that is taken or none, and beyond `MAX_KEYS`.
    """
    if not name or len(name) > MAX_NAME or not (name.isascii() and name.isprintable()):
        raise InvalidInput(f"a key's name is 1 to {MAX_NAME} printable ASCII characters")
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"a key is made of {SECRET_SIZE} random bytes")
    text = PREFIX + base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    made = ApiKey(name, now_us, sha256(text.encode()).digest())
    with _changing(path):
        keys = read_keys(path)
        if any(key.name == name for key in keys):
            raise InvalidInput(f"there is a key {name!r} already: revoke it, or choose another name")
        if len(keys) >= MAX_KEYS:
            raise InvalidInput(f"{MAX_KEYS} keys are the most that a node keeps: revoke some")
        _write(path, (*keys, made))
    return made, text


def revoke_key(path: Path, name: str) -> ApiKey:
    """Take a key back; the running daemon refuses it from the next request on. Raises `NotFound`."""
    with _changing(path):
        keys = read_keys(path)
        gone = next((key for key in keys if key.name == name), None)
        if gone is None:
            raise NotFound(f"there is no key {name!r:.120}: roseforest exchange key list shows them")
        _write(path, tuple(key for key in keys if key is not gone))
    return gone


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys in the order in which they were made; none without the file. Raises `HomeDamaged`."""
    advice = "move it away to have no keys, and make new ones"
    try:
        rows = json.loads(read_secret(path, advice))
        if type(rows) is not list or len(rows) > MAX_KEYS:
            raise ValueError("it is not a list of keys")
        return tuple(_key(row) for row in rows)
    except HomeMissing:
        return ()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HomeDamaged(f"{path} is no list of keys ({error}): {advice}") from error


def _key(row: Any) -> ApiKey:
    name, created_us, digest = row["name"], row["created_us"], bytes.fromhex(row["sha256"])
    if type(name) is not str or type(created_us) is not int or len(digest) != sha256().digest_size:
        raise ValueError("a key has name, created_us and sha256")
    return ApiKey(name, created_us, digest)


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    rows = [{"name": key.name, "created_us": key.created_us, "sha256": key.digest.hex()} for key in keys]
    write_atomically(path, json.dumps(rows, indent=1).encode(), 0o600)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Two commands at once must not undo each other: a revoked key would be back."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
