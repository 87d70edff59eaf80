"""How an agent takes part in its network, and where its node keeps its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chain.identity import AgentId
from dht.records.room import NO_QUOTA, Quota
from node.home import Home
from node.query.asker import DEFAULT_DEADLINE_MS
from node.trust_root import DEFAULT_ROOTS
from node.vitals import Usage

DEFAULT_BLOBS_BYTES = 2048 << 20


@dataclass(frozen=True, slots=True)
class NodePaths:
    """Where a node keeps its files."""

    chain: Path
    held: Path
    derived: Path
    blocked: Path | None = None
    """What the owner does not want here; None: nothing is remembered."""
    peers: Path | None = None
    """Addresses of peers seen last; None where they are not remembered."""
    blobs: Path | None = None
    """Folder of blobs; None: `blobs` beside the chain."""
    learning: Path | None = None
    """What is remembered of learning tasks; None: `learning.db` beside the chain."""

    @classmethod
    def of(cls, home: Home) -> NodePaths:
        """Where a home folder keeps them."""
        return cls(
            chain=home.chain_db,
            held=home.held_db,
            derived=home.derived_db,
            blocked=home.blocked,
            peers=home.peers,
        )


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How this agent takes part. `capacity` 0 holds nothing for others; it still authors and asks."""

    capacity: int = 100
    bootstrap: tuple[str, ...] = ()
    name: str = ""
    recovery: AgentId | None = None
    query_deadline_ms: int = DEFAULT_DEADLINE_MS
    """For queries that set none of their own."""
    query_cache_s: float = 0.0
    """Seconds that a whole answer is kept for who asks the same; 0: not at all."""
    check_texts: bool | None = None
    """Embed the best hits again where vectors are not validated; None: unless an endpoint has to be asked."""
    why_frozen: Callable[[int], str | None] = lambda records: None
    """Why a chain of so many records takes no more, or None (`node.instance`)."""
    failures_allowed: int = 0
    """How often a background loop may fail in ten minutes (`node.supervision`); 0: its first error raises."""
    forced: bool = False
    """The owner's word that no other copy of this home writes, and nothing newer was written elsewhere."""
    confirmed: Callable[[int], None] = lambda records: None
    """Called, blocking, when holders confirmed that the chain, of so many records, is whole here."""
    blobs_max_bytes: int = DEFAULT_BLOBS_BYTES
    """Disk space for blobs; the least recently used that nobody pinned go when it is full."""
    quota: Quota = NO_QUOTA
    """What is held for others takes up so much."""
    invitation: tuple[bytes, ...] = ()
    """The proof that lets this agent into a network by invitation; only its first start needs it."""
    usage: Usage = lambda: (0.0, 0.0)
    """How busy the machine is (`node.vitals.machine`)."""
    trust_roots: tuple[str, ...] = DEFAULT_ROOTS
    """Whose votes count in full for this node (`node.trust_root`)."""
    divides_shards: bool = True
    """Whether this node proposes and signs that shards divide, or are joined; it follows those of others."""
