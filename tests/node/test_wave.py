"""The query wave: every shard is answered completely or reported, and nobody is asked twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.query.wave import MAX_TRIES, Ask, Wave
from sharding.tree import Prefix

NODES = [bytes([n]) * 32 for n in range(8)]
SHARDS = [Prefix(bits=bits, length=4) for bits in range(16)]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[Prefix, list[bytes]], dict[bytes, str]]:
    shards = draw(st.lists(st.sampled_from(SHARDS), unique=True, max_size=8))
    holders = {shard: draw(st.permutations(NODES))[: draw(st.integers(0, 6))] for shard in shards}
    behaviour = {node: draw(st.sampled_from(["answers", "fails", "incomplete", "slow"])) for node in NODES}
    return holders, behaviour


@given(worlds(), st.randoms(use_true_random=False))
def test_every_shard_is_answered_or_reported(world: tuple, rng: object) -> None:  # type: ignore[type-arg]
    holders, behaviour = world
    wave = Wave(holders)
    queue = list(wave.start())
    asked: dict[Prefix, list[bytes]] = {shard: [] for shard in holders}
    steps = 0
    slow_once: list[Ask] = []
    for ask in queue:
        for shard in ask.shards:
            asked[shard].append(ask.node)
    while queue:
        steps += 1
        assert steps < 2_000
        ask = queue.pop(rng.randrange(len(queue)))  # type: ignore[attr-defined]
        match behaviour[ask.node]:
            case "answers":
                new = wave.on_answer(ask, ask.shards)
            case "incomplete":
                new = wave.on_answer(ask, ())
            case "slow" if ask not in slow_once:
                slow_once.append(ask)
                new = wave.on_slow(ask)
                queue.append(ask)
            case "slow":
                new = wave.on_answer(ask, ask.shards)
            case _:
                new = wave.on_failure(ask)
        for one in new:
            for shard in one.shards:
                asked[shard].append(one.node)
        queue.extend(new)
    assert wave.done
    for shard, nodes in asked.items():
        assert len(nodes) == len(set(nodes)) <= MAX_TRIES
        assert set(nodes) <= set(holders[shard])
        reachable = any(behaviour[node] in ("answers", "slow") for node in holders[shard][:MAX_TRIES])
        assert (shard in wave.missed) == (not reachable)


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
