"""The messages of a secure sum: who may say what in which phase, signed and bound to one session.

A message is the canonical array [phase, sender, session, body, signature]. The session is a digest of the
task, the round, what the round builds on, the roster, the threshold and the length, so that nothing of one
round, roster or task passes for another's. Each body after the first begins with the digest of the **view**
that it builds on: the messages of the phase before, by their bytes. Members who were told different things
have different views, and their messages do not mix.

Sizes are known from the session: a message is measured before it is decoded, and nothing in it chooses how
much room it gets. Of sixteen members the longest has 5 KiB.

| phase | body |
|---|---|
| keys | key for boxes, key for masks (X25519) |
| shares | view, hash of the own mask's seed, for each of the view [agent, box, hashes of its two shares] |
| masked | view, the CID of the masked vector: 8 bytes an element, little-endian, which travel as a blob |
| survivors | view: whose vectors count, and which they are |
| opening | the same view, for each dealer [agent, share]: of its seed if its vector counts, else of its key |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Any, Final

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, is_blob_cid
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId, Identity, verify
from chain.learning_outcome import quorum
from chain.learning_task import MAX_MEMBERS, MAX_MODEL_BYTES
from chain.statement import domain_tag
from federated.privacy.shamir import SHARE_SIZE

MIN_MEMBERS: Final = 3
"""Of two, each knows the other's part from the sum."""
MAX_LENGTH: Final = MAX_MODEL_BYTES // 4 + 1
KEY_SIZE: Final = 32
BOX_SIZE: Final = 2 * SHARE_SIZE + 16
"""Two shares and the tag of their encryption."""
ENVELOPE: Final = 256
"""More than everything of a message but its list."""
ROW: Final = 288
"""More than one row of such a list."""
_SESSION_TAG: Final = domain_tag("secure-sum-session")
_MESSAGE_TAG: Final = domain_tag("secure-sum-message")
_VIEW_TAG: Final = domain_tag("secure-sum-view")


class Phase(IntEnum):
    """In their order; a message belongs to one."""

    KEYS = 0
    SHARES = 1
    MASKED = 2
    SURVIVORS = 3
    OPENING = 4


class Fault(StrEnum):
    """Why a message, or the whole sum, cannot be used."""

    SIZE = "size"
    FORMAT = "format"
    SENDER = "sender"
    """Not in the roster, or not its signature."""
    SESSION = "session"
    """Of another task, round, roster or length."""
    DOUBLE = "double"
    """A second, different message of one sender and phase."""
    LATE = "late"
    """Its phase is over."""
    VIEW = "view"
    """Builds on other messages than were agreed on here."""
    KEYS = "keys"
    SHARES = "shares"
    """A box that does not open, a share that is not the one that was hashed, or shares of no secret."""
    TOO_FEW = "too-few"
    """Fewer than the threshold are left."""
    LEFT_OUT = "left-out"
    """The others go on without this member."""


