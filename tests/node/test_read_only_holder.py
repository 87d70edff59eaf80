"""A holder that cannot write any more: it vouches for nothing, and others take its place."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio

from tests.node.simulated_nodes import SHARDS, Network, entry, shown, simulate, until, vector

SICK = 1
GUEST = 4
FOUR_AND_A_GUEST = (100, 100, 100, 100, 0)
QUERIES = [vector(seed) for seed in range(5_000, 5_010)]


async def unsaid(network: Network) -> int:
    """How many answers lack something and do not say so."""
    count = 0
    for asker in (0, SICK, GUEST):
        for wanted in QUERIES:
            answer = await network.ask(asker, wanted, k=10)
            count += answer.cost.shards_missed == 0 and shown(answer) != network.best(wanted, 10)
    return count


@pytest.mark.slow
def test_a_full_disk_costs_no_answer_its_completeness_and_no_record_its_copies(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(20, authors=[0])
        sick = network.nodes[SICK]
        sick.parts.held._database.writer.execute("PRAGMA max_page_count=1")  # no page more than there are now
        await network.add(0, [entry(number) for number in range(1_000, 1_200)])
        await until(lambda: sick.read_only is not None)
        assert sick.status().shards_held == 0
        assert await unsaid(network) == 0
        await until(lambda: network.nodes[0].status().pending == 0)
        assert sick.agent not in [peer.agent for peer in network.nodes[0].peers()]
        for shard in SHARDS:
            holders = await network.nodes[0].kademlia.holders(shard.basis(), 3)
            assert sick.agent not in [holder.agent for holder in holders]
        await until(lambda: all(network.nodes[n].status().shards_held == len(SHARDS) for n in (0, 2, 3)))
        for wanted in QUERIES:
            answer = await network.ask(GUEST, wanted, k=10)
            assert shown(answer) == network.best(wanted, 10)
            assert answer.cost.shards_missed == 0

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_a_database_that_another_process_locks_for_a_while_ends_nothing(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = network.nodes[0]
        await network.add(0, [entry(1)])
        database = author.parts.own._database
        database.writer.execute("PRAGMA busy_timeout=0")
        backup = sqlite3.connect(database.path, isolation_level=None)
        backup.execute("BEGIN IMMEDIATE")
        failed = author.parts.own._writer.batches
        await until(lambda: network.nodes[SICK].status().held > 0)
        await trio.sleep(60)
        assert author.parts.own._writer.batches == failed
        assert author.status().pending > 0
        backup.execute("ROLLBACK")
        backup.close()
        await network.settle()
        assert author.read_only is None

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)


def test_an_entry_in_the_chain_is_added_although_the_index_is_locked(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        database = network.nodes[GUEST].parts.derived._database
        database.writer.execute("PRAGMA busy_timeout=0")
        backup = sqlite3.connect(database.path, isolation_level=None)
        backup.execute("BEGIN IMMEDIATE")
        (id_,) = await network.add(GUEST, [entry(1)])
        assert (await network.ask(GUEST, vector(1), deadline_ms=1)).hits == (), "the index was not locked"
        backup.execute("ROLLBACK")
        backup.close()
        await network.crash(GUEST)
        again = await network.start(GUEST, capacity=0)
        answer = await again.query(None, vector(1), 1, (), 1)
        assert [hit.id for hit in answer.hits] == [id_]

    simulate(tmp_path, FOUR_AND_A_GUEST, scenario)
