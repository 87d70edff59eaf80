"""The text of a key file: an Ed25519 seed, in the clear or sealed by a passphrase.

A sealed seed lies in libsodium's secretbox (XSalsa20-Poly1305) under a key that argon2id derives from the
passphrase (RFC 9106; Biryukov, Dinu and Khovratovich, 2016). The file names its own version and costs, so
that they can rise without locking anybody out, and they are bounded before a byte is allocated. The agent's
public key stands beside the box: whose key it is can be said without the passphrase, and what is unsealed
has to be that agent's. A check over the whole line tells a damaged file from a wrong passphrase.

    ed25519-seed SEED check CHECK
    ed25519-seed-sealed/1 agent KEY argon2id OPS BYTES SALT secretbox BOX check CHECK

Everything here is a function of its arguments; `node.home` reads and writes the files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from node.errors import InvalidInput

SEED_SIZE: Final = 32
MIN_PASSPHRASE: Final = 8
"""Characters; what is shorter is guessed quickly whatever argon2id costs."""
MAX_PASSPHRASE: Final = 1024
"""Bytes of UTF-8."""
MAX_OPERATIONS: Final = 16
MAX_MEMORY: Final = 1 << 30
"""Bytes; a file that asks for more is refused instead of bringing the machine down."""
MIN_MEMORY: Final = 8 * 1024
SALT_SIZE: Final = 16
NONCE_SIZE: Final = 24
TAG_SIZE: Final = 16

_PLAIN = re.compile(r"ed25519-seed ([0-9a-f]{64}) check ([0-9a-f]{8})")
_SEALED = re.compile(
    r"(ed25519-seed-sealed/1 agent ([0-9a-f]{64}) argon2id ([0-9]{1,3}) ([0-9]{1,12}) ([0-9a-f]{32})"
    rf" secretbox ([0-9a-f]{{{2 * (NONCE_SIZE + SEED_SIZE + TAG_SIZE)}}})) check ([0-9a-f]{{8}})"
)
_NEWER = re.compile(r"ed25519-seed-sealed/([0-9]{1,4}) ")


class KeyFileError(ValueError):
    """A text is no key file; the message says in a few words why."""


class WrongKey(Exception):
    """The passphrase does not open this box."""


class TooLittleMemory(Exception):
    """The machine does not have the memory that the derivation costs."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What deriving a key costs: passes over `memory` bytes. The default: half a second and 256 MiB."""

    operations: int = 3
    memory: int = 256 << 20


DEFAULT_COST: Final = Cost()


@dataclass(frozen=True, slots=True)
class PlainKey:
    """A seed that whoever reads the file has."""

    seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A seed under a passphrase; `agent` is the public key that the file states."""

    agent: bytes
    cost: Cost
    salt: bytes
    box: bytes


def parse(text: str) -> PlainKey | SealedKey:
    """Read a key file; lines that begin with `#` are comments. Raises `KeyFileError`."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise KeyFileError(f"it has {len(lines)} lines with a key, not one")
    (line,) = lines
    if (match := _PLAIN.fullmatch(line)) is not None:
        seed = bytes.fromhex(match[1])
        if _seed_check(seed) != match[2]:
            raise KeyFileError("its check does not match")
        return PlainKey(seed)
    if (match := _SEALED.fullmatch(line)) is None:
        newer = _NEWER.match(line)
        if newer is not None and newer[1] != "1":
            raise KeyFileError(f"its format {newer[1]} is of a newer release; install it")
        raise KeyFileError("it does not hold a key")
    if _line_check(match[1]) != match[7]:
        raise KeyFileError("its check does not match")
    cost = Cost(int(match[3]), int(match[4]))
    if not (1 <= cost.operations <= MAX_OPERATIONS and MIN_MEMORY <= cost.memory <= MAX_MEMORY):
        raise KeyFileError(
            f"it asks for {cost.operations} passes over {cost.memory} bytes to be opened; at most "
            f"{MAX_OPERATIONS} over {MAX_MEMORY} are made"
        )
    agent, salt, box = (bytes.fromhex(match[group]) for group in (2, 5, 6))
    return SealedKey(agent, cost, salt, box)


def plain_line(seed: bytes) -> str:
    """The line of an unprotected seed."""
    return f"ed25519-seed {seed.hex()} check {_seed_check(seed)}"


def seal(
    seed: bytes, passphrase: str, random_bytes: Callable[[int], bytes], cost: Cost = DEFAULT_COST
) -> SealedKey:
    """Put a seed under a passphrase; takes `cost`. Raises `InvalidInput`, `TooLittleMemory`."""
    from nacl.secret import SecretBox
    from nacl.signing import SigningKey

    salt = random_bytes(SALT_SIZE)
    key = _derive(passphrase, salt, cost)
    box = bytes(SecretBox(key).encrypt(seed, random_bytes(NONCE_SIZE)))
    return SealedKey(bytes(SigningKey(seed).verify_key), cost, salt, box)


def unseal(sealed: SealedKey, passphrase: str) -> bytes:
    """The seed under a passphrase; takes the cost that the file names.

    Raises `WrongKey`, `TooLittleMemory`, and `KeyFileError` when the seed is another agent's.
    """
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox
    from nacl.signing import SigningKey

    try:
        seed = bytes(SecretBox(_derive(passphrase, sealed.salt, sealed.cost)).decrypt(sealed.box))
    except (CryptoError, InvalidInput) as error:
        raise WrongKey from error
    if bytes(SigningKey(seed).verify_key) != sealed.agent:
        raise KeyFileError("the key in it is not the agent's that it names")
    return seed


def sealed_line(sealed: SealedKey) -> str:
    """The line of a sealed seed."""
    line = (
        f"ed25519-seed-sealed/1 agent {sealed.agent.hex()} argon2id {sealed.cost.operations} "
        f"{sealed.cost.memory} {sealed.salt.hex()} secretbox {sealed.box.hex()}"
    )
    return f"{line} check {_line_check(line)}"


def agent_of(key: PlainKey | SealedKey) -> bytes:
    """The public key of a key file; of a sealed one as it states, which `unseal` checks."""
    from nacl.signing import SigningKey

    return key.agent if isinstance(key, SealedKey) else bytes(SigningKey(key.seed).verify_key)


def check_passphrase(passphrase: str) -> None:
    """Raise `InvalidInput` for one that is too short, too long or no text."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise InvalidInput(f"the passphrase has {len(passphrase)} characters; use at least {MIN_PASSPHRASE}")
    _normal(passphrase)


def _derive(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    from nacl.exceptions import RuntimeError as DerivationFailed
    from nacl.pwhash import argon2id

    try:
        return bytes(argon2id.kdf(SEED_SIZE, _normal(passphrase), salt, cost.operations, cost.memory))
    except (DerivationFailed, MemoryError) as error:
        raise TooLittleMemory from error


def _normal(passphrase: str) -> bytes:
    """The bytes that count, whichever way a keyboard composes its accents."""
    try:
        data = unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the passphrase is not text in UTF-8") from error
    if len(data) > MAX_PASSPHRASE:
        raise InvalidInput(f"the passphrase has {len(data)} bytes, the limit is {MAX_PASSPHRASE}")
    return data


def _seed_check(seed: bytes) -> str:
    return sha256(b"roseforest/key-file/1\0" + seed).hexdigest()[:8]


def _line_check(line: str) -> str:
    return sha256(b"roseforest/key-file/2\0" + line.encode()).hexdigest()[:8]
