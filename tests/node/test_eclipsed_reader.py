"""A reader whose lookups end among nodes that conceal an entry still finds it where honest nodes hold it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dht.overlay.contact import Contact
from dht.records.record_store import Held
from tests.node.simulated_nodes import Network, entry, override, simulate, until


@pytest.mark.slow
def test_an_entry_that_the_nearest_nodes_conceal_is_found_around_them(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        (cid,) = await network.add(0, [entry(1)])
        await until(lambda: network.nodes[0].status().pending == 0)
        strangers = [node for node in network.nodes.values() if not node.holds(cid)]
        assert len(strangers) >= 2, "a reader and somebody who has nothing to show"
        reader, concealing = strangers[0], [node.kademlia.self_contact() for node in strangers[1:]]

        async def holders(_basis: bytes, count: int) -> list[Contact]:
            return concealing[:count]

        override(reader.kademlia, "holders", holders)
        found = await reader.get(cid)
        assert found is not None
        assert found.id == cid
        whole = found.text
        # The same of a reader that keeps the entry's header, as nodes do of what they vouch for.
        (create,) = [record for record in found.records if record.cid == cid]
        await reader.parts.records.hold([Held(replace(create, payload=None))])
        again = await reader.get(cid)
        assert again is not None
        assert again.text == whole is not None

    simulate(tmp_path, (100,) * 12, scenario)
