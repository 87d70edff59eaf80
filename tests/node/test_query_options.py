"""What a question may ask beside what it is about: what hits have to be, how much of the answer, and why.

Filters lose no hits and no holder can pass them over; effort and deadline say what was reached and what would
have done; the route accounts for every request; kept answers never hide what this node knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from chain.cid import Cid
from node.embedding.caller import CallerVectors
from node.embedding.errors import EmbedderFailed
from node.models import Answer, Delete, Edit, NewEntry, QueryOptions
from node.query.effort import EFFORTS, Reached, advice, shortfall
from node.query.filters import ANY, Filters
from node.query.text_check import BUDGET_S
from node.query.trail import LIKELY
from tests.node.simulated_nodes import (
    DIM,
    FaultyLink,
    Network,
    entry,
    identity,
    override,
    shown,
    simulate,
    vector,
)

LIAR = 1
GUEST = 3
STRANGER = 4
THREE_AND_A_GUEST = (100, 100, 100, 0)
WANTED = vector(77)


async def asked(
    network: Network, number: int, options: QueryOptions, k: int = 5, deadline_ms: int | None = None
) -> Answer:
    return await network.nodes[number].query(None, WANTED, k, (), deadline_ms, False, options)


@pytest.mark.slow
def test_filters_lose_no_hit_and_who_passes_them_over_is_found_out(tmp_path: Path) -> None:
    """Each of 60 entries near the question fails each filter; the six that pass are far away."""

    async def scenario(network: Network) -> None:
        near = CallerVectors("", DIM).quantise(WANTED).tolist()
        crowd = [
            NewEntry(f"crowd {n}", domain="other", confidence=100_000, vector=[x + n / 1e3 for x in near])
            for n in range(60)
        ]
        await network.add(0, crowd)
        await trio.sleep(10)
        began = (await network.nodes[0].query(None, WANTED, 1, (), None)).hits[
            0
        ].record.header.hlc + 5_000_000
        mine = [replace(entry(n), domain="bees", confidence=900_000) for n in range(6)]
        ids = set(await network.add(2, mine))
        await network.settle()
        ended = max(node.parts.clock.wall_us() for node in network.nodes.values()) + 1
        expected = [pair for pair in network.best(WANTED, 66) if pair[0] in ids][:5]
        passing = [
            Filters(authors=(identity(2).agent,)),
            Filters(domains=("bees", "birds")),
            Filters(confidence=900_000),
            Filters(since=began),
            Filters((identity(2).agent,), ("bees",), 800_000, began, ended),
        ]
        for filters in passing:
            for number in (0, GUEST):
                answer = await asked(network, number, QueryOptions(filters))
                assert shown(answer) == expected
                assert (answer.cost.shards_missed, answer.cost.hits_refused) == (0, 0)
        for filters in (
            Filters(until=began),
            Filters(domains=("other",)),
            Filters(authors=(identity(0).agent,)),
        ):
            texts = [hit.text for hit in (await asked(network, GUEST, QueryOptions(filters))).hits]
            assert len(texts) == 5
            assert all(text.startswith("crowd") for text in texts)
        assert (await asked(network, GUEST, QueryOptions(Filters(confidence=900_001)))).hits == ()

        liar = network.nodes[LIAR].parts.searches
        honest = liar._answer
        override(liar, "_answer", lambda request, complete: honest(replace(request, filters=ANY), complete))
        refused = 0
        for filters in passing * 8:  # not each of them asks the liar
            answer = await asked(network, GUEST, QueryOptions(filters))
            assert shown(answer) == expected
            refused += answer.cost.hits_refused
        assert refused > 0
        assert network.nodes[GUEST].kademlia.is_suspect(network.nodes[LIAR].agent)

    link = FaultyLink(slow_us={identity(number).agent: 50_000 for number in (0, 2)})
    simulate(tmp_path, THREE_AND_A_GUEST, scenario, link)


def test_what_the_deadline_leaves_is_said_with_the_deadline_that_would_do(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(40, authors=range(4))
        whole = await asked(network, STRANGER, QueryOptions(explain=True))
        assert (whole.cost.expected_recall, whole.cost.shortfall) == (1.0, None)
        link.slow_us = {identity(number).agent: 60_000 for number in range(4)}
        for _ in range(4):
            await asked(network, STRANGER, QueryOptions())
        cut = await asked(network, STRANGER, QueryOptions(effort="high", explain=True), deadline_ms=30)
        assert cut.cost.deadline_hit
        assert cut.cost.expected_recall == 0.0
        short = cut.cost.shortfall
        assert short is not None
        assert (short.wanted_ppm, short.reached_ppm, short.effort) == (EFFORTS["high"], 0, None)
        assert short.deadline_ms is not None
        assert short.deadline_ms < 600
        enough = await asked(network, STRANGER, QueryOptions(effort="high"), deadline_ms=short.deadline_ms)
        assert (enough.cost.expected_recall, enough.cost.shortfall) == (1.0, None)
        assert shown(enough) == network.best(WANTED, 5)

        # A holder of three quarters of the shards searched those before anybody was asked.
        for number in range(4):
            early = (await asked(network, number, QueryOptions(), deadline_ms=30)).cost
            assert 0.25 < (early.expected_recall or 0) < 0.95
            assert early.shards_missed == round(64 * (1 - (early.expected_recall or 0)))
            assert early.shortfall is not None

        for answer in (whole, cut):
            route = answer.route
            assert route is not None
            assert len(route.shards) == answer.cost.shards_total == 64
            asked_for = [one for one in route.shards if one.asked]
            assert len(asked_for) == answer.cost.shards_contacted
            assert sum(one.answered_by is None for one in asked_for) == answer.cost.shards_missed
            assert {one.why for one in asked_for} <= {LIKELY}
            assert {one.node for one in route.asked} == {one.node for one in route.asked if one.shards}
            assert len({one.node for one in route.asked}) == answer.cost.nodes_contacted
        assert whole.route is not None
        assert {one.outcome for one in whole.route.asked} == {"answered"}
        assert sum(one.complete for one in whole.route.asked) == 64
        assert all(0 < (one.ms or 0) < 1_000 for one in whole.route.asked)
        assert cut.route is not None
        assert {one.outcome for one in cut.route.asked} == {"not waited for"}

    link = FaultyLink()
    simulate(tmp_path, (100, 100, 100, 100, 0), scenario, link)


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        (Reached(990_000, False, 0), None),
        (Reached(989_500, True, 2, 80.0), None),
        (
            Reached(910_000, True, 3, 80.0),
            "reached 0.91 of 0.99 asked for (3 shards without an answer): "
            "--deadline-ms 120 would do, or --effort low is met",
        ),
        (
            Reached(960_000, False, 1),
            "reached 0.96 of 0.99 asked for (1 shard without an answer): --effort medium is met",
        ),
        (
            Reached(0, False, 64),
            "reached 0 of 0.99 asked for (64 shards without an answer): "
            "ask again when more of its nodes are back",
        ),
        (
            Reached(0, True, 64, 90_000.0),
            "reached 0 of 0.99 asked for (64 shards without an answer): --deadline-ms 60000 would do",
        ),
    ],
)
def test_the_best_offer_is_one_that_was_met_or_would_be(reached: Reached, said: str | None) -> None:
    short = shortfall(990_000, 50, 60_000, reached)
    assert (None if short is None else advice(short)) == said


@pytest.mark.slow
def test_a_kept_answer_costs_nothing_and_never_hides_what_this_node_knows(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(30, authors=(1, 2))
        node, options = network.nodes[0], QueryOptions()
        override(node.parts.results, "_ttl_s", 120.0)

        async def kept(expected: Sequence[tuple[Cid, int]]) -> None:
            """The next answer is anew and right, the one after it is the same, kept."""
            first = await asked(network, 0, options)
            assert first.cost.cached_s is None
            assert shown(first) == expected
            await trio.sleep(1)
            again = await asked(network, 0, options)
            assert again.cost.cached_s == pytest.approx(1.0, abs=0.2)
            assert again.hits == first.hits
            assert (again.cost.shards_contacted, again.cost.expected_recall) == (64, 1.0)

        await kept(network.best(WANTED, 5))
        since = QueryOptions(Filters(since=1))
        for other in (since, QueryOptions(effort="low"), QueryOptions(cache=False)):
            assert (await asked(network, 0, other)).cost.cached_s is None
        (own,) = await network.add(0, [NewEntry("mine", vector=WANTED)])
        assert (await asked(network, 0, options)).hits[0].id == own
        await network.settle()
        await kept(network.best(WANTED, 5))
        await node.change(own, Delete())
        del network.entries[own]
        assert shown(await asked(network, 0, options)) == network.best(WANTED, 5)
        await network.settle()
        await kept(network.best(WANTED, 5))

        # What others change is heard of where it is held.
        best = network.best(WANTED, 5)[0][0]
        await network.nodes[1].change(best, Edit(text="elsewhere", vector=[-x for x in WANTED]))
        del network.entries[best]
        await network.settle()
        await kept(network.best(WANTED, 5))
        await network.add(2, [NewEntry("theirs", vector=[x * 1.01 for x in WANTED[:4]] + WANTED[4:])])
        await network.settle()
        await kept(network.best(WANTED, 5))

        # What an agent is found to have done, and what the owner does not want to see.
        offender = (await asked(network, 0, options)).hits[0].author
        node.governance.doubt({offender: 0})
        assert all(hit.author != offender for hit in (await asked(network, 0, options)).hits)
        node.governance.doubt({})
        await kept(network.best(WANTED, 5))
        await node.block(offender, "test")
        assert all(hit.author != offender for hit in (await asked(network, 0, options)).hits)
        await node.unblock(offender)

        await asked(network, 0, options)
        await trio.sleep(121)
        assert (await asked(network, 0, options)).cost.cached_s is None
        counters = node.status().counters
        assert counters["query_cache_hits_total"] > 5
        assert counters["query_cache_misses_total"] > counters["query_cache_hits_total"]

    simulate(tmp_path, (100, 100, 100), scenario)


class Nearly:
    """An embedder as other machines have it, nearly the same vectors: `entry N` has that of `vector(N)`."""

    space, dim, exact = "sentence-transformers:some", DIM, False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        if self.fails:
            raise EmbedderFailed("it is busy")
        self.asked += texts
        vectors = [np.array(vector(int(text.split()[-1]))) * 1.001 + 0.001 for text in texts]
        return np.array([CallerVectors("", DIM).quantise(one.tolist()) for one in vectors])


def test_hits_with_borrowed_vectors_are_left_out_where_nothing_validates_them(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, authors=(0, 1))
        honest = network.best(WANTED, 5)
        await network.add(2, [NewEntry(f"spam {n}", vector=[x + n / 1e4 for x in WANTED]) for n in (50, 51)])
        await network.settle()
        asker, embedder = network.nodes[GUEST], Nearly()
        assert [hit.text[:4] for hit in (await asked(network, GUEST, QueryOptions())).hits][:2] == [
            "spam"
        ] * 2
        override(asker.parts.texts, "_embedder", embedder)
        embedder.fails = True
        assert (await asked(network, GUEST, QueryOptions())).cost.texts_unlike == 0
        embedder.fails = False
        answer = await asked(network, GUEST, QueryOptions())
        assert shown(answer) == honest
        assert answer.cost.texts_unlike == 2
        assert answer.cost.texts_checked == 7, "the five best, and two that took the places of those"
        looked_at = list(embedder.asked)
        again = await asked(network, GUEST, QueryOptions())
        assert shown(again) == honest
        assert (embedder.asked, again.cost.texts_checked, again.cost.texts_unlike) == (looked_at, 0, 2)
        assert not any(asker.kademlia.is_suspect(identity(n).agent) for n in range(3)), "nobody is to blame"

        # An embedder that hangs holds nobody up for longer than the budget.
        async def never(*_: object) -> None:
            await trio.sleep_forever()

        await network.add(0, [NewEntry("entry 60", vector=WANTED)])
        await network.settle()
        override(asker.parts.texts, "_run_blocking", never)
        late = await asked(network, GUEST, QueryOptions())
        assert late.hits[0].text == "entry 60"
        assert BUDGET_S * 1_000 <= late.cost.ms < BUDGET_S * 1_000 + 200

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)
