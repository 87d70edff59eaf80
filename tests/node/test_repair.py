"""Repair by whole nodes: whoever joins, leaves or dies, every basis comes to lie at its R nearest, no more.

Promise P2's last part. Eight nodes and R = 3 in virtual time; a liar is a whole node, one answer replaced.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain import canonical
from chain.cid import Cid, digest
from dht.overlay.distance import closest
from dht.records import proofs
from dht.records.basis import author_basis, subject_basis
from dht.records.proofs import CYCLE_S, NONCE_SIZE, PINNABLE_S, UNPROVEN
from dht.repair import looks, patience
from dht.repair.decision import DROP_AFTER_S
from dht.repair.repairer import INTERVAL_S, SOON_S, START_S, SWEEP_S
from node.founding import REPLICATION
from node.node import Node
from tests.node.simulated_nodes import (
    FaultyLink,
    Network,
    entry,
    identity,
    override,
    shown,
    simulate,
    until,
    vector,
)

EIGHT = (100,) * 8
QUERIES = [vector(seed) for seed in range(8_000, 8_003)]
REPAIRED_WITHIN_S = 120.0
DROPPED_WITHIN_S = DROP_AFTER_S + 4 * INTERVAL_S


def holdings(network: Network) -> dict[bytes, dict[int, frozenset[Cid]]]:
    """By basis: who holds what there."""
    found: dict[bytes, dict[int, frozenset[Cid]]] = {}
    for number, node in network.nodes.items():
        for one in node.parts.held.bases_after(b"", 100_000):
            found.setdefault(one.basis, {})[number] = frozenset(
                node.parts.held.cids_at(one.basis, None, 10_000)
            )
    return found


def nearest(network: Network, basis: bytes) -> list[int]:
    """The R nearest of the nodes that run, whatever they know of each other."""
    position = {number: node.kademlia.self_contact().position for number, node in network.nodes.items()}
    return sorted(closest(basis, position, lambda number: position[number], REPLICATION))


def in_order(network: Network, exactly: bool) -> bool:
    """Whether each basis lies whole at its R nearest; `exactly`: and nowhere else."""
    for basis, by in holdings(network).items():
        holders = nearest(network, basis)
        whole = frozenset().union(*by.values())
        if any(by.get(number) != whole for number in holders) or (exactly and sorted(by) != holders):
            return False
    return True


async def comes_in_order(network: Network, within_s: float, *, exactly: bool = False) -> None:
    await until(lambda: in_order(network, exactly), within_s, every_s=1.0)


async def assert_all_is_found(network: Network, askers: tuple[int, ...] | None = None) -> None:
    """By id, by author and by query, at each asker; and nobody claims that copies are missing."""
    for number in askers or sorted(network.nodes)[:3]:
        node = network.nodes[number]
        for id_ in network.entries:
            view = await node.get(id_)
            assert view is not None
            assert view.text == network.entries[id_][1].text
        for wanted in QUERIES:
            answer = await network.ask(number, wanted, k=len(network.entries))
            assert shown(answer) == network.best(wanted, len(network.entries))
            assert answer.cost.shards_missed == 0
    for author in {view.author for id_ in network.entries if (view := await node.get(id_))}:
        held = [
            n for n, one in network.nodes.items() if one.parts.held.cids_at(author_basis(author), None, 1)
        ]
        assert len(held) >= min(REPLICATION, len(network.nodes))


async def filled(network: Network, count: int = 24) -> None:
    await network.fill(count, authors=sorted(network.nodes))
    await comes_in_order(network, REPAIRED_WITHIN_S)


@pytest.mark.slow
def test_after_a_crash_every_copy_is_made_again(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await filled(network)
        before = holdings(network)
        await network.crash(3)
        await comes_in_order(network, REPAIRED_WITHIN_S)
        lost = [basis for basis, by in before.items() if 3 in by]
        assert lost
        assert holdings(network).keys() == before.keys()
        assert sum(node.status().counters["records_repaired_total"] for node in network.nodes.values()) > 0
        await assert_all_is_found(network)
        await trio.sleep(3 * INTERVAL_S)
        assert [node.status().under_replicated for node in network.nodes.values()] == [0] * 7
        await comes_in_order(network, DROPPED_WITHIN_S, exactly=True)

    simulate(tmp_path, EIGHT, scenario)


@pytest.mark.slow
def test_a_holder_back_at_once_with_its_store_lost_gets_all_of_it_again(tmp_path: Path) -> None:
    """Nobody misses it: the others see the same holders as before. Ten minutes would pass until the sweep."""

    async def scenario(network: Network) -> None:
        await filled(network)
        await comes_in_order(network, REPAIRED_WITHIN_S)
        await trio.sleep(2 * INTERVAL_S)  # all is settled
        before = {basis: by[3] for basis, by in holdings(network).items() if 3 in by}
        await network.crash(3)
        for name in ("held.db", "held.db-wal", "held.db-shm"):
            (network.folder / "3" / name).unlink(missing_ok=True)
        await network.start(3)
        await until(
            lambda: {b: by[3] for b, by in holdings(network).items() if 3 in by} == before,
            REPAIRED_WITHIN_S,
            every_s=1.0,
        )
        assert trio.current_time() < SWEEP_S, "no sweep was needed"

    simulate(tmp_path, EIGHT, scenario)


@pytest.mark.slow
def test_a_node_that_joins_gets_its_copies_and_the_others_drop_their_extra_ones(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await filled(network)
        await comes_in_order(network, DROPPED_WITHIN_S, exactly=True)
        postings = {n: node.status().counters["postings"] for n, node in network.nodes.items()}
        await network.start(8)
        await network.settle()
        await comes_in_order(network, REPAIRED_WITHIN_S)
        assert network.nodes[8].status().held > 0
        assert not in_order(network, exactly=True), "who holds too much does not drop it at once"
        # what was proven for the first drops is proven to nobody again before its cycle is over
        await comes_in_order(network, DROPPED_WITHIN_S + 4 * CYCLE_S, exactly=True)
        assert sum(node.status().counters["bases_dropped_total"] for node in network.nodes.values()) > 0
        assert any(network.nodes[n].status().counters["postings"] < postings[n] for n in postings)
        await assert_all_is_found(network)

    simulate(tmp_path, EIGHT, scenario)


@pytest.mark.slow
def test_all_may_leave_one_after_another_and_the_last_one_has_everything(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await filled(network)
        for number in range(7, 0, -1):
            assert await network.leave(number) == 0
        for wanted in QUERIES:
            answer = await network.ask(0, wanted, k=24)
            assert shown(answer) == network.best(wanted, 24)
        for id_ in network.entries:
            assert await network.nodes[0].get(id_) is not None
        assert {subject_basis(id_) for id_ in network.entries} <= holdings(network).keys()

    simulate(tmp_path, EIGHT, scenario)


@pytest.mark.slow
def test_who_leaves_has_handed_over_before_it_is_gone(tmp_path: Path) -> None:
    """At the moment of its good-bye R others have everything: nobody has to repair after it."""

    async def scenario(network: Network) -> None:
        await filled(network)
        assert await network.leave(5) == 0
        assert in_order(network, exactly=False)
        assert all(identity(5).agent not in [p.agent for p in n.peers()] for n in network.nodes.values())
        await assert_all_is_found(network)

    simulate(tmp_path, EIGHT, scenario)


@pytest.mark.slow
def test_a_slow_holder_that_always_lacks_everything_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As slow as it may be without being taken for dead, and asked about every page of what lies here."""
    monkeypatch.setattr(looks, "PAGE", 4)
    monkeypatch.setattr(patience, "SLOW_MOST_S", 5.0)
    link = FaultyLink()

    async def scenario(network: Network) -> None:
        await network.fill(40, authors=[0, 2])
        liar = network.nodes[1]
        override(liar.parts.held, "digest_of", lambda basis: (1, bytes(32)))
        override(liar.parts.held, "lacking", lambda pairs: [True] * len(pairs))
        for slow_us in (150_000, 300_000, 600_000, 900_000):
            link.slow_us[liar.agent] = slow_us
            await trio.sleep(60.0)
        assert not any(node.kademlia.is_suspect(liar.agent) for node in network.nodes.values())
        await network.crash(3)

        def repaired() -> bool:
            for basis, by in holdings(network).items():
                whole = frozenset().union(*by.values())
                if any(by.get(number) != whole for number in nearest(network, basis) if number != 1):
                    return False
            return True

        await until(repaired, 30.0, 1.0)

    simulate(tmp_path, (100,) * 6, scenario, link)


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_who_leaves_waits_for_a_line_that_pauses(tmp_path: Path, seconds: float) -> None:
    """What only this node has is not lost because the others are silent for a moment."""
    link = FaultyLink()

    async def scenario(network: Network) -> None:
        (id_,) = await network.add(0, [entry(1)])
        await network.settle()
        others = [network.nodes[number] for number in (0, 1)]
        for node in others:
            await node.parts.held.release(subject_basis(id_), [id_])
        link.deaf = {node.agent for node in others}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.leave, 2, 30.0)
            await trio.sleep(seconds)
            link.deaf = set()
        assert [node.replica(subject_basis(id_))[0] for node in others] == [1, 1]

    simulate(tmp_path, (100, 100, 100), scenario, link)


