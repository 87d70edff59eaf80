"""Queries of whole nodes: the answer is the exhaustive one, at a cost that is stated and bounded.

Promises P4 (a query says what it cost and what it missed) and P6 (a dead or slow peer costs a small, bounded
delay). The networks take the caller's vectors, so a query asks every shard and brute force can be compared.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from chain.cid import digest, raw_cid
from chain.kinds import CREATE
from chain.source_chain import Draft, next_record
from dht.ports import SystemClock
from node.embedding.errors import EmbeddingError
from node.models import Hit, NewEntry
from node.query.asker import HEDGE_MOST_S
from node.query.gathering import Gathered
from node.query.question import QueryError
from node.query.search_protocol import MAX_K
from node.query.steps import Steps
from node.query.trail import Trail
from node.query.wave import Ask, Wave
from sharding.tree import ShardTree
from tests.node.simulated_nodes import (
    DIM,
    SHARDS,
    FaultyLink,
    Network,
    entry,
    identity,
    shown,
    simulate,
    vector,
)

FOUR_AND_A_GUEST = (100, 100, 100, 100, 0)
GUEST = 4
QUERIES = [vector(seed) for seed in range(1_000, 1_008)]
ROUND_TRIPS_MS = 150
"""What a query without failures may take over `FaultyLink`, connecting (three times 20 ms) included."""


@pytest.mark.slow
def test_every_node_gives_the_exhaustive_answer_before_and_after_a_crash(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(80, authors=range(5))
        for wanted in QUERIES:
            for number in range(5):
                answer = await network.ask(number, wanted)
                assert shown(answer) == network.best(wanted, 10)
                assert (answer.cost.shards_missed, answer.cost.deadline_hit) == (0, False)
        await network.crash(2)
        for wanted in QUERIES:
            for number in sorted(network.nodes):
                answer = await network.ask(number, wanted)
                assert shown(answer) == network.best(wanted, 10)
                assert answer.cost.shards_missed == 0

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_hits_are_whole_and_carry_their_signed_record(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        (id_,) = await network.add(0, [entry(1, "red", "blue")])
        await network.settle()
        answer = await network.ask(GUEST, vector(1))
        (hit,) = answer.hits
        assert (hit.id, hit.text, hit.tags, hit.author) == (
            id_,
            "entry 1",
            ("blue", "red"),
            identity(0).agent,
        )
        assert hit.verified
        assert hit.record.cid == id_
        assert hit.score >= 999_000

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_the_cost_counts_exactly_the_nodes_and_shards_that_were_asked(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(20, authors=range(4))

        def served() -> dict[int, int]:
            return {n: node.status().counters["searches_served_total"] for n, node in network.nodes.items()}

        for number in range(5):
            before = served()
            cost = (await network.ask(number, QUERIES[0])).cost
            asked = [n for n, count in served().items() if count > before[n]]
            assert cost.nodes_contacted == len(asked)
            assert number not in asked
            assert cost.shards_contacted == cost.shards_total == len(SHARDS) == 64
            assert 0 < cost.ms < ROUND_TRIPS_MS
            assert cost.expected_recall == 1.0

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario, FaultyLink())


def test_a_node_that_holds_everything_asks_nobody(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, authors=range(3))
        answer = await network.ask(0, QUERIES[0])
        assert shown(answer) == network.best(QUERIES[0], 10)
        assert answer.cost.nodes_contacted == 0

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.parametrize("victim", [0, 3, *(pytest.param(one, marks=pytest.mark.slow) for one in (1, 2))])
def test_a_silent_holder_costs_one_hedge_once(tmp_path: Path, victim: int) -> None:
    link = FaultyLink()

    async def scenario(network: Network) -> None:
        await network.fill(40, authors=range(4))
        for wanted in QUERIES[:2]:
            await network.ask(GUEST, wanted)
        link.deaf.add(identity(victim).agent)
        slow = 0
        for wanted in QUERIES:  # not every question asks it: who could answer the same takes turns
            answer = await network.ask(GUEST, wanted)
            assert shown(answer) == network.best(wanted, 10)
            assert answer.cost.shards_missed == 0
            assert answer.cost.ms < HEDGE_MOST_S * 1_000 + ROUND_TRIPS_MS
            slow += answer.cost.ms >= ROUND_TRIPS_MS
        assert slow <= 1, "the dead holder was paid for twice"

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario, link)


def test_a_slow_holder_is_hedged_by_the_next_replica(tmp_path: Path) -> None:
    link = FaultyLink()
    hedged: list[int] = []

    async def scenario(network: Network) -> None:
        await network.fill(40, authors=range(4))
        await network.ask(GUEST, QUERIES[0])
        for slow in range(4):
            link.slow_us = {identity(slow).agent: 1_500_000}
            answer = await network.ask(GUEST, QUERIES[slow])
            link.slow_us = {}
            assert shown(answer) == network.best(QUERIES[slow], 10)
            assert answer.cost.ms < HEDGE_MOST_S * 1_000 + ROUND_TRIPS_MS
            assert not answer.cost.deadline_hit
            if answer.cost.ms > ROUND_TRIPS_MS:
                hedged.append(slow)
            await network.settle()

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario, link)
    assert hedged, "no slow node was ever asked, so nothing was hedged"


def test_a_holder_that_was_late_once_is_forgiven_when_it_answers_in_time(tmp_path: Path) -> None:
    link = FaultyLink()

    async def scenario(network: Network) -> None:
        await network.fill(10, authors=[0])
        holder, asker = identity(0).agent, network.nodes[1].parts.asker
        link.slow_us = {holder: 900_000}
        await network.ask(1, QUERIES[0])
        assert set(asker._late) == {holder}
        link.slow_us = {}
        assert shown(await network.ask(1, QUERIES[1])) == network.best(QUERIES[1], 10)
        assert not asker._late

    simulate(tmp_path, (100, 0), scenario, link)


def test_a_shard_without_holders_is_counted_as_missed_and_the_rest_is_answered(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        held = {number: set(await network.shards_of(number)) for number in range(5)}
        kept, lost = next(
            (other, lost)
            for other in (1, 2, 3, 4)
            if (lost := {shard for shard in SHARDS if shard not in held[0] | held[other]})
        )
        gone = [number for number in (1, 2, 3, 4) if number != kept]
        await network.fill(60, authors=gone)
        for number in gone:
            network.world.crash(identity(number).agent)
            del network.nodes[number]
        answer = await network.ask(5, QUERIES[0], k=60)
        assert answer.cost.shards_missed == len(lost)
        tree = ShardTree.fixed(6)
        left = [pair for pair in network.best(QUERIES[0], 60) if tree.leaf_of(digest(pair[0])) not in lost]
        assert shown(answer) == left
        assert 0 < len(left) < 60

    simulate(tmp_path, (100, 100, 100, 100, 100, 0), scenario, FaultyLink())


def test_the_deadline_cuts_the_answer_to_what_is_there(tmp_path: Path) -> None:
    link = FaultyLink()

    async def scenario(network: Network) -> None:
        await network.fill(40, authors=range(5))
        answer = await network.ask(GUEST, QUERIES[0], deadline_ms=1)
        assert answer.cost.deadline_hit
        assert answer.cost.shards_missed == 64
        own = [pair for pair in network.best(QUERIES[0], 40) if network.entries[pair[0]][1].text in mine]
        assert shown(answer) == own
        for agent in (identity(number).agent for number in range(4)):
            link.slow_us[agent] = 400_000
        late = await network.ask(GUEST, QUERIES[0], deadline_ms=300)
        assert late.cost.deadline_hit
        assert late.cost.ms <= 301

    mine = {f"entry {number}" for number in range(4, 40, 5)}
    simulate(tmp_path, FOUR_AND_A_GUEST, scenario, link)


def test_a_deadline_that_is_not_reached_is_not_reported(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(10, authors=range(4))
        answer = await network.ask(GUEST, QUERIES[0], deadline_ms=2_000)
        assert not answer.cost.deadline_hit
        assert shown(answer) == network.best(QUERIES[0], 10)

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_rare_tags_are_found_among_many_that_score_higher(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        near = vector(7)
        crowd = [
            NewEntry(f"crowd {n}", tags=("common",), vector=[x + n / 1e4 for x in near]) for n in range(300)
        ]
        rare = [NewEntry(f"rare {n}", tags=("common", "rare"), vector=vector(n)) for n in range(6)]
        await network.add(0, crowd + rare)
        await network.settle()
        for tags in (("rare",), ("common", "rare"), ("common",), ("absent",), ("absent", "rare")):
            answer = await network.ask(GUEST, near, k=6, tags=tags)
            assert shown(answer) == network.best(near, 6, tags)
            assert all(set(tags) <= set(hit.tags) for hit in answer.hits)
        assert len((await network.ask(GUEST, near, k=6, tags=("rare",))).hits) == 6

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_many_entries_with_one_vector_are_ordered_alike_by_every_holder(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        for author in range(4):
            await network.add(author, [NewEntry(f"{author}/{n}", vector=vector(3)) for n in range(40)])
        await network.settle()
        for number in range(5):
            for k in (1, 7, 30):
                assert shown(await network.ask(number, vector(3), k=k)) == network.best(vector(3), k)

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_k_bounds_the_hits(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(MAX_K + 20, authors=range(5))
        for k, wanted in zip((1, 2, MAX_K), QUERIES, strict=False):
            assert shown(await network.ask(GUEST, wanted, k=k)) == network.best(wanted, k)
            assert len((await network.ask(0, wanted, k=k)).hits) == k

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_what_cannot_be_asked_is_refused_before_anybody_is_bothered(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        node = network.nodes[GUEST]
        for text, given, k, deadline in (
            (None, QUERIES[0], 0, None),
            (None, QUERIES[0], MAX_K + 1, None),
            (None, QUERIES[0], 1, 0),
            (None, None, 1, None),
            ("text", QUERIES[0], 1, None),
        ):
            with pytest.raises(QueryError):
                await node.query(text, given, k, (), deadline)
        for bad in ([0.0] * DIM, [float("nan")] * DIM, [1.0] * (DIM + 1)):
            with pytest.raises(EmbeddingError):
                await node.query(None, bad, 1, (), None)
        assert node.status().counters["queries_total"] == 0

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


@pytest.mark.parametrize("author", [0, GUEST])
def test_what_you_add_you_find_at_once(tmp_path: Path, author: int) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(20, authors=range(4))
        for number in range(500, 510):
            (id_,) = await network.add(author, [entry(number)])
            answer = await network.ask(author, vector(number), k=1)
            assert [hit.id for hit in answer.hits] == [id_]

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_hits_that_do_not_fit_into_one_reply_all_arrive(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        big = [NewEntry(f"{n} " + "x" * 60_000, vector=vector(n)) for n in range(45)]
        await network.add(0, big)
        await network.settle()
        answer = await network.ask(GUEST, QUERIES[0], k=45)
        assert shown(answer) == network.best(QUERIES[0], 45)
        assert answer.cost.hits_refused == 0

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_an_entry_with_several_records_is_shown_once_by_the_best_in_whatever_order_they_come() -> None:
    author = identity(0)
    records = [
        next_record(author, raw_cid(b""), raw_cid(b""), None, Draft(CREATE, {"n": n}), 1, bytes(16))
        for n in range(3)
    ]
    same = [replace(record, header=replace(record.header, subject=records[0].cid)) for record in records]
    for scores in ((1, 2, 2), (2, 2, 1), (3, 2, 1)):
        told = list(zip(same, scores, strict=True))
        for order in permutations(told):
            gathered = Gathered(Steps(SystemClock()), Trail(SystemClock(), 0.0))
            for record, score in order:
                hit = Hit(record.subject, score, author.agent, "text", (), record, author.agent)
                gathered.add(hit, frozenset())
            ((hit,), outdated) = gathered.settled()
            best, score = min(told, key=lambda pair: (-pair[1], pair[0].cid))
            assert (hit.record.cid, hit.score) == (best.cid, score)
            assert outdated == 0


A, B, C, D = (bytes([n]) * 32 for n in range(4))
ONE, TWO = SHARDS[:2]


def test_a_shard_that_its_hedge_answers_incompletely_goes_on_at_once() -> None:
    wave = Wave({ONE: (A, B, C)}, replicas=3)
    (slow,) = wave.start()
    (hedge,) = wave.on_slow(slow)
    (third,) = wave.on_answer(hedge, ())
    assert [ask.node for ask in (slow, hedge, third)] == [A, B, C]
    assert wave.on_answer(third, [ONE]) == []
    assert wave.done


def test_a_hedge_that_comes_after_the_answer_asks_nobody() -> None:
    wave = Wave({ONE: (A, B, C)})
    (ask,) = wave.start()
    (again,) = wave.on_answer(ask, ())
    assert wave.on_slow(ask) == []
    (last,) = wave.on_failure(again)
    assert last == Ask(C, (ONE,))


def test_holders_are_asked_before_neighbours_and_late_ones_last() -> None:
    holders = {ONE: (A, B, D), TWO: (C, B, D)}  # D holds neither, but would cover both
    wave = Wave(holders, replicas=2)
    assert wave.start() == [Ask(B, (ONE, TWO))]
    wave = Wave(holders, replicas=2, late={B})
    first = wave.start()
    assert first == [Ask(A, (ONE,)), Ask(C, (TWO,))]
    (next_,) = wave.on_failure(first[0])
    assert next_.node in (B, D)
    assert Wave({ONE: (A,)}, late={A}).start() == [Ask(A, (ONE,))]


def test_steps_follow_the_queries_course_and_are_shown_only_where_they_happened(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, authors=(0, 1))
        answer = await network.ask(0, vector(1))
        steps = answer.cost.steps
        assert {"embed", "route", "own", "plan", "wave", "answer", "decode", "verify"} <= set(steps)
        assert "fetch" not in steps
        in_turn = sum(steps[name] for name in ("route", "own", "plan", "wave"))
        assert in_turn == pytest.approx(answer.cost.ms, abs=1.0)
        assert 0 < steps["answer"] + steps["decode"] <= steps["wave"] + 1.0

    simulate(tmp_path, (100, 100, 100, 100), scenario)
