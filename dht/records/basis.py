"""Bases: the 256-bit keys that say where in the DHT something lies.

A basis is 32 bytes and lives in the same space as the nodes' positions; its holders are the responsive nodes
closest to it (`dht.overlay.distance`). A subject lies at the hash inside its CID, an author's activity at a
hash of the key under a tag of its own, so that nobody can make an entry's id fall on an author's basis; a
shard's basis comes from its prefix (`sharding.tree`). The learning tasks of a network are listed at one
basis.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TypeAlias

from chain.cid import DIGEST_SIZE, Cid, digest
from chain.errors import IdentityError
from chain.identity import AGENT_ID_SIZE, AgentId

Basis: TypeAlias = bytes
"""32 bytes in the key space of the DHT."""

BASIS_SIZE = DIGEST_SIZE
AUTHOR_TAG = b"roseforest/author/1\0"
LISTING_TAG = b"roseforest/learning-tasks/1\0"
NOTICE_TAG = b"roseforest/notices/1\0"


def subject_basis(cid: Cid) -> Basis:
    """Where the subject with this CID lies; raises `CidError` for anything but a CID."""
    return digest(cid)


def author_basis(agent: AgentId) -> Basis:
    """Where an author's activity lies; raises `IdentityError` unless `agent` is a 32-byte key."""
    if len(agent) != AGENT_ID_SIZE:
        raise IdentityError(f"an agent id has {AGENT_ID_SIZE} bytes, not {len(agent)}")
    return sha256(AUTHOR_TAG + agent).digest()


def listing_basis(network: Cid) -> Basis:
    """Where a network lists its learning tasks."""
    return sha256(LISTING_TAG + network).digest()


def notice_basis(network: Cid) -> Basis:
    """Where every node of a network holds what all have to know."""
    return sha256(NOTICE_TAG + network).digest()
