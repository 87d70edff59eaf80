"""A new key for an agent: the home of its successor, begun before the old chain ends and finished after it.

The order lets every step be repeated: the new home joins the network first, so nothing has ended when that
fails; then the old chain ends by a record that names the new key; then the new chain says whom it continues.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from chain.agent_life import continuation_body, rotation_of, sign_consent
from chain.cid import Cid, to_text
from chain.errors import ChainError
from chain.identity import AgentId, Identity, peer_id
from chain.kinds import CONTINUE
from chain.record import Record, decode_record
from chain.source_chain import Draft
from dht.ports import SystemClock, ThreadedBlocking, system_random
from node.daemon import init_home, load_founding, one_error
from node.errors import HomeError, InvalidInput
from node.home import Home, Protection
from node.peer_memory import write_peers
from node.storage.own_chain import OwnChain

CONTINUES = b"agent.continue"
"""The import key of the record that says whom a chain continues: there is one at most."""


def begin_successor(
    home: Home,
    *,
    join: str,
    name: str | None,
    protection: Protection | None,
    passphrase: str | None,
    network: Cid,
    agent: AgentId,
    peers: Sequence[str],
) -> tuple[AgentId, bytes]:
    """Make the successor's home, or take the one that was begun; its key and its consent. Blocking.

    `peers`: addresses of others, for when the old node is gone.
    Raises what `init_home` raises, and `HomeError` for a home of another network.
    """
    if not home.is_initialised():
        init_home(
            home,
            name=None,
            join=join,
            join_bits=0,
            profile_name=name,
            vectors_dim=None,
            protection=protection,
        )
    if peers and not home.peers.exists():
        write_peers(home.peers, peers)
    identity = Identity.from_seed(home.read_key(passphrase))
    if load_founding(home).manifest.network_id != network:
        raise HomeError(f"{home.root} belongs to another network than {to_text(network)}")
    if identity.agent == agent:
        raise InvalidInput(f"{home.root} is the home that is to be continued: give another --new-home")
    return identity.agent, sign_consent(identity, network, agent)


def continue_chain(home: Home, rotation: bytes, passphrase: str | None) -> None:
    """Say in the successor's chain whom it continues; once, however often it is called. Blocking.

    Raises `InvalidInput` when the old chain named another successor.
    """
    identity = Identity.from_seed(home.read_key(passphrase))
    try:
        record = decode_record(rotation)
        named = rotation_of(record).successor
    except ChainError as error:
        raise InvalidInput(f"the old chain does not end with a rotation: {error}") from error
    if named != identity.agent:
        raise InvalidInput(f"the old chain has named another successor, {peer_id(named)}")
    with home.locked(), one_error():
        trio.run(_append, home, identity, record)


async def _append(home: Home, identity: Identity, rotation: Record) -> None:
    network, blocking = rotation.header.network, ThreadedBlocking(1)
    own = OwnChain(home.chain_db, identity, network, network, SystemClock(), system_random(), blocking)
    async with trio.open_nursery() as nursery:
        await nursery.start(own.run)
        await own.append([Draft(CONTINUE, continuation_body(rotation))], [CONTINUES])
        await own.aclose()
