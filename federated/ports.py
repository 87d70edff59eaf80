"""What the driver of learning needs of a node besides the network: blobs, its own chain, and a little memory.

The floors above implement these; everything here is durable when it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from typing import Protocol

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from chain.source_chain import Draft
from federated.actions import Offer


class TooLarge(Exception):
    """A CID names a blob beyond the size that was asked for."""


class NoRoom(Exception):
    """A blob cannot be kept: the quota or the disk is full."""


class Blobs(Protocol):
    """Models as blobs."""

    async def map(self, cid: Cid) -> bytes | mmap | None:
        """A blob that is here, mapped from disk where it can be, or None."""
        ...

    async def put(self, data: bytes) -> Cid:
        """Keep a blob durably until it is released; its CID. Raises `NoRoom`."""
        ...

    async def get(self, cid: Cid) -> bytes | None:
        """A blob that is here, or None."""
        ...

    async def fetch_mapped(self, cid: Cid, size_limit: int, agents: Sequence[AgentId]) -> bytes | mmap | None:
        """Like `fetch`, but mapped from disk where it can be: whoever looks at it in blocks holds no copy."""
        ...

    async def fetch(self, cid: Cid, size_limit: int, agents: Sequence[AgentId]) -> bytes | None:
        """A blob from here or from any of these agents, verified; None when none of them has it.

        Raises `TooLarge` for one of more than `size_limit` bytes. May take long: cancel it.
        """
        ...

    def cid_of(self, data: bytes) -> Cid:
        """The CID that a blob would have."""
        ...

    async def release(self, cid: Cid) -> None:
        """The blob is needed no more by a round; it may go when room is short."""
        ...


class OwnChain(Protocol):
    """The node's own chain. While `frozen` says why, this node may be a copy, and signs nothing."""

    frozen: str | None

    async def append(self, drafts: Sequence[Draft], keys: Sequence[bytes | None]) -> list[tuple[Cid, bool]]:
        """Append drafts, all or none; a key that was used before gives the earlier record."""
        ...

    def get_many(self, cids: Sequence[Cid]) -> list[Record | None]:
        """Own records by CID."""
        ...


class Memory(Protocol):
    """What a node remembers of its tasks besides records."""

    def tasks(self) -> list[tuple[Cid, bool]]:
        """The tasks that this node follows, and whether it wants to take part in each."""
        ...

    async def follow(self, task: Cid, wanted: bool) -> None:
        """Follow a task from now on, also after a restart."""
        ...

    def offer(self, task: Cid, previous: bytes) -> Offer | None:
        """The update handed in for the round that builds on `previous`."""
        ...

    def lock(self, task: Cid, previous: bytes) -> tuple[bytes, int] | None:
        """The outcome (its digest) signed last in the round that builds on `previous`, and until when, µs."""
        ...

    async def keep_lock(self, task: Cid, previous: bytes, digest: bytes, until_us: int) -> None:
        """Remember it before the signature leaves: a restart must not make this node sign another at once."""
        ...

    async def keep_offer(self, task: Cid, previous: bytes, offer: Offer) -> None:
        """Remember an update before it is promised: without its salt the promise could not be kept.

        Forgets those of the task's earlier rounds.
        """
        ...

    def mixed(self, task: Cid) -> bytes | None:
        """What `keep_mixed` kept last."""
        ...

    async def keep_mixed(self, task: Cid, data: bytes) -> None:
        """Remember what was combined last in a task of the topology gossip, in place of what was before."""
        ...
