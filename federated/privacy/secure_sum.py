"""A sum whose parts nobody sees: secure aggregation of Bonawitz et al. (CCS 2017), without its server.

Each member adds masks to its vector (integers modulo 2**64): one for each pair, which one of the two adds and
the other subtracts, so that they cancel out in the sum, and one of its own, without which a vector that came
late would be bare. The seeds are shared out (Shamir, t of n). For a member whose vector counts, the others
open the seed of its own mask; for one that dropped out after sharing, its key for pair masks; **never both**.

`SecureSum` is one member, sans IO: `receive` takes everybody's messages, which may all be public, and `close`
ends a phase. Who is in is agreed outside, among `candidates`; a member only goes on with at least t, and
before anything is opened it sees t signatures on one and the same view of whose vectors count. The sum is
made of the openings by whoever has the messages (`federated.privacy.opened_sum`).

    keys → shares → masked → survivors → opening → the sum

**What is promised.** The sum is that of the survivors' vectors, bit for bit, whoever drops out, as long as t
are left in each phase. Fewer than t members, with all messages, learn of the other survivors' vectors their
sum and no more, by the assumptions on X25519, HKDF-SHA256 and ChaCha20, if those follow the protocol; if they
lie, the same holds of fewer than 2t - n. A member whose messages do not fit is named. What is in a vector is
hidden, so nothing here can tell a bad one. The sum of n - 1 liars and one honest member is no secret.

Randomness is an argument; keys and seeds live in the instance and are written nowhere. There is one
`SecureSum` for a session and member, which after a crash is out of the session: its keys are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chain.blob import chunk_list
from chain.identity import AgentId, Identity
from chain.statement import domain_tag
from federated.privacy.keystream import KEY_SIZE, keystream
from federated.privacy.opened_sum import (
    Expand,
    add_mask,
    derived,
    opening_fits,
    pair_seed,
    pair_sign,
    public_bytes,
    seed_hash,
    share_hash,
)
from federated.privacy.secure_messages import (
    BOX_SIZE,
    Fault,
    Message,
    Phase,
    SecureSumError,
    Session,
    read_message,
    view_of,
    write_message,
)
from federated.privacy.shamir import SHARE_SIZE, split

if TYPE_CHECKING:
    from federated.privacy.keystream import Words

_BOX_TAG: Final = domain_tag("secure-sum-box")


class SecureSum:
    """One member of a session. `expand` is an argument for tests."""

    def __init__(
        self,
        session: Session,
        identity: Identity,
        random_bytes: Callable[[int], bytes],
        expand: Expand = keystream,
    ) -> None:
        if identity.agent not in session.roster:
            raise ValueError("the member is not in the roster")
        self.session = session
        self.phase = Phase.KEYS
        self.masked: Words | None = None
        """This member's vector under its masks, once it said its CID; the others are to find it as a blob."""
        self.survivors: tuple[AgentId, ...] = ()
        """Whose vectors count, once that is agreed on."""
        self._identity = identity
        self._me = identity.agent
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
        return self._say(Phase.KEYS, [public_bytes(self._box_key), public_bytes(self._mask_key)])

    def receive(self, data: bytes, instead: bool = False) -> AgentId:
        """Take a message; who sent it. Messages may come early, twice, and in any order.

        With `instead` it counts in place of another one that its sender said in this phase: of two things the
        one that the others build on. Raises `SecureSumError`, and then nothing has changed.
        """
        message = read_message(self.session, data)
        if message.phase < self.phase:
            raise SecureSumError(Fault.LATE, "the phase of a message is over", message.sender)
        known = self._heard[message.phase].setdefault(message.sender, message)
        if known.digest == message.digest:
            return message.sender
        if not instead or message.sender == self._me or message.phase is not self.phase:
            raise SecureSumError(Fault.DOUBLE, "a member said two things in one phase", message.sender)
        self._heard[message.phase][message.sender] = message
        if self.phase is Phase.SHARES:
            self._shares.pop(message.sender, None)
        return message.sender

    def faults(self) -> dict[AgentId, Fault]:
        """Whose message of this phase cannot be used here, and why."""
        found = {agent: self._fault(message) for agent, message in self._heard[self.phase].items()}
        return {agent: fault for agent, fault in found.items() if fault is not None}

    def candidates(self) -> tuple[AgentId, ...]:
        """Whose message of this phase is here and can be used, ascending."""
        return tuple(sorted(self._heard[self.phase].keys() - self.faults().keys()))

    def close(self, agreed: Collection[AgentId], vector: Words | None = None) -> bytes:
        """End the phase with the messages of these members; the next message to all.

        `vector` is what this member adds: `session.length` elements of uint64, which become its `masked`
        ones in place; it is needed at the end of the phase of shares, and may be large: that takes some 4 ns
        a word and member.

        Raises `SecureSumError` for fewer than the threshold, when this member is not among them, and when a
        message of theirs cannot be used here. A member for which it raises takes no more part.
        """
        if self.phase is Phase.OPENING:
            raise ValueError("nothing follows the openings")
        among = tuple(sorted(set(agreed)))
        if len(among) < self.session.threshold:
            raise SecureSumError(
                Fault.TOO_FEW, f"{len(among)} members are fewer than {self.session.threshold}"
            )
        if self._me not in among:
            raise SecureSumError(Fault.LEFT_OUT, "the others go on without this member", self._me)
        usable, faults = set(self.candidates()), self.faults()
        for agent in among:
            if agent not in usable:
                fault = faults.get(agent, Fault.VIEW)
                raise SecureSumError(fault, "the others build on a message that cannot be used here", agent)
        if self.phase is Phase.SHARES:
            self.masked = self._masked(among, vector)
        self._agreed[self.phase] = among
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
            rows.append([agent, box, *(share_hash(share) for share in pair)])
        return self._say(Phase.SHARES, [self._view, seed_hash(self._seed), rows])

    def _masked(self, among: Collection[AgentId], vector: Words | None) -> Words:
        """The own vector under its own mask and those of all pairs."""
        if vector is None or vector.dtype != "u8" or vector.shape != (self.session.length,):
            raise ValueError(f"the vector is no {self.session.length} elements of uint64")
        add_mask(vector, self._seed, 1, self._expand)
        for agent in among:
            if agent != self._me:
                add_mask(vector, self._pair_seed(agent), pair_sign(self._me, agent), self._expand)
        return vector.astype("<u8", copy=False)

    def _mask(self) -> bytes:
        """Say which vector is the own one."""
        assert self.masked is not None
        return self._say(Phase.MASKED, [self._view, chunk_list(self.masked.data.cast("B")).cid])

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
        if [share_hash(share) for share in pair] != hashes:
            return False
        self._shares[message.sender] = pair
        return True

    def _opened(self, message: Message) -> bool:
        """Whether a member opens one share of each dealer, and the one that the dealer hashed."""
        shares = [self._heard[Phase.SHARES][agent] for agent in self._agreed[Phase.SHARES]]
        return opening_fits(shares, self.survivors, message)

    # -- keys --

    def _pair_seed(self, agent: AgentId) -> bytes:
        """The seed of the mask between this member and another."""
        public = self._heard[Phase.KEYS][agent].body[1]
        return pair_seed(self.session, self._mask_key, self._me, agent, public)

    def _lock(self, agent: AgentId, inward: bool = False) -> ChaCha20Poly1305:
        """What closes this member's one box to `agent`, or opens that from it: a key for one message."""
        public = X25519PublicKey.from_public_bytes(self._heard[Phase.KEYS][agent].body[0])
        ends = agent + self._me if inward else self._me + agent
        return ChaCha20Poly1305(
            derived(self._box_key.exchange(public), _BOX_TAG + self.session.digest() + ends)
        )


_STEPS: Final = {
    Phase.SHARES: SecureSum._deal,
    Phase.MASKED: SecureSum._mask,
    Phase.SURVIVORS: SecureSum._confirm,
    Phase.OPENING: SecureSum._open,
}
"""What a member says as a phase begins."""


def _private(key: X25519PrivateKey) -> bytes:
    return key.private_bytes_raw()
