"""A network goes into an archive and comes back from it: entries, epochs and warrants, and nothing invalid.

The offender is a whole node with one method overridden.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from chain.archive_parts import ArchiveReader, ArchiveWriter, Begun
from node.errors import Forbidden, InvalidInput
from node.exporting import Selection
from node.models import Added, Edit, Retag
from node.node import Node
from node.options import NodeOptions
from sim.whole_node import start_node
from tests.dht.authors import Author
from tests.node.simulated_nodes import Network, entry, identity, simulate, until, vector
from tests.node.test_warrants import FORKER, make_forker
from validation.archive import ArchiveJudge, Tally

pytestmark = pytest.mark.slow


EVERYTHING = Selection()


async def archive_of(node: Node, selection: Selection = EVERYTHING) -> bytes:
    return b"".join([piece async for piece in node.exporting.archive(selection)])


async def portions(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 5_000):
        yield data[start : start + 5_000]


def judged(data: bytes) -> Tally:
    reader, judge = ArchiveReader(), None
    for part in reader.feed(data):
        judge = ArchiveJudge(part) if isinstance(part, Begun) else judge
        assert judge is not None
        assert judge.take(part) == []
    reader.close()
    assert judge is not None
    return judge.tally


def read_in(data: bytes) -> Tally:
    """What `verify` counts of an archive that was cut."""
    judge: ArchiveJudge | None = None
    for part in ArchiveReader().feed(data):
        judge = ArchiveJudge(part) if isinstance(part, Begun) else judge
        assert judge is not None
        judge.take(part)
    return Tally() if judge is None else judge.tally


def test_a_network_comes_back_from_an_archive_with_what_was_proven_in_it(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        founder = network.nodes[0]
        await network.fill(12, range(4))
        make_forker(network)
        await network.nodes[FORKER].add([entry(1000)])
        liar = identity(FORKER).agent
        await until(lambda: all(n.governance.ledger.earliest(liar) for n in network.nodes.values()), 300)
        epochs = founder.governance.epochs
        await epochs.publish(epochs.sign(epochs.propose((), None)))
        ids = sorted(network.entries)[:4]
        (written,) = await network.nodes[1].add([entry(2000)])
        assert isinstance(written, Added)
        await network.nodes[1].purge(written.id)
        for number, id_ in enumerate(ids):
            await network.nodes[number].change(id_, Edit(text=f"edited {number}", vector=vector(number)))
            await network.nodes[3 - number].change(id_, Retag(add=("late",)))
        await network.settle()

        views = {id_: await founder.get(id_) for id_ in [*ids, written.id]}
        whole = await archive_of(founder)
        tally = judged(whole)
        assert tally.entries >= len(ids)
        assert (tally.epochs, tally.invalid, tally.undecided) == (1, 0, 0)
        assert tally.warrants >= 1
        named = await archive_of(founder, Selection((*ids, written.id)))
        assert (judged(named).entries, judged(named).erased) == (5, 1)
        assert judged(await archive_of(founder, Selection((*ids, written.id), tag="late"))).entries == 4
        assert await archive_of(founder, Selection(tuple(ids))) == await archive_of(
            founder, Selection(tuple(ids[::-1]))
        )

        for number in list(network.nodes):
            await network.crash(number)
        for number in (7, 8, 9):
            bootstrap = () if number == 7 else (network.world.address(identity(7).agent),)
            folder = tmp_path / str(number)
            folder.mkdir()
            network.nodes[number] = await start_node(
                network.world,
                identity(number),
                network.founding,
                folder,
                number,
                NodeOptions(bootstrap=bootstrap, capacity=100),
            )
        first, others = network.nodes[7], [network.nodes[8], network.nodes[9]]
        for data in (whole, named):
            told = await first.archive_import.take(portions(data))
            assert (told.whole, told.refused, told.faults) == (True, 0, [])
        assert told.added + told.known == told.records
        again = await first.archive_import.take(portions(named))
        assert (again.added, again.known) == (0, again.records)
        damaged = named[:-10] + bytes([named[-10] ^ 1]) + named[-9:]  # in the closing block
        broken = await first.archive_import.take(portions(damaged))
        assert not broken.whole
        assert broken.known >= again.known - 1  # a record is whole where the block after it begins
        for cut in range(0, len(named), len(named) // 40):
            there = read_in(named[:cut])
            told = await first.archive_import.take(portions(named[:cut]))
            assert (told.entries, told.records) == (there.entries, there.records), cut
            assert not told.whole
        assert (again.entries, again.records) == (judged(named).entries, judged(named).records)
        assert first.governance.ledger.earliest(liar) is not None
        for id_, view in views.items():
            assert await first.get(id_) == view
        await until(lambda: all(one.governance.ledger.earliest(liar) is not None for one in others), 120)
        await until(lambda: not any(one.parts.offers.pending for one in others), 120)
        for one in others:
            assert (await one.get(ids[0])) == views[ids[0]]
            assert one.governance.counters()["epoch"] == 1

    simulate(tmp_path, [100] * 5, scenario)


def test_what_is_invalid_in_an_archive_is_not_taken_and_the_rest_is(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        node = network.nodes[0]
        manifest = node.manifest
        author = Author(1, manifest, node.parts.clock.wall_us())
        codes = bytes([127]) + bytes(manifest.space.dim - 1)
        good, second = author.create("the moon is of rock", codes), author.create("the sun is hot", codes)
        bad = author.signed(second, {**second.body(), "text": ""})
        unsigned = replace(second, signature=bytes(64))
        for record, rule in ((bad, "operation"), (unsigned, "signature")):
            writer, openings = ArchiveWriter(), [author.opening]
            data = writer.begin(manifest)
            for one, before in sorted(((good, author.records[2]), (record, good)), key=lambda p: p[0].cid):
                data += b"".join(writer.group(one.cid, openings, [before.without_payload()], [one]))
                openings = []
            told = await node.archive_import.take(portions(data + writer.end()))
            assert told.whole
            assert [(one.record, one.reason) for one in told.faults] == [
                (record.cid, f"it breaks the rule {rule}")
            ]
            assert node.holds(good.cid)
            assert await node.get(record.cid) is None
        whole = await archive_of(node)
        told = await node.archive_import.take(portions(whole[:-10]))
        assert (told.whole, told.added) == (False, 0)
        assert "ends amid a block" in (told.error or "")
        writer = ArchiveWriter()
        elsewhere = writer.begin(replace(manifest, name="elsewhere")) + writer.end()
        with pytest.raises(InvalidInput, match="the archive is of the network 'elsewhere'"):
            await node.archive_import.take(portions(elsewhere))
        with pytest.raises(Forbidden, match="holds nothing for others"):
            await network.nodes[1].archive_import.take(portions(whole))

    simulate(tmp_path, [100, 0], scenario)
