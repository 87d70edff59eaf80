"""What a node knows of its network before it talks to anyone: manifest, epochs, atlas and space.

`found` makes a new network's constitution; `Founding` from `hello` carries a stranger's. Either way the
node refuses to start when it cannot compute the manifest's embedding space, instead of filling the network
with vectors of another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.cid import Cid, blob_cid
from chain.epoch import Epoch, epoch_from_body
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import RULE_VERSION
from chain.manifest import MAX_MODEL, Limits, Manifest, Space
from chain.record import decode_payload, decode_record
from chain.text import check_text
from dht.overlay.hello import Founding
from dht.records.placement import Layout
from node.embedding.caller import CallerVectors
from node.embedding.embedder import Embedder
from node.embedding.external import EmbedderSettings, external_embedder, is_external
from node.errors import InvalidInput
from sharding.atlas import Atlas
from sharding.errors import ShardingError
from sharding.tree import ShardTree

CALLER_SPACE = "caller-vectors"
"""Model id of spaces whose vectors come with each entry and query.
Behind a colon may stand what makes them.
"""
REPLICATION = 3
SHARD_TARGET = 512
SHARD_BITS = 6
"""Depth of the shard tree: 64 shards. Fixed in this release; splitting comes later."""
DEFAULT_JOIN_BITS = 12


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Terms:
    """What a founder may decide about a network besides its name, price and space.

    `stewards` besides the founder; of all of them `threshold` sign an epoch.
    """

    by_invitation: bool = False
    stewards: tuple[AgentId, ...] = ()
    threshold: int = 1
    replication: int = REPLICATION
    shard_target: int = SHARD_TARGET
    limits: Limits = DEFAULT_LIMITS


class SpaceError(ValueError):
    """This node cannot work in the network's embedding space."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What nodes of a network compute with: how texts become vectors, and where content lay at first.

    It never changes, and nodes in one process may share it: it is most of an idle node's memory.
    """

    embedder: Embedder | CallerVectors
    layout: Layout


def ground_for(founding: Founding, settings: EmbedderSettings | None = None) -> Ground:
    """The ground of a network; raises `SpaceError`. About 60 ms and 10 MB."""
    manifest = founding.manifest
    embedder = embedder_for(manifest.space, settings)
    return Ground(embedder, first_layout(founding))


def found(
    name: str,
    founder: AgentId,
    join_bits: int,
    vectors_dim: int | None,
    now_us: int,
    chosen: Space | None = None,
    terms: Terms | None = None,
    atlas: Cid | None = None,
) -> Manifest:
    """The manifest of a new network: the built-in embedder's space, or `vectors_dim` caller's vectors.

    With `chosen`, that space. The built-in embedder's has an atlas of its own; without an `atlas` for another
    one its entries lie in random shards and a query asks them all.
    """
    from node.embedding.packaged import packaged_atlas
    from node.embedding.static import DIM, SPACE

    space = chosen or (Space(SPACE, DIM) if vectors_dim is None else Space(CALLER_SPACE, vectors_dim))
    if atlas is None and space.model == SPACE:
        atlas = blob_cid(packaged_atlas())
    terms = terms or Terms()
    return Manifest(
        name=name,
        space=space,
        founder=founder,
        stewards=tuple(sorted({founder, *terms.stewards})),
        threshold=terms.threshold,
        join_bits=0 if terms.by_invitation else join_bits,
        replication=terms.replication,
        shard_target=terms.shard_target,
        atlas=atlas,
        rules=RULE_VERSION,
        founded=now_us,
        limits=terms.limits,
        by_invitation=terms.by_invitation,
    )


def external_space(model: str, dim: int) -> Space:
    """The space of an embedder that is not ours; raises `InvalidInput` for a name that says no such."""
    if not is_external(model):
        raise InvalidInput(
            f"{model!r} is no embedder: give sentence-transformers:NAME or openai:NAME, or leave --embedder "
            "out for the built-in one"
        )
    return Space(model, dim)


def named_space(name: str, dim: int) -> Space:
    """The space of vectors that NAME makes: an embedder that is not ours, the built-in one, or else the name
    of what the callers' vectors come from.

    Raises `InvalidInput` for a name that no manifest can hold, or the built-in embedder with other
    dimensions.
    """
    from node.embedding.static import DIM, SPACE

    if name == SPACE and dim != DIM:
        raise InvalidInput(f"the built-in embedder {SPACE} has {DIM} dimensions, not {dim}")
    model = name if is_external(name) or name == SPACE else f"{CALLER_SPACE}:{name}"
    if not name.strip() or not model.isprintable():
        raise InvalidInput(f"the embedding's name {name!r:.80} is empty or cannot be printed")
    try:
        check_text("the embedding's name", model, MAX_MODEL)
    except ChainError as error:
        raise InvalidInput(str(error)) from error
    return Space(model, dim)


def takes_callers_vectors(space: str) -> bool:
    """Whether vectors of this space come with each entry and query."""
    return space == CALLER_SPACE or space.startswith(f"{CALLER_SPACE}:")


def embedder_for(space: Space, settings: EmbedderSettings | None = None) -> Embedder | CallerVectors:
    """The embedder of a manifest's space; raises `SpaceError` naming both sides when there is none.

    For a space of an embedder that is not ours, `settings` say how to reach it; one that this node lacks is
    an `Unavailable` embedder and no error, because the node can still hold and answer.
    """
    if takes_callers_vectors(space.model):
        return CallerVectors(space.model, space.dim)
    if is_external(space.model):
        return external_embedder(space.model, space.dim, settings or EmbedderSettings())
    from node.embedding.static import StaticEmbedder

    embedder = StaticEmbedder()
    if (space.model, space.dim) != (embedder.space, embedder.dim):
        raise SpaceError(
            f"the network embeds with {space.model!r} in {space.dim} dimensions; this node has "
            f"{embedder.space!r} in {embedder.dim}. Install the release that ships the network's embedder"
        )
    return embedder


def first_layout(founding: Founding) -> Layout:
    """The layout of epoch 0; unknown where its atlas was replaced before this node came."""
    if founding.atlas_bytes is None and founding.manifest.atlas is not None:
        return Layout(None, ShardTree.fixed(SHARD_BITS), known=False)
    return layout_for(founding.manifest, founding.atlas_bytes)


def layout_for(manifest: Manifest, atlas_bytes: bytes | None) -> Layout:
    """The shard layout of a manifest; raises `SpaceError` when the atlas is missing or is another one."""
    return Layout(_named_atlas(manifest.space, manifest.atlas, atlas_bytes), ShardTree.fixed(SHARD_BITS))


def newest_epoch(founding: Founding) -> tuple[Cid, Epoch | None]:
    """The newest epoch of a founding that was checked, by the CID that names it; None for epoch 0."""
    if not founding.epochs:
        return founding.manifest.network_id, None
    record = decode_record(founding.epochs[-1])
    return record.cid, epoch_from_body(decode_payload(record.payload or b""), founding.manifest)


def require_atlas(founding: Founding) -> None:
    """Raise `SpaceError` unless the atlas of a founding is that of its newest epoch, and of its space."""
    _, epoch = newest_epoch(founding)
    named = founding.manifest.atlas if epoch is None else epoch.atlas
    _named_atlas(founding.manifest.space, named, founding.atlas_bytes)


def checked_atlas(space: Space, data: bytes) -> Atlas:
    """The atlas in these bytes, if it is one of this space; raises `SpaceError`."""
    try:
        atlas = Atlas.decode(data)
    except ShardingError as error:
        raise SpaceError(f"this is no atlas: {error}") from error
    if (atlas.space, atlas.dim) != (space.model, space.dim):
        raise SpaceError(
            f"the atlas is of the space {atlas.space!r} in {atlas.dim} dimensions, the network's is "
            f"{space.model!r} in {space.dim}"
        )
    return atlas


def _named_atlas(space: Space, cid: Cid | None, data: bytes | None) -> Atlas | None:
    if cid is None:
        return None
    if data is None or blob_cid(data) != cid:
        raise SpaceError(
            "the network's atlas is missing or damaged; run `roseforest init --join` again to fetch it"
        )
    return checked_atlas(space, data)
