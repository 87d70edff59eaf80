"""Whole nodes write in one text while apart, a liar among them; they meet, and all show the same text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.cid import Cid
from chain.content import Content
from chain.splices import Splice
from crdt.drafts import draft_writing
from crdt.entry import fold
from crdt.operations import content_of
from dht.repair.offers import STALE_S
from node.models import NewEntry, Purge, SharedText, Write
from node.writing import FAILED
from tests.node.simulated_nodes import Network, identity, simulate, vector
from tests.node.test_edits import Parted, encoded, view

OLD = "Roses climb over walls."


async def seen(network: Network, number: int, id_: Cid) -> SharedText:
    found = await network.nodes[number].text(id_)
    assert found is not None
    return found


async def write(network: Network, number: int, id_: Cid, seed: int, *splices: Splice) -> Cid:
    text = (await seen(network, number, id_)).shown
    changed = await network.nodes[number].change(id_, Write(text.version, splices, vector(seed)))
    return changed.records[0]


async def lie(network: Network, number: int, id_: Cid, text: str, *splices: Splice) -> Cid:
    """Sign and publish, past one's own editor, an edit whose splices do not give its text."""
    node = network.nodes[number]
    found = await view(node, id_)
    folded = fold(found.records)
    assert folded is not None
    content = replace(content_of(found.records[0]), text=text, splices=splices, over=(id_,), tags=())
    assert isinstance(content, Content)
    record = await node.parts.append(draft_writing(folded, node.agent, content, (id_,)))
    return record.cid


@pytest.mark.slow
def test_both_sides_words_are_in_one_text_everywhere_whatever_a_liar_signs(tmp_path: Path) -> None:
    link = Parted()

    async def scenario(network: Network) -> None:
        (id_,) = await network.add(0, [NewEntry(OLD, vector=vector(1))])
        await network.settle()
        link.part((0, 1), (2, 3))
        await write(network, 1, id_, 2, Splice(0, 5, "Old roses"))
        here = await write(network, 1, id_, 3, Splice(0, 0, "[secret] "))
        there = await write(network, 2, id_, 4, Splice(22, 0, " in May"))
        assert (await seen(network, 1, id_)).shown.text == "[secret] Old roses climb over walls."
        assert (await seen(network, 2, id_)).shown.text == "Roses climb over walls in May."
        lies = [
            await lie(network, 3, id_, "Buy tulips!", Splice(0, 0, "Buy ")),
            await lie(network, 3, id_, OLD, Splice(65_536, 65_536, "")),
        ]
        await trio.sleep(40)
        link.part(range(4))
        await trio.sleep(STALE_S)
        await network.settle()
        views = [await view(node, id_) for node in network.nodes.values()]
        assert {encoded(one) for one in views} == {encoded(views[0])}
        texts = [await seen(network, number, id_) for number in network.nodes]
        assert texts == [texts[0]] * 4
        assert texts[0].reason == FAILED
        shown = {one.text: one for one in (texts[0].shown, *texts[0].apart)}
        both = shown["[secret] Old roses climb over walls in May."]
        assert both.version == tuple(sorted((here, there)))
        assert both.authors == tuple(sorted((identity(1).agent, identity(2).agent)))
        assert {one.version for one in shown.values()} == {both.version, *((one,) for one in lies)}

        # Who saw both goes on from both; a purge takes its words out of what was written beside them.
        ends = Write(both.version, (Splice(0, 0, "> "),), vector(5))
        await network.nodes[0].change(id_, ends)
        await network.settle()
        now = [await seen(network, number, id_) for number in network.nodes]
        assert now == [now[0]] * 4
        assert any(one.text == f"> {both.text}" for one in (now[0].shown, *now[0].apart))
        last = await write_over(network, 2, id_, both.version, 6)
        await network.settle()
        await network.nodes[2].change(id_, Purge((last,)))
        await network.settle()
        texts = [await seen(network, number, id_) for number in network.nodes]
        assert texts == [texts[0]] * 4
        assert not any("words to be purged" in (one.text or "") for one in (texts[0].shown, *texts[0].apart))
        for node in network.nodes.values():
            await node.rebuild_index()
        assert [await seen(network, number, id_) for number in network.nodes] == texts

    simulate(tmp_path, (100,) * 4, scenario, link)


async def write_over(network: Network, number: int, id_: Cid, version: tuple[Cid, ...], seed: int) -> Cid:
    words = Splice(0, 0, "words to be purged. ")
    changed = await network.nodes[number].change(id_, Write(version, (words,), vector(seed)))
    found = await seen(network, number, id_)
    assert any(one.text and words.insert in one.text for one in (found.shown, *found.apart))
    return changed.records[0]
