"""A network by invitation, with whole nodes: guests take part, strangers get nothing but `hello`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chain import canonical
from chain.errors import MembraneError
from chain.invitation import sign_grant, sign_invitation
from dht.errors import RefusalCode, RequestRefused
from dht.overlay.contact import make_contact
from dht.overlay.hello import HELLO, Founding
from dht.overlay.peer_messages import EMPTY, EXCHANGE, FIND, encode_exchange, encode_find
from node.errors import NotInvited
from node.joining import require_admission
from node.models import Added, NewEntry
from node.node import Node
from node.options import NodeOptions
from sim.host import SimNetwork
from sim.links import LatencyLink
from sim.network import SimWorld, open_world
from sim.virtual_clock import EPOCH_US, run_deterministic
from sim.whole_node import found_network, start_node
from tests.node.simulated_nodes import DIM, identity, until, vector

FOUNDER, INVITER, GUEST, STRANGER = (identity(number) for number in range(4))
MANIFEST = replace(found_network(FOUNDER, DIM).manifest, join_bits=0, by_invitation=True)
FOUNDING = Founding(MANIFEST, MANIFEST.encode(), (), None)
NETWORK = MANIFEST.network_id
GRANT = sign_grant(FOUNDER, NETWORK, INVITER.agent)
PROOFS = {
    0: (sign_invitation(FOUNDER, NETWORK, FOUNDER.agent, 10),),
    1: (sign_invitation(FOUNDER, NETWORK, INVITER.agent, 11),),
    2: (sign_invitation(INVITER, NETWORK, GUEST.agent, 12), GRANT),
}


async def start(world: SimWorld, folder: Path, number: int, proof: tuple[bytes, ...]) -> Node:
    home = folder / str(number)
    home.mkdir(exist_ok=True)
    bootstrap = (world.address(FOUNDER.agent),) if number else ()
    options = NodeOptions(bootstrap=bootstrap, invitation=proof)
    return await start_node(world, identity(number), FOUNDING, home, number, options)


async def refused(stranger: SimNetwork, method: str, body: bytes) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        await stranger.request(FOUNDER.agent, method, body, 5.0)
    return caught.value


def test_who_is_invited_takes_part_and_strangers_get_nothing_but_hello(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_world(1, LatencyLink(2)) as world:
            nodes = [await start(world, tmp_path, number, PROOFS[number]) for number in PROOFS]
            (added,) = await nodes[2].add([NewEntry("roses", vector=tuple(vector(1)))])
            assert isinstance(added, Added)
            await until(lambda: not any(node.status().pending for node in nodes))
            await until(lambda: all(node.holds(added.id) for node in nodes))
            answer = await nodes[1].query(None, vector(1), 1, (), 5_000)
            assert [hit.id for hit in answer.hits] == [added.id]

            stranger = await world.join(STRANGER.agent)
            await stranger.dial(world.address(FOUNDER.agent), 5.0)
            registry = nodes[0].parts.network._handlers  # type: ignore[attr-defined]
            assert {HELLO, EXCHANGE, FIND, "record.store", "learning.deliver", "blob.chunk"} <= set(registry)
            # What a member asks badly is a bad request: only who is no member is forbidden to ask at all.
            for method in sorted(set(registry) - {HELLO, EXCHANGE, FIND}):
                refusal = await refused(stranger, method, EMPTY)
                assert refusal.code == RefusalCode.FORBIDDEN, method
                assert "address record" in str(refusal), method
            stolen = nodes[2].kademlia.self_contact().data
            paid, forged = (
                make_contact(
                    STRANGER, NETWORK, 12, [world.address(STRANGER.agent)], 1, False, EPOCH_US, 60, proof
                ).data
                for proof in ((), PROOFS[2])
            )
            # Only once each: who keeps showing what does not hold is banned, which is not the question here.
            for method, body in (
                (EXCHANGE, encode_exchange(stolen)),
                (EXCHANGE, encode_exchange(forged)),
                (FIND, encode_find(bytes(32), paid)),
            ):
                assert (await refused(stranger, method, body)).code == RefusalCode.FORBIDDEN, method
            assert not any(node.kademlia.is_member(STRANGER.agent) for node in nodes)
            reply = await stranger.request(FOUNDER.agent, HELLO, canonical.encode(["manifest"]), 5.0)
            assert canonical.decode(reply, 1 << 16)[0] == FOUNDING.manifest_bytes

    run_deterministic(main, seed=1)


@pytest.mark.parametrize("proof", [(), PROOFS[0], PROOFS[2]], ids=["none", "founder's", "guest's"])
def test_without_its_own_proof_no_node_starts(tmp_path: Path, proof: tuple[bytes, ...]) -> None:
    async def main() -> None:
        async with open_world(1, LatencyLink(2)) as world:
            await start(world, tmp_path, 1, proof)

    with pytest.raises(BaseExceptionGroup) as caught:
        run_deterministic(main, seed=1)
    assert caught.group_contains(MembraneError)


def test_whose_inviters_grant_has_ended_is_told_before_a_chain_is_begun() -> None:
    """Else the guest would sign a chain that everybody refuses, and never hear why."""
    grant = sign_grant(FOUNDER, NETWORK, INVITER.agent, until=1)
    proof = (sign_invitation(INVITER, NETWORK, GUEST.agent, 12), grant)
    assert require_admission(proof, replace(FOUNDING, epochs=(b"1",)), GUEST.agent) == proof
    with pytest.raises(NotInvited, match="ended with epoch 1"):
        require_admission(proof, replace(FOUNDING, epochs=(b"1", b"2")), GUEST.agent)
