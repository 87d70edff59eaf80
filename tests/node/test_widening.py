"""Queries ask the likeliest shards first, and the others only when those bring too few hits to go by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from chain.content import Content
from chain.identity import Identity
from chain.kinds import CREATE
from chain.source_chain import Draft
from dht.overlay.reputation import BANNED_FROM
from dht.records.bundle import Item, bundle_value
from node.models import Answer, NewEntry, QueryOptions
from node.node import Node
from node.options import NodeOptions
from node.query.search_protocol import Ranked, SearchRequest, encode_reply
from node.query.trail import BEYOND
from sim.network import open_world
from sim.virtual_clock import EPOCH_US, run_deterministic
from sim.whole_node import found_network, start_node
from tests.dht.authors import Author
from tests.node.simulated_nodes import override, until

T = TypeVar("T")

FEW = ["Bees see ultraviolet light.", "Wasps build nests from paper.", "Badgers dig setts in the woods."]


def ask(folder: Path, texts: Sequence[NewEntry], question: str, k: int, tags: Sequence[str] = ()) -> Answer:
    """Ask a node without capacity, in a network of four with `texts`, in the built-in space."""

    async def one(nodes: Sequence[Node]) -> Answer:
        return await nodes[4].query(question, None, k, tags, None)

    return within(folder, texts, one)


def within(
    folder: Path,
    texts: Sequence[NewEntry],
    scenario: Callable[[Sequence[Node]], Awaitable[T]],
) -> T:
    """What `scenario` gives for such a network; the last of its five nodes has no capacity."""

    async def main() -> T:
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
            return await scenario(nodes)

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
    """The more of the best is wanted, the more shards are asked, and the answer says what that gives."""
    verbs = ("Sort", "Print", "Copy", "Search", "Turn round", "Add up", "Throw away", "Compare")
    texts = [NewEntry(f"{verb} a list of {n} numbers.") for n in range(6) for verb in verbs]

    async def scenario(nodes: Sequence[Node]) -> list[Answer]:
        await nodes[4].query("sort numbers", None, 3, (), None)
        await trio.sleep(10)  # the blocks that it wants have come
        return [
            await nodes[4].query("sort numbers", None, 3, (), None, False, options)
            for options in (
                QueryOptions(effort="low"),
                QueryOptions(explain=True),
                QueryOptions(effort="high"),
                QueryOptions(recall_ppm=1_000_000),
            )
        ]

    low, medium, high, everything = answers = within(tmp_path, texts, scenario)
    assert [len(answer.hits) for answer in answers] == [3] * 4
    contacted = [answer.cost.shards_contacted for answer in answers]
    assert contacted == sorted(contacted)
    assert contacted[0] < contacted[-1] == low.cost.shards_total
    for answer, wanted in zip(answers, (0.8, 0.95, 0.99, 1.0), strict=True):
        assert wanted <= (answer.cost.expected_recall or 0) <= 1.0
        assert answer.cost.shortfall is None
    assert (high.cost.expected_recall or 0) <= (everything.cost.expected_recall or 0) == 1.0
    assert medium.route is not None
    left = [one for one in medium.route.shards if not one.asked]
    assert len(left) == medium.cost.shards_total - medium.cost.shards_contacted
    assert {(one.why, one.answered_by) for one in left} == {(BEYOND, None)}
    assert sum(one.expected_ppm for one in left) <= 50_000
    parts = [one.expected_ppm for one in medium.route.shards]
    assert parts == sorted(parts, reverse=True)


@pytest.mark.slow
def test_a_hit_under_a_borrowed_vector_is_refused_and_counts_against_who_sent_it(tmp_path: Path) -> None:
    """Signed by one who paid, hashed and scored as it should be: only its text is about something else."""
    texts = [NewEntry(f"Sort a list of {n} numbers in place.") for n in range(20)]

    async def scenario(nodes: Sequence[Node]) -> None:
        asker = nodes[4]
        await asker.query("sort numbers", None, 3, (), None)
        await trio.sleep(10)  # for the sketches that the first question sends for
        first = await asker.query("sort numbers", None, 3, (), None, False, QueryOptions(explain=True))
        assert first.route is not None
        asked = max(first.route.asked, key=lambda one: one.shards).node
        (liar,) = [node for node in nodes if node.agent == asked]
        author = Author(1, asker.manifest, EPOCH_US)

        def spam(request: SearchRequest, complete: list[int]) -> bytes:
            body = Content("Buy my book.", request.codes.tobytes()).to_body()
            record = author.append(Draft(CREATE, body))
            bundle = bundle_value([author.opening], [], [Item(record, 0)])
            return encode_reply(complete, [Ranked(record.cid, 1_000_000)], bundle)

        override(liar.parts.searches, "_answer", spam)

        async def refused(n: int) -> int:
            answer = await asker.query(f"sort {n} numbers", None, 3, (), None)
            assert all("Sort" in hit.text for hit in answer.hits)
            assert len(answer.hits) == 3
            return answer.cost.hits_refused

        # One of three who could be asked is drawn: twenty times, were it not asked less and then no more.
        found = sum([await refused(n) for n in range(60)])
        assert 0 < found <= BANNED_FROM

    within(tmp_path, texts, scenario)
