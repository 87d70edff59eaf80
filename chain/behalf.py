"""On whose behalf an agent says something: another maker's system, by its own name and maybe its own key.

The agent signs the record and answers for it; the one it speaks for is kept with it. Who has a key of its
own can sign what it says, too: Ed25519 over plain lines (`content_statement`, `vote_statement`), which one
can make without our codec. Only then is it known to have said it, and only then does its vote count beside
the agent's. From rule version 7 on the signature of a vote is over its time, too, so that the newest is known
whoever brings it: who kept an old one cannot put it in the place of what came after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain.cid import Cid, to_text
from chain.errors import RecordError
from chain.metadata import read_map
from chain.text import check_text

MAX_NAME = 200
"""Bytes of UTF-8."""
KEY_SIZE = 32
SIGNATURE_SIZE = 64
MAX_SIGNED_MS = (1 << 53) - 1
"""Programs that hold numbers as floats, too, can say it exactly."""


@dataclass(frozen=True, slots=True)
class Behalf:
    """`name` as the other system calls itself, `key` its Ed25519 key, `signature` by that over its words.

    `signed_ms`: of a signed vote, when it was signed, in ms since 1970 by its signer's clock.
    """

    name: str
    key: bytes | None = None
    signature: bytes | None = None
    signed_ms: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """As a payload carries it."""
        optional = {"key": self.key, "signature": self.signature, "signed_ms": self.signed_ms}
        return {"name": self.name, **{name: data for name, data in optional.items() if data is not None}}


def read_behalf(value: object, *, of_vote: bool = False) -> Behalf:
    """Check and read it; raises `RecordError`. Whether the signature is good is for `validation` to say."""
    wire = read_map("behalf", value, ("name",), ("key", "signature", *(("signed_ms",) if of_vote else ())))
    name = check_text("behalf.name", wire["name"], MAX_NAME)
    if any(ord(one) < 0x20 for one in name):
        raise RecordError("behalf.name has control characters")
    key, signature = wire.get("key"), wire.get("signature")
    if "key" in wire and not (type(key) is bytes and len(key) == KEY_SIZE):
        raise RecordError(f"behalf.key is not {KEY_SIZE} bytes")
    if "signature" in wire and not (type(signature) is bytes and len(signature) == SIGNATURE_SIZE):
        raise RecordError(f"behalf.signature is not {SIGNATURE_SIZE} bytes")
    if signature is not None and key is None:
        raise RecordError("behalf has a signature without the key that it is by")
    signed_ms = wire.get("signed_ms")
    if "signed_ms" in wire and not (type(signed_ms) is int and 0 < signed_ms <= MAX_SIGNED_MS):
        raise RecordError(f"behalf.signed_ms is not 1 to {MAX_SIGNED_MS}")
    if signed_ms is not None and signature is None:
        raise RecordError("behalf has the time of a signature without the signature")
    return Behalf(name, key, signature, signed_ms)


def content_statement(name: str, text: str) -> bytes:
    """What the author of a text signs: a title line, its name, and the text, each on lines of their own."""
    return f"roseforest content 1\n{name}\n{text}".encode()


def vote_statement(
    name: str,
    entry: Cid,
    value: int,
    confidence: int | None,
    reason: str | None,
    signed_ms: int | None = None,
) -> bytes:
    """What a voter signs: a title line, its name, the entry's id, 1, -1 or 0, the ppm if any, the reason.

    With `signed_ms`, as rule version 7 wants it, the title says 2, and the time is a line before the reason.
    """
    ppm = "" if confidence is None else str(confidence)
    said = f"{name}\n{to_text(entry)}\n{value}\n{ppm}"
    if signed_ms is None:
        return f"roseforest vote 1\n{said}\n{reason or ''}".encode()
    return f"roseforest vote 2\n{said}\n{signed_ms}\n{reason or ''}".encode()
