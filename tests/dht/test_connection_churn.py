"""A thousand connections of every kind, and then everything is as before: memory, descriptors, tasks,
threads.

Each test warms up with a tenth of the attack, measures, makes it ten times larger, lets everything end
and measures again. Both sides run in this process: what is flat is both. Tolerated are 2,000 Python objects
(caches of libp2p, of the interpreter and of the test fill up slowly; a leak of every connection would be some
200,000) and 24 MiB of resident memory (what the allocator keeps).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from dht.wire.frames import Request, encode_frame
from dht.wire.libp2p_network import LibP2PNetwork
from dht.wire.limits import DEFAULT_LIMITS
from dht.wire.pace import Rate
from tests.dht.attackers import (
    GONE,
    HANG,
    flat_again,
    footprint,
    frames_to,
    honest,
    mux_to,
    noise_to,
    settled,
    socket_to,
    victim,
    write_all,
)

pytestmark = pytest.mark.slow

CONNECTS = 1000
AT_ONCE = 100
OBJECTS = 2000
MEMORY = 24 << 20
HURRY = replace(
    DEFAULT_LIMITS,
    connect_timeout=1.0,
    frame_timeout=1.0,
    arrivals=Rate(per_second=1e6, burst=1e6),
    handshakes=32,
)
Visit = Callable[[LibP2PNetwork, int], Awaitable[None]]


async def never_speaks(a: LibP2PNetwork, _number: int) -> None:
    """Connects, and goes when it is sent away or nobody cares."""
    async with socket_to(a) as stream:
        with trio.move_on_after(0.05), suppress(*GONE):
            while await stream.receive_some():
                pass


async def slams(a: LibP2PNetwork, _number: int) -> None:
    """Connects and goes."""
    async with socket_to(a):
        pass


async def proves_and_goes(a: LibP2PNetwork, number: int) -> None:
    """A new identity each time, and nothing after it."""
    noise = await noise_to(a, 1000 + number)
    noise.abort()


async def asks_and_goes(a: LibP2PNetwork, number: int) -> None:
    """A new identity each time, that goes without waiting for the answer."""
    async with frames_to(a, 1000 + number) as secure:
        with suppress(*GONE):
            await write_all(await secure.open(), encode_frame(Request(1, "echo", b"hello")))


async def same_again(a: LibP2PNetwork, number: int) -> None:
    """One identity over many connections, which all stay a while."""
    mux = await mux_to(a, 99)
    try:
        await mux.open()
        await mux.frames(1, Request(number, "echo", b"me again"))
        with trio.move_on_after(0.05):
            await mux.drain()
    finally:
        mux.abort()


async def breaks_the_rules(a: LibP2PNetwork, number: int) -> None:
    """A new identity each time, dropped for a bad frame."""
    mux = await mux_to(a, 1000 + number)
    await mux.open()
    with suppress(*GONE):
        await mux.data(1, b"\xff\xff\xff\xff")
    with trio.fail_after(HANG):
        await mux.drain()
    mux.abort()


async def visits(a: LibP2PNetwork, visit: Visit, numbers: range, at_once: int) -> None:
    """All these visits, so many at a time, ended when this returns."""
    waiting = iter(numbers)

    async def visitor() -> None:
        for number in waiting:
            with suppress(*GONE):
                await visit(a, number)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(visitor)


async def all_gone(a: LibP2PNetwork) -> None:
    for gauge in ("connections", "handshakes", "held_bytes"):
        await settled(a, gauge, 0)


@pytest.mark.parametrize(
    ("visit", "count", "at_once"),
    [
        pytest.param(slams, CONNECTS, AT_ONCE, marks=pytest.mark.long),
        pytest.param(never_speaks, CONNECTS, AT_ONCE, marks=pytest.mark.long),
        pytest.param(proves_and_goes, CONNECTS, AT_ONCE, marks=pytest.mark.long),
        (asks_and_goes, CONNECTS, 1),
        pytest.param(asks_and_goes, CONNECTS // 2, AT_ONCE, marks=pytest.mark.long),
        pytest.param(same_again, CONNECTS, AT_ONCE, marks=pytest.mark.long),
        (breaks_the_rules, CONNECTS // 4, 10),
    ],
)
async def test_a_thousand_connections_leave_nothing_behind(visit: Visit, count: int, at_once: int) -> None:
    async with victim(HURRY) as a:
        async with honest(a) as ask:
            await ask(10)
        await visits(a, visit, range(count // 10), at_once)
        await all_gone(a)
        before = footprint()
        async with trio.open_nursery() as nursery, honest(a) as ask:
            done = trio.Event()

            async def attack() -> None:
                await visits(a, visit, range(count), at_once)
                done.set()

            nursery.start_soon(attack)
            answered = 0
            while not done.is_set():
                await ask(5)
                answered += 5
            assert answered >= 5, "the honest were answered meanwhile"
        await all_gone(a)
        await flat_again(before, OBJECTS, MEMORY)
        came = a.counters()["accepted"] + a.counters()["handshake_failures"]
        assert came >= count
