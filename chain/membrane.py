"""The membrane: what a key pays to join an open network, and where it then stands in the DHT.

An open network asks for hashcash (Back, 2002): a nonce whose hash with network and key begins with
`join_bits` zero bits. The same nonce fixes the key's position in the DHT's key space, under another hash, so
that choosing a position costs a new proof of work for every try.
"""

from __future__ import annotations

from hashlib import sha256

from chain.cid import Cid
from chain.errors import RecordError
from chain.identity import AgentId

JOIN_TAG = b"roseforest/join/1\0"
MAX_JOIN_BITS = 40
NONCE_SIZE = 8
MAX_NONCE = (1 << 63) - 1


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
