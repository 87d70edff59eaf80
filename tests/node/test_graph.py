"""The graph of entries and the trust in them, as nodes show them: over HTTP, and in a network of four."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chain.cid import Cid, from_text, record_cid, to_text
from chain.identity import peer_id
from chain.reference import Relation, Source
from crdt.trust import VOTE
from node.errors import NotFound
from node.models import Assess, NewEntry, Relate, Retract, Vote
from node.node import Node
from node.trust_root import trust_root
from tests.node.simulated_nodes import Network, identity, override, simulate, vector
from tests.node.test_api import Served, serving

NOWHERE = record_cid(b"nobody has it")


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def test_the_graph_goes_out_as_json_and_as_dot(api: Served) -> None:
    async def added(text: str, *references: dict[str, Any], **more: Any) -> str:
        reply = await api.post("/v1/entries", {"text": text, "references": list(references), **more})
        identifier: str = reply.value["id"]
        return identifier

    unknown = to_text(NOWHERE)
    bees = await added(
        "Bees dance.", {"predicate": "extends", "target": unknown}, {"source": "a book", "quote": "so"}
    )
    wasps = await added("Wasps\ndo not.", {"predicate": 'con"trasts', "target": bees}, title="Wasps")
    graph = (await api.get(f"/v1/entries/{bees}/graph?depth=1")).value
    assert (graph["start"], graph["truncated"], graph["incoming"]) == (bees, [], "as held here")
    assert graph["edges"] == sorted(
        [
            {"subject": bees, "predicate": "extends", "object": unknown},
            {"subject": wasps, "predicate": 'con"trasts', "object": bees},
        ],
        key=lambda edge: from_text(edge["subject"]),
    )
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert [node["id"] for node in graph["nodes"]] == [bees, *sorted([wasps, unknown], key=from_text)]
    assert (nodes[wasps]["title"], nodes[wasps]["excerpt"]) == ("Wasps", "Wasps do not.")
    assert (nodes[unknown]["state"], nodes[unknown]["author"]) == ("unknown", None)
    assert nodes[bees]["sources"] == [{"source": "a book", "link": None}]
    assert nodes[bees]["trust"]["score"] == 0.5
    only_out = (await api.get(f"/v1/entries/{bees}/graph?depth=1&direction=out")).value
    assert {node["id"] for node in only_out["nodes"]} == {bees, unknown}
    dot = await api.get(f"/v1/entries/{bees}/graph?depth=1&format=dot")
    assert dot.headers["content-type"].startswith("text/vnd.graphviz")
    assert f'"{wasps}" -> "{bees}" [label="con\\"trasts"];' in dot.body.decode()
    for wrong, status in (("?depth=9", 422), ("?limit=0", 422), ("?direction=up", 422), ("", 404)):
        assert (await api.get(f"/v1/entries/{unknown}/graph{wrong}")).status == status, wrong


@pytest.mark.slow
def test_each_reader_trusts_by_its_own_root_and_sees_relations_that_it_can_know(tmp_path: Path) -> None:
    """Four nodes: 0 founds and is the steward, the others know nobody but it and themselves."""

    async def scenario(network: Network) -> None:
        (rose,) = await network.add(1, [NewEntry("Roses climb.", vector=vector(1))])
        (thorn,) = await network.add(
            2,
            [
                NewEntry(
                    "Thorns hold.",
                    vector=vector(2),
                    references=(Relation("explains", rose), Relation("see", NOWHERE), Source("a book")),
                )
            ],
        )
        await network.settle()
        nodes = network.nodes
        await nodes[0].change(rose, Vote(1))
        await nodes[2].change(rose, Vote(1, confidence=VOTE // 2))
        await nodes[3].change(rose, Vote(-1))
        await nodes[3].change(rose, Assess(0))
        await network.settle()
        seen = [await trust(node, rose) for node in nodes.values()]
        # The founder 1 for, strangers half a vote each; who voted itself counts that in full.
        assert [(one.rooted, one.strangers, one.up, one.down) for one in seen] == [
            (1, 2, 1_250_000, 500_000),
            (1, 2, 1_250_000, 500_000),
            (2, 1, 1_500_000, 500_000),
            (2, 1, 1_250_000, 1_000_000),
        ]
        assert len({one.score for one in seen}) == 3
        everybody = trust_root(
            [peer_id(identity(number).agent) for number in range(4)], nodes[0].manifest, nodes[0].agent
        )
        for node in nodes.values():
            override(node.parts.reader, "_root", everybody)
        assert len({await trust(node, rose) for node in nodes.values()}) == 1

        out = await nodes[3].graph(thorn, 1, 10, "out")
        assert [(node.id, node.seen is None) for node in out.nodes] == sorted(
            [(thorn, False), (rose, False), (NOWHERE, True)], key=lambda pair: (pair[0] != thorn, pair[0])
        )
        assert {edge.object for edge in out.edges} == {rose, NOWHERE}
        # Who made the relation, or holds the record that does, sees it from the other end too.
        holders = [node for node in nodes.values() if node.parts.entries.relating_to(rose, 9) == [thorn]]
        assert nodes[2] in holders
        assert len(holders) >= 3
        for node in holders:
            into = await node.graph(rose, 1, 10, "in")
            assert [one.id for one in into.nodes] == [rose, thorn]
            assert [(one.subject, one.predicate) for one in into.edges] == [(thorn, "explains")]
        await nodes[2].change(thorn, Relate(remove=(Relation("explains", rose),)))
        await network.settle()
        for node in holders:
            assert node.parts.entries.relating_to(rose, 9) == [thorn]  # said once, and unsaid
            assert not (await node.graph(rose, 1, 10, "in")).edges
        await nodes[2].change(thorn, Retract())
        await nodes[2].purge(thorn)
        await network.settle()
        for node in nodes.values():
            assert node.parts.entries.relating_to(rose, 9) == []  # what is erased is in no index either
        with pytest.raises(NotFound):
            await nodes[1].graph(NOWHERE, 1, 10, "both")

    simulate(tmp_path, (100, 100, 100, 100), scenario)


async def trust(node: Node, entry: Cid) -> Any:
    view = await node.get(entry)
    assert view is not None
    return view.trust
