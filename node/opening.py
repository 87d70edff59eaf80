"""The opening of a chain: genesis, membrane proof and profile, written once when an agent joins a network.

Genesis names the network and the recovery key whose revocation beats a stolen signing key; the membrane
record carries the hashcash nonce that the network asks for, which also fixes the agent's position in the DHT.
"""

from __future__ import annotations

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.kinds import GENESIS, MEMBRANE, PROFILE
from chain.manifest import Manifest
from chain.membrane import find_nonce
from chain.record import decode_payload
from chain.source_chain import Draft
from dht.ports import RunBlocking
from node.storage.own_chain import OwnChain

MAX_START = 1 << 48


async def ensure_opening(
    own: OwnChain,
    identity: Identity,
    manifest: Manifest,
    network: Cid,
    run_blocking: RunBlocking,
    *,
    nonce_start: int,
    recovery: AgentId | None,
    name: str,
    software: str,
) -> int:
    """Write what is missing of the opening and return the membrane nonce.

    The search for the nonce starts at `nonce_start` (random, so that a position cannot be predicted) and
    costs 2**join_bits hashes. A crash between the three records is continued here at the next start.
    """
    length = own.count()
    if length >= 2:
        membrane = own.at(1)
        assert membrane is not None
        assert membrane.payload is not None
        nonce: int = decode_payload(membrane.payload)["nonce"]
    else:
        nonce = await run_blocking(
            find_nonce, network, identity.agent, manifest.join_bits, nonce_start % MAX_START
        )
    drafts = [
        Draft(GENESIS, {"network": network, "recovery": recovery}),
        Draft(MEMBRANE, {"nonce": nonce}),
        Draft(PROFILE, {"name": name, "software": software}),
    ][length:]
    if drafts:
        await own.append(drafts, [None] * len(drafts))
    return nonce
