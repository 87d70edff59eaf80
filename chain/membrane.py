"""The membrane: what a key shows to be let into a network, and where it then stands in the DHT.

An open network asks for hashcash (Back, 2002): a nonce whose hash with network and key begins with
`join_bits` zero bits. The same nonce fixes the key's position in the DHT's key space, under another hash, so
that choosing a position costs a new proof of work for every try. A network by invitation asks for the proof
of `chain.invitation`, and the inviter chose the nonce. What is shown, the `Passage`, stands in the second
record of the agent's chain and in its address records, so that holders and strangers ask the same question.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from chain.cid import Cid
from chain.errors import MembraneError, RecordError
from chain.identity import AgentId
from chain.invitation import check_proof_shape, open_proof

JOIN_TAG = b"roseforest/join/1\0"
MAX_JOIN_BITS = 40
NONCE_SIZE = 8
MAX_NONCE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Passage:
    """What lets an agent in: a nonce that pays, or one that came with the statements of an `invitation`.

    `until`: number of the last epoch in which a chain may begin by it; None: any.
    """

    nonce: int
    invitation: tuple[bytes, ...] = ()
    until: int | None = None
    inviter: AgentId | None = field(default=None, compare=False)
    """Who signed the invitation, as far as it was opened."""

    @property
    def shown(self) -> int | list[bytes]:
        """How it stands in an address record."""
        return list(self.invitation) if self.invitation else self.nonce

    @property
    def body(self) -> dict[str, Any]:
        """The payload body of the membrane record."""
        return {"invitation": list(self.invitation)} if self.invitation else {"nonce": self.nonce}


@dataclass(frozen=True, slots=True)
class Membrane:
    """The terms of a network: `join_bits` of work, or the line of an invitation to its founder."""

    network: Cid
    founder: AgentId
    join_bits: int
    by_invitation: bool

    def open(self, agent: AgentId, shown: object) -> Passage:
        """Check what `agent` shows, in an address record; raises `MembraneError` for what admits it not.

        Two hashes in an open network, two signature checks at most in one by invitation.
        """
        if self.by_invitation:
            if type(shown) is int:
                raise MembraneError("this network is by invitation; a proof of work lets nobody in")
            proof = check_proof_shape(shown)
            invitation, grant = open_proof(proof, self.network, self.founder, agent)
            until = None if grant is None else grant.until
            return Passage(invitation.nonce, proof, until, invitation.inviter)
        if type(shown) is not int or not 0 <= shown <= MAX_NONCE:
            raise MembraneError(f"nonce {shown!r:.40} is outside 0 … {MAX_NONCE}")
        paid = work_bits(self.network, agent, shown)
        if paid < self.join_bits:
            raise MembraneError(f"the nonce pays {paid} bits, the network asks for {self.join_bits}")
        return Passage(shown)

    def open_body(self, agent: AgentId, body: dict[str, Any]) -> Passage:
        """The same for the body of a membrane record."""
        field = "invitation" if self.by_invitation else "nonce"
        if list(body) != [field]:
            raise MembraneError(f"the membrane record of this network has exactly the field {field}")
        return self.open(agent, body[field])


def work_bits(network: Cid, agent: AgentId, nonce: int) -> int:
    """How many leading zero bits the join hash of this nonce has."""
    digest = sha256(JOIN_TAG + network + agent + _nonce_bytes(nonce)).digest()
    return 256 - int.from_bytes(digest, "big").bit_length()


def find_nonce(network: Cid, agent: AgentId, bits: int, start: int = 0) -> int:
    """The first nonce from `start` on that pays `bits`; expected cost 2**bits hashes."""
    if not 0 <= bits <= MAX_JOIN_BITS:
        raise RecordError(f"join_bits {bits} is outside 0 … {MAX_JOIN_BITS}")
    nonce = start
    while work_bits(network, agent, nonce) < bits:
        nonce += 1
    return nonce


def position(network: Cid, agent: AgentId, nonce: int) -> bytes:
    """The agent's 256-bit position in the DHT: sha256(network ‖ key ‖ nonce)."""
    return sha256(network + agent + _nonce_bytes(nonce)).digest()


def _nonce_bytes(nonce: int) -> bytes:
    if type(nonce) is not int or not 0 <= nonce <= MAX_NONCE:
        raise RecordError(f"nonce {nonce!r:.40} is outside 0 … {MAX_NONCE}")
    return nonce.to_bytes(NONCE_SIZE, "big")
