"""Shards that are asked for too much gain copies that share the questions, and lose them when it is quiet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from dht.overlay.health import STALE_S, Health
from dht.repair.guests import FRESH_S, KEEP_S, LOOK_S
from node.models import Answer, QueryOptions
from node.node import Node
from node.query.asker import NO_GUEST_S
from sharding.load import HALF_LIFE_S
from sharding.tree import Prefix
from tests.node.simulated_nodes import (
    FaultyLink,
    Network,
    identity,
    override,
    shown,
    simulate,
    until,
    vector,
)

ASKER = 6
TAKES_S = 0.04
"""A search costs no virtual time; this is what nodes believe that it takes."""
A_SECOND = 8
WARM_S = 5 * HALF_LIFE_S
"""A steady stream of questions is known for what it is after some half-lives."""


def slow(node: Node) -> None:
    served = node.parts.vitals.served

    def counting(shards: Iterable[Prefix], _seconds: float) -> None:
        served(shards, TAKES_S)

    override(node.parts.vitals, "served", counting)


async def crowd(network: Network, seconds: int) -> list[Answer]:
    """So many seconds of questions, all answered rightly; the answers."""
    answers: list[Answer] = []
    for number in range(seconds * A_SECOND):
        wanted = vector(7_000 + number % 5)
        answer = await network.nodes[ASKER].query(
            None, wanted, 10, (), None, options=QueryOptions(explain=True, cache=False)
        )
        assert shown(answer) == network.best(wanted, 10)
        answers.append(answer)
        await trio.sleep(1 / A_SECOND)
    return answers


def guests(network: Network) -> dict[int, set[Prefix]]:
    return {number: set(node.parts.guests._until) for number, node in network.nodes.items()}


@pytest.mark.slow
def test_a_hot_shard_gains_copies_that_answer_and_loses_them_when_it_is_quiet(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        for node in network.nodes.values():
            slow(node)
        await network.fill(40, range(3))
        began = trio.current_time()
        while not any(guests(network).values()):
            assert trio.current_time() - began < WARM_S, "what two holders are busy with gains a copy"
            await crowd(network, 10)
        await crowd(network, int(NO_GUEST_S + LOOK_S))  # who had no copy yet is tried again
        later = await crowd(network, 8)
        there = guests(network)
        by_guests = Counter[int]()
        for answer in later:
            assert answer.route is not None
            for shard in answer.route.shards:
                for number, shards in there.items():
                    if shard.answered_by == identity(number).agent and shard.shard in shards:
                        by_guests[number] += 1
        assert sum(by_guests.values()) > len(later), "more than one shard of each question"

        await network.fill(10, [0], seed=500)
        await trio.sleep(FRESH_S)
        await crowd(network, 3)

        await until(lambda: not any(guests(network).values()), 3 * KEEP_S + 10 * STALE_S, every_s=5.0)
        await crowd(network, 1)

    simulate(tmp_path, (100, 100, 100, 100, 100, 100, 0), scenario, FaultyLink())


@pytest.mark.slow
def test_one_holder_alone_makes_no_shard_hot(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(20, range(3))
        liar = network.nodes[0]
        held = [one for one in liar.parts.layouts.current.tree.leaves if liar.parts.is_complete(one)][:16]
        override(liar.parts.vitals, "hot", lambda: tuple(held))
        assert held
        override(liar.parts.heartbeats, "_own", lambda: Health(hot=tuple(held)))
        for _ in range(20):
            await liar.parts.heartbeats.round()
            await trio.sleep(LOOK_S)
        heard = [
            node.parts.heartbeats.book.hot(node.parts.clock.monotonic()) for node in network.nodes.values()
        ]
        assert any(heard)
        assert not any(guests(network).values())
        await crowd(network, 1)

    simulate(tmp_path, (100, 100, 100, 100, 100, 100, 0), scenario, FaultyLink())
