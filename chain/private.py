"""Private records: what their owner alone can read, in a chain that everybody can verify.

A private record's header is public like any other and says nothing of what it is about: it names no subject,
so nobody can tell a new entry from an edit of an old one. Its payload holds one box, which XChaCha20-Poly1305
seals under a key derived from the agent's seed and used for nothing else (BLAKE2b with a personal tag); the
network and the agent are authenticated with it, so a box cannot be moved. What is inside is padded, because
the header tells the payload's size. The nonce is 24 random bytes, which is enough to draw them blindly.

Inside is a map: `entry` (the CID of the entry's first private record; absent in that one itself) and a
content value, or nothing but `entry`: then the entry is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from nacl.exceptions import CryptoError
from nacl.secret import Aead

from chain import canonical
from chain.cid import Cid, is_record_cid
from chain.content import Content, content_from_body
from chain.errors import ChainError, RecordError
from chain.identity import Identity

NONCE_SIZE: Final = Aead.NONCE_SIZE
TAG_SIZE: Final = 16
MAX_BOX: Final = 256 * 1024
"""Bytes of a box: more than the largest content value with its padding."""
MIN_BOX: Final = NONCE_SIZE + TAG_SIZE + 256
PAD_LEAST: Final = 256
_PERSON: Final = b"rf-private/1"


@dataclass(frozen=True, slots=True)
class Private:
    """One private record opened: `entry` is None for an entry's first record, `content` None for its end."""

    entry: Cid | None
    content: Content | None


def private_key(identity: Identity) -> bytes:
    """The key of an agent's private records."""
    return blake2b(digest_size=Aead.KEY_SIZE, key=identity.seed, person=_PERSON).digest()


def seal(identity: Identity, network: Cid, said: Private, nonce: bytes) -> dict[str, Any]:
    """The payload body of a private record; `nonce` is `NONCE_SIZE` fresh random bytes.

    Raises `RecordError` for content beyond the limits of public entries.
    """
    inside: dict[str, Any] = {} if said.entry is None else {"entry": said.entry}
    if said.content is not None:
        inside["content"] = said.content.to_body()
    plain = canonical.encode(inside)
    padded = len(plain).to_bytes(4, "big") + plain
    padded += bytes(padded_size(len(padded)) - len(padded))
    box = Aead(private_key(identity)).encrypt(padded, _aad(identity, network), nonce)
    return {"box": bytes(box)}


def open_private(identity: Identity, network: Cid, body: dict[str, Any]) -> Private:
    """What a private record of this agent says; raises `RecordError` for anything else."""
    check_box(body)
    try:
        padded = Aead(private_key(identity)).decrypt(body["box"], _aad(identity, network))
        size = int.from_bytes(padded[:4], "big")
        inside = canonical.decode(padded[4 : 4 + size], MAX_BOX)
        if type(inside) is not dict or not set(inside) <= {"content", "entry"}:
            raise RecordError("a private record holds an entry and a content")
        entry, content = inside.get("entry"), inside.get("content")
        if not (entry is None or is_record_cid(entry)) or not (content is None or type(content) is dict):
            raise RecordError("a private record holds an entry and a content")
        return Private(entry, None if content is None else content_from_body(content))
    except CryptoError as error:
        raise RecordError("the private record cannot be opened with this agent's key") from error
    except ChainError as error:
        raise RecordError(f"the private record makes no sense: {error}") from error


def check_box(body: dict[str, Any]) -> None:
    """Raise `RecordError` unless `body` is that of a private record, as far as a stranger can tell."""
    box = body.get("box")
    if list(body) != ["box"] or type(box) is not bytes or not MIN_BOX <= len(box) <= MAX_BOX:
        raise RecordError(f"a private record has exactly a box of {MIN_BOX} to {MAX_BOX} bytes")


def padded_size(size: int) -> int:
    """The size that `size` bytes are padded to: at most a quarter more, or 255 bytes."""
    step = max(PAD_LEAST, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step


def _aad(identity: Identity, network: Cid) -> bytes:
    return b"roseforest/private/1\0" + network + identity.agent