def test_an_answer_without_proof_takes_no_promise_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to somebody who asks for more than an answer has room for, nor when one has lasted too long."""
    monkeypatch.setattr(proofs, "MAX_PROOF_BYTES", 1)

    async def scenario(network: Network) -> None:
        asker, holder = network.nodes[1], network.nodes[0]
        one, other = await network.add(1, [entry(1), entry(2)])
        await network.settle()
        vouchers = holder.parts.repairer._looks._proofs.vouchers

        async def proven(*cids: Cid) -> list[bool]:
            question = canonical.encode([bytes(NONCE_SIZE), [[digest(cid), True] for cid in cids], True])
            reply = await asker.kademlia.request(holder.agent, "record.prove", question)
            return [reply[at : at + len(UNPROVEN)] != UNPROVEN for at in range(0, len(reply), len(UNPROVEN))]

        assert await proven(one) == [True]
        assert await proven(other, one) == [True, False]
        began = trio.current_time()
        assert vouchers.promised([one], began), "from now on it would like to let it go"
        while trio.current_time() < began + PINNABLE_S - 20.0:
            await trio.sleep(20.0)
            assert await proven(one) == [True]
        await trio.sleep(30.0)
        while trio.current_time() < began + CYCLE_S - 60.0:
            assert await proven(one) == [False], "who keeps asking does not pin it for ever"
            await trio.sleep(30.0)
        await trio.sleep(61.0)
        assert await proven(one) == [True]

    simulate(tmp_path, (100, 100), scenario)


def serves_nothing(liar: Node) -> None:
    """It says that it holds what it was sent, and proves it; nobody ever gets it back."""
    override(liar.parts.records, "_fetched", lambda cids: b"\x93\x90\x90\x90")


def throws_everything_away(liar: Node) -> None:
    """It repeats to everybody the digest that it ought to have, and has nothing behind it."""
    digests = liar.parts.held.digest_of
    claimed: dict[bytes, tuple[int, bytes]] = {}

    def digest_of(basis: bytes) -> tuple[int, bytes]:
        claimed[basis] = max(claimed.get(basis, (0, bytes(32))), digests(basis))
        return claimed[basis]

    override(liar.parts.held, "digest_of", digest_of)
    override(liar.parts.held, "get_many", lambda cids: [None] * len(cids))


@pytest.mark.slow
@pytest.mark.parametrize("lie", [serves_nothing, throws_everything_away], ids=lambda lie: lie.__name__)
def test_a_claim_without_proof_costs_no_copy(tmp_path: Path, lie: object) -> None:
    async def scenario(network: Network) -> None:
        await filled(network, 24)
        newcomer = await network.start(8)
        await comes_in_order(network, REPAIRED_WITHIN_S)
        mine = {one.basis for one in newcomer.parts.held.bases_after(b"", 100_000)}
        assert mine
        before = holdings(network)
        lie(newcomer)  # type: ignore[operator]
        await trio.sleep(DROPPED_WITHIN_S)
        for basis, by in holdings(network).items():
            assert len(by.keys() - {8}) >= min(REPLICATION, len(before[basis].keys() - {8})), basis in mine
        bad = [node.status().counters["kademlia_bad_answers_total"] for node in network.nodes.values()]
        assert sum(bad) > 0, "it serves nothing, or cannot prove what it signed for"

    simulate(tmp_path, EIGHT, scenario)


@pytest.mark.slow
def test_at_rest_nothing_is_sent_and_little_is_asked(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await filled(network)
        await comes_in_order(network, DROPPED_WITHIN_S, exactly=True)
        await trio.sleep(3 * INTERVAL_S)
        before = {name: counts.requests for name, counts in network.world.trace.methods().items()}
        await trio.sleep(5 * INTERVAL_S)
        after = {name: counts.requests for name, counts in network.world.trace.methods().items()}
        for method in ("record.store", "record.cids", "record.fetch", "record.ranges"):
            assert after.get(method) == before.get(method)

    simulate(tmp_path, EIGHT, scenario)


def test_an_author_whose_holders_are_all_gone_places_its_records_again(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = network.nodes[4]
        ids = await network.add(4, [entry(number) for number in range(12)])
        await network.settle()
        held = holdings(network)
        id_ = next(i for i in ids if not held[subject_basis(i)].keys() & {0, 4})
        *others, last = sorted(held[subject_basis(id_)])
        for number in (*others, last):
            del network.nodes[number]
            network.world.crash(identity(number).agent)
        assert subject_basis(id_) not in holdings(network)
        await until(lambda: len(holdings(network).get(subject_basis(id_), {})) == REPLICATION)
        await until(lambda: author.status().pending == 0)

    simulate(tmp_path, EIGHT, scenario)


@pytest.mark.slow
def test_an_author_that_was_away_finds_out_that_its_holders_are_gone(tmp_path: Path) -> None:
    """It has never met them since it is back: challenges that nobody answers tell it."""

    async def scenario(network: Network) -> None:
        ids = await network.add(4, [entry(number) for number in range(12)])
        await network.settle()
        held = holdings(network)
        id_ = next(i for i in ids if not held[subject_basis(i)].keys() & {0, 4})
        await network.crash(4)
        for number in sorted(held[subject_basis(id_)]):
            del network.nodes[number]
            network.world.crash(identity(number).agent)
        await trio.sleep(60.0)
        await network.start(4)
        assert subject_basis(id_) not in holdings(network)
        await until(lambda: len(holdings(network).get(subject_basis(id_), {})) == REPLICATION, 300.0, 1.0)

    simulate(tmp_path, EIGHT, scenario)


def test_an_author_leaves_the_repair_to_the_holders_that_are_left(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = network.nodes[4]
        ids = await network.add(4, [entry(number) for number in range(12)])
        await network.settle()
        held = holdings(network)
        id_ = next(i for i in ids if not held[subject_basis(i)].keys() & {0, 4})
        override(author.parts.publisher, "_publish", None)  # it does not even try
        for number in sorted(held[subject_basis(id_)])[1:]:
            await network.crash(number)
        await comes_in_order(network, REPAIRED_WITHIN_S)
        assert author.status().pending == 0
        assert len(holdings(network)[subject_basis(id_)]) == REPLICATION

    simulate(tmp_path, EIGHT, scenario)


def wanting(network: Network, number: int) -> int:
    """How many copies (a record at a basis) node `number` should have by now and does not have."""
    return sum(
        len(frozenset().union(*by.values()) - by.get(number, frozenset()))
        for basis, by in holdings(network).items()
        if number in nearest(network, basis)
    )


def moved(network: Network) -> int:
    """Copies sent or fetched by all nodes together, since they started."""
    return sum(
        node.status().counters[name]
        for node in network.nodes.values()
        for name in ("records_repaired_total", "records_caught_up_total")
    )


@pytest.mark.slow
@pytest.mark.long
def test_a_node_that_was_away_for_hours_moves_what_it_missed_and_no_more(tmp_path: Path) -> None:
    """With its disk, and without a restart of anybody else; the others had long made up for it."""

    async def scenario(network: Network) -> None:
        await filled(network, 40)
        await network.crash(3)
        await trio.sleep(2 * 3600)
        await network.fill(20, authors=(1, 2), seed=5_000)
        await comes_in_order(network, DROPPED_WITHIN_S, exactly=True)
        await trio.sleep(1800)
        before = moved(network)
        back = await network.start(3)
        missed = wanting(network, 3)
        has = sum(len(by.get(3, ())) for by in holdings(network).values())
        assert 20 <= missed < has
        await network.settle()
        await comes_in_order(network, REPAIRED_WITHIN_S)
        assert moved(network) - before <= missed
        assert back.status().under_replicated == 0
        await comes_in_order(network, DROPPED_WITHIN_S, exactly=True)
        assert moved(network) - before <= missed
        await assert_all_is_found(network, (3,))

    simulate(tmp_path, (100,) * 5, scenario)


@pytest.mark.slow
def test_while_records_come_in_nobody_looks_for_what_is_missing_unless_somebody_goes(tmp_path: Path) -> None:
    """What is on its way differs at every holder; a look amid it would compare what is about to be equal."""

    async def scenario(network: Network) -> None:
        await trio.sleep(START_S + 2 * SOON_S)  # the network is new: they look once more
        nodes = dict(network.nodes)
        looks = [node.parts.repairer.looks for node in nodes.values()]
        for number in range(40):
            await network.add(number % 4, [entry(number)])
            await trio.sleep(1)
        now = {number: node.parts.repairer.looks for number, node in nodes.items()}
        assert sum(now.values()) - sum(looks) <= 2 * len(nodes), "eight times as many without"
        await network.crash(3)
        await network.add(0, [entry(40)])
        await until(lambda: all(nodes[n].parts.repairer.looks > now[n] for n in network.nodes), 20.0)

    simulate(tmp_path, (100,) * 4, scenario)
