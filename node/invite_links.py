"""Invite links: secrets that a node has handed out, each good for one guest until it lapses.

Who has a link needs no key yet: it shows the secret to the node that made the link, over a connection that
proves its key, and that node signs an invitation for the key. So every proof in the network names one key,
and a link that leaks admits one agent at most, and none once it was used or has lapsed. Asked again by the
same key it answers the same, because a guest may crash before it has written what it got.

Only hashes of secrets are kept. Pure: clock values come in, and whoever calls makes the book durable
(`write`) before anything signed under it leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from chain.identity import AgentId
from chain.invitation import MAX_PROOF, MAX_PROOF_STATEMENT
from node.errors import Forbidden, HomeDamaged, InvalidInput

MAX_LINKS = 256
"""Links that are open or were used and have not lapsed."""
LAPSED = "this invite link has lapsed, or is not of this node: ask for a new one"
MAX_FILE = 1 << 20
"""Bytes of the book as a file."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link; `guest` and `proof` once it was used. `expires_us`: µs since 1970."""

    digest: bytes
    expires_us: int
    guest: AgentId | None = None
    proof: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkBook:
    """The links of one node; every change gives a new book."""

    links: tuple[Link, ...] = ()

    def add(self, secret: bytes, expires_us: int, now_us: int) -> LinkBook:
        """With one more link; what has lapsed goes. Raises `InvalidInput` when there are too many."""
        kept = tuple(link for link in self.links if link.expires_us > now_us)
        if len(kept) >= MAX_LINKS:
            raise InvalidInput(
                f"{MAX_LINKS} invite links are open; wait until some lapse, or invite by agent id"
            )
        return LinkBook((*kept, Link(_digest(secret), expires_us)))

    def knows(self, secret: bytes, now_us: int) -> bool:
        """Whether this is a link of this node that has not lapsed, used or not. O(links)."""
        digest = _digest(secret)
        return any(link.digest == digest and link.expires_us > now_us for link in self.links)

    def redeem(
        self, secret: bytes, guest: AgentId, now_us: int, sign: Callable[[], tuple[bytes, ...]]
    ) -> tuple[LinkBook, tuple[bytes, ...]]:
        """The book in which `guest` has used the link, and its proof. Raises `Forbidden`, saying why not."""
        digest = _digest(secret)
        found = next((link for link in self.links if link.digest == digest), None)
        if found is None or found.expires_us <= now_us:
            raise Forbidden(LAPSED)
        if found.guest is not None and found.guest != guest:
            raise Forbidden("this invite link was used by somebody else: ask for a new one")
        if found.guest == guest:
            return self, found.proof
        used = replace(found, guest=guest, proof=sign())
        return LinkBook(tuple(used if link is found else link for link in self.links)), used.proof

    def open_at(self, now_us: int) -> int:
        """How many links can still be used."""
        return sum(link.guest is None and link.expires_us > now_us for link in self.links)

    def write(self) -> bytes:
        """The book as a file."""
        return json.dumps([_plain(link) for link in self.links], indent=1).encode()


def read_link_book(data: bytes) -> LinkBook:
    """Read a book; raises `HomeDamaged`."""
    try:
        return LinkBook(tuple(_link(one) for one in json.loads(data)))
    except (ValueError, TypeError, KeyError) as error:
        raise HomeDamaged(
            f"the list of invite links is damaged ({error}): delete it, and links that are open lapse"
        ) from error


def _plain(link: Link) -> dict[str, Any]:
    return {
        "digest": link.digest.hex(),
        "expires_us": link.expires_us,
        "guest": None if link.guest is None else link.guest.hex(),
        "proof": [part.hex() for part in link.proof],
    }


def _link(value: dict[str, Any]) -> Link:
    guest = value["guest"]
    proof = tuple(bytes.fromhex(part) for part in value["proof"])
    if len(proof) > MAX_PROOF or any(len(part) > MAX_PROOF_STATEMENT for part in proof):
        raise ValueError("a proof is too long")
    return Link(
        bytes.fromhex(value["digest"]),
        int(value["expires_us"]),
        None if guest is None else bytes.fromhex(guest),
        proof,
    )


def _digest(secret: bytes) -> bytes:
    return sha256(b"roseforest/invite-link/1\0" + secret).digest()
