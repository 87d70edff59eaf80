"""Routing by sketches in whole nodes: few shards are asked, and what was expected of them comes true.

Eight nodes hold clustered vectors by an atlas; a ninth and a tenth, which hold nothing, ask. Blocks come when
the first question does, follow what is written, outlive a loss and a restart of their holders, and a holder
that alters sketches is found out by what it cannot sign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from chain import canonical
from chain.cid import blob_cid
from chain.identity import AgentId
from chain.vector import score_ppm
from dht.overlay.hello import Founding
from dht.summaries.block import Kind
from dht.summaries.messages import MAX_REPLY, METHOD, Item, State
from dht.summaries.puller import HOLDER_S, PATIENCE_S
from dht.summaries.service import Source
from dht.summaries.shelf import STALE_S
from node.embedding.caller import CallerVectors
from node.founding import found
from node.models import Added, Answer, NewEntry
from node.node import Node
from node.sketch_rows import sketch_kind
from sharding.atlas_build import build_atlas
from sharding.tree import Prefix
from sim.network import open_world
from sim.virtual_clock import EPOCH_US, run_deterministic
from sim.whole_node import JOIN_BITS
from tests.node.simulated_nodes import Network, identity, override, until

DIM = 96
CLUSTERS = 60
ENTRIES = 700
QUESTIONS = 40
EIGHT_AND_TWO_GUESTS = (100,) * 8 + (0, 0)
GUEST, OTHER_GUEST = 8, 9

CENTRES = np.random.default_rng(5).normal(size=(CLUSTERS, DIM))


def vectors(count: int, seed: int) -> np.ndarray:
    """Vectors around the centres, twice as far from them as those are from the origin."""
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(0, CLUSTERS, count)] + 2 * rng.normal(size=(count, DIM))


class Clustered:
    """The network, what was added to it, and how its answers compare with an exhaustive search."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.codes: dict[bytes, np.ndarray] = {}
        self.asks = 0

    async def add(self, number: int, rows: np.ndarray) -> list[bytes]:
        entries = [
            NewEntry(f"entry {len(self.codes) + n}", vector=row.tolist()) for n, row in enumerate(rows)
        ]
        ids = []
        for row, outcome in zip(rows, await self.network.nodes[number].add(entries), strict=True):
            assert isinstance(outcome, Added)
            self.codes[outcome.id] = CallerVectors("", DIM).quantise(row.tolist())
            ids.append(outcome.id)
        return ids

    def recall(self, wanted: np.ndarray, answer: Answer) -> float:
        asked = CallerVectors("", DIM).quantise(wanted.tolist())
        best = sorted((-score_ppm(asked, codes), id_) for id_, codes in self.codes.items())[:10]
        floor = -best[-1][0]
        return sum(hit.score >= floor for hit in answer.hits) / 10

    async def ask(self, number: int, count: int = QUESTIONS) -> tuple[float, float, float]:
        """Recall, recall expected, and share of the shards asked, of new questions; means."""
        figures = []
        for wanted in vectors(count, 1_000 + self.asks):
            answer = await self.network.ask(number, wanted.tolist())
            assert (answer.cost.shards_missed, answer.cost.deadline_hit) == (0, False)
            assert answer.cost.expected_recall is not None
            share = answer.cost.shards_contacted / answer.cost.shards_total
            figures.append((self.recall(wanted, answer), answer.cost.expected_recall, share))
        self.asks += 1
        recall, expected, share = np.mean(figures, axis=0).tolist()
        return recall, expected, share


def counter(node: Node, name: str) -> int:
    return node.status().counters[name]


