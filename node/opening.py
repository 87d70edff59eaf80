"""The opening of a chain: genesis, membrane proof and profile, written once when an agent joins a network.

Genesis names the network and the recovery key whose revocation beats a stolen signing key; the membrane
record carries what lets the agent in, a nonce that pays or an invitation, which also fixes its position in
the DHT.
"""

from __future__ import annotations

from chain.cid import Cid
from chain.errors import MembraneError
from chain.identity import AgentId, Identity
from chain.kinds import GENESIS, MEMBRANE, PROFILE
from chain.manifest import Manifest
from chain.membrane import Passage, find_nonce
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
    invitation: tuple[bytes, ...] = (),
) -> Passage:
    """Write what is missing of the opening and return what lets the agent in.

    Raises `MembraneError` where an `invitation` is needed and the one given does not hold. The search for a
    nonce starts at `nonce_start` (random, so that a position cannot be predicted) and costs 2**join_bits
    hashes. A crash between the three records is continued here at the next start. A chain that is `frozen` is
    left as it is: its opening comes back from the network.
    """
    length, membrane = own.count(), manifest.membrane
    if length >= 2:
        written = own.at(1)
        assert written is not None
        assert written.payload is not None
        passage = membrane.open_body(identity.agent, decode_payload(written.payload))
    elif membrane.by_invitation:
        if not invitation:
            raise MembraneError(f"the network {manifest.name!r} is by invitation, and none was given")
        passage = membrane.open(identity.agent, list(invitation))
    else:
        start = nonce_start % MAX_START
        passage = Passage(await run_blocking(find_nonce, network, identity.agent, manifest.join_bits, start))
    drafts = [
        Draft(GENESIS, {"network": network, "recovery": recovery}),
        Draft(MEMBRANE, passage.body),
        Draft(PROFILE, {"name": name, "software": software}),
    ][length:]
    if drafts and own.frozen is None:
        await own.append(drafts, [None] * len(drafts))
    return passage
