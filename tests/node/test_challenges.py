"""A holder that signs for what it is given and keeps none of it is found out; nothing it signed counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from chain.cid import Cid
from chain.record import Record
from dht.records.record_store import Held
from node.node import Node
from tests.node.simulated_nodes import Network, entry, override, simulate

LIAR, AUTHOR = 1, 0
WITHIN_S = 150.0
FIVE = (100, 100, 100, 100, 100)

pytestmark = pytest.mark.slow


def discard(node: Node) -> None:
    """Acknowledge and sign, and store nothing (a dropper)."""

    async def hold(items: Sequence[Held]) -> None:
        await trio.lowlevel.checkpoint()

    override(node.parts.records, "hold", hold)


def forget(node: Node) -> None:
    """Keep the list, so that digests agree and nothing seems to be lacking, and throw the records away."""

    def get_many(cids: Sequence[Cid]) -> list[Record | None]:
        return [None] * len(cids)

    override(node.parts.held, "get_many", get_many)


def unchallenged(node: Node) -> None:
    """Switch the defence off."""

    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    override(node.parts.challenger, "challenge_receipt", nothing)
    override(node.parts.challenger, "challenge_fellow", nothing)


async def caught(network: Network, ids: Sequence[Cid]) -> bool:
    """Whether, within `WITHIN_S`, R honest nodes hold every entry and stand for it with a receipt."""
    author, liar = network.nodes[AUTHOR], network.nodes[LIAR]
    honest = [node for number, node in network.nodes.items() if number != LIAR]
    with trio.move_on_after(WITHIN_S):
        while True:
            signed = [await author.receipts(cid, 0, 0) for cid in ids]
            void = all(liar.agent not in (*one.full, *one.header) for one in signed)
            safe = all(sum(node.parts.held.get_many([cid]) != [None] for node in honest) >= 3 for cid in ids)
            if void and safe and author.status().pending == 0:
                return True
            await trio.sleep(1.0)
    return False


@pytest.mark.parametrize(("lie", "challenged"), [(discard, True), (forget, True), (discard, False)])
def test_who_signed_and_discarded_is_caught_by_challenges_alone(
    tmp_path: Path, lie: Callable[[Node], None], challenged: bool
) -> None:
    async def scenario(network: Network) -> None:
        if not challenged:
            for node in network.nodes.values():
                unchallenged(node)
        lie(network.nodes[LIAR])
        ids = await network.add(AUTHOR, [entry(number) for number in range(20)])
        assert await caught(network, ids) == challenged

    simulate(tmp_path, FIVE, scenario)


def test_honest_holders_pass_whatever_joins_and_goes(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        blamed: list[object] = []
        for node in network.nodes.values():
            override(node.kademlia, "report", lambda *what: blamed.append(what))
        await network.fill(20, authors=(0, 2, 4))
        await network.start(5)
        await network.start(6)
        await trio.sleep(400)  # long enough that who is not among the nearest any more has let go
        await network.leave(6)
        await trio.sleep(120)
        assert sum(node.parts.challenger.counters.kept for node in network.nodes.values()) > 100
        assert blamed == []
        assert all(node.parts.challenger.counters.failed == 0 for node in network.nodes.values())

    simulate(tmp_path, FIVE, scenario)
