"""Three stewards of whom two decide: who is put out is out everywhere, and who is let in again is back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain import canonical
from chain.invitation import sign_grant, sign_invitation
from dht.errors import RefusalCode, RequestRefused
from dht.overlay.hello import HELLO, Founding
from dht.overlay.membership import PUT_OUT
from dht.records.bundle import Item, bundle_value
from dht.records.placement import Role
from dht.records.replies import StoreStatus, read_statuses
from node.errors import Forbidden, InvalidInput
from node.models import Added
from node.node import Node
from sim.network import open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network
from tests.node.simulated_nodes import DIM, Network, entry, identity, until

INVITER, GUEST = 3, 4
STEWARDS = (0, 1, 2)


def closed_network() -> Founding:
    """By invitation, with three stewards of whom two decide."""
    open_ = found_network(identity(0), DIM).manifest
    stewards = tuple(sorted(identity(n).agent for n in STEWARDS))
    manifest = replace(open_, by_invitation=True, join_bits=0, stewards=stewards, threshold=2)
    return Founding(manifest, manifest.encode(), (), None)


async def decide(network: Network, signers: tuple[int, ...], **change: object) -> None:
    """Propose at one steward's node, sign at others', publish, and wait until all stewards work in it."""
    epochs = {n: network.nodes[n].governance.epochs for n in network.nodes}
    before = len(epochs[0].known())
    proposal = epochs[signers[0]].propose([], None, **change)  # type: ignore[arg-type]
    once = epochs[signers[0]].sign(proposal)
    with pytest.raises(InvalidInput, match="1 steward signatures, the network asks for 2"):
        await epochs[signers[0]].publish(once)
    with pytest.raises(Forbidden, match="is no steward"):
        epochs[GUEST].sign(once)
    await epochs[2].publish(epochs[signers[1]].sign(once))
    await until(lambda: all(epochs[n].known()[before:] and epochs[n].known()[-1].current for n in STEWARDS))


def known_to(network: Network, agent: bytes) -> list[int]:
    """The stewards' nodes that count an agent among the network's."""
    return [n for n in STEWARDS if agent in {one.agent for one in network.nodes[n].kademlia.contacts()}]


async def refused(node: Node, by: Node) -> bool:
    """Whether another node answers this one nothing but `hello`."""
    await node.parts.network.request(by.agent, HELLO, canonical.encode(["manifest"]), 5.0)
    try:
        await node.parts.network.request(by.agent, "record.digests", canonical.encode([bytes(32)]), 5.0)
    except RequestRefused as refusal:
        return refusal.code == RefusalCode.FORBIDDEN and "puts you out" in str(refusal)
    return False


@pytest.mark.slow
def test_two_of_three_stewards_put_an_inviter_and_its_guests_out_and_let_one_in_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with open_world(1) as world:
            founding = closed_network()
            id_ = founding.manifest.network_id
            network = Network(world, founding, tmp_path)
            invite = {n: sign_invitation(identity(0), id_, identity(n).agent, n) for n in range(4)}
            by_inviter = sign_invitation(identity(INVITER), id_, identity(GUEST).agent, GUEST)
            network.invitations = {n: (one,) for n, one in invite.items()}
            network.invitations[GUEST] = (by_inviter, sign_grant(identity(0), id_, identity(INVITER).agent))
            await network.open([100] * 5)
            await network.fill(10, (0, INVITER, GUEST))
            await scenario(network)

    async def scenario(network: Network) -> None:
        inviter, guest, founder = network.nodes[INVITER], network.nodes[GUEST], network.nodes[0]
        since = await founder.life.ends_at(inviter.agent)
        assert since == inviter.status().records
        await decide(network, (0, 1), expel=[(inviter.agent, since)], guests=True)
        await until(lambda: not known_to(network, inviter.agent) and not known_to(network, guest.agent))
        for out in (inviter, guest):
            for n in STEWARDS:
                assert await refused(out, network.nodes[n])
        await until(lambda: caplog.text.count("refuses this agent: " + PUT_OUT) == 2, 120)
        # What they wrote before stands, and is whole again without them.
        await until(lambda: all(not network.nodes[n].status().under_replicated for n in STEWARDS), 300)
        for n in STEWARDS:
            for wanted in network.entries:
                view = await network.nodes[n].get(wanted)
                assert view is not None
                assert view.text is not None
        # What the inviter writes now reaches nobody by itself, and counts nowhere when a member passes it on.
        inviter.parts.own.frozen = None  # its holders do not speak to it; it does not care
        (late,) = await inviter.add([entry(900)])
        assert isinstance(late, Added)
        await trio.sleep(30)
        assert not any(network.nodes[n].holds(late.id) for n in STEWARDS)
        (record,) = [one for one in inviter.parts.own.get_many([late.id]) if one is not None]
        before, opening = (
            inviter.parts.own.get_many([record.header.prev or b""])[0],
            inviter.parts.own.opening(),
        )
        assert before is not None
        assert opening is not None
        passed_on = bundle_value([opening], [before], [Item(record, int(Role.SUBJECT))])
        reply = await network.nodes[1].kademlia.request(
            founder.agent, "record.store", canonical.encode(passed_on)
        )
        assert read_statuses(reply, 1) == [(StoreStatus.HELD, "")]
        view = await founder.get(late.id)
        assert view is None or view.text is None
        # The guest is let in by name; who invited it stays out.
        await decide(network, (1, 2), readmit=[guest.agent])
        await until(lambda: known_to(network, guest.agent) == list(STEWARDS), 300)
        assert not known_to(network, inviter.agent)
        assert await refused(inviter, founder)
        (back,) = await guest.add([entry(901)])
        assert isinstance(back, Added)
        await until(lambda: sum(network.nodes[n].holds(back.id) for n in STEWARDS) >= 2, 300)

    run_deterministic(main, seed=1)
