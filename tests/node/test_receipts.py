"""Receipts in a network: their author knows who validated what, and takes nothing else for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.cid import record_cid
from chain.receipt import Found, open_receipt, sign_batch
from dht.records.basis import subject_basis
from dht.records.bundle import Bundle
from dht.records.intake import Judged
from dht.records.replies import write_statuses
from dht.repair.publisher import MUTE_S
from node.errors import InvalidInput, NotFound
from tests.node.simulated_nodes import Network, entry, identity, override, simulate, until
from validation.receipts import accepts_link

LIAR = 1
FOUR = (100, 100, 100, 100)


def test_an_author_sees_and_waits_for_the_holders_that_validated(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = network.nodes[3]
        (wanted,) = await network.add(3, [entry(1)])
        found = await author.receipts(wanted, 3, 30.0)
        assert len(found.full) == 3 == len(set(found.full))
        assert author.agent not in (*found.full, *found.header)
        assert author.status().unconfirmed == 0
        for receipt in found.receipts:
            assert open_receipt(receipt.data) == receipt
            assert receipt.found.cid == wanted
            if receipt.found.whole:
                assert subject_basis(wanted) in receipt.found.bases or len(receipt.found.bases) == 1
        # Not a question of the placement alone: whoever signed has it on disk.
        by_agent = {node.agent: node for node in network.nodes.values()}
        assert all(by_agent[agent].holds(wanted) for agent in found.full)
        seen = await network.nodes[0].receipts(wanted, 1, 1.0)
        assert set(seen.full) == set(found.full) - {network.nodes[0].agent}, "others ask the holders"
        for receipt in seen.receipts:
            assert open_receipt(receipt.data) == receipt
        near = [node.agent for node in network.nodes.values() if node is not author]
        assert accepts_link(seen.receipts, author.network_id, wanted, author=author.agent, near=near)
        stranger = identity(9)
        network.nodes[1].parts.attestations._sign = lambda found: sign_batch(
            stranger, author.network_id, found, 1
        )
        seen = await network.nodes[0].receipts(wanted, 1, 1.0)
        assert not {network.nodes[1].agent, stranger.agent} & set(seen.full), "nobody signs for another"
        assert network.nodes[0].kademlia.counters.bad_answers == 1
        with pytest.raises(NotFound, match="known here"):
            await network.nodes[0].receipts(record_cid(b"nobody's"), 1, 1.0)
        with pytest.raises(InvalidInput, match="3 copies"):
            await author.receipts(wanted, 4, 1.0)

    simulate(tmp_path, (100, 100, 100, 0), scenario)


def test_whoever_holds_its_own_records_still_finds_r_others_to_sign(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = network.nodes[0]
        for cid in await network.add(0, [entry(number) for number in range(6)]):
            found = await author.receipts(cid, 3, 30.0)
            assert set(found.full) == {network.nodes[number].agent for number in (1, 2, 3)}

    simulate(tmp_path, FOUR, scenario)


def test_a_wait_that_is_not_answered_ends_with_what_came(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        (wanted,) = await network.add(0, [entry(1)])
        began = trio.current_time()
        found = await network.nodes[0].receipts(wanted, 2, 5.0)
        assert len(found.full) == 1
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.5)
        assert network.nodes[0].status().unconfirmed == 0, "there are no more nodes that could sign"

    simulate(tmp_path, (100, 100), scenario)


def test_a_forged_receipt_is_held_against_its_sender_and_another_takes_its_place(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author, liar = network.nodes[0], network.nodes[LIAR]
        honest = liar.parts.records._sign

        def sign(found: Sequence[Found]) -> bytes:
            return honest([replace(one, whole=True, bases=()) for one in found])

        override(liar.parts.records, "_sign", sign)
        await network.add(0, [entry(number) for number in range(8)])
        await until(lambda: author.status().unconfirmed == 0)
        for record in author.chain_log(3, 100):
            found = await author.receipts(record.cid, 0, 0)
            assert liar.agent not in (*found.full, *found.header)
            assert len(found.full) >= 2
        assert author.kademlia.counters.bad_answers > 0

    simulate(tmp_path, FOUR, scenario)


def test_a_holder_of_an_older_release_acknowledges_without_a_receipt(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author, old = network.nodes[0], network.nodes[1]

        def without(_bundle: Bundle, judged: Sequence[Judged]) -> bytes:
            return write_statuses([(one.status, one.rule) for one in judged])

        override(old.parts.records, "_receipted", without)
        (wanted,) = await network.add(0, [entry(1)])
        await network.settle()
        found = await author.receipts(wanted, 0, 0)
        assert author.status().pending == 0, "the copies are there"
        assert old.holds(wanted)
        assert old.agent not in found.full
        assert author.status().unconfirmed > 0, "but not all of them are signed for"
        del old.parts.records._receipted  # it is started again with this release
        await until(lambda: author.status().unconfirmed == 0, within_s=MUTE_S + 60)
        assert old.agent in (await author.receipts(wanted, 0, 0)).full

    simulate(tmp_path, (100, 100, 100), scenario)
