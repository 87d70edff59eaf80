"""The daemon: a node on real sockets and threads, with its HTTP API, for one home folder.

`init_home` founds a network or joins one and leaves a complete home behind; every step can be repeated after
a crash. `run_daemon` holds the home's lock, opens the node over libp2p, serves the API, and says in
`daemon.json` where it can be reached once it is ready. SIGINT and SIGTERM end it in order: no new requests,
its peers get what would be short of a copy without it (a second signal ends that), what is queued is written,
the index is saved.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import trio

from chain.cid import Cid, blob_cid, to_text
from chain.errors import ChainError
from chain.identity import AgentId, Identity, peer_id
from chain.invitation import MAX_INVITED_NONCE, sign_invitation
from chain.kinds import KINDS_BY_RULE_VERSION
from chain.manifest import Manifest, Space, decode_manifest
from chain.text import check_text
from dht.errors import DhtError
from dht.overlay.hello import Founding
from dht.overlay.mdns import discover, discoverable
from dht.ports import SystemClock, ThreadedBlocking, system_random
from dht.records.layouts import Layouts
from dht.records.room import Quota
from dht.wire.libp2p_network import open_libp2p_network
from node.config import Settings, write_initial_config
from node.derivation import rebuild_derived
from node.embedding.caller import CallerVectors
from node.embedding.embedder import Embedder
from node.embedding.external import EmbedderSettings, Unavailable, is_external
from node.errors import HomeDamaged, HomeError, InvalidInput, JoinFailed
from node.founding import (
    Terms,
    embedder_for,
    first_layout,
    found,
    ground_for,
    newest_epoch,
    require_atlas,
)
from node.home import DaemonInfo, Home, Protection, write_atomically
from node.instance import claim, why_frozen
from node.invite_text import is_invite, read_invite
from node.joining import Joined, require_grant
from node.joining import join as join_network
from node.node import SOFTWARE, Node, open_node
from node.opening import ensure_opening
from node.options import NodeOptions, NodePaths
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain
from node.vitals import machine
from validation.opening_rules import MAX_NAME

WORKER_THREADS = 4
"""Blocking calls at once. FAISS runs single-threaded inside each."""
WRITER_THREADS = 3
"""One for each database."""
EMBED_THREADS = 2
"""Calls of an embedder that is not ours at once: however slow it is, judging and searching go on."""
TRIAL = "rose"
"""The text that an embedder is tried with."""
THREAD_SWITCH_S = 0.0005
"""How long a worker may keep the interpreter while the event loop wants it. Python's 5 ms would add up to
hundreds over the steps of one query whenever records are being judged in the background."""
FAILURES_ALLOWED = 5
"""How often each background loop may fail in ten minutes; the next time the daemon ends."""
LEAST_FREE_BYTES = 256 << 20
"""Bytes that stay free on the disk: below that this node is full, whatever its quota."""
DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)
DEFAULT_API = "127.0.0.1:0"

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class InitResult:
    """What `init` made. `network` is the network id; `created` is False when the home was complete before.

    `lacking` says why this node cannot embed texts for the network, or is None. `may_invite`: others, into a
    network by invitation.
    """

    agent: AgentId
    network: Cid
    network_name: str
    created: bool
    lacking: str | None = None
    may_invite: bool = False


def init_home(
    home: Home,
    *,
    name: str | None,
    join: str | None,
    join_bits: int,
    profile_name: str | None,
    vectors_dim: int | None,
    protection: Protection | None = None,
    space: Space | None = None,
    embedding: EmbedderSettings | None = None,
    terms: Terms | None = None,
    atlas: bytes | None = None,
) -> InitResult:
    """Found the network `name` on `terms`, or join the one of `join`, an invite or a multiaddr.

    `space` is the one to found the network in, if not the built-in embedder's or `vectors_dim` caller's
    vectors, and `embedding` says how to reach an embedder that is not ours: it is tried before anything is
    signed. `atlas` is one of the space that the network is founded
    in; the built-in embedder's has one already.

    The keys that it makes are sealed by `protection`, or stand in the clear without one.

    Raises `HomeError` when the home belongs to something else, `JoinFailed` when nobody answers or what
    answers is not a network this node can be part of, and `NotInvited`; a key that was made stays, as the
    invite may have to name it.
    """
    if name is not None and not name.strip():
        raise InvalidInput("the network's name is empty; leave --name out for a default one")
    if join is not None and not join.strip():
        raise InvalidInput("no invite and no address to join by: a member's roseforest status shows one")
    if profile_name:
        try:
            check_text("the agent's name", profile_name, MAX_NAME)
        except ChainError as error:
            raise InvalidInput(str(error)) from error
    if home.is_initialised():
        return _already(home, name, join)  # also while its daemon runs
    home.create_folders()
    with home.locked():
        if home.is_initialised():
            return _already(home, name, join)
        if not home.key.exists():
            home.require_unsigned()
            home.write_key(secrets.token_bytes(32), protection)
        if not home.recovery_key.exists():
            home.write_recovery_key(secrets.token_bytes(32), protection)
        passphrase = None if protection is None else protection.passphrase
        identity = Identity.from_seed(home.read_key(passphrase))
        recovery = Identity.from_seed(home.read_recovery_key(passphrase)).agent
        if join is not None:
            joined = _join(identity, join, home.chain_db.exists())
        else:
            joined = _found(home, identity, name, join_bits, vectors_dim, space, terms, atlas)
        founding, manifest = joined.founding, joined.founding.manifest
        epoch = _newest_epoch(founding)
        lacking = _try_embedder(embedder_for(manifest.space, embedding))
        require_atlas(founding)
        if founding.atlas_bytes is not None:
            home.write_atlas(to_text(blob_cid(founding.atlas_bytes)), founding.atlas_bytes)
        with one_error():
            trio.run(_open_chain, home, identity, manifest, epoch, recovery, profile_name or "", joined.proof)
        write_initial_config(home, DEFAULT_LISTEN, DEFAULT_API, joined.addresses, embedding)
        if joined.grant is not None:
            write_atomically(home.grant, joined.grant)
        home.ensure_token(secrets.token_urlsafe(32))
        claim(home, 0)
        home.write_manifest(founding.manifest_bytes)  # last: a home with a manifest is complete
        home.founding.unlink(missing_ok=True)
    return InitResult(
        identity.agent, manifest.network_id, manifest.name, True, lacking, _may_invite(home, manifest)
    )


@dataclass(frozen=True, slots=True)
class Ready:
    """A daemon that has begun to answer."""

    agent: AgentId
    manifest: Manifest
    where: DaemonInfo


def run_daemon(
    home: Home,
    settings: Settings,
    on_ready: Callable[[Ready], None] = lambda ready: None,
    passphrase: str | None = None,
    force: bool = False,
) -> None:
    """Run the node of `home` until SIGINT, SIGTERM or `POST /v1/stop`; blocking.

    `passphrase` opens a sealed key. With `force`, a copy of a home goes on writing. `on_ready` is told once,
    when the HTTP interface answers. Raises `NodeError`, `StorageError`, `DhtError` and `ChainError` for what
    keeps it from starting; each message is one line.
    """
    home.require_initialised()
    home.require_chain()
    sys.setswitchinterval(THREAD_SWITCH_S)
    with home.locked(), one_error():
        home.remove_former_index()
        identity = Identity.from_seed(home.read_key(passphrase))
        trio.run(_run, home, settings, identity, load_founding(home), on_ready, force)


def rebuild_index(home: Home, passphrase: str | None = None) -> int:
    """Make derived.db of a stopped node again from its records; returns the postings. Blocking.

    Raises `HomeInUse` while a daemon runs, and what `run_daemon` raises for the other files.
    """
    home.require_initialised()
    home.require_chain()
    home.create_folders()
    with home.locked(), one_error():
        home.remove_former_index()
        identity = Identity.from_seed(home.read_key(passphrase))
        return trio.run(_rebuild_index, home, identity, load_founding(home))


def load_founding(home: Home) -> Founding:
    """The network that a home belongs to, checked; raises `HomeDamaged`."""
    data = home.read_manifest()
    try:
        manifest = decode_manifest(data)
    except ChainError as error:
        raise HomeDamaged(
            f"{home.manifest} is damaged ({error}); "
            "restore it from a backup or copy it from another node of the network"
        ) from error
    atlas: bytes | None = None
    if manifest.atlas is not None:
        atlas = packaged(manifest.atlas) or home.read_atlas(to_text(manifest.atlas))
        if atlas is None and home.has_atlas():
            pass  # that of a later epoch, in which this node joined
        elif atlas is None or blob_cid(atlas) != manifest.atlas:
            raise HomeDamaged(
                f"the atlas {to_text(manifest.atlas)} in {home.atlases} is missing or damaged; "
                "copy it from another node of the network"
            )
    return Founding(manifest=manifest, manifest_bytes=data, epochs=(), atlas_bytes=atlas)


async def _run(
    home: Home,
    settings: Settings,
    identity: Identity,
    founding: Founding,
    on_ready: Callable[[Ready], None],
    force: bool,
) -> None:
    from node.api.server import serve_api

    clock = SystemClock()
    options = NodeOptions(
        capacity=settings.capacity,
        divides_shards=settings.divide_shards,
        bootstrap=settings.bootstrap,
        query_deadline_ms=settings.query_deadline_ms,
        query_cache_s=settings.query_cache_s,
        trust_roots=settings.trust_roots,
        check_texts=settings.query_check_texts,
        why_frozen=lambda records: None if force else why_frozen(home, records),
        failures_allowed=FAILURES_ALLOWED,
        forced=force,
        confirmed=partial(claim, home),
        usage=machine(),
        blobs_max_bytes=settings.blobs_max_mb << 20,
        quota=Quota(
            store=round(settings.store_max_gb * (1 << 30)),
            author=settings.store_author_max_mb << 20,
            least_free=LEAST_FREE_BYTES,
        ),
    )
    paths = NodePaths.of(home)
    listen = settings.listen
    stop = trio.Event()
    token = home.ensure_token(secrets.token_urlsafe(32))
    async with (
        open_libp2p_network(identity.seed, listen, clock) as network,
        open_node(
            identity=identity,
            founding=founding,
            paths=paths,
            network=network,
            clock=clock,
            random=system_random(),
            run_blocking=ThreadedBlocking(WORKER_THREADS),
            write_blocking=ThreadedBlocking(WRITER_THREADS),
            embed_blocking=ThreadedBlocking(EMBED_THREADS)
            if is_external(founding.manifest.space.model)
            else None,
            ground=ground_for(founding, settings.embedder()),
            options=options,
        ) as node,
        trio.open_nursery() as nursery,
    ):
        if node.frozen is None:
            claim(home, node.status().records)
        hurry = trio.Event()
        nursery.start_soon(_stop_on_signal, stop, hurry)
        local = () if settings.mdns is False else discoverable(network.addresses, settings.mdns is True)
        if local:
            nursery.start_soon(
                discover,
                network,
                node.kademlia,
                node.network_id,
                local,
                clock,
                system_random(),
                ThreadedBlocking(1),
            )
        url: str = await nursery.start(
            partial(
                serve_api,
                node,
                settings,
                token,
                stop,
                unready=lambda: _unready(node),
                learning=node.learning,
                life=node.life,
                inviting=node.inviting,
                governance=node.governance,
            )
        )
        exchange: str | None = None
        if settings.exchange_listen is not None:
            from node.exchange.serving import serve_exchange

            exchange = await nursery.start(
                partial(
                    serve_exchange,
                    node,
                    node.browsing,
                    home,
                    settings,
                    clock,
                    ThreadedBlocking(1),
                    stop,
                    unready=lambda: _unready(node),
                )
            )
        where = DaemonInfo(os.getpid(), url, network.addresses, exchange)
        home.write_daemon(where)
        log.info(
            "ready",
            extra={
                "agent": peer_id(identity.agent),
                "api": url,
                "addresses": " ".join(network.addresses),
                **({} if exchange is None else {"exchange": exchange}),
            },
        )
        try:
            on_ready(Ready(identity.agent, founding.manifest, where))
            await stop.wait()
        finally:
            home.remove_daemon()
        if node.frozen is None:
            claim(home, node.status().records)
        log.info("stopping")
        if settings.leave_seconds:
            await _leave(node, settings.leave_seconds, hurry)
        nursery.cancel_scope.cancel()
    log.info("stopped")


async def _rebuild_index(home: Home, identity: Identity, founding: Founding) -> int:
    manifest, run_blocking = founding.manifest, ThreadedBlocking(1)
    network = manifest.network_id
    own = OwnChain(home.chain_db, identity, network, network, SystemClock(), system_random(), run_blocking)
    try:
        held = HeldRecords(home.held_db, run_blocking)
        try:
            layouts = Layouts(first_layout(founding))  # the next start goes over to the newest
            return await rebuild_derived(
                home.derived_db, own, held, layouts, manifest.space.dim, run_blocking
            )
        finally:
            held.close()
    finally:
        own.close()


def _unready(node: Node) -> str | None:
    if node.joined:
        return None
    return "no bootstrap peer has let the node join its network yet; it keeps trying, see the log for why"


async def _leave(node: Node, within_s: float, hurry: trio.Event) -> None:
    """Leave in order, or at once when a second signal asks for it."""
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await node.leave(within_s)
            nursery.cancel_scope.cancel()

        nursery.start_soon(leave)
        await hurry.wait()
        log.warning("a second signal: not everything was handed over")
        nursery.cancel_scope.cancel()


async def _stop_on_signal(stop: trio.Event, hurry: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stop.is_set():
                hurry.set()
            stop.set()


def _newest_epoch(founding: Founding) -> Cid:
    """The epoch in which a newcomer begins; raises `JoinFailed` when this release cannot take part in it."""
    manifest = founding.manifest
    cid, epoch = newest_epoch(founding)
    if epoch is not None and epoch.rules not in KINDS_BY_RULE_VERSION:
        raise JoinFailed(
            f"the network {manifest.name!r} works by rule version {epoch.rules} since epoch {epoch.number}; "
            f"this release knows {max(KINDS_BY_RULE_VERSION)} at most: install a newer one"
        )
    return cid


async def _open_chain(
    home: Home,
    identity: Identity,
    manifest: Manifest,
    epoch: Cid,
    recovery: AgentId,
    name: str,
    proof: tuple[bytes, ...],
) -> None:
    network, random, run_blocking = manifest.network_id, system_random(), ThreadedBlocking(1)
    own = OwnChain(home.chain_db, identity, network, epoch, SystemClock(), random, run_blocking)
    async with trio.open_nursery() as nursery:
        await nursery.start(own.run)
        await ensure_opening(
            own,
            identity,
            manifest,
            network,
            run_blocking,
            nonce_start=secrets.randbits(48),
            recovery=recovery,
            name=name or "anonymous",
            software=SOFTWARE,
            invitation=proof,
        )
        await own.aclose()


def _try_embedder(embedder: Embedder | CallerVectors) -> str | None:
    """Embed a word where the embedder is not ours; why this node has none, or None.

    Raises `EmbeddingError` for one that does not work: its settings are to be put right first.
    """
    if not is_external(embedder.space):
        return None
    if isinstance(embedder, Unavailable):
        return embedder.reason
    embedder.embed([TRIAL])
    return None


def _found(
    home: Home,
    identity: Identity,
    name: str | None,
    join_bits: int,
    vectors_dim: int | None,
    space: Space | None,
    terms: Terms | None,
    atlas: bytes | None,
) -> Joined:
    """A new network; the one that an interrupted `init` began when a chain is there that belongs to it."""
    if home.chain_db.exists():
        if not home.founding.exists():
            raise HomeDamaged(
                f"{home.manifest} is missing although {home.chain_db} is there: restore it from a backup, "
                "or join its network again with --join"
            )
        data = home.founding.read_bytes()
        try:
            manifest = decode_manifest(data)
        except ChainError as error:
            raise HomeDamaged(
                f"{home.founding} is damaged ({error}); give --home another folder to found a network in"
            ) from error
        if name is not None and name != manifest.name:
            raise HomeError(
                f"{home.root} holds the unfinished founding of {manifest.name!r}: finish it with that name, "
                "or give --home another folder"
            )
    else:
        manifest = found(
            name or "rose forest",
            identity.agent,
            join_bits,
            vectors_dim,
            SystemClock().wall_us(),
            space,
            terms,
            None if atlas is None else blob_cid(atlas),
        )
        try:
            data = manifest.encode()
        except ChainError as error:
            raise InvalidInput(f"the network cannot be founded: {error}") from error
        if atlas is not None:
            home.write_atlas(to_text(blob_cid(atlas)), atlas)
        write_atomically(home.founding, data)
    if manifest.atlas is None:
        atlas = None
    else:
        atlas = packaged(manifest.atlas) or home.read_atlas(to_text(manifest.atlas))
    proof: tuple[bytes, ...] = ()
    if manifest.by_invitation:
        nonce = secrets.randbelow(MAX_INVITED_NONCE + 1)
        proof = (sign_invitation(identity, manifest.network_id, identity.agent, nonce),)
    return Joined(Founding(manifest=manifest, manifest_bytes=data, epochs=(), atlas_bytes=atlas), (), proof)


def _join(identity: Identity, target: str, returning: bool) -> Joined:
    try:
        with one_error():
            return trio.run(partial(join_network, identity, target, packaged, returning=returning))
    except (DhtError, ChainError) as error:
        raise JoinFailed(f"cannot join through {target:.200}: {error}") from error


def _may_invite(home: Home, manifest: Manifest) -> bool:
    return manifest.by_invitation and (home.grant.exists() or home.agent(home.key) == manifest.founder)


def packaged(cid: Cid) -> bytes | None:
    """The atlas that ships with the package, when it is the one asked for."""
    from node.embedding.packaged import packaged_atlas

    data = packaged_atlas()
    return data if blob_cid(data) == cid else None


def _already(home: Home, name: str | None, join: str | None) -> InitResult:
    manifest, agent = load_founding(home).manifest, home.agent(home.key)
    invite = read_invite(join) if join is not None and is_invite(join) else None
    if invite is not None and invite.network == manifest.network_id and invite.grant is not None:
        require_grant(invite.grant, manifest, agent)
        write_atomically(home.grant, invite.grant)
        join = None
    if join is not None or (name is not None and name != manifest.name):
        raise HomeError(
            f"{home.root} already belongs to the network {manifest.name!r}; "
            "give --home another folder for a new one"
        )
    may_invite = _may_invite(home, manifest)
    return InitResult(agent, manifest.network_id, manifest.name, False, may_invite=may_invite)


@contextmanager
def one_error() -> Iterator[None]:
    """Unwrap exception groups that hold a single error: nurseries wrap what stops a start."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from group
