"""The end of a secure sum, from its messages alone: whoever has them, a member or not, comes to the same sum.

The openings give, of each member whose vector counts, the seed of its own mask, and of each that dropped out
after sharing, its key for pair masks. `open_sum` puts these secrets together and holds them against what
their owners had shown before; `unmask` adds up the vectors and takes the masks away. Nothing here is secret
any more, and nothing is random: an audit does the same, later.

What is checked: each message builds on the view of those before it, nobody is in who was not in before, each
phase has the threshold, each share is the one that its dealer had hashed, and each secret is the one that
belongs to the owner's public key or hash. What cannot be checked is whether the boxes that members gave each
other were good: they are only opened by whom they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chain.cid import Cid
from chain.identity import AgentId
from chain.statement import domain_tag
from federated.privacy.keystream import KEY_SIZE, keystream
from federated.privacy.secure_messages import Fault, Message, SecureSumError, Session, view_of
from federated.privacy.shamir import join

if TYPE_CHECKING:
    from federated.privacy.keystream import Words

CHUNK: Final = 1 << 16
"""Elements masked at a time."""
_PAIR_TAG: Final = domain_tag("secure-sum-pair")
_SHARE_TAG: Final = domain_tag("secure-sum-share")
_SEED_TAG: Final = domain_tag("secure-sum-seed")

Expand = Callable[[bytes], Callable[[int], "Words"]]
"""A mask's seed as a stream of words."""


@dataclass(frozen=True, slots=True)
class Said:
    """The messages that the members agreed to build on, by phase, each ascending by sender."""

    keys: tuple[Message, ...]
    shares: tuple[Message, ...]
    masked: tuple[Message, ...]
    openings: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a sum is made of: the blobs of the vectors that count, by member, ascending, and the masks that
    are left in their sum, each with the sign by which it is taken away.
    """

    vectors: tuple[tuple[AgentId, Cid], ...]
    masks: tuple[tuple[bytes, int], ...]


def open_sum(session: Session, said: Said) -> Opened:
    """What the openings give. Raises `SecureSumError` naming whose message or secret does not fit.

    O(members³) on numbers of 521 bits: milliseconds.
    """
    check_chain(session, said.keys, said.shares, said.masked)
    keys = {one.sender: one.body[1] for one in said.keys}
    seeds = {one.sender: one.body[1] for one in said.shares}
    survivors = tuple(one.sender for one in said.masked)
    _check_phase(session, said.openings, view_of(session, said.masked), survivors)
    for opening in said.openings:
        if not opening_fits(said.shares, survivors, opening):
            raise SecureSumError(Fault.SHARES, "shares are not those that were dealt", opening.sender)
    opened = {one.sender: dict(one.body[1]) for one in said.openings[: session.threshold]}
    masks: list[tuple[bytes, int]] = []
    for dealer in seeds:
        secret = join({session.place(agent): rows[dealer] for agent, rows in opened.items()})
        if dealer in survivors:
            if secret is None or seed_hash(secret) != seeds[dealer]:
                raise SecureSumError(Fault.SHARES, "shares of a seed do not fit together", dealer)
            masks.append((secret, -1))
            continue
        key = None if secret is None else X25519PrivateKey.from_private_bytes(secret)
        if key is None or public_bytes(key) != keys[dealer]:
            raise SecureSumError(Fault.SHARES, "shares of a key do not fit together", dealer)
        # What the survivors added for a partner that did not add its own.
        masks += [
            (pair_seed(session, key, dealer, agent, keys[agent]), -pair_sign(agent, dealer))
            for agent in survivors
        ]
    return Opened(tuple((one.sender, one.body[1]) for one in said.masked), tuple(masks))


def check_chain(
    session: Session, keys: Sequence[Message], shares: Sequence[Message], masked: Sequence[Message]
) -> None:
    """Raise `SecureSumError` unless each phase builds on the one before, and all have the threshold."""
    rows = tuple(one.sender for one in keys)
    _check_phase(session, keys, None, session.roster)
    _check_phase(session, shares, view_of(session, keys), rows)
    _check_phase(session, masked, view_of(session, shares), tuple(one.sender for one in shares))
    for message in shares:
        if tuple(row[0] for row in message.body[2]) != rows:
            raise SecureSumError(Fault.SHARES, "a member deals to others than showed keys", message.sender)


def _check_phase(
    session: Session, messages: Sequence[Message], view: bytes | None, before: Sequence[AgentId]
) -> None:
    senders = [one.sender for one in messages]
    if len(messages) < session.threshold:
        raise SecureSumError(Fault.TOO_FEW, f"{len(messages)} members are fewer than {session.threshold}")
    if senders != sorted(set(senders)):
        raise SecureSumError(Fault.DOUBLE, "a member said two things in one phase")
    for message in messages:
        if (view is not None and message.body[0] != view) or message.sender not in before:
            raise SecureSumError(Fault.VIEW, "a message builds on others", message.sender)


def opening_fits(shares: Sequence[Message], survivors: Sequence[AgentId], opening: Message) -> bool:
    """Whether a member opens one share of each dealer, the right one of the two, and the one that was hashed.

    `shares` are the messages of all dealers, ascending, each of which deals to the member.
    """
    rows = {row[0]: row[1] for row in opening.body[1]}
    if tuple(sorted(rows)) != tuple(message.sender for message in shares):
        return False
    for message in shares:
        dealer = message.sender
        dealt = next((row[2:] for row in message.body[2] if row[0] == opening.sender), None)
        if dealt is None or share_hash(rows[dealer]) != dealt[dealer in survivors]:
            return False
    return True


def unmask(session: Session, opened: Opened, vectors: Iterable[Words], expand: Expand = keystream) -> Words:
    """The sum of the vectors that count, which are `vectors`, without their masks; modulo 2**64.

    O(members · length), memory for one vector.
    """
    import numpy as np

    total = np.zeros(session.length, np.uint64)
    for vector in vectors:
        total += vector
    for seed, sign in opened.masks:
        add_mask(total, seed, sign, expand)
    return total


def add_mask(total: Words, seed: bytes, sign: int, expand: Expand) -> None:
    """Add the mask of a seed, or take it away; modulo 2**64."""
    stream = expand(seed)
    for start in range(0, total.size, CHUNK):
        part = total[start : start + CHUNK]
        if sign > 0:
            part += stream(part.size)
        else:
            part -= stream(part.size)


def pair_sign(agent: AgentId, other: AgentId) -> int:
    """Whether `agent` adds the mask that it has with `other`, or takes it away."""
    return 1 if agent < other else -1


def pair_seed(
    session: Session, key: X25519PrivateKey, owner: AgentId, agent: AgentId, public: bytes
) -> bytes:
    """The seed of the mask between `owner`, whose key this is, and `agent`, whose public key is `public`.

    Raises `SecureSumError` for a key of low order.
    """
    try:
        secret = key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SecureSumError(Fault.KEYS, "a key is no point to agree on a secret with", agent) from error
    return derived(secret, _PAIR_TAG + session.digest() + b"".join(sorted((agent, owner))))


def derived(secret: bytes, info: bytes) -> bytes:
    """A key from a shared secret: HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=info).derive(secret)


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The 32 bytes of a key that everybody may see."""
    return key.public_key().public_bytes_raw()


def share_hash(share: bytes) -> bytes:
    """Shares have 521 bits of chance, so that their hash tells nothing that could be guessed."""
    return sha256(_SHARE_TAG + share).digest()


def seed_hash(seed: bytes) -> bytes:
    """What the seed of a member's own mask is held against."""
    return sha256(_SEED_TAG + seed).digest()
