"""Questions whose answers get lost: holders that are suspected for it are asked when nobody else is left.

Networks in virtual time that lose one message in twenty, and in which few holders are left. What is lost is
counted once more without the defence: what held must not hold any more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from chain.identity import AgentId
from dht.errors import RefusalCode, RequestRefused
from dht.network import PeerId
from node.node import Node
from node.query.asker import DEFAULT_DEADLINE_MS
from node.query.wave import Wave
from sharding.tree import Prefix
from sim.links import Link
from tests.node.simulated_nodes import FaultyLink, Network, identity, override, shown, simulate, vector

GUEST = 3
THREE_AND_A_GUEST = (100, 100, 100, 0)
ROUND_TRIP_MS = 25
LOSS = 0.05
PAUSE_S = 0.25
"""From one question to the next."""
QUESTIONS = 100


@dataclass
class LossyLink:
    """10 ms one way; a message is lost with a probability that a scenario sets while it runs."""

    loss: float = 0.0

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        return None if rng.random() < self.loss else 10_000


def give_up_suspects(node: Node) -> None:
    """Who lost an answer is not asked again, as long as it is suspected."""
    asker = node.parts.asker
    plan = asker._plan

    async def hasty(shards: Sequence[Prefix], by_guests: bool) -> Wave:
        wave = await plan(shards, by_guests)
        override(wave, "on_loss", wave.on_failure)
        return wave

    def nobody(_: Prefix) -> list[AgentId]:
        return []

    override(asker, "_plan", hasty)
    override(asker, "_suspects", nobody)


def fall_silent(node: Node) -> None:
    """Takes questions and never answers one, though it answers everything else."""

    async def never(*_: object) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    override(node.parts.searches, "_serve", never)


def test_an_answer_that_is_lost_is_asked_for_again_when_nobody_else_has_it(tmp_path: Path) -> None:
    """One holder is left. Of two both are seldom suspected at a time: `benchmarks.lost_answers`."""

    def missed(folder: Path, *, hasty: bool) -> int:
        counts: list[int] = []
        link = LossyLink()

        async def scenario(network: Network) -> None:
            await network.fill(20, authors=range(3))
            await network.crash(1)
            await network.crash(2)
            await trio.sleep(60)
            if hasty:
                give_up_suspects(network.nodes[GUEST])
            asked = 0
            assert (await network.ask(GUEST, vector(999))).cost.suspects_asked == 0
            link.loss = LOSS
            for number in range(QUESTIONS):
                answer = await network.ask(GUEST, vector(1_000 + number))
                assert answer.cost.ms <= DEFAULT_DEADLINE_MS + 1
                counts.append(answer.cost.shards_missed > 0)
                asked += answer.cost.suspects_asked
                if not counts[-1]:
                    assert shown(answer) == network.best(vector(1_000 + number), 10)
                await trio.sleep(PAUSE_S)
            assert network.nodes[GUEST].status().counters["search_suspects_asked_total"] == asked
            assert (asked > 0) == (not hasty)

        folder.mkdir()
        simulate(folder, THREE_AND_A_GUEST, scenario, link)
        return sum(counts)

    with_, without = missed(tmp_path / "with", hasty=False), missed(tmp_path / "without", hasty=True)
    assert without > 0
    assert 5 * with_ < without


def test_a_holder_that_is_silent_on_purpose_costs_a_hedge_and_never_the_whole_time(tmp_path: Path) -> None:
    """Nobody waits for it where an honest one is left; where none is, the question ends in its time."""

    async def scenario(network: Network) -> None:
        await network.fill(20, authors=range(3))
        await network.crash(2)
        await trio.sleep(60)
        fall_silent(network.nodes[0])
        slow = 0
        for number in range(20):
            answer = await network.ask(GUEST, vector(1_000 + number))
            assert shown(answer) == network.best(vector(1_000 + number), 10)
            assert answer.cost.suspects_asked == 0
            slow += answer.cost.ms > ROUND_TRIP_MS
        assert slow <= 1
        fall_silent(network.nodes[1])
        for number in range(20):
            answer = await network.ask(GUEST, vector(2_000 + number))
            assert answer.cost.shards_missed == answer.cost.shards_total
            assert not answer.cost.deadline_hit, "the rest of the time was left for other shards"
            assert answer.cost.ms < DEFAULT_DEADLINE_MS

    link: Link = FaultyLink()
    simulate(tmp_path, THREE_AND_A_GUEST, scenario, link)


def test_a_holder_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    """A refusal is an answer: it arrived."""

    async def scenario(network: Network) -> None:
        await network.fill(20, authors=range(3))
        for number in (1, 2):
            await network.crash(number)
        await trio.sleep(60)
        served = 0

        async def refuse(*_: object) -> bytes:
            nonlocal served
            served += 1
            await trio.lowlevel.checkpoint()
            raise RequestRefused(RefusalCode.OVERLOADED)

        override(network.nodes[0].parts.searches, "_serve", refuse)
        answer = await network.ask(GUEST, vector(1_000))
        assert answer.cost.shards_missed == answer.cost.shards_total
        assert (served, answer.cost.suspects_asked) == (1, 0)
        assert identity(0).agent in {one.agent for one in network.nodes[GUEST].kademlia.storing()}

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, FaultyLink())
