"""Whole nodes tell each other how busy they are, and choose by what they measure, less by what is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dht.overlay.health import HEALTH, Health
from dht.overlay.heartbeat import LINGER_S, Heartbeats
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

HOLDERS = range(3)
LIAR, ASKER = 1, 3
QUESTIONS = 60


async def ask_all(network: Network, seed: int) -> Counter[int]:
    """How many searches each holder served of `QUESTIONS` questions, all answered rightly."""
    before = {number: network.nodes[number].parts.searches.served for number in HOLDERS}
    for number in range(QUESTIONS):
        wanted = vector(seed + number)
        assert shown(await network.ask(ASKER, wanted)) == network.best(wanted, 10)
    return Counter(
        {number: network.nodes[number].parts.searches.served - before[number] for number in HOLDERS}
    )


@pytest.mark.slow
def test_a_liar_that_is_idle_by_its_word_neither_gets_everything_nor_outlives_a_slow_line(
    tmp_path: Path,
) -> None:
    """All three hold all: any of them can answer every question, so the choice is by health alone."""
    link = FaultyLink()

    async def scenario(network: Network) -> None:
        await network.fill(30, [0, 2])
        await ask_all(network, 500)
        alike = await ask_all(network, 1_000)
        assert min(alike.values()) > QUESTIONS / 8

        for number in HOLDERS:
            said = Health(latency_ms=0) if number == LIAR else Health(cpu=1000, latency_ms=900)
            override(network.nodes[number].parts.heartbeats, "_own", lambda said=said: said)
        beats: Heartbeats = network.nodes[ASKER].parts.heartbeats
        await ask_all(network, 2_000)
        await beats.round()
        now = network.nodes[ASKER].parts.clock.monotonic()
        assert beats.book.said(identity(LIAR).agent, now) == Health()
        lied = await ask_all(network, 3_000)
        assert lied[LIAR] < 0.8 * sum(lied.values())
        assert min(lied.values()) > 0

        link.slow_us[identity(LIAR).agent] = 60_000  # what is measured: 140 ms instead of 20
        await ask_all(network, 4_000)
        await beats.round()
        slow = await ask_all(network, 5_000)
        assert slow[LIAR] < 0.1 * sum(slow.values())

    simulate(tmp_path, (100, 100, 100, 0), scenario, link)


@pytest.mark.slow
def test_who_stops_asking_stops_telling_and_an_older_release_is_asked_as_before(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(10, [0])
        old = network.nodes[LIAR]
        del old.parts.network._handlers[HEALTH]  # type: ignore[attr-defined]
        alike = await ask_all(network, 1_000)
        assert alike[LIAR] > 0
        beats = network.nodes[ASKER].parts.heartbeats
        await until(lambda: beats.told >= 6)
        asked = await ask_all(network, 2_000)
        assert asked[LIAR] > 0
        agent = identity(LIAR).agent
        assert beats.book.said(agent, network.nodes[ASKER].parts.clock.monotonic()) is None
        assert not network.nodes[ASKER].kademlia.standings()

        told = beats.told
        start = network.nodes[ASKER].parts.clock.monotonic()
        await until(
            lambda: network.nodes[ASKER].parts.clock.monotonic() > start + 2 * LINGER_S, within_s=200.0
        )
        # after a minute only one other is told in each round
        assert beats.told - told <= 3 * 5 + 5

    simulate(tmp_path, (100, 100, 100, 0), scenario)
