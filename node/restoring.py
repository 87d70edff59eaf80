"""A home out of a key and the network: the chain of a lost home, fetched back from those who hold it.

The home is made whole or not at all: key, the network's constitution as any of its nodes shows it (checked
against the id in the backup), the chain's opening, and the mark of a restored home, which bars writing.
Then a node that holds nothing for others runs in it for as long as the chain comes in and until its holders
confirm the head (`node.head_guard`); if that takes too long, `roseforest run` goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chain.cid import Cid, blob_cid, to_text
from chain.errors import ChainError
from chain.identity import AgentId, Identity
from chain.record import Record
from dht.errors import DhtError
from dht.overlay.hello import Founding, fetch_founding
from dht.ports import SystemClock, ThreadedBlocking, system_random
from dht.wire.libp2p_network import open_libp2p_network
from node.config import write_initial_config
from node.daemon import (
    DEFAULT_API,
    DEFAULT_LISTEN,
    WORKER_THREADS,
    WRITER_THREADS,
    one_error,
    packaged,
)
from node.durable_files import read_secret, sync_folder, write_new
from node.errors import HomeDamaged, HomeError, JoinFailed, KeyLocked, WrongPassphrase
from node.founding import ground_for, require_atlas
from node.home import Home
from node.instance import FROM_NETWORK, claim, restored_mark, why_frozen
from node.key_backup import KeyBackup, key_backup_text, parse_key_backup
from node.key_file import KeyFileError, PlainKey, SealedKey, TooLittleMemory, WrongKey, unseal
from node.node import open_node
from node.options import NodeOptions, NodePaths
from node.peer_memory import read_peers, write_peers
from node.storage.inspection import CHAIN, records_of
from node.storage.own_chain import OwnChain

MAX_LISTED: Final = 10_000
"""Records without payload that are named."""
JOIN_TIMEOUT_S: Final = 15.0
"""For each question about what the network is."""
LOOK_S: Final = 1.0
"""Seconds between two looks at how far it is, at most."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: the chain's length, the records of which only headers did, and how its head stands.

    `waits` says why it is not yet confirmed, or is None.
    """

    agent: AgentId
    network: Cid
    network_name: str
    records: int
    missing: tuple[Record, ...]
    head: str
    waits: str | None


def export_key(home: Home, key: PlainKey | SealedKey) -> str:
    """The text of a key backup of a home, with `key` as it is to stand there; blocking, daemon or not."""
    home.require_chain()
    opening = []
    for record in records_of(home.chain_db, CHAIN, "seq"):
        opening.append(record)
        if len(opening) == 2:
            break
    if len(opening) != 2:
        raise HomeDamaged(f"{home.chain_db} does not hold the opening of a chain: start the node once")
    return key_backup_text(
        KeyBackup(key, opening[0].header.network, tuple(opening), tuple(read_peers(home.peers)))
    )


def read_key_backup(path: Path) -> KeyBackup:
    """The key backup in a file that is its owner's alone; raises `HomeError`."""
    text = read_secret(path, "give the file that roseforest key export wrote")
    try:
        return parse_key_backup(text)
    except KeyFileError as error:
        raise HomeDamaged(f"{path} is no key backup ({error})") from error


def seed_of(path: Path, key: PlainKey | SealedKey, passphrase: str | None) -> bytes:
    """The seed of a key that was read from `path`; raises `KeyLocked` or `WrongPassphrase`."""
    if isinstance(key, PlainKey):
        return key.seed
    if passphrase is None:
        raise KeyLocked(f"{path} is protected by a passphrase: give it with --passphrase-file")
    try:
        return unseal(key, passphrase)
    except WrongKey as error:
        raise WrongPassphrase(f"this is not the passphrase of {path}") from error
    except TooLittleMemory as error:
        raise HomeError(f"{path} needs {key.cost.memory >> 20} MiB of free memory to be opened") from error
    except KeyFileError as error:
        raise HomeDamaged(f"{path} is damaged ({error})") from error


def move_recovery_key(home: Home, file: str | None) -> str:
    """Take the recovery key out of a home, to a new file or only as the text returned; blocking."""
    home.key_file(home.recovery_key)
    text = home.recovery_key.read_text()
    if file is not None:
        write_new(Path(file).absolute(), text.encode(), 0o600)
    home.recovery_key.unlink()
    sync_folder(home.root)
    return text


