"""A block hides and lets go on this node only, and comes back whole when it is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain.cid import raw_cid, record_cid, to_text
from chain.identity import Identity, did_key, peer_id
from node.errors import HomeDamaged, InvalidInput, NotFound
from node.models import Edit, Retag
from node.moderation import MAX_REASON, Block, Blocklist, target_of
from tests.node.simulated_nodes import Network, entry, shown, simulate, until, vector

AGENT = Identity.from_seed(b"A" * 32).agent
ENTRY = record_cid(b"an entry")


def test_blocks_survive_a_restart_and_are_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "blocked.json"
    blocks = Blocklist(path)
    assert blocks.add(ENTRY, "spam", 7)
    assert blocks.add(AGENT, "", 5)
    assert not blocks.add(AGENT, "again", 9)
    again = Blocklist(path)
    assert again.all() == [Block(AGENT, 5), Block(ENTRY, 7, "spam")]
    again.remove(AGENT)
    assert Blocklist(path).all() == [Block(ENTRY, 7, "spam")]
    with pytest.raises(NotFound):
        again.remove(AGENT)
    with pytest.raises(InvalidInput, match="reason"):
        again.add(AGENT, "x" * (MAX_REASON + 1), 1)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["[]x", "{}", '[{"target": "nobody"}]', '[{"target": 1, "since_us": 1}]'])
def test_a_damaged_list_is_named_and_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "blocked.json"
    path.write_text(text)
    with pytest.raises(HomeDamaged, match=r"blocked\.json"):
        Blocklist(path)


def test_targets_are_agents_and_entries_in_every_spelling() -> None:
    assert target_of(peer_id(AGENT)) == target_of(did_key(AGENT)) == target_of(AGENT.hex()) == AGENT
    assert target_of(to_text(ENTRY)) == ENTRY
    for text in ("", "b", "nobody", to_text(raw_cid(b"a payload"))):
        with pytest.raises(InvalidInput):
            target_of(text)


@pytest.mark.slow
def test_a_blocked_agent_is_gone_here_and_nowhere_else(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(60, authors=[0, 1])
        here, author = network.nodes[2], network.nodes[1].agent
        (theirs,) = await network.add(1, [entry(9_000)])
        (others,) = await network.add(0, [entry(9_001)])
        await network.settle()
        await network.nodes[1].change(others, Retag(add=("unwanted",)))
        await network.settle()
        assert await here.block(author, "spam")
        assert not await here.block(author, "spam")
        for seed in range(5_000, 5_010):
            answer = await network.ask(2, vector(seed), k=10)
            assert author not in {hit.author for hit in answer.hits}
            for other in (0, 3):  # asks this node too, and still gets everything
                answer = await network.ask(other, vector(seed), k=10)
                assert shown(answer) == network.best(vector(seed), 10)
                assert answer.cost.shards_missed == 0
        assert await here.get(theirs) is None
        view = await here.get(others)
        assert view is not None
        assert view.tags == ()
        await network.add(1, [entry(9_002)])
        await until(lambda: network.nodes[1].status().pending == 0)
        assert here.status().counters["records_refused_blocked_total"] > 0
        await here.unblock(author)
        await until(lambda: here.blocked() == [] and here.status().shards_held > 0)
        for seed in range(5_000, 5_010):
            assert shown(await network.ask(2, vector(seed), k=10)) == network.best(vector(seed), 10)
        view = await here.get(others)
        assert view is not None
        assert view.tags == ("unwanted",)

    simulate(tmp_path, (100, 100, 100, 100), scenario)


def test_a_blocked_entry_is_not_shown_and_says_why(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        (cid, kept) = await network.add(0, [entry(1), entry(2)])
        await network.settle()
        here = network.nodes[1]
        await here.block(cid, "")
        answer = await network.ask(1, vector(1), k=5)
        assert [hit.id for hit in answer.hits] == [kept]
        with pytest.raises(NotFound, match="blocked on this node"):
            await here.get(cid)
        with pytest.raises(InvalidInput, match="your own agent"):
            await here.block(here.agent, "")

    simulate(tmp_path, (100, 100, 100), scenario)


@pytest.mark.slow
def test_an_edit_that_one_holder_blocks_is_not_pending_for_ever(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = network.nodes[0]
        await network.nodes[1].block(author.agent, "noise")
        (id_,) = await network.add(0, [entry(1)])
        await until(lambda: author.status().pending == 0)
        await author.change(id_, Edit("another text", vector=vector(99)))
        await until(lambda: author.status().pending == 0, within_s=10.0)
        before = network.world.trace.methods()["record.store"].requests
        await trio.sleep(120.0)
        assert network.world.trace.methods()["record.store"].requests - before < 12, "nobody insists"

    simulate(tmp_path, (100,) * 4, scenario)
