"""A sum whose parts nobody sees: secure aggregation of Bonawitz et al. (CCS 2017), without its server.

Each member adds masks to its vector (integers modulo 2**64): one for each pair, which one of the two adds and
the other subtracts, so that they cancel out in the sum, and one of its own, without which a vector that came
late would be bare. The seeds are shared out (Shamir, t of n). For a member whose vector counts, the others
open the seed of its own mask; for one that dropped out after sharing, its key for pair masks; **never both**.

`SecureSum` is one member, sans IO: `receive` takes everybody's messages, which may all be public, and `close`
ends a phase. Who is in is agreed outside, among `candidates`; a member only goes on with at least t, and
before anything is opened it sees t signatures on one and the same view of whose vectors count.

    keys → shares → masked → survivors → opening → the sum

**What is promised.** The sum is that of the survivors' vectors, bit for bit, whoever drops out, as long as t
are left in each phase. Fewer than t members, with all messages, learn of the other survivors' vectors their
sum and no more, by the assumptions on X25519, HKDF-SHA256 and ChaCha20, if those follow the protocol; if they
lie, the same holds of fewer than 2t - n. A member whose messages do not fit is named. What is in a vector is
hidden, so nothing here can tell a bad one. The sum of n - 1 liars and one honest member is no secret.

Randomness is an argument; keys and seeds live in the instance and are written nowhere. No round of a task
uses this yet (docs/learning.md). Who wires it in makes one `SecureSum` for a session and member, which after
a crash is out of the session: its keys are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chain.identity import AgentId, Identity
from chain.statement import domain_tag
from federated.privacy.keystream import keystream
from federated.privacy.secure_messages import (
    BOX_SIZE,
    KEY_SIZE,
    Fault,
    Message,
    Phase,
    SecureSumError,
    Session,
    read_message,
    view_of,
    write_message,
)
from federated.privacy.shamir import SHARE_SIZE, join, split

if TYPE_CHECKING:
    from federated.privacy.keystream import Words

CHUNK: Final = 1 << 16
"""Elements masked at a time."""
_BOX_TAG: Final = domain_tag("secure-sum-box")
_PAIR_TAG: Final = domain_tag("secure-sum-pair")
_SHARE_TAG: Final = domain_tag("secure-sum-share")
_SEED_TAG: Final = domain_tag("secure-sum-seed")


class SecureSum:
    """One member of a session. `vector`: `session.length` elements of uint64, which is not changed.

    `expand` makes a stream of words out of a mask's seed; it is an argument for tests.
    """

    def __init__(
        self,
        session: Session,
        identity: Identity,
        vector: Words,
        random_bytes: Callable[[int], bytes],
        expand: Callable[[bytes], Callable[[int], Words]] = keystream,
    ) -> None:
        if identity.agent not in session.roster:
            raise ValueError("the member is not in the roster")
        if vector.dtype != "u8" or vector.shape != (session.length,):
            raise ValueError(f"the vector is no {session.length} elements of uint64")
        self.session = session
        self.phase = Phase.KEYS
        self.total: Words | None = None
        """The sum of the survivors' vectors, once the phase is DONE."""
        self.survivors: tuple[AgentId, ...] = ()
        """Whose vectors count, once that is agreed on."""
        self._identity = identity
        self._me = identity.agent
        self._vector = vector
        self._random_bytes = random_bytes
        self._expand = expand
        self._box_key = X25519PrivateKey.from_private_bytes(random_bytes(KEY_SIZE))
        self._mask_key = X25519PrivateKey.from_private_bytes(random_bytes(KEY_SIZE))
        self._seed = random_bytes(KEY_SIZE)
        self._heard: dict[Phase, dict[AgentId, Message]] = {phase: {} for phase in Phase}
        self._agreed: dict[Phase, tuple[AgentId, ...]] = {}
        self._view = b""
        self._shares: dict[AgentId, tuple[bytes, bytes]] = {}
        """What dealers gave this member: a share of the key for masks, and of the seed."""

    def start(self) -> bytes:
        """The first message."""
        return self._say(Phase.KEYS, [_public(self._box_key), _public(self._mask_key)])

    def receive(self, data: bytes) -> AgentId:
        """Take a message; who sent it. Messages may come early, twice, and in any order.

        Raises `SecureSumError`, and then nothing has changed.
        """
        message = read_message(self.session, data)
        if message.phase < self.phase:
            raise SecureSumError(Fault.LATE, "the phase of a message is over", message.sender)
        known = self._heard[message.phase].setdefault(message.sender, message)
        if known.digest != message.digest:
            raise SecureSumError(Fault.DOUBLE, "a member said two things in one phase", message.sender)
        return message.sender

    def faults(self) -> dict[AgentId, Fault]:
        """Whose message of this phase cannot be used here, and why."""
        found = {agent: self._fault(message) for agent, message in self._heard[self.phase].items()}
        return {agent: fault for agent, fault in found.items() if fault is not None}

    def candidates(self) -> tuple[AgentId, ...]:
        """Whose message of this phase is here and can be used, ascending."""
        return tuple(sorted(self._heard[self.phase].keys() - self.faults().keys()))

    def close(self, agreed: Collection[AgentId]) -> bytes | None:
        """End the phase with the messages of these members; the next message to all, None at the end.

        Raises `SecureSumError` for fewer than the threshold, when this member is not among them, when a
        message of theirs cannot be used here, and at the end for a dealer whose shares give nothing. A
        member for which it raises takes no more part.
        """
        if self.phase is Phase.DONE:
            raise ValueError("the sum is done")
        among = tuple(sorted(set(agreed)))
        if len(among) < self.session.threshold:
            raise SecureSumError(
                Fault.TOO_FEW, f"{len(among)} members are fewer than {self.session.threshold}"
            )
        if self._me not in among:
            raise SecureSumError(Fault.LEFT_OUT, "the others go on without this member", self._me)
        usable = set(self.candidates())
        for agent in among:
            if agent not in usable:
                fault = self.faults().get(agent, Fault.VIEW)
                raise SecureSumError(fault, "the others build on a message that cannot be used here", agent)
        self._agreed[self.phase] = among
        if self.phase is Phase.OPENING:
            self.total = self._unmasked(among)
            self.phase = Phase.DONE
            return None
        # Survivors and openings speak of one view: that of the vectors.
        if self.phase is not Phase.SURVIVORS:
            self._view = view_of(self.session, [self._heard[self.phase][agent] for agent in among])
        self.phase = Phase(self.phase + 1)
        return _STEPS[self.phase](self)

    # -- what to say --

    def _say(self, phase: Phase, body: list[object]) -> bytes:
        data = write_message(self.session, self._identity, phase, body)
        self._heard[phase][self._me] = read_message(self.session, data)
        return data

    def _deal(self) -> bytes:
        """Share out the seeds of the own masks among those who showed keys."""
        threshold, count = self.session.threshold, len(self.session.roster)
        of_key = split(_private(self._mask_key), threshold, count, self._random_bytes)
        of_seed = split(self._seed, threshold, count, self._random_bytes)
        rows: list[list[object]] = []
        for agent in self._agreed[Phase.KEYS]:
            place = self.session.place(agent) - 1
            pair = (of_key[place], of_seed[place])
            if agent == self._me:
                self._shares[agent] = pair
            box = (
                bytes(BOX_SIZE)
                if agent == self._me
                else self._lock(agent).encrypt(bytes(12), b"".join(pair), None)
            )
            rows.append([agent, box, *(_share_hash(share) for share in pair)])
        return self._say(Phase.SHARES, [self._view, _seed_hash(self._seed), rows])

    def _mask(self) -> bytes:
        """The own vector under its own mask and those of all pairs."""
        total = self._vector.copy()
        self._add(total, self._seed, 1)
        for agent in self._agreed[Phase.SHARES]:
            if agent != self._me:
                self._add(total, self._pair_seed(self._mask_key, agent, self._me), _sign(self._me, agent))
        return self._say(Phase.MASKED, [self._view, total.astype("<u8", copy=False).tobytes()])

    def _confirm(self) -> bytes:
        """Sign whose vectors count: nothing is opened before the threshold has signed the same."""
        self.survivors = self._agreed[Phase.MASKED]
        return self._say(Phase.SURVIVORS, [self._view])

    def _open(self) -> bytes:
        """Of each dealer one of two shares, never both."""
        rows = [
            [dealer, self._shares[dealer][dealer in self.survivors]] for dealer in self._agreed[Phase.SHARES]
        ]
        return self._say(Phase.OPENING, [self._view, rows])

    # -- what others said --

    def _fault(self, message: Message) -> Fault | None:
        """Why a message of this phase cannot be used."""
        if self.phase is Phase.KEYS:
            return None if message.sender == self._me or self._agrees(message) else Fault.KEYS
        if message.body[0] != self._view or message.sender not in self._before():
            return Fault.VIEW
        if self.phase is Phase.SHARES:
            return None if self._unboxed(message) else Fault.SHARES
        if self.phase is Phase.OPENING:
            return None if self._opened(message) else Fault.SHARES
        return None

    def _before(self) -> tuple[AgentId, ...]:
        """Who was in until now."""
        return self._agreed[Phase(self.phase - 1)]

    def _agrees(self, message: Message) -> bool:
        """Whether the keys of a message are points that a secret can be agreed on with."""
        try:
            for key in message.body:
                self._box_key.exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError:
            return False
        return True

    def _unboxed(self, message: Message) -> bool:
        """Whether a dealer deals to all who showed keys, and to this member what it says."""
        rows = {row[0]: row[1:] for row in message.body[2]}
        if tuple(sorted(rows)) != self._agreed[Phase.KEYS]:
            return False
        if message.sender in self._shares:
            return True
        box, *hashes = rows[self._me]
        try:
            both = self._lock(message.sender, inward=True).decrypt(bytes(12), box, None)
        except InvalidTag:
            return False
        pair = (both[:SHARE_SIZE], both[SHARE_SIZE:])
        if [_share_hash(share) for share in pair] != hashes:
            return False
        self._shares[message.sender] = pair
        return True

    def _opened(self, message: Message) -> bool:
        """Whether a member opens one share of each dealer, and the one that the dealer hashed."""
        rows = {row[0]: row[1] for row in message.body[1]}
        dealers = self._agreed[Phase.SHARES]
        if tuple(sorted(rows)) != dealers:
            return False
        return all(
            _share_hash(rows[dealer]) == self._dealt(dealer, message.sender)[dealer in self.survivors]
            for dealer in dealers
        )

    def _dealt(self, dealer: AgentId, agent: AgentId) -> tuple[bytes, bytes]:
        """The hashes of the two shares that a dealer gave an agent."""
        for row in self._heard[Phase.SHARES][dealer].body[2]:
            if row[0] == agent:
                return row[2], row[3]
        raise AssertionError("who deals deals to all who showed keys")

    # -- the end --

    def _unmasked(self, among: tuple[AgentId, ...]) -> Words:
        import numpy as np

        total = np.zeros(self.session.length, np.uint64)
        for agent in self.survivors:
            total += np.frombuffer(self._heard[Phase.MASKED][agent].body[1], "<u8")
        for dealer in self._agreed[Phase.SHARES]:
            secret = self._joined(dealer, among)
            if dealer in self.survivors:
                if secret is None or _seed_hash(secret) != self._heard[Phase.SHARES][dealer].body[1]:
                    raise SecureSumError(Fault.SHARES, "shares of a seed do not fit together", dealer)
                self._add(total, secret, -1)
                continue
            key = None if secret is None else X25519PrivateKey.from_private_bytes(secret)
            if key is None or _public(key) != self._heard[Phase.KEYS][dealer].body[1]:
                raise SecureSumError(Fault.SHARES, "shares of a key do not fit together", dealer)
            for agent in self.survivors:
                # What the survivor added for a partner that did not add its own.
                self._add(total, self._pair_seed(key, agent, dealer), -_sign(agent, dealer))
        return total

    def _joined(self, dealer: AgentId, among: tuple[AgentId, ...]) -> bytes | None:
        shares: dict[int, bytes] = {}
        for agent in among[: self.session.threshold]:
            rows = {row[0]: row[1] for row in self._heard[Phase.OPENING][agent].body[1]}
            shares[self.session.place(agent)] = rows[dealer]
        return join(shares)

    def _add(self, total: Words, seed: bytes, sign: int) -> None:
        """Add a mask, or take it away; modulo 2**64."""
        stream = self._expand(seed)
        for start in range(0, total.size, CHUNK):
            part = total[start : start + CHUNK]
            if sign > 0:
                part += stream(part.size)
            else:
                part -= stream(part.size)

    # -- keys --

    def _pair_seed(self, key: X25519PrivateKey, agent: AgentId, owner: AgentId) -> bytes:
        """The seed of the mask between `owner`, whose key this is, and `agent`."""
        public = X25519PublicKey.from_public_bytes(self._heard[Phase.KEYS][agent].body[1])
        return _derived(
            key.exchange(public), _PAIR_TAG + self.session.digest() + b"".join(sorted((agent, owner)))
        )

    def _lock(self, agent: AgentId, inward: bool = False) -> ChaCha20Poly1305:
        """What closes this member's one box to `agent`, or opens that from it: a key for one message."""
        public = X25519PublicKey.from_public_bytes(self._heard[Phase.KEYS][agent].body[0])
        ends = agent + self._me if inward else self._me + agent
        return ChaCha20Poly1305(
            _derived(self._box_key.exchange(public), _BOX_TAG + self.session.digest() + ends)
        )


_STEPS: Final = {
    Phase.SHARES: SecureSum._deal,
    Phase.MASKED: SecureSum._mask,
    Phase.SURVIVORS: SecureSum._confirm,
    Phase.OPENING: SecureSum._open,
}
"""What a member says as a phase begins."""


def _sign(agent: AgentId, other: AgentId) -> int:
    """Whether `agent` adds the mask that it has with `other`, or takes it away."""
    return 1 if agent < other else -1


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=info).derive(secret)


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _private(key: X25519PrivateKey) -> bytes:
    return key.private_bytes_raw()


def _share_hash(share: bytes) -> bytes:
    """Shares have 521 bits of chance, so that their hash tells nothing that could be guessed."""
    return sha256(_SHARE_TAG + share).digest()


def _seed_hash(seed: bytes) -> bytes:
    return sha256(_SEED_TAG + seed).digest()
