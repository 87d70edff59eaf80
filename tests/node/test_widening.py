"""Queries ask the likeliest shards first, and the others only when those bring too few hits to go by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from chain.identity import Identity
from node.models import Answer, NewEntry
from node.options import NodeOptions
from sim.network import open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node
from tests.node.simulated_nodes import until

FEW = ["Bees see ultraviolet light.", "Wasps build nests from paper.", "Badgers dig setts in the woods."]


def ask(folder: Path, texts: Sequence[NewEntry], question: str, k: int, tags: Sequence[str] = ()) -> Answer:
    """Ask a node without capacity, in a network of four with `texts`, in the built-in space."""

    async def main() -> Answer:
        ids = [Identity.from_seed(bytes([number + 1]) * 32) for number in range(5)]
        async with open_world(1) as world:
            founding = found_network(ids[0])
            nodes = []
            for number, identity in enumerate(ids):
                (folder / str(number)).mkdir()
                options = NodeOptions(
                    bootstrap=(world.address(ids[0].agent),) if number else (),
                    capacity=0 if number == 4 else 100,
                )
                nodes.append(await start_node(world, identity, founding, folder / str(number), 1, options))
            await nodes[1].add(texts)
            # The one that holds nothing hears of those that came while it did by its first refresh.
            await trio.sleep(10)
            await until(lambda: nodes[4].status().peers == 4 and not nodes[1].status().pending)
            return await nodes[4].query(question, None, k, tags, None)

    return run_deterministic(main, seed=1)


def test_one_word_finds_the_best_of_a_few_entries(tmp_path: Path) -> None:
    answer = ask(tmp_path, [NewEntry(text) for text in FEW], "bees", k=1)
    assert [hit.text for hit in answer.hits] == ["Bees see ultraviolet light."]
    assert (answer.cost.shards_contacted, answer.cost.shards_missed) == (answer.cost.shards_total, 0)


def test_a_rare_tag_is_found_wherever_its_entry_lies(tmp_path: Path) -> None:
    texts = [NewEntry(f"Sort a list of {n} numbers in place.", tags=("sorting",)) for n in range(40)]
    texts.append(NewEntry("Badgers dig setts in the woods.", tags=("animals",)))
    answer = ask(tmp_path, texts, "sort numbers", k=3, tags=("animals",))
    assert [hit.text for hit in answer.hits] == ["Badgers dig setts in the woods."]


def test_enough_hits_in_the_likeliest_shards_leave_the_others_unasked(tmp_path: Path) -> None:
    texts = [NewEntry(f"Sort a list of {n} numbers in place.") for n in range(40)]
    answer = ask(tmp_path, texts, "sort numbers", k=3)
    assert len(answer.hits) == 3
    assert answer.cost.shards_contacted < answer.cost.shards_total
