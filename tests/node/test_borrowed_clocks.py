"""A record goes on from the clocks of what it builds on: a stranger's must not end an honest chain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from chain import canonical
from chain.cid import Cid
from chain.content import Content
from chain.errors import RecordError
from chain.kinds import CREATE, RULE_VERSION
from chain.membrane import find_nonce
from chain.record import MAX_INT, Record
from crdt.drafts import draft_edit
from crdt.entry_view import view_of
from dht.overlay.kademlia import Kademlia
from dht.records.bundle import Item, bundle_value
from dht.records.placement import Role
from dht.records.replies import StoreStatus, read_statuses
from node.models import Added, NewEntry, Retag
from node.node import Node
from sim.network import open_world
from sim.virtual_clock import SimClock, run_deterministic, seeded_random
from sim.whole_node import found_network
from tests.dht.authors import Author
from tests.node.simulated_nodes import DIM, Network, identity, vector
from validation.rules import MAX_AHEAD_US

CODES = bytes([127] * DIM)


@dataclass
class Scene:
    """A node with an entry of its own, and an edit of it by a stranger, who is let in and not yet heard."""

    node: Node
    create: Record
    author: Author
    edit: Record
    sender: Kademlia

    async def send(self, edit: Record, *headers: Record) -> tuple[StoreStatus, str]:
        """What the node says to this version of the edit."""
        item = Item(edit, int(Role.SUBJECT | Role.SHARD))
        named = [one.without_payload() for one in (*headers, self.create)]
        body = canonical.encode(bundle_value([self.author.opening], named, [item]))
        (found,) = read_statuses(await self.sender.request(self.node.agent, "record.store", body), 1)
        return found

    async def tag(self) -> tuple[Cid, ...]:
        """Have the node build on what it has of the entry."""
        return (await self.node.change(self.create.cid, Retag(("red",), ()))).records

    async def go_on(self) -> None:
        """The node's chain takes more records, which everybody can read, of about now."""
        for number in range(2):
            (added,) = await self.node.add([NewEntry(f"thorns {number}", vector=tuple(vector(2)))])
            assert isinstance(added, Added)
        assert (await self.node.verify_chain()).length == self.node.status().records
        newest = self.node.parts.own.newest()
        assert newest is not None
        assert newest.header.hlc <= SimClock().wall_us() + MAX_AHEAD_US


@asynccontextmanager
async def scene(folder: Path, rules: int = RULE_VERSION) -> AsyncIterator[Scene]:
    founding = found_network(identity(0), DIM)
    manifest = replace(founding.manifest, rules=rules)
    founding = replace(founding, manifest=manifest, manifest_bytes=manifest.encode())
    async with open_world(1) as world:
        node = await Network(world, founding, folder).start(0)
        (added,) = await node.add([NewEntry("roses climb", vector=tuple(vector(1)))])
        assert isinstance(added, Added)
        create = node.parts.own.get(added.id)
        assert create is not None
        view = view_of(create.cid, {create.cid: create})
        assert view is not None
        author = Author(1, manifest, SimClock().wall_us())
        edit = author.append(draft_edit(view, author.agent, Content("roses rot", CODES)))
        host = await world.join(author.agent)
        nonce = find_nonce(manifest.network_id, author.agent, manifest.join_bits)
        rng = seeded_random(1, "sender")
        sender = Kademlia(host, author.identity, manifest, nonce, 0, SimClock(), rng)
        await sender.join([world.address(node.agent)])
        yield Scene(node, create, author, edit, sender)


@pytest.mark.parametrize("rules", [RULE_VERSION, 2])
def test_an_edit_that_counts_on_from_an_invented_record_ends_nobodys_chain(
    tmp_path: Path, rules: int
) -> None:
    """The header that a record names as prev is only looked at: nobody has to have signed it."""

    async def main() -> None:
        async with scene(tmp_path, rules) as at:
            profile = at.author.records[2]
            invented = at.author.signed(profile, seq=3, prev=profile.cid, kind=CREATE, lamport=MAX_INT - 2)
            edit = at.author.signed(at.edit, seq=4, prev=invented.cid, lamport=MAX_INT - 1)
            status = await at.send(edit, replace(invented, signature=bytes(64)))
            if rules == RULE_VERSION:
                assert status == (StoreStatus.INVALID, "lamport-clock")
                assert await at.tag()
            else:  # holders of an older rule version take it, and nobody builds on it
                with pytest.raises(RecordError, match="more than can exist"):
                    await at.tag()
            await at.go_on()

    run_deterministic(main, seed=1)


def test_an_edit_that_overwrites_a_value_from_the_future_takes_nobody_there(tmp_path: Path) -> None:
    """What a payload names is kept as a header beside it, and was judged by nobody."""

    async def main() -> None:
        async with scene(tmp_path) as at:
            future = at.author.signed(at.edit, seq=9, hlc=MAX_INT - 5)
            over = tuple(sorted((at.create.cid, future.cid)))
            edit = at.author.signed(at.edit, Content("roses rot", CODES, over=over).to_body())
            assert await at.send(edit, at.author.records[2], future) == (StoreStatus.PENDING, "")
            assert await at.tag()
            await at.go_on()
            assert await at.send(at.edit, at.author.records[2]) == (StoreStatus.HELD, "")

    run_deterministic(main, seed=1)
