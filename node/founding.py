"""What a node knows of its network before it talks to anyone: manifest, epochs, atlas and space.

`found` makes a new network's constitution; `Founding` from `hello` carries a stranger's. Either way the
node refuses to start when it cannot compute the manifest's embedding space, instead of filling the network
with vectors of another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.cid import blob_cid
from chain.identity import AgentId
from chain.kinds import RULE_VERSION
from chain.manifest import Limits, Manifest, Space
from dht.overlay.hello import Founding
from dht.records.placement import Layout
from node.embedding.caller import CallerVectors
from node.embedding.embedder import Embedder
from node.embedding.external import EmbedderSettings, external_embedder, is_external
from node.errors import InvalidInput
from sharding.atlas import Atlas
from sharding.tree import ShardTree

CALLER_SPACE = "caller-vectors"
"""Model id of spaces whose vectors come with each entry and query."""
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
    """What nodes of a network compute with: how texts become vectors, and where content lies.

    It never changes, and nodes in one process may share it: it is most of an idle node's memory.
    """

    embedder: Embedder | CallerVectors
    layout: Layout


def ground_for(founding: Founding, settings: EmbedderSettings | None = None) -> Ground:
    """The ground of a network; raises `SpaceError`. About 60 ms and 10 MB."""
    manifest = founding.manifest
    return Ground(embedder_for(manifest.space, settings), layout_for(manifest, founding.atlas_bytes))


def found(
    name: str,
    founder: AgentId,
    join_bits: int,
    vectors_dim: int | None,
    now_us: int,
    external: Space | None = None,
    terms: Terms | None = None,
) -> Manifest:
    """The manifest of a new network: the built-in embedder's space, or `vectors_dim` caller's vectors.

    With `external`, the space of an embedder that is not ours; there is no atlas for it yet, so its entries
    lie in random shards and a query asks them all.
    """
    if external is not None:
        space, atlas = external, None
    elif vectors_dim is None:
        from node.embedding.packaged import packaged_atlas
        from node.embedding.static import DIM, SPACE

        space, atlas = Space(SPACE, DIM), blob_cid(packaged_atlas())
    else:
        space, atlas = Space(CALLER_SPACE, vectors_dim), None
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


def embedder_for(space: Space, settings: EmbedderSettings | None = None) -> Embedder | CallerVectors:
    """The embedder of a manifest's space; raises `SpaceError` naming both sides when there is none.

    For a space of an embedder that is not ours, `settings` say how to reach it; one that this node lacks is
    an `Unavailable` embedder and no error, because the node can still hold and answer.
    """
    if space.model == CALLER_SPACE:
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


def layout_for(manifest: Manifest, atlas_bytes: bytes | None) -> Layout:
    """The shard layout of a manifest; raises `SpaceError` when the atlas is missing or is another one."""
    tree = ShardTree.fixed(SHARD_BITS)
    if manifest.atlas is None:
        return Layout(None, tree)
    if atlas_bytes is None or blob_cid(atlas_bytes) != manifest.atlas:
        raise SpaceError(
            "the network's atlas is missing or damaged; run `roseforest init --join` again to fetch it"
        )
    atlas = Atlas.decode(atlas_bytes)
    if (atlas.space, atlas.dim) != (manifest.space.model, manifest.space.dim):
        raise SpaceError(
            f"the atlas is of the space {atlas.space!r}, the network's is {manifest.space.model!r}"
        )
    return Layout(atlas, tree)
