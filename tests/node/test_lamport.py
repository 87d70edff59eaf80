"""A stranger cannot use up the numbers that an honest chain goes on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chain import canonical
from chain.content import Content
from chain.errors import RecordError
from chain.kinds import CREATE, RULE_VERSION
from chain.membrane import find_nonce
from chain.record import MAX_INT
from crdt.drafts import draft_edit
from crdt.entry_view import view_of
from dht.overlay.kademlia import Kademlia
from dht.records.bundle import Item, bundle_value
from dht.records.placement import Role
from dht.records.replies import StoreStatus, read_statuses
from node.models import Added, NewEntry, Retag
from sim.network import open_world
from sim.virtual_clock import SimClock, run_deterministic, seeded_random
from sim.whole_node import found_network
from tests.dht.authors import Author
from tests.node.simulated_nodes import DIM, Network, identity, vector


@pytest.mark.parametrize("rules", [RULE_VERSION, 2])
def test_an_edit_that_counts_on_from_an_invented_record_ends_nobodys_chain(
    tmp_path: Path, rules: int
) -> None:
    """The header that a record names as prev is only looked at: nobody has to have signed it."""

    async def main() -> None:
        founding = found_network(identity(0), DIM)
        manifest = replace(founding.manifest, rules=rules)
        founding = replace(founding, manifest=manifest, manifest_bytes=manifest.encode())
        async with open_world(1) as world:
            node = await Network(world, founding, tmp_path).start(0)
            (added,) = await node.add([NewEntry("roses climb", vector=tuple(vector(1)))])
            assert isinstance(added, Added)
            create = node.parts.own.get(added.id)
            assert create is not None
            view = view_of(create.cid, {create.cid: create})
            assert view is not None

            author = Author(1, manifest, SimClock().wall_us())
            host = await world.join(author.agent)
            nonce = find_nonce(manifest.network_id, author.agent, manifest.join_bits)
            sender = Kademlia(
                host, author.identity, manifest, nonce, 0, SimClock(), seeded_random(1, "sender")
            )
            await sender.join([world.address(node.agent)])
            profile = author.records[2]
            invented = author.signed(profile, seq=3, prev=profile.cid, kind=CREATE, lamport=MAX_INT - 2)
            edit = author.append(draft_edit(view, author.agent, Content("roses rot", bytes([127] * DIM))))
            edit = author.signed(edit, seq=4, prev=invented.cid, lamport=MAX_INT - 1)
            headers = [replace(invented, signature=bytes(64)).without_payload(), create.without_payload()]
            item = Item(edit, int(Role.SUBJECT | Role.SHARD))
            body = canonical.encode(bundle_value([author.opening], headers, [item]))
            reply = await sender.request(node.agent, "record.store", body)
            status = read_statuses(reply, 1)[0]

            if rules == RULE_VERSION:
                assert status == (StoreStatus.INVALID, "lamport-clock")
                assert (await node.change(added.id, Retag(("red",), ()))).records
            else:  # holders of an older rule version take it, and nobody builds on it
                with pytest.raises(RecordError, match="more than can exist"):
                    await node.change(added.id, Retag(("red",), ()))
            for number in range(2):
                (more,) = await node.add([NewEntry(f"thorns {number}", vector=tuple(vector(2)))])
                assert isinstance(more, Added)
            assert (await node.verify_chain()).length == node.status().records

    run_deterministic(main, seed=1)
