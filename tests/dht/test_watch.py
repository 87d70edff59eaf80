"""The watch: an offence is told once, the earliest first, and no offender fills its accusers' chains."""

from __future__ import annotations

import random

import trio
import trio.testing

from chain.kinds import FORK_WARRANT
from chain.record import Record, decode_payload
from chain.source_chain import Draft
from chain.warrant import Offence, offence_of, proof_of
from crdt.equivocation import twins_among
from dht.evidence.watch import AGAIN_S, PAUSE_S, Watch
from dht.ports import Random
from dht.records.record_store import Held
from sim.virtual_clock import inline_blocking
from tests.validation.bench import ALICE, BOB, MANIFEST, NETWORK, bench, forge
from tests.validation.test_ledger import of_a_second_genesis
from validation.context import Context
from validation.ledger import Ledger


class Twins:
    """A store in which the other record of a place is always held already."""

    def twins(self, places: list[tuple[bytes, int]]) -> list[list[Record]]:
        return [[twin(seq, 1), twin(seq, 2)] for _, seq in places]


def twin(seq: int, hlc: int) -> Record:
    return forge(bench().alice.records[2], seq=seq, hlc=hlc)


def test_one_warrant_an_offence_and_slower_ones_for_ever_earlier_offences() -> None:
    b = bench()
    written: list[tuple[int, float]] = []

    async def main() -> None:
        ledger = Ledger(MANIFEST)

        async def write(draft: Draft) -> None:
            warrant = forge(b.by_name["fork-warrant"], kind=draft.kind, body=draft.body)
            ledger.tell(warrant)
            written.append((offence_of(proof_of(warrant)).seq, trio.current_time()))

        watch = Watch(
            BOB.agent,
            lambda: Context(MANIFEST, NETWORK, ledger.epochs),
            lambda agent: b.alice.opening if agent == ALICE.agent else None,
            Twins(),  # type: ignore[arg-type]
            ledger,
            write,
            inline_blocking,
            Random(random.Random(1), lambda n: bytes(n)),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            began = trio.current_time()
            for seq in (9, 8, 9, 12):
                await watch.held([Held(twin(seq, 1))])
            await trio.sleep(PAUSE_S + 2)
            assert [seq for seq, _ in written] == [8]
            for seq in (7, 8, 6):
                await watch.held([Held(twin(seq, 1))])
            await trio.sleep(AGAIN_S - 5)
            assert len(written) == 1
            await trio.sleep(10)
            assert [seq for seq, _ in written] == [8, 6]
            await watch.held([Held(twin(5, 1))])
            await trio.sleep(2 * AGAIN_S + 5)
            assert [seq for seq, _ in written] == [8, 6, 5]
            assert written[-1][1] - began > 3 * AGAIN_S
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_fork_that_nobody_here_holds_is_accused_when_both_come_together() -> None:
    """The earliest pair of an author, once; who is honest, or of whom no opening is known, is not accused."""
    b = bench()
    written: list[Offence] = []

    async def main() -> None:
        ledger = Ledger(MANIFEST)

        async def write(draft: Draft) -> None:
            warrant = forge(b.by_name["fork-warrant"], kind=draft.kind, body=draft.body)
            ledger.tell(warrant)
            written.append(offence_of(proof_of(warrant)))

        watch = Watch(
            BOB.agent,
            lambda: Context(MANIFEST, NETWORK, ledger.epochs),
            lambda agent: b.alice.opening if agent == ALICE.agent else None,
            None,  # type: ignore[arg-type]
            ledger,
            write,
            inline_blocking,
            Random(random.Random(1), lambda n: bytes(n)),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            seen = [*b.alice.records, twin(9, 1), twin(8, 1), twin(9, 2), twin(8, 2), twin(8, 2)]
            pairs = twins_among(seen)
            assert [(one.header.seq, other.header.seq) for one, other in pairs] == [(8, 8)]
            assert twins_among(b.alice.records) == ()
            await watch.met([(one, one) for one in b.alice.records[:1]])
            for _ in range(3):
                await watch.met(pairs)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [(one.offender, one.seq) for one in written] == [(ALICE.agent, 8)]


def test_a_second_genesis_that_only_a_revocation_shows_is_a_fork() -> None:
    stolen, _, fork = of_a_second_genesis()
    written: list[Draft] = []

    async def main() -> None:
        async def write(draft: Draft) -> None:
            written.append(draft)

        watch = Watch(
            BOB.agent,
            lambda: Context(MANIFEST, NETWORK),
            lambda agent: bench().alice.opening if agent == ALICE.agent else None,
            Twins(),  # type: ignore[arg-type]
            Ledger(MANIFEST),
            write,
            inline_blocking,
            Random(random.Random(1), lambda n: bytes(n)),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await watch.heard([bench().by_name["revoke"], bench().by_name["fork-warrant"]])
            await trio.sleep(PAUSE_S + 2)
            assert not written, "they show the opening that everybody knows"
            await watch.heard([stolen])
            await trio.sleep(PAUSE_S + 2)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [(one.kind, one.body) for one in written] == [(FORK_WARRANT, decode_payload(fork.payload or b""))]
