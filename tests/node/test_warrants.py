"""An offender is found out by every honest node, and what it wrote is shown by none; nobody else is accused.

The offender is a whole node with one method overridden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.cid import Cid, raw_cid
from chain.errors import RecordError
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT, EDIT, INVALID_WARRANT
from chain.record import Record, decode_payload, encode_payload, sign_record
from chain.source_chain import Draft
from chain.warrant import invalid_body
from dht.records.bundle import Item
from dht.records.placement import ALL_ROLES
from dht.repair.publisher import Got
from node.errors import Forbidden, InvalidInput
from node.models import Added, Edit
from tests.node.simulated_nodes import Network, entry, identity, override, shown, simulate, until, vector

FORKER = 4


def make_forker(network: Network) -> None:
    """Whatever entry the node publishes, it shows node 0 another record for the same place of its chain."""
    node = network.nodes[FORKER]
    honest = node.parts.publisher.send

    async def two_faced(
        agent: AgentId, batch: list[tuple[Record, int]], shards: Mapping[Cid, bytes], got: Got
    ) -> None:
        await honest(agent, batch, shards, got)
        twins = [twin_of(record) for record, _ in batch if record.header.kind in CARRIES_CONTENT]
        await node.parts.records.store(network.nodes[0].agent, [Item(twin, int(ALL_ROLES)) for twin in twins])

    override(node.parts.publisher, "send", two_faced)


def twin_of(record: Record) -> Record:
    """Another create or edit of the forker at the same place of its chain."""
    body = {**decode_payload(record.payload or b""), "text": "the other face"}
    payload = encode_payload(bytes(16), body)
    header = replace(record.header, payload=raw_cid(payload), payload_size=len(payload))
    return sign_record(identity(FORKER), header, payload)


def standings(network: Network) -> list[dict[AgentId, int]]:
    return [
        dict(node.governance.ledger.standing.first)
        for number, node in sorted(network.nodes.items())
        if number != FORKER
    ]


@pytest.mark.slow
def test_a_false_warrant_excludes_nobody_but_its_author(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(8, range(4))
        liar, victim = network.nodes[3], network.nodes[1]
        (create,) = victim.chain_log(3, 1)
        opening = victim.chain_log(0, 2)
        body = invalid_body((opening[0], opening[1]), create, "clock", victim.chain_log(2, 1))
        with pytest.raises(RecordError, match="not signed, as everybody would refuse it: warrant-proof"):
            await liar.parts.own.append([Draft(INVALID_WARRANT, body)], [None])
        override(liar.parts.own, "fault_of", lambda record, before: None)
        ((false, _),) = await liar.parts.own.append([Draft(INVALID_WARRANT, body)], [None])
        liar.parts.publisher.wake()
        liar_seq = liar.status().records - 1

        def known() -> bool:
            return all(
                dict(network.nodes[n].governance.ledger.standing.first) == {liar.agent: liar_seq}
                for n in range(3)
            )

        await until(known, 300)
        (offence,) = await network.nodes[0].governance.warrants()
        assert (offence.rule, offence.records) == ("warrant-proof", (false,))
        for number in range(3):
            view = await network.nodes[number].get(create.cid)
            assert view is not None
            assert view.text == "entry 1"
            assert not view.excluded

    simulate(tmp_path, [100] * 4, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("defence", [True, False])
def test_a_forker_is_warranted_by_every_honest_node_and_an_honest_one_by_nobody(
    tmp_path: Path, defence: bool
) -> None:
    async def scenario(network: Network) -> None:
        if not defence:
            for node in network.nodes.values():
                override(node.governance.watch, "held", _nothing)
        await network.fill(20, range(4))
        before = await network.ask(0, vector(1))
        make_forker(network)
        forked = await network.nodes[FORKER].add([entry(1000 + n) for n in range(3)])
        forked_at = network.nodes[FORKER].chain_log(0, 100)[-3].header.seq
        if not defence:
            await trio.sleep(12)
            assert standings(network) == [{}] * 4
            return
        liar = identity(FORKER).agent
        await until(lambda: all(standing.get(liar) == forked_at for standing in standings(network)), 300)
        assert standings(network) == [{liar: forked_at}] * 4
        for number in range(4):
            for n in range(3):
                answer = await network.ask(number, vector(1000 + n))
                assert liar not in {hit.author for hit in answer.hits}
            assert isinstance(forked[0], Added)
            view = await network.nodes[number].get(forked[0].id)
            assert view is None or (view.text is None and view.excluded)
            assert shown(await network.ask(number, vector(1))) == shown(before)
        await network.nodes[2].rebuild_index()
        for n in (1, 1000):
            assert shown(await network.ask(2, vector(n))) == shown(await network.ask(0, vector(n)))
        written = sum(node.governance.counters()["warrants_written_total"] for node in network.nodes.values())
        assert 1 <= written <= 4
        # Who joins later hears of it before it answers.
        late = await network.start(5)
        await until(lambda: late.joined)
        assert late.governance.ledger.earliest(liar) == forked_at
        with pytest.raises(Forbidden, match=f"under a warrant: nothing it wrote from seq {forked_at}"):
            await network.nodes[FORKER].add([entry(2000)])
        await pardon_and_relapse(network, liar)

    simulate(tmp_path, [100] * 5, scenario)


async def pardon_and_relapse(network: Network, liar: AgentId) -> None:
    """The founder lifts the warrants by an epoch: what was hidden is shown; another fork counts again."""
    founder, honest = network.nodes[0].governance, {n: one for n, one in network.nodes.items() if n != FORKER}
    (offence,) = [one for one in await founder.warrants() if one.since == one.seq]
    proposal = founder.epochs.propose([offence.warrants[0][0]], None)
    with pytest.raises(InvalidInput, match="0 steward signatures, the network asks for 1"):
        await founder.epochs.publish(proposal)
    with pytest.raises(Forbidden, match="is no steward"):
        network.nodes[1].governance.epochs.sign(proposal)
    published = await founder.epochs.publish(founder.epochs.sign(proposal))
    await until(lambda: all(one.governance.counters()["epoch"] == 1 for one in network.nodes.values()), 120)
    assert standings(network) == [{}] * len(honest)
    await trio.sleep(10)
    for number in range(4):
        answer = await network.ask(number, vector(1000), 1)
        assert [hit.author for hit in answer.hits] == [liar]
    network.nodes[FORKER].parts.own.frozen = None  # its holders have shown it both branches; it does not care
    (again,) = await network.nodes[FORKER].add([entry(3000)])
    assert isinstance(again, Added)
    (record,) = network.nodes[FORKER].chain_log(network.nodes[FORKER].status().records - 1, 1)
    assert record.header.epoch == published.id
    await until(lambda: all(one.get(liar) == record.header.seq for one in standings(network)), 300)


async def _nothing(_items: Sequence[object]) -> None:
    """A watch that does not look."""


@pytest.mark.slow
def test_a_fork_that_only_the_reader_of_an_entry_sees_is_warranted(tmp_path: Path) -> None:
    """No holder looks for forks here. Two edits at one place of a chain meet where the entry is folded."""

    async def scenario(network: Network) -> None:
        for node in network.nodes.values():
            override(node.governance.watch, "held", _nothing)
        (added,) = await network.nodes[1].add([entry(1)])
        assert isinstance(added, Added)
        make_forker(network)
        await network.nodes[FORKER].change(added.id, Edit(text="one face", vector=entry(2).vector))
        edit = network.nodes[FORKER].chain_log(0, 100)[-1]
        assert edit.header.kind == EDIT
        both = {edit.cid, twin_of(edit).cid}

        for _ in range(30):
            await trio.sleep(1)
            if both <= (await network.nodes[2].parts.reader.find(added.id)).records.keys():
                break
        liar = identity(FORKER).agent
        await until(lambda: all(one == {liar: edit.header.seq} for one in standings(network)), 300)
        view = await network.nodes[2].get(added.id)
        assert view is not None
        assert {cid for cid, *_ in view.excluded} == both
        assert [value.record for value in view.values] == [added.id]
        assert network.nodes[2].governance.counters()["warrants_written_total"] == 1

    simulate(tmp_path, [100] * 5, scenario)
