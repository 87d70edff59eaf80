"""The JSON of what a node says of itself and of its peers: status, clock, chain, settings, and that it stops.

Sizes are in MB of 2^20 bytes, times in seconds, ids as in `node.api.shapes`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from chain.cid import to_text
from chain.identity import peer_id
from node.models import PeerView, Status


class StatusOut(BaseModel):
    """The node at a glance."""

    agent_id: str
    network: str
    network_name: str
    space: str
    addresses: list[str]
    peers: int
    records: int
    held: int
    pending: int
    shards_held: int
    under_replicated: int
    repairing: int
    store_mb: float
    store_max_mb: float | None
    full: bool
    replication: int
    unconfirmed: int
    reachable: bool
    read_only: str | None
    chain: str
    chains: dict[str, int]
    waiting: dict[str, int]
    refused: dict[str, int]
    rss_mb: float
    uptime_s: float
    version: str
    health: dict[str, int]
    counters: dict[str, int]


class ClockOut(BaseModel):
    """By how many seconds the peers' clocks are ahead of this one, as a median; null without any to ask."""

    ahead_s: float | None
    peers: int


class PeerOut(BaseModel):
    """One peer of the routing table."""

    agent_id: str
    addresses: list[str]
    connected: bool
    responsive: bool
    capacity: int
    full: bool
    latency_ms: float | None
    standing: str


class PeersOut(BaseModel):
    """The routing table."""

    peers: list[PeerOut]


class VerifyOut(BaseModel):
    """Whether the node's own chain verifies; when not, `length` counts the records before the break."""

    ok: bool
    length: int
    head: str | None
    kinds: dict[str, int] = {}
    reason: str | None = None


class RebuiltOut(BaseModel):
    """How many vectors the rebuilt index holds."""

    vectors: int


class SettingOut(BaseModel):
    """A setting in force and who set it."""

    value: Any
    origin: str


class StoppingOut(BaseModel):
    """The daemon has begun to stop."""

    stopping: bool = True


def _mb(count: int) -> float:
    return round(count / (1 << 20), 1)


def status_out(status: Status, rss_bytes: int, version: str) -> StatusOut:
    """The status as JSON."""
    return StatusOut(
        agent_id=peer_id(status.agent),
        network=to_text(status.network),
        network_name=status.network_name,
        space=status.space,
        addresses=list(status.addresses),
        peers=status.peers,
        records=status.records,
        held=status.held,
        pending=status.pending,
        shards_held=status.shards_held,
        under_replicated=status.under_replicated,
        repairing=status.repairing,
        store_mb=_mb(status.store_bytes),
        store_max_mb=None if status.store_max_bytes is None else _mb(status.store_max_bytes),
        full=status.full,
        replication=status.replication,
        unconfirmed=status.unconfirmed,
        reachable=status.reachable,
        read_only=status.read_only,
        chain=status.chain,
        chains=status.chains,
        waiting=status.waiting,
        refused=dict(sorted(status.refused.items())),
        rss_mb=_mb(rss_bytes),
        uptime_s=round(status.uptime_s, 1),
        version=version,
        health=status.health,
        counters=dict(sorted(status.counters.items())),
    )


def peer_out(peer: PeerView) -> PeerOut:
    """A peer as JSON."""
    return PeerOut(
        agent_id=peer_id(peer.agent),
        addresses=list(peer.addresses),
        connected=peer.connected,
        responsive=peer.responsive,
        capacity=peer.capacity,
        full=peer.full,
        latency_ms=None if peer.latency_ms is None else round(peer.latency_ms, 2),
        standing=peer.standing,
    )