def restore_from_network(
    home: Home,
    backup: KeyBackup,
    passphrase: str | None,
    join: Sequence[str],
    wait_s: float,
    told: Callable[[int], None] = lambda records: None,
) -> Restored:
    """Make the new folder of `home`, and fetch the chain back; blocking.

    `join`: nodes of the network, tried before those in the backup. Gives up when for `wait_s` seconds nothing
    came. `told` hears how many records there are. Raises `HomeError` when the folder is there already, and
    `JoinFailed` when no node of the network answers; then there is no folder.
    """
    if home.root.exists() and (not home.root.is_dir() or any(home.root.iterdir())):
        raise HomeError(f"{home.root} exists already and is not overwritten: give --home a new folder")
    addresses = tuple(dict.fromkeys([*join, *backup.peers]))
    if not addresses:
        raise JoinFailed("the backup names no peers: give --join MULTIADDR of a node of the network")
    folder = home.root.with_name(f".{home.root.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        try:
            draft = Home(folder)
            draft.create_folders()
            draft.install_key(backup.key)
            identity = Identity.from_seed(draft.read_key(passphrase))
            founding = _network(identity, addresses, backup.network)
            _furnish(draft, identity, founding, backup.opening, addresses)
            folder.rename(home.root)  # also onto an empty folder
            sync_folder(home.root.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise HomeError(f"cannot restore to {home.root}: {error.strerror or error}") from error
    with home.locked(), one_error():
        return trio.run(_fetch_back, home, identity, founding, addresses, wait_s, told)


def _network(identity: Identity, addresses: Sequence[str], network: Cid | None) -> Founding:
    failures = []
    for address in addresses:
        try:
            founding = _ask_network(identity, address, network)
        except JoinFailed as error:
            failures.append(str(error))
            continue
        return founding
    raise JoinFailed("; ".join(failures[:3]))


def _ask_network(identity: Identity, address: str, network: Cid | None) -> Founding:
    async def fetch() -> Founding:
        async with open_libp2p_network(identity.seed, (), SystemClock()) as opened:
            return await fetch_founding(opened, address, packaged, JOIN_TIMEOUT_S, network_id=network)

    try:
        with one_error():
            return trio.run(fetch)
    except (DhtError, ChainError) as error:
        raise JoinFailed(f"cannot restore through {address}: {error}") from error


def _furnish(
    home: Home,
    identity: Identity,
    founding: Founding,
    opening: Sequence[Record],
    addresses: tuple[str, ...],
) -> None:
    require_atlas(founding)
    if founding.atlas_bytes is not None:
        home.write_atlas(to_text(blob_cid(founding.atlas_bytes)), founding.atlas_bytes)
    home.instance.write_bytes(restored_mark(FROM_NETWORK))
    trio.run(_begin_chain, home, identity, founding.manifest.network_id, opening)
    write_initial_config(home, DEFAULT_LISTEN, DEFAULT_API, addresses)
    write_peers(home.peers, addresses)
    home.ensure_token(system_random().random_bytes(32).hex())
    home.write_manifest(founding.manifest_bytes)


async def _begin_chain(home: Home, identity: Identity, network: Cid, opening: Sequence[Record]) -> None:
    blocking = ThreadedBlocking(1)
    own = OwnChain(home.chain_db, identity, network, network, SystemClock(), system_random(), blocking)
    async with trio.open_nursery() as nursery:
        await nursery.start(own.run)
        if opening:
            await own.extend(opening)
        await own.aclose()


async def _fetch_back(
    home: Home,
    identity: Identity,
    founding: Founding,
    addresses: tuple[str, ...],
    wait_s: float,
    told: Callable[[int], None],
) -> Restored:
    clock = SystemClock()
    options = NodeOptions(
        capacity=0,  # it is gone in a moment
        bootstrap=addresses,
        why_frozen=lambda records: why_frozen(home, records),
        confirmed=partial(claim, home),
    )
    async with (
        open_libp2p_network(identity.seed, (), clock) as network,
        open_node(
            identity=identity,
            founding=founding,
            paths=NodePaths.of(home),
            network=network,
            clock=clock,
            random=system_random(),
            run_blocking=ThreadedBlocking(WORKER_THREADS),
            write_blocking=ThreadedBlocking(WRITER_THREADS),
            ground=ground_for(founding),
            options=options,
        ) as node,
    ):
        records, since = node.status().records, clock.monotonic()
        while node.frozen is not None and not node.guard.forked and clock.monotonic() - since < wait_s:
            with trio.move_on_after(LOOK_S):
                await node.guard.next_look()
            if node.status().records != records:
                records, since = node.status().records, clock.monotonic()
                told(records)
        return Restored(
            identity.agent,
            founding.manifest.network_id,
            founding.manifest.name,
            node.status().records,
            tuple(node.without_payload(MAX_LISTED)),
            node.guard.line,
            node.frozen,
        )
