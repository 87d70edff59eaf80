"""Agent identity: one Ed25519 key is the author of a chain, the libp2p peer and the DID.

The 32-byte public key (`AgentId`) is the identity; `peer_id` and `did_key` are spellings of it. libsodium's
verification is normative, because Ed25519 implementations differ on malformed points and all nodes have
to agree. Key material comes in as an argument: this floor draws no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from chain.errors import IdentityError

AgentId: TypeAlias = bytes

AGENT_ID_SIZE = 32
SEED_SIZE = 32
SIGNATURE_SIZE = 64

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_INDEX = {char: value for value, char in enumerate(_BASE58)}
_PEER_ID_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])  # identity multihash of the protobuf public key
_DID_PREFIX = bytes([0xED, 0x01])  # multicodec ed25519-pub
_MAX_TEXT = 80


@dataclass(frozen=True, slots=True)
class Identity:
    """A signing key. `repr` never shows the secret."""

    seed: bytes = field(repr=False)
    agent: AgentId
    _key: SigningKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Build the identity of a 32-byte secret seed; raises `IdentityError` on another length."""
        if len(seed) != SEED_SIZE:
            raise IdentityError(f"a key seed has {SEED_SIZE} bytes, not {len(seed)}")
        key = SigningKey(seed)
        return cls(seed, bytes(key.verify_key), key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        return bytes(self._key.sign(message).signature)


def verify(agent: AgentId, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `agent`'s over `message`, as libsodium judges it."""
    if len(agent) != AGENT_ID_SIZE or len(signature) != SIGNATURE_SIZE:
        return False
    try:
        VerifyKey(agent).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def peer_id(agent: AgentId) -> str:
    """The libp2p peer id (`12D3Koo…`) of an agent."""
    return _base58(_PEER_ID_PREFIX + _sized(agent))


def did_key(agent: AgentId) -> str:
    """The `did:key:z6Mk…` spelling of an agent."""
    return "did:key:z" + _base58(_DID_PREFIX + _sized(agent))


def agent_from_text(text: str) -> AgentId:
    """Parse a peer id, a did:key or 64 hexadecimal digits; raises `IdentityError`."""
    if len(text) > _MAX_TEXT:
        raise IdentityError(f"not an agent id: {text[:40]!r}… is too long")
    if len(text) == 2 * AGENT_ID_SIZE and not text.startswith("12D3"):
        try:
            return _sized(bytes.fromhex(text))  # fromhex skips spaces, so the length may still be wrong
        except ValueError as error:
            raise IdentityError(f"not an agent id: {text!r}") from error
    body, prefix = (text[9:], _DID_PREFIX) if text.startswith("did:key:z") else (text, _PEER_ID_PREFIX)
    raw = _unbase58(body)
    if len(raw) != len(prefix) + AGENT_ID_SIZE or not raw.startswith(prefix):
        raise IdentityError(f"not an Ed25519 peer id or did:key: {text!r}")
    return raw[len(prefix) :]


def _sized(agent: AgentId) -> AgentId:
    if len(agent) != AGENT_ID_SIZE:
        raise IdentityError(f"an agent id has {AGENT_ID_SIZE} bytes, not {len(agent)}")
    return agent


def _base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, rest = divmod(number, 58)
        digits.append(_BASE58[rest])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def _unbase58(text: str) -> bytes:
    number = 0
    for char in text:
        value = _BASE58_INDEX.get(char)
        if value is None:
            raise IdentityError(f"not an agent id: {text!r} has the character {char!r}")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
