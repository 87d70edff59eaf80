"""Joining: from an invite or an address to all that a home needs to belong to a network.

An address is enough for an open network. One by invitation asks for an invite that names this home's agent,
or for a link, which is exchanged for such a proof at the node that made it. Everything is checked against the
network's manifest here, before anything is written, so that a guest learns at once why it is not let in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chain.cid import Cid
from chain.errors import ChainError, MembraneError
from chain.identity import AgentId, Identity, peer_id
from chain.invitation import check_grant, open_grant
from chain.manifest import Manifest
from dht.errors import DhtError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.hello import Founding, fetch_founding, redeem
from dht.ports import SystemClock
from dht.wire.libp2p_network import open_libp2p_network
from node.errors import JoinFailed, NotInvited
from node.invite_text import Invite, is_invite, read_invite

TIMEOUT_S = 15.0
"""For each question to the peer that is joined through."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a guest has learnt: the network, its proof (none in an open one), maybe the leave to invite."""

    founding: Founding
    addresses: tuple[str, ...]
    proof: tuple[bytes, ...] = ()
    grant: bytes | None = None


async def join(
    identity: Identity, target: str, packaged: Callable[[Cid], bytes | None], *, returning: bool
) -> Joined:
    """Join by an invite or the multiaddr `target`; `returning`: the chain has a proof already.

    Raises `InvalidInput` for an invite that is none, `JoinFailed` when nobody answers or another network
    does, and `NotInvited`.
    """
    invite = read_invite(target) if is_invite(target) else None
    addresses = (target,) if invite is None else invite.addresses
    failures: list[str] = []
    async with open_libp2p_network(identity.seed, (), SystemClock()) as network:
        for address in addresses:
            expected = None if invite is None else invite.network
            try:
                founding = await fetch_founding(network, address, packaged, TIMEOUT_S, network_id=expected)
            except (DhtError, ChainError) as error:
                failures.append(f"cannot join through {address}: {error}")
                continue
            manifest = founding.manifest
            proof: tuple[bytes, ...] = ()
            if manifest.by_invitation:
                proof = await _proof(network, identity.agent, founding, address, invite, returning)
            grant = None if invite is None else invite.grant
            if grant is not None:
                require_grant(grant, manifest, identity.agent)
            return Joined(founding, addresses, proof, grant)
    raise JoinFailed("; ".join(failures))


def require_grant(grant: bytes, manifest: Manifest, agent: AgentId) -> None:
    """Raise `NotInvited` unless this grant lets `agent` invite others into the network."""
    try:
        check_grant(open_grant(grant), manifest.network_id, manifest.founder, agent)
    except MembraneError as error:
        raise NotInvited(f"the invite does not make this agent an inviter: {error}") from error


async def _proof(
    network: Network,
    agent: AgentId,
    founding: Founding,
    address: str,
    invite: Invite | None,
    returning: bool,
) -> tuple[bytes, ...]:
    manifest = founding.manifest
    proof = () if invite is None else invite.proof
    if not proof and invite is not None and invite.secret is not None and not returning:
        try:
            proof = await redeem(network, address, invite.secret, TIMEOUT_S)
        except RequestRefused as refusal:
            reason = refusal.reason if refusal.code == RefusalCode.FORBIDDEN else str(refusal)
            raise NotInvited(reason) from refusal
        except DhtError as error:
            raise JoinFailed(f"{address} does not answer the invite link: {error}") from error
    if not proof:
        if returning:
            return ()
        raise NotInvited(
            f"the network {manifest.name!r} is by invitation: ask a member who may invite for an invite for "
            f"{peer_id(agent)} and run roseforest network join INVITE"
        )
    return require_admission(proof, founding, agent)


def require_admission(proof: tuple[bytes, ...], founding: Founding, agent: AgentId) -> tuple[bytes, ...]:
    """The proof, if it lets `agent` begin a chain in the network's epoch of now; raises `NotInvited`."""
    epoch = len(founding.epochs)
    try:
        passage = founding.manifest.membrane.open(agent, list(proof))
    except MembraneError as error:
        raise NotInvited(f"the invite does not let this agent in: {error}") from error
    if passage.until is not None and passage.until < epoch:
        raise NotInvited(
            f"the inviter's leave to invite ended with epoch {passage.until}, and the network is in epoch "
            f"{epoch}: ask the founder or another inviter"
        )
    return passage.invitation
