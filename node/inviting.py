"""Inviting: how a node whose agent may do so lets others into its network.

The founder may, and whoever holds the founder's grant (a file in the home, put there by the invite that
named this agent an inviter). Guests are named by their agent ids, or come with the secret of a link, which
this node answers as part of `hello`, the method that is open to strangers.
"""

from __future__ import annotations

from pathlib import Path

import trio

from chain.identity import AgentId, Identity, peer_id
from chain.invitation import MAX_INVITED_NONCE, check_grant, open_grant, sign_grant, sign_invitation
from chain.manifest import Manifest
from dht.errors import RefusalCode, RequestRefused
from dht.network import Network
from dht.ports import Clock, Random, RunBlocking
from node.durable_files import write_atomically
from node.errors import Forbidden, InvalidInput
from node.invite_links import LAPSED, MAX_FILE, LinkBook, read_link_book
from node.invite_text import MAX_ADDRESSES, SECRET_SIZE, Invite, write_invite

GRANT_FILE, LINKS_FILE = "grant", "invite-links"
"""Files beside the chain."""
DEFAULT_LINK_S = 7 * 24 * 3600
MAX_LINK_S = 365 * 24 * 3600


class Inviting:
    """Makes invites in the name of `identity`; `grant` and `links` are files of its home."""

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        network: Network,
        grant: Path,
        links: Path,
        clock: Clock,
        random: Random,
        run_blocking: RunBlocking,
    ) -> None:
        self._identity = identity
        self._manifest = manifest
        self._network_id = manifest.network_id
        self._network = network
        self._grant = grant
        self._links = links
        self._clock = clock
        self._random = random
        self._run_blocking = run_blocking
        self._lock = trio.Lock()
        self._book: LinkBook | None = None

    async def invite(self, guest: AgentId, *, as_inviter: bool = False, until: int | None = None) -> str:
        """The invite for one agent; `as_inviter`: it may invite others, up to epoch `until`.

        Raises `Forbidden` when this agent may not, and `InvalidInput` for what makes no sense.
        """
        if not self._manifest.by_invitation:
            raise InvalidInput(
                "this network is open, anybody may join: leave the agent out for the line to join by"
            )
        proof = await self._run_blocking(self._proof_for, guest)
        grant = None
        if as_inviter:
            if self._identity.agent != self._manifest.founder:
                founder = peer_id(self._manifest.founder)
                raise Forbidden(f"only the founder {founder} names inviters")
            grant = sign_grant(self._identity, self._network_id, guest, until)
        elif until is not None:
            raise InvalidInput("only an inviter's grant ends with an epoch: --until goes with --inviter")
        return self._text(Invite(self._network_id, (), proof, grant))

    async def link(self, lasts_s: int = DEFAULT_LINK_S) -> str:
        """An invite that names nobody: a link for one guest, or in an open network the line to join by."""
        if not self._manifest.by_invitation:
            return self._text(Invite(self._network_id, ()))
        if not 0 < lasts_s <= MAX_LINK_S:
            raise InvalidInput(f"a link lasts 1 s to {MAX_LINK_S} s, not {lasts_s}")
        secret = self._random.random_bytes(SECRET_SIZE)
        now_us = self._clock.wall_us()
        async with self._lock:
            await self._run_blocking(self._proof_for, self._identity.agent)  # whether we may at all
            book = (await self._links_now()).add(secret, now_us + lasts_s * 1_000_000, now_us)
            await self._keep(book)
        return self._text(Invite(self._network_id, (), secret=secret))

    async def redeem(self, guest: AgentId, secret: bytes) -> tuple[bytes, ...]:
        """The proof for a stranger that shows the secret of a link. Raises `RequestRefused`."""
        if not self._manifest.by_invitation:
            raise RequestRefused(RefusalCode.FORBIDDEN, "this network is open; no invite is needed")
        now_us = self._clock.wall_us()
        book = await self._links_now()
        try:
            if not book.knows(secret, now_us):  # a stranger's guess costs a hash, and nobody's turn
                raise Forbidden(LAPSED)
            async with self._lock:
                before = await self._links_now()
                after, proof = await self._run_blocking(self._redeem, before, secret, guest, now_us)
                if after is not before:
                    await self._keep(after)
        except Forbidden as error:
            raise RequestRefused(RefusalCode.FORBIDDEN, str(error)) from error
        return proof

    def _proof_for(self, guest: AgentId) -> tuple[bytes, ...]:
        """Sign for one guest; blocking, a small file is read."""
        grants: tuple[bytes, ...] = ()
        if self._identity.agent != self._manifest.founder:
            if not self._grant.exists():
                founder, own = peer_id(self._manifest.founder), peer_id(self._identity.agent)
                raise Forbidden(
                    f"this agent may not invite: the founder {founder} can let it, by "
                    f"roseforest network invite --inviter {own}"
                )
            grants = (self._grant.read_bytes(),)
            check_grant(open_grant(grants[0]), self._network_id, self._manifest.founder, self._identity.agent)
        nonce = int.from_bytes(self._random.random_bytes(8), "big") & MAX_INVITED_NONCE
        return (sign_invitation(self._identity, self._network_id, guest, nonce), *grants)

    def _redeem(
        self, book: LinkBook, secret: bytes, guest: AgentId, now_us: int
    ) -> tuple[LinkBook, tuple[bytes, ...]]:
        return book.redeem(secret, guest, now_us, lambda: self._proof_for(guest))

    async def _links_now(self) -> LinkBook:
        """The links, read once: this process alone writes them while it runs."""
        if self._book is None:
            self._book = await self._run_blocking(self._read)
        return self._book

    async def _keep(self, book: LinkBook) -> None:
        await self._run_blocking(write_atomically, self._links, book.write(), 0o600)
        self._book = book

    def _read(self) -> LinkBook:
        if not self._links.exists():
            return LinkBook()
        with open(self._links, "rb") as file:
            return read_link_book(file.read(MAX_FILE))

    def _text(self, invite: Invite) -> str:
        addresses = tuple(self._network.addresses[:MAX_ADDRESSES])
        if not addresses:
            raise InvalidInput("this node listens nowhere, so nobody can join through it: set listen")
        return write_invite(Invite(invite.network, addresses, invite.proof, invite.grant, invite.secret))
