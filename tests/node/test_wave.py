"""The query wave: every shard is answered completely or reported, and nobody but a suspect is asked twice."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from node.query.wave import MAX_TRIES, Ask, Wave
from sharding.tree import Prefix

NODES = [bytes([n]) * 32 for n in range(8)]
SUSPECTS = [bytes([n]) * 32 for n in range(8, 11)]
"""Suspected from the beginning."""
SHARDS = [Prefix(bits=bits, length=4) for bits in range(16)]
BEHAVIOURS = ["answers", "fails", "incomplete", "slow", "loses one", "loses all"]
REACHED = {"answers", "slow"}


@dataclass(frozen=True)
class World:
    """Who holds what, who is suspected of it, how many of a shard's nodes should hold it, how all behave."""

    holders: dict[Prefix, list[bytes]]
    suspects: dict[Prefix, list[bytes]]
    replicas: int
    behaviour: dict[bytes, str]

    def reaches(self, shard: Prefix) -> bool:
        """Whether some node that may be asked for a shard answers in the end. One that loses a single answer
        does so if it is asked again."""
        nodes = self.holders[shard][:MAX_TRIES]
        again = {*nodes[: self.replicas], *self.suspects[shard]}
        return any(self.behaviour[node] in REACHED for node in (*nodes, *self.suspects[shard])) or any(
            self.behaviour[node] == "loses one" for node in again
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    shards = draw(st.lists(st.sampled_from(SHARDS), unique=True, max_size=8))
    return World(
        {shard: draw(st.permutations(NODES))[: draw(st.integers(0, 6))] for shard in shards},
        {shard: draw(st.lists(st.sampled_from(SUSPECTS), unique=True)) for shard in shards},
        draw(st.integers(1, MAX_TRIES)),
        {node: draw(st.sampled_from(BEHAVIOURS)) for node in NODES}
        | {node: draw(st.sampled_from(["answers", "fails", "incomplete", "loses all"])) for node in SUSPECTS},
    )


@given(worlds(), st.randoms(use_true_random=False))
def test_every_shard_is_answered_or_reported(world: World, rng: random.Random) -> None:
    holders = world.holders
    wave = Wave(holders, replicas=world.replicas, suspects=world.suspects)
    asked: dict[Prefix, list[bytes]] = {shard: [] for shard in holders}
    last: dict[Prefix, list[bytes]] = {shard: [] for shard in holders}
    silent: set[bytes] = set()
    over: set[tuple[bytes, Prefix]] = set()
    """Who has failed, or answered, so that nothing more is to be had from it."""
    slow_once: set[Ask] = set()
    queue: list[Ask] = []

    def sent(asks: list[Ask]) -> None:
        for ask in asks:
            for shard in ask.shards:
                (last if ask.suspected else asked)[shard].append(ask.node)
                assert (ask.node, shard) not in over
                if ask.suspected:
                    assert ask.node in silent | set(SUSPECTS)
                    assert ask.node in (*holders[shard][: world.replicas], *world.suspects[shard])
                    others = set(holders[shard][:MAX_TRIES]) - set(asked[shard])
                    assert others <= silent | {node for node, _ in over}, "others go first"
        queue.extend(asks)

    sent(wave.start())
    steps = 0
    while queue:
        steps += 1
        assert steps < 2_000
        ask = queue.pop(rng.randrange(len(queue)))
        behaviour = world.behaviour[ask.node]
        if behaviour == "slow" and ask not in slow_once:
            slow_once.add(ask)
            queue.append(ask)
            sent(wave.on_slow(ask))
        elif behaviour == "loses all" or (behaviour == "loses one" and not ask.suspected):
            silent.add(ask.node)
            if ask.suspected:
                over.update((ask.node, shard) for shard in holders)
            sent(wave.on_loss(ask))
        elif behaviour == "fails":
            over.update((ask.node, shard) for shard in holders)
            sent(wave.on_failure(ask))
        else:
            over.update((ask.node, shard) for shard in ask.shards)
            sent(wave.on_answer(ask, () if behaviour == "incomplete" else ask.shards))
    assert wave.done
    for shard in holders:
        assert len(asked[shard]) == len(set(asked[shard])) <= MAX_TRIES
        assert set(asked[shard]) <= set(holders[shard])
        assert len(last[shard]) == len(set(last[shard]))
        if not silent and not world.suspects[shard]:
            assert not last[shard]
        assert (shard in wave.missed) == (not world.reaches(shard))


def test_the_first_wave_asks_as_few_nodes_as_cover_all_shards() -> None:
    a, b, c = NODES[:3]
    wave = Wave({SHARDS[0]: [a, b], SHARDS[1]: [b, c], SHARDS[2]: [c, b]})
    assert wave.start() == [Ask(b, tuple(SHARDS[:3]))]


def test_cost_decides_between_equal_covers() -> None:
    a, b = NODES[:2]
    wave = Wave({SHARDS[0]: [a, b]}, cost=lambda node: 0.0 if node == b else 1.0)
    assert wave.start() == [Ask(b, (SHARDS[0],))]


def test_a_failed_node_is_given_up_for_all_its_shards() -> None:
    a, b, c = NODES[:3]
    wave = Wave({SHARDS[0]: [a, b], SHARDS[1]: [a, c]})
    (first,) = wave.start()
    assert first.node == a
    assert sorted(ask.node for ask in wave.on_failure(first)) == [b, c]
    assert not wave.done


def test_a_late_answer_still_counts_after_a_hedge() -> None:
    a, b = NODES[:2]
    wave = Wave({SHARDS[0]: [a, b]})
    (first,) = wave.start()
    (hedge,) = wave.on_slow(first)
    assert hedge.node == b
    assert wave.on_answer(first, first.shards) == []
    assert wave.done
    assert wave.missed == ()


def test_whose_answer_was_lost_is_asked_again_after_all_others_and_once() -> None:
    a, b, c = NODES[:3]
    wave = Wave({SHARDS[0]: [a, b, c]}, replicas=2)
    (first,) = wave.start()
    (second,) = wave.on_loss(first)
    (third,) = wave.on_loss(second)
    assert [ask.node for ask in (first, second, third)] == [a, b, c]
    (again,) = wave.on_answer(third, ())
    assert again == Ask(a, (SHARDS[0],), suspected=True)
    (other,) = wave.on_loss(again)
    assert other == Ask(b, (SHARDS[0],), suspected=True)
    assert not wave.done
    assert wave.on_loss(other) == []
    assert wave.done
    assert wave.missed == (SHARDS[0],)


def test_nobody_is_asked_again_while_an_answer_is_due() -> None:
    a, b = NODES[:2]
    wave = Wave({SHARDS[0]: [a, b]})
    (first,) = wave.start()
    (hedge,) = wave.on_slow(first)
    assert wave.on_loss(first) == []
    assert wave.on_answer(hedge, hedge.shards) == []
    assert wave.done


def test_suspects_are_asked_at_once_where_nobody_else_holds_a_shard() -> None:
    a, suspect = NODES[0], SUSPECTS[0]
    wave = Wave({SHARDS[0]: [], SHARDS[1]: [a]}, suspects={shard: [suspect] for shard in SHARDS[:2]})
    assert wave.start() == [Ask(a, (SHARDS[1],)), Ask(suspect, (SHARDS[0],), suspected=True)]