class SecureSumError(ValueError):
    """`fault` says what is wrong, `agent` whose it is where that is known."""

    def __init__(self, fault: Fault, message: str, agent: AgentId | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.agent = agent


@dataclass(frozen=True, slots=True)
class Session:
    """What a secure sum is about. `roster` ascends; `threshold` is more than two thirds of it, at least.

    Two sets of `threshold` members then have an honest one in common, unless 2 · threshold - n members
    lie: no liar gets half of the members to open one set and half another.
    """

    task: Cid
    round: int
    previous: bytes
    roster: tuple[AgentId, ...]
    threshold: int
    length: int

    def __post_init__(self) -> None:
        count = len(self.roster)
        if not MIN_MEMBERS <= count <= MAX_MEMBERS:
            raise ValueError(f"a secure sum has {MIN_MEMBERS} to {MAX_MEMBERS} members, not {count}")
        if list(self.roster) != sorted(set(self.roster)):
            raise ValueError("a roster ascends and names nobody twice")
        if not quorum(count) <= self.threshold <= count:
            raise ValueError(f"the threshold is {self.threshold}, outside {quorum(count)} … {count}")
        if not 1 <= self.length <= MAX_LENGTH:
            raise ValueError(f"a length of {self.length} is outside 1 … {MAX_LENGTH}")

    def digest(self) -> bytes:
        """The 32 bytes that every message names."""
        terms = [self.task, self.round, self.previous, list(self.roster), self.threshold, self.length]
        return sha256(_SESSION_TAG + canonical.encode(terms)).digest()

    def place(self, agent: AgentId) -> int:
        """Which number the agent's shares have, from 1."""
        return self.roster.index(agent) + 1

    @property
    def most_bytes(self) -> int:
        """How long a message may be."""
        return ENVELOPE + ROW * len(self.roster)


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose signature and form were checked; `digest` is of all its bytes."""

    phase: Phase
    sender: AgentId
    body: list[Any]
    digest: bytes


def write_message(session: Session, identity: Identity, phase: Phase, body: list[Any]) -> bytes:
    """Sign a message. O(bytes)."""
    name = session.digest()
    signature = identity.sign(_signed(phase, name, body))
    return canonical.encode([int(phase), identity.agent, name, body, signature])


def read_message(session: Session, data: bytes) -> Message:
    """Check a message, whoever sent it; raises `SecureSumError`. O(bytes)."""
    if len(data) > session.most_bytes:
        raise SecureSumError(Fault.SIZE, f"a message of {len(data)} bytes, at most {session.most_bytes} fit")
    try:
        value = canonical.decode(data, len(data))
    except ChainError as error:
        raise SecureSumError(Fault.FORMAT, f"a message is not canonical: {error}") from error
    if type(value) is not list or len(value) != 5:
        raise SecureSumError(Fault.FORMAT, "a message is [phase, sender, session, body, signature]")
    number, sender, name, body, signature = value
    if type(number) is not int or number not in list(Phase):
        raise SecureSumError(Fault.FORMAT, "a message belongs to no phase")
    phase = Phase(number)
    if sender not in session.roster:
        raise SecureSumError(Fault.SENDER, "the sender of a message is not in the roster")
    if name != session.digest():
        raise SecureSumError(Fault.SESSION, "a message belongs to another session", sender)
    if type(body) is not list or not _is_bytes(signature, SIGNATURE_SIZE):
        raise SecureSumError(Fault.FORMAT, "a message has no body or no signature")
    if not verify(sender, _signed(phase, name, body), signature):
        raise SecureSumError(Fault.SENDER, "a message is not signed by its sender")
    if not _fits(session, phase, body):
        raise SecureSumError(Fault.FORMAT, f"a body is not one of phase {phase.name.lower()}", sender)
    return Message(phase, sender, body, sha256(data).digest())


def view_of(session: Session, messages: Iterable[Message]) -> bytes:
    """The digest of what the members agreed to build on, in whatever order it came."""
    seen = sorted([int(one.phase), one.sender, one.digest] for one in messages)
    return sha256(_VIEW_TAG + canonical.encode([session.digest(), seen])).digest()


def _signed(phase: Phase, name: bytes, body: list[Any]) -> bytes:
    return _MESSAGE_TAG + sha256(canonical.encode([int(phase), name, body])).digest()


def _fits(session: Session, phase: Phase, body: list[Any]) -> bool:
    """Whether a body has the form of its phase; what is in it is looked at by the machine."""
    if phase is Phase.KEYS:
        return len(body) == 2 and all(_is_bytes(key, KEY_SIZE) for key in body)
    if not body or not _is_bytes(body[0], DIGEST_SIZE):
        return False
    if phase is Phase.SURVIVORS:
        return len(body) == 1
    if phase is Phase.MASKED:
        return len(body) == 2 and is_blob_cid(body[1])
    if phase is Phase.OPENING:
        return len(body) == 2 and _rows(session, body[1], (SHARE_SIZE,))
    return (
        len(body) == 3
        and _is_bytes(body[1], DIGEST_SIZE)
        and _rows(session, body[2], (BOX_SIZE, DIGEST_SIZE, DIGEST_SIZE))
    )


def _rows(session: Session, value: object, sizes: tuple[int, ...]) -> bool:
    """Whether this is a list of [agent of the roster, bytes of these sizes], ascending."""
    if type(value) is not list or len(value) > len(session.roster):
        return False
    for row in value:
        if type(row) is not list or len(row) != 1 + len(sizes) or not _is_bytes(row[0], AGENT_ID_SIZE):
            return False
        if not all(_is_bytes(item, size) for item, size in zip(row[1:], sizes, strict=True)):
            return False
    agents = [row[0] for row in value]
    return agents == sorted(set(agents)) and set(agents) <= set(session.roster)


def _is_bytes(value: object, size: int) -> bool:
    return type(value) is bytes and len(value) == size
