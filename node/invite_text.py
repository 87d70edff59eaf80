"""The invite: one line of text that a person can paste, with all that a guest needs to join.

It carries the network id, addresses of nodes to join through, and what lets the guest in: a proof that names
the guest's key, or the secret of a link, for which the inviter's node signs such a proof for the first key
that shows it. It may also make the guest an inviter. The text is `rose-invite.` and base64url of a canonical
array and a checksum, so that a line that was cut or mistyped is told from one that is refused.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from chain import canonical
from chain.cid import Cid, is_raw_cid
from chain.errors import ChainError
from chain.invitation import MAX_PROOF_STATEMENT, check_proof_shape
from dht.overlay.contact import MAX_ADDRESS
from node.errors import InvalidInput

PREFIX = "rose-invite."
VERSION = 1
MAX_ADDRESSES = 4
SECRET_SIZE = 32
MAX_INVITE = 4096
"""Characters of an invite."""
_CHECK_SIZE = 4


@dataclass(frozen=True, slots=True)
class Invite:
    """`proof` names the guest; or `secret` is shown to the node at `addresses[0]`; or the network is open.

    `grant` lets the guest invite others.
    """

    network: Cid
    addresses: tuple[str, ...]
    proof: tuple[bytes, ...] = ()
    grant: bytes | None = None
    secret: bytes | None = None


def is_invite(text: str) -> bool:
    """Whether this is meant to be an invite, and not a multiaddr."""
    return text.strip().startswith(PREFIX)


def write_invite(invite: Invite) -> str:
    """The line of an invite."""
    data = canonical.encode(
        [
            VERSION,
            invite.network,
            list(invite.addresses[:MAX_ADDRESSES]),
            list(invite.proof),
            invite.grant,
            invite.secret,
        ]
    )
    return PREFIX + base64.urlsafe_b64encode(data + _check(data)).rstrip(b"=").decode("ascii")


def read_invite(text: str) -> Invite:
    """Read an invite; its statements are not verified yet. Raises `InvalidInput`."""
    text = "".join(text.split())  # a mail may have broken the line
    if not text.startswith(PREFIX) or len(text) > MAX_INVITE:
        raise InvalidInput(
            f"not an invite: it begins with {PREFIX!r} and has at most {MAX_INVITE} characters"
        )
    coded = text.removeprefix(PREFIX)
    try:
        whole = base64.b64decode(coded + "=" * (-len(coded) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("the invite is damaged: copy the whole line again") from error
    data, check = whole[:-_CHECK_SIZE], whole[-_CHECK_SIZE:]
    if _check(data) != check:
        raise InvalidInput("the invite is incomplete or mistyped: copy the whole line again")
    try:
        return _read(canonical.decode(data, MAX_INVITE))
    except ChainError as error:
        raise InvalidInput(f"the invite is not one that this release reads: {error}") from error


def _read(fields: object) -> Invite:
    if type(fields) is not list or len(fields) != 6 or fields[0] != VERSION:
        raise InvalidInput("the invite is of a newer release: install that")
    _, network, addresses, proof, grant, secret = fields
    if not is_raw_cid(network):
        raise InvalidInput("the invite names no network")
    if (
        type(addresses) is not list
        or not 0 < len(addresses) <= MAX_ADDRESSES
        or not all(type(one) is str and len(one.encode()) <= MAX_ADDRESS for one in addresses)
    ):
        raise InvalidInput(f"the invite has no 1 to {MAX_ADDRESSES} addresses")
    if grant is not None and (type(grant) is not bytes or len(grant) > MAX_PROOF_STATEMENT):
        raise InvalidInput("the invite has a malformed grant")
    if secret is not None and (type(secret) is not bytes or len(secret) != SECRET_SIZE):
        raise InvalidInput("the invite has a malformed secret")
    shown = check_proof_shape(proof) if proof else ()
    return Invite(network, tuple(addresses), shown, grant, secret)


def _check(data: bytes) -> bytes:
    return sha256(b"roseforest/invite/1\0" + data).digest()[:_CHECK_SIZE]