def play(folder: Path, scenario: object) -> None:
    atlas = build_atlas(
        vectors(3_000, 6).astype(np.float32), "caller-vectors", cells=256, seed=1, learned_map=False
    ).encode()
    manifest = found("simulated", identity(0).agent, JOIN_BITS, DIM, EPOCH_US, atlas=blob_cid(atlas))
    founding = Founding(manifest=manifest, manifest_bytes=manifest.encode(), epochs=(), atlas_bytes=atlas)

    async def main() -> None:
        async with open_world(1, None) as world:
            network = Network(world, founding, folder)
            await network.open(EIGHT_AND_TWO_GUESTS)
            clustered = Clustered(network)
            for author in range(4):
                await clustered.add(author, vectors(ENTRIES // 4, author))
            await network.settle()
            await scenario(clustered)  # type: ignore[operator]

    run_deterministic(main, seed=1)


async def know(node: Node) -> None:
    """Ask until the blocks of all shards are there."""
    await node.query(None, vectors(1, 1)[0].tolist(), 10, (), None)
    await until(lambda: counter(node, "summaries_held") == 64, 60.0)


async def most_asked(network: Network, guest: Node, count: int) -> list[Node]:
    """The holders that most blocks come from: who knows as much as this guest asks the same ones."""
    await know(guest)
    gave = Counter(copy.holder for copy in guest.parts.routing.puller.shelf._copies.values())
    agents = sorted(gave, key=lambda agent: (-gave[agent], agent))[:count]
    by_agent = {node.agent: node for node in network.nodes.values()}
    return [by_agent[agent] for agent in agents]


@pytest.mark.slow
def test_few_shards_are_asked_and_bring_what_was_expected(tmp_path: Path) -> None:
    async def scenario(clustered: Clustered) -> None:
        network = clustered.network
        guest = network.nodes[GUEST]
        assert counter(guest, "summary_questions_total") == 0, "nobody pulls who never asks"
        by_centroids = (await network.ask(GUEST, vectors(1, 2)[0].tolist())).cost
        await know(guest)
        recall, expected, share = await clustered.ask(GUEST)
        assert recall >= 0.93
        assert abs(recall - expected) < 0.04
        assert share < 0.75 * by_centroids.shards_contacted / by_centroids.shards_total

        # Who holds nothing has a sample of all, near to what is stored, to make an atlas of.
        sample = await network.nodes[OTHER_GUEST].governance.atlases.sample()
        assert (sample.shards, sample.of, len(sample.codes)) == (64, 64, ENTRIES)
        stored = np.array(list(clustered.codes.values()), dtype=np.float64)
        near = stored @ sample.codes.T.astype(np.float64)
        near /= np.outer(np.linalg.norm(stored, axis=1), np.linalg.norm(sample.codes.astype(float), axis=1))
        assert near.max(axis=1).mean() > 0.9

        # What is acknowledged is found, the moment that it is, where the question lies, and soon everywhere.
        (new,) = await clustered.add(1, vectors(1, 77))
        await network.settle()
        answer = await network.ask(GUEST, vectors(1, 77)[0].tolist())
        assert answer.hits[0].id == new
        wholes = counter(guest, "summaries_fetched_total")
        deltas = counter(guest, "summary_deltas_total")
        await clustered.add(3, vectors(12, 78))
        await network.settle()
        await trio.sleep(STALE_S)
        recall, _, share = await clustered.ask(GUEST)
        assert recall >= 0.93
        assert share < 0.33
        assert counter(guest, "summary_deltas_total") > deltas
        assert counter(guest, "summaries_fetched_total") <= wholes + 12, "what is known is not sent again"

        # A loss, and a restart: the blocks that are the same are not sent again.
        await network.crash(3)
        recall, _, share = await clustered.ask(GUEST)
        assert recall >= 0.93
        await network.start(3)
        await network.settle()
        await trio.sleep(STALE_S)
        bytes_before = counter(guest, "summary_bytes_fetched_total")
        recall, expected, share = await clustered.ask(GUEST)
        assert recall >= 0.93
        assert abs(recall - expected) < 0.04
        assert share < 0.33
        held = counter(guest, "summary_bytes_held")
        assert counter(guest, "summary_bytes_fetched_total") - bytes_before < held / 2
        assert counter(guest, "summary_lies_total") == 0

        # Who answers about a copy that went here meanwhile is not to blame.
        shelf = guest.parts.routing.puller.shelf
        request = guest.kademlia.request

        async def forgetting(agent: AgentId, method: str, body: bytes, **options: Any) -> bytes:
            reply = await request(agent, method, body, **options)
            if method == METHOD:
                shelf.keep_only(())
            return reply

        override(guest.kademlia, "request", forgetting)
        asked = counter(guest, "summary_questions_total")
        await clustered.ask(GUEST, 1)
        await trio.sleep(STALE_S)
        await clustered.ask(GUEST, 1)
        assert counter(guest, "summary_questions_total") > asked
        override(guest.kademlia, "request", request)
        assert not guest.kademlia.standings()
        await know(guest)

        # With room for half of the rows the likeliest shards' blocks are wanted, and the rest goes by
        # centroids, which in a space as noisy as this one promise too much.
        shelf.max_rows = ENTRIES // 2
        await clustered.ask(GUEST, 5)
        await trio.sleep(STALE_S)
        recall, _, _ = await clustered.ask(GUEST, 15)
        assert 0 < shelf.rows <= shelf.max_rows
        assert recall >= 0.8

    play(tmp_path, scenario)


@pytest.mark.slow
def test_a_holder_that_alters_sketches_is_found_out(tmp_path: Path) -> None:
    async def scenario(clustered: Clustered) -> None:
        network = clustered.network
        guest = network.nodes[OTHER_GUEST]
        liar, fool = await most_asked(network, network.nodes[GUEST], 2)
        kind = sketch_kind(DIM)
        honest = liar.parts.summaries._sources[kind].rows

        def opposite(shard: Prefix, before: Mapping[bytes, bytes]) -> Mapping[bytes, bytes] | None:
            """Where every vector seems to point the other way."""
            rows = honest(shard, {})
            half = DIM // 8
            return rows and {
                key: bytes(byte ^ 0xFF for byte in body[:half]) + body[half:] for key, body in rows.items()
            }

        liar.parts.summaries._sources[kind] = Source(kind, opposite)
        its = fool.parts.summaries._sources[kind].rows

        def no_sketch(shard: Prefix, before: Mapping[bytes, bytes]) -> Mapping[bytes, bytes] | None:
            """What no vector's sketch can be."""
            rows = its(shard, {})
            return rows and {key: bytes(len(body)) for key, body in rows.items()}

        fool.parts.summaries._sources[kind] = Source(kind, no_sketch)
        for one in (liar, fool):
            one.parts.summaries.changed_all()
        served = {one.agent: counter(one, "summaries_served_total") for one in (liar, fool)}
        await know(guest)
        assert all(counter(one, "summaries_served_total") > served[one.agent] for one in (liar, fool))
        copies = guest.parts.routing.puller.shelf._copies
        assert fool.agent not in {copy.holder for copy in copies.values()}, "not even for one question"
        await clustered.ask(OTHER_GUEST, 10)
        await until(lambda: counter(guest, "summary_lies_total") > 0, 300.0, every_s=1.0)
        await know(guest)
        honest_ones = [node for node in network.nodes.values() if node not in (liar, fool)]
        assert {copy.holder for copy in copies.values()} <= {node.agent for node in honest_ones}
        recall, expected, share = await clustered.ask(OTHER_GUEST)
        assert recall >= 0.93
        assert abs(recall - expected) < 0.04
        assert share < 0.33
        assert all(not guest.kademlia.standing(node.agent).slowed for node in honest_ones)

    play(tmp_path, scenario)


@pytest.mark.slow
def test_a_holder_that_trickles_its_blocks_keeps_no_others_away(tmp_path: Path) -> None:
    """It puts off all but one shard each time, and takes nearly as long as it may."""

    async def scenario(clustered: Clustered) -> None:
        network = clustered.network
        guest = network.nodes[GUEST]
        # The one that is asked first, as it can tell of most shards.
        liar = max(network.nodes.values(), key=lambda node: node.status().shards_held)
        honest = liar.parts.summaries._answer

        def trickle(kind: Kind, items: Sequence[Item], here: Sequence[bool]) -> bytes:
            instance, told = canonical.decode(honest(kind, items, here), MAX_REPLY)
            return canonical.encode([instance, [told[0], *([int(State.LATER)] for _ in told[1:])]])

        serve = liar.parts.summaries._run_blocking

        async def slowly(*work: object) -> object:
            await trio.sleep(PATIENCE_S - 1)
            return await serve(*work)  # type: ignore[arg-type]

        override(liar.parts.summaries, "_answer", trickle)
        override(liar.parts.summaries, "_run_blocking", slowly)
        leaves = guest.parts.layout.tree.leaves
        began = trio.current_time()
        await guest.query(None, vectors(1, 1)[0].tolist(), 10, (), None)
        await until(lambda: not guest.parts.routing.puller.shelf.missing(leaves), 120)
        assert trio.current_time() - began < 3 * HOLDER_S

    play(tmp_path, scenario)
