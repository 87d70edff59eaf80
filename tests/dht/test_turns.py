"""Turns: whoever asks most waits for himself, not the others for him."""

from __future__ import annotations

import trio
import trio.testing

from dht.wire.turns import Turns

MANY, ONE, TWO = b"many", b"one", b"two"


async def idle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_newcomer_waits_for_one_of_each_other_and_not_for_all() -> None:
    turns = Turns(places=1, per_peer=1)
    order: list[bytes] = []

    async def take(peer: bytes) -> None:
        async with turns.of(peer):
            order.append(peer)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(take, MANY)
        await trio.lowlevel.checkpoint()
        for peer in (ONE, TWO, ONE):
            nursery.start_soon(take, peer)
    assert len(order) == 23
    assert order.index(TWO) <= 4
    assert max(place for place, peer in enumerate(order) if peer != MANY) <= 8


async def test_no_more_run_than_there_are_places_nor_of_one_peer_than_its_own() -> None:
    turns = Turns(places=4, per_peer=2)
    running: list[bytes] = []
    most: dict[bytes, int] = {}
    release = trio.Event()

    async def hold(peer: bytes) -> None:
        async with turns.of(peer):
            running.append(peer)
            most[peer] = max(most.get(peer, 0), running.count(peer))
            assert len(running) <= 4
            await release.wait()
            running.remove(peer)

    async with trio.open_nursery() as nursery:
        for peer in [MANY] * 10 + [ONE] * 10 + [TWO]:
            nursery.start_soon(hold, peer)
            await trio.lowlevel.checkpoint()  # trio starts tasks of one moment in any order
        await idle()
        assert sorted(running) == [MANY, MANY, ONE, ONE]
        release.set()
    assert most[MANY] == most[ONE] == 2
    assert most[TWO] == 1


async def test_cancelling_gives_the_turn_back_whether_it_had_come_or_not() -> None:
    turns = Turns(places=1, per_peer=1)
    got: list[str] = []

    async def hold(scope: trio.CancelScope, name: str) -> None:
        with scope:
            async with turns.of(name.encode()):
                got.append(name)
                await trio.sleep_forever()

    scopes = [trio.CancelScope() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for number, scope in enumerate(scopes):
            nursery.start_soon(hold, scope, f"p{number}")
            await idle()
        scopes[1].cancel()
        await idle()
        assert got == ["p0"]
        scopes[0].cancel()
        await idle()
        assert got == ["p0", "p2"]
        scopes[2].cancel()
    async with turns.of(ONE):
        pass
