"""Agents, manifests and contacts for the tests of this floor."""

from __future__ import annotations

from functools import cache, lru_cache
from hashlib import sha256

from chain.identity import Identity, peer_id
from chain.manifest import Manifest, Space
from chain.membrane import find_nonce, work_bits
from dht.overlay.contact import Contact, make_contact

FOUNDER = bytes(31) + b"\1"
MANIFEST = Manifest(
    name="test",
    space=Space("caller-vectors", 4),
    founder=FOUNDER,
    stewards=(FOUNDER,),
    threshold=1,
    join_bits=4,
    replication=3,
    shard_target=512,
    atlas=None,
    rules=1,
    founded=0,
)
NETWORK_ID = MANIFEST.network_id
NOW_US = 1_767_225_600_000_000


@cache
def identity(number: int) -> Identity:
    return Identity.from_seed(sha256(f"agent {number}".encode()).digest())


@cache
def nonce_of(number: int, network_id: bytes = NETWORK_ID, join_bits: int = MANIFEST.join_bits) -> int:
    return find_nonce(network_id, identity(number).agent, join_bits)


def address_of(number: int, host: str = "127.0.0.1") -> str:
    kind = "ip6" if ":" in host else "ip4"
    return f"/{kind}/{host}/tcp/4001/p2p/{peer_id(identity(number).agent)}"


@lru_cache(maxsize=4096)
def signed(
    number: int,
    *,
    hosts: tuple[str, ...] = ("127.0.0.1",),
    capacity: int = 1,
    full: bool = False,
    issued_us: int = NOW_US,
    ttl_s: int = 3600,
    network_id: bytes = NETWORK_ID,
    nonce: int | None = None,
) -> Contact:
    """A contact with a real signature."""
    return make_contact(
        identity(number),
        network_id,
        nonce_of(number) if nonce is None else nonce,
        [address_of(number, host) for host in hosts],
        capacity,
        full,
        issued_us,
        ttl_s,
    )


def placed(
    position: bytes,
    *,
    agent: bytes | None = None,
    hosts: tuple[str, ...] = ("127.0.0.1",),
    capacity: int = 1,
    issued_us: int = 0,
    full: bool = False,
) -> Contact:
    """A contact at any position, unsigned: for decisions that are made about verified contacts."""
    agent = sha256(b"agent at" + position).digest() if agent is None else agent
    addresses = tuple(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/1/p2p/x" for host in hosts)
    data = b"%d %d %s" % (issued_us, capacity, ",".join(hosts).encode())
    return Contact(agent, 0, position, addresses, capacity, full, issued_us, 3600, data)


def key(number: int) -> bytes:
    """A 32-byte key that looks random."""
    return sha256(f"key {number}".encode()).digest()


def altered(data: bytes) -> bytes:
    """The same bytes but for one bit of the last, where a statement keeps its signature."""
    return data[:-1] + bytes([data[-1] ^ 1])


def poor_nonce(number: int) -> int:
    """A nonce that does not pay what the network asks for."""
    agent = identity(number).agent
    return next(n for n in range(1 << 20) if work_bits(NETWORK_ID, agent, n) < MANIFEST.join_bits)
