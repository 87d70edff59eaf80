"""The manifest: a network's constitution, immutable, named by its hash, which is the network id.

It pins what every node must agree on for ever: the embedding space, founder and stewards, membrane,
replication, limits, and epoch 0 (atlas and rule version). What has to change later changes by epochs, see
`chain.epoch`. Two networks with the same text are the same network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain import canonical
from chain.cid import Cid, is_blob_cid, raw_cid
from chain.content import MAX_TAGS, MAX_TEXT, Content
from chain.errors import RecordError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.membrane import MAX_JOIN_BITS, Membrane
from chain.record import MAX_PAYLOAD
from chain.text import check_text
from chain.vector import MAX_DIM

MANIFEST_VERSION = 1
MAX_MANIFEST = 16 * 1024
MAX_STEWARDS = 64
MAX_REPLICATION = 15
"""R and a few spare holders have to be found by one lookup, which returns k = 20 nodes."""
MAX_SHARD_TARGET = 1 << 20
MIN_PAYLOAD_LIMIT = 8 * 1024
"""No network may forbid its own genesis, epochs or a short entry in a space of `MAX_DIM` dimensions."""
MAX_MODEL = 100
"""Bytes of the embedding model's name."""
METRIC = "cosine"
OPEN = "open"
INVITATION = "invitation"
"""The two membranes: ["open", join_bits] and ["invitation"]."""


@dataclass(frozen=True, slots=True)
class Space:
    """The embedding space: model id, dimension, metric; vectors of another space are refused."""

    model: str
    dim: int
    metric: str = METRIC


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a record of the network may hold: never more than every node can decode, maybe less.

    `payload` in bytes, `text` in bytes of UTF-8, `tags` an entry.
    """

    payload: int = MAX_PAYLOAD
    text: int = MAX_TEXT
    tags: int = MAX_TAGS

    def fault(self, content: Content) -> str | None:
        """Which limit a content value exceeds, or None."""
        size = len(content.text.encode())
        if size > self.text:
            return f"the text has {size} bytes, this network's limit is {self.text}"
        if len(content.tags) > self.tags:
            return f"there are {len(content.tags)} tags, this network's limit is {self.tags}"
        return None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A network's constitution.

    `join_bits` is the hashcash price of an open network, 0 in one `by_invitation`. `replication` is R, the
    holders of each basis. `shard_target` is B, the records at which a shard splits. `atlas` is None in a
    network without one. `founded` is in microseconds since 1970 and keeps two networks of one name apart.
    """

    name: str
    space: Space
    founder: AgentId
    stewards: tuple[AgentId, ...]
    threshold: int
    join_bits: int
    replication: int
    shard_target: int
    atlas: Cid | None
    rules: int
    founded: int
    limits: Limits = Limits()
    by_invitation: bool = False

    def encode(self) -> bytes:
        """Canonical bytes; raises `RecordError` when a field is out of range."""
        data = canonical.encode(
            {
                "atlas": self.atlas,
                "founded": self.founded,
                "founder": self.founder,
                "limits": [self.limits.payload, self.limits.text, self.limits.tags],
                "membrane": [INVITATION] if self.by_invitation else [OPEN, self.join_bits],
                "name": self.name,
                "replication": self.replication,
                "rules": self.rules,
                "shard_target": self.shard_target,
                "space": [self.space.model, self.space.dim, self.space.metric],
                "stewards": list(self.stewards),
                "threshold": self.threshold,
                "version": MANIFEST_VERSION,
            }
        )
        _check(self)
        return data

    @property
    def network_id(self) -> Cid:
        """The network id, which is also the CID of epoch 0."""
        return raw_cid(self.encode())

    @property
    def membrane(self) -> Membrane:
        """The terms on which keys are let in."""
        return Membrane(self.network_id, self.founder, self.join_bits, self.by_invitation)


def decode_manifest(data: bytes) -> Manifest:
    """Decode manifest bytes; raises `EncodingError` or `RecordError`."""
    body = canonical.decode(data, MAX_MANIFEST)
    if type(body) is not dict or body.get("version") != MANIFEST_VERSION:
        raise RecordError("not a network manifest of a version this node reads")
    try:
        membrane, space, limits = body["membrane"], body["space"], body["limits"]
        by_invitation = membrane == [INVITATION]
        if not by_invitation and (type(membrane) is not list or len(membrane) != 2 or membrane[0] != OPEN):
            raise RecordError(
                f"membrane {membrane!r:.60} is not one this release can join; it knows open networks and "
                "those by invitation"
            )
        if type(space) is not list or len(space) != 3 or type(body["stewards"]) is not list:
            raise RecordError("manifest has a malformed space or stewards")
        if type(limits) is not list or len(limits) != 3:
            raise RecordError("manifest has malformed limits")
        manifest = Manifest(
            name=body["name"],
            space=Space(*space),
            founder=body["founder"],
            stewards=tuple(body["stewards"]),
            threshold=body["threshold"],
            join_bits=0 if by_invitation else membrane[1],
            replication=body["replication"],
            shard_target=body["shard_target"],
            atlas=body["atlas"],
            rules=body["rules"],
            founded=body["founded"],
            limits=Limits(*limits),
            by_invitation=by_invitation,
        )
    except KeyError as error:
        raise RecordError(f"manifest lacks the field {error.args[0]!r}") from error
    if manifest.encode() != data:
        raise RecordError("manifest has fields that this node does not know")
    return manifest


def _check(manifest: Manifest) -> None:
    check_text("network name", manifest.name, 100)
    check_text("embedding model", manifest.space.model, MAX_MODEL)
    _in_range("dimension", manifest.space.dim, 1, MAX_DIM)
    if manifest.space.metric != METRIC:
        raise RecordError(f"metric {manifest.space.metric!r:.40} is not supported; use {METRIC!r}")
    stewards: tuple[Any, ...] = manifest.stewards
    for agent in (manifest.founder, *stewards):
        if type(agent) is not bytes or len(agent) != AGENT_ID_SIZE:
            raise RecordError("founder and stewards are 32-byte agent ids")
    if not 1 <= len(stewards) <= MAX_STEWARDS or list(stewards) != sorted(set(stewards)):
        raise RecordError(f"stewards are 1 to {MAX_STEWARDS} agents, ascending and unique")
    _in_range("threshold", manifest.threshold, 1, len(stewards))
    _in_range("join_bits", manifest.join_bits, 0, MAX_JOIN_BITS)
    if manifest.by_invitation and manifest.join_bits:
        raise RecordError("a network by invitation asks for no work; join_bits is 0")
    _in_range("replication", manifest.replication, 1, MAX_REPLICATION)
    _in_range("shard_target", manifest.shard_target, 16, MAX_SHARD_TARGET)
    _in_range("rules", manifest.rules, 1, 1 << 16)
    _in_range("founded", manifest.founded, 0, (1 << 63) - 1)
    _in_range("payload limit", manifest.limits.payload, MIN_PAYLOAD_LIMIT, MAX_PAYLOAD)
    _in_range("text limit", manifest.limits.text, 1, MAX_TEXT)
    _in_range("tag limit", manifest.limits.tags, 0, MAX_TAGS)
    if manifest.atlas is not None and not is_blob_cid(manifest.atlas):
        raise RecordError("atlas is not a blob CID")


def _in_range(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"{name} {value!r:.40} is outside {low} … {high}")
