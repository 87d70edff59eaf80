"""Invitations: how a network whose membrane is by invitation says which keys belong to it.

An invitation is a statement of an inviter: this key may enter this network, and its place in the DHT follows
from this nonce. Inviters are the network's founder and whoever holds a grant, a statement of the founder that
names an inviter. A grant of anybody else counts for nothing, so the line from a guest to the founder is never
longer than two. What a guest shows is a proof: [invitation] or [invitation, grant].

An invitation names one key, so it is worth nothing to anybody else and admits its guest once: the same key at
the same place, however often it is shown. It never lapses, because nobody could tell a late joining from one
that was dated back. A grant may name the last epoch in which its guests may begin their chains; that binds
honest nodes, and for the same reason not a guest who begins in an older epoch on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.cid import Cid, is_raw_cid, to_text
from chain.errors import ChainError, MembraneError
from chain.identity import AGENT_ID_SIZE, AgentId, Identity, peer_id
from chain.statement import open_statement, sign_statement

INVITATION = "invitation"
GRANT = "grant"
MAX_UNTIL = 1 << 31
"""Greatest epoch number that a grant may name."""
MAX_PROOF = 2
"""Statements in a proof."""
MAX_PROOF_STATEMENT = 256
"""Bytes of an invitation or a grant; either takes some 190."""
MAX_INVITED_NONCE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Invitation:
    """A verified invitation: `inviter` lets `guest` into `network`, at the place that `nonce` fixes."""

    inviter: AgentId
    network: Cid
    guest: AgentId
    nonce: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A verified grant: `founder` lets `inviter` invite; `until` is the last epoch for it, None: all."""

    founder: AgentId
    network: Cid
    inviter: AgentId
    until: int | None


def sign_invitation(inviter: Identity, network: Cid, guest: AgentId, nonce: int) -> bytes:
    """Invite `guest`; `nonce` is drawn at random by the inviter. Raises `MembraneError` out of range."""
    _check_key("guest", guest)
    _check_number("nonce", nonce, MAX_INVITED_NONCE)
    return sign_statement(inviter, INVITATION, [network, guest, nonce]).data


def sign_grant(founder: Identity, network: Cid, inviter: AgentId, until: int | None = None) -> bytes:
    """Let `inviter` invite, in all epochs or up to epoch number `until`."""
    _check_key("inviter", inviter)
    if until is not None:
        _check_number("until", until, MAX_UNTIL)
    return sign_statement(founder, GRANT, [network, inviter, until]).data


def open_invitation(data: bytes) -> Invitation:
    """Read an invitation and check its signature; raises `ChainError`."""
    author, network, guest, nonce = _open(INVITATION, data)
    _check_key("guest", guest)
    _check_number("nonce", nonce, MAX_INVITED_NONCE)
    assert isinstance(guest, bytes)
    assert isinstance(nonce, int)
    return Invitation(author, network, guest, nonce)


def open_grant(data: bytes) -> Grant:
    """Read a grant and check its signature; raises `ChainError`."""
    author, network, inviter, until = _open(GRANT, data)
    _check_key("inviter", inviter)
    if until is not None:
        _check_number("until", until, MAX_UNTIL)
    assert isinstance(inviter, bytes)
    assert until is None or isinstance(until, int)
    return Grant(author, network, inviter, until)


def check_grant(grant: Grant, network: Cid, founder: AgentId, inviter: AgentId) -> None:
    """Raise `MembraneError` unless the founder of `network` lets `inviter` invite."""
    _check_network(grant.network, network)
    if grant.founder != founder:
        raise MembraneError("the grant is not the founder's; only the founder names inviters")
    if grant.inviter != inviter:
        raise MembraneError("the grant names another inviter than the one who signed the invitation")


def open_proof(
    proof: tuple[bytes, ...], network: Cid, founder: AgentId, guest: AgentId
) -> tuple[Invitation, Grant | None]:
    """The invitation and grant of a proof that admits `guest`; two signature checks at most.

    Raises `ChainError`, as a `MembraneError` where the statements are sound and do not admit this key here.
    """
    if not 1 <= len(proof) <= MAX_PROOF:
        raise MembraneError("an invitation's proof is the invitation and, unless the founder's, a grant")
    invitation = open_invitation(proof[0])
    _check_network(invitation.network, network)
    if invitation.guest != guest:
        raise MembraneError(f"the invitation is for {peer_id(invitation.guest)}, not for {peer_id(guest)}")
    if invitation.inviter == founder:
        if len(proof) > 1:
            raise MembraneError("the founder's own invitation needs no grant")
        return invitation, None
    if len(proof) == 1:
        raise MembraneError("the invitation is neither the founder's nor comes with the founder's grant")
    grant = open_grant(proof[1])
    check_grant(grant, network, founder, invitation.inviter)
    return invitation, grant


def check_proof_shape(value: object) -> tuple[bytes, ...]:
    """A proof as it stands in a payload or an address record: bounded byte strings, not verified yet.

    Raises `MembraneError`.
    """
    if (
        type(value) is not list
        or not 1 <= len(value) <= MAX_PROOF
        or not all(type(part) is bytes and len(part) <= MAX_PROOF_STATEMENT for part in value)
    ):
        raise MembraneError(
            f"an invitation's proof is 1 to {MAX_PROOF} statements of at most {MAX_PROOF_STATEMENT} bytes"
        )
    return tuple(value)


def _open(name: str, data: bytes) -> tuple[AgentId, Cid, object, object]:
    if len(data) > MAX_PROOF_STATEMENT:
        raise MembraneError(f"{name} of {len(data)} bytes; at most {MAX_PROOF_STATEMENT} are read")
    try:
        statement = open_statement(name, data)
    except ChainError as error:
        raise MembraneError(f"the {name} does not hold: {error}") from error
    if len(statement.fields) != 3 or not is_raw_cid(statement.fields[0]):
        raise MembraneError(f"the fields of {name!r} are a network id and two more")
    network, second, third = statement.fields
    return statement.author, network, second, third


def _check_network(found: Cid, expected: Cid) -> None:
    if found != expected:
        raise MembraneError(f"it is for the network {to_text(found)}, not {to_text(expected)}")


def _check_key(name: str, value: object) -> None:
    if type(value) is not bytes or len(value) != AGENT_ID_SIZE:
        raise MembraneError(f"{name} is not a {AGENT_ID_SIZE}-byte key")


def _check_number(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise MembraneError(f"{name} {value!r:.40} is outside 0 … {most}")
