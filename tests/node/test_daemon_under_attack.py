"""A whole daemon, in a process of its own, under attack by members and strangers over real sockets.

Its owner's queries and an honest member are answered while the attack runs, counted in answers; then the
process has as many descriptors and threads as before, and little more memory (48 MiB: caches of contacts and
address records fill up to their bounds, and the allocator keeps some).
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil
import pytest
import trio

from chain import canonical
from chain.identity import Identity
from chain.manifest import Manifest
from chain.membrane import find_nonce
from dht.errors import NetworkError, RefusalCode, RequestRefused
from dht.network import PeerId
from dht.overlay.contact import make_contact
from dht.overlay.hello import HELLO, fetch_founding
from dht.overlay.peer_messages import EMPTY, EXCHANGE, FIND, LEAVE, PING, encode_exchange, encode_find
from dht.ports import SystemClock
from dht.records.bundle import Item, bundle_value
from dht.records.placement import Role
from dht.wire.libp2p_network import LibP2PNetwork, open_libp2p_network
from node.embedding.static import StaticEmbedder
from tests.dht.authors import Author
from tests.node.real_daemons import Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

SECONDS = 60.0
QUERIES = 20
MEMORY = 48 << 20
TEXTS = ["Bees see ultraviolet light.", "Honey keeps for centuries.", "A hive has one queen."]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemons = Daemons(tmp_path)
    try:
        started = daemons.run(daemons.home("founder"))
        for text in TEXTS:
            started.add(text)
        yield started
    finally:
        daemons.close()


@dataclass
class Member:
    """A member of the daemon's network that does as it likes."""

    network: LibP2PNetwork
    target: PeerId
    identity: Identity
    manifest: Manifest
    nonce: int
    issued: Iterator[int]

    async def ask(self, method: str, body: bytes) -> bytes:
        return await self.network.request(self.target, method, body, SECONDS)

    def record(self, capacity: int = 0, full: bool = False) -> bytes:
        """An address record, each newer than the last."""
        now = SystemClock().wall_us() + next(self.issued)
        return make_contact(
            self.identity, self.manifest.network_id, self.nonce, [], capacity, full, now, 3600
        ).data

    async def enter(self) -> None:
        await self.ask(EXCHANGE, encode_exchange(self.record()))


@asynccontextmanager
async def member(daemon: Daemon, number: int) -> AsyncIterator[Member]:
    seed = sha256(f"member {number}".encode()).digest()
    identity = Identity.from_seed(seed)
    async with open_libp2p_network(seed, (), SystemClock()) as network:
        founding = await fetch_founding(network, daemon.address, lambda _cid: None, SECONDS)
        manifest = founding.manifest
        nonce = find_nonce(manifest.network_id, identity.agent, manifest.join_bits)
        target = await network.dial(daemon.address, SECONDS)
        yield Member(network, target, identity, manifest, nonce, itertools.count())


Attack = Callable[[Member], Awaitable[None]]


async def hello_flood(one: Member) -> None:
    """The largest answers that a stranger can have, over and over."""
    for number in range(100):
        await one.ask(HELLO, canonical.encode(["atlas", number % 4]))


async def introduction_flood(one: Member) -> None:
    """A new address record each time, which says something else about where things lie."""
    for number in range(200):
        await one.ask(EXCHANGE, encode_exchange(one.record(capacity=number % 2)))
        if number % 10 == 0:
            await one.ask(LEAVE, EMPTY)


async def false_introductions(one: Member) -> None:
    """Address records whose signature does not hold."""
    record = bytearray(one.record())
    record[-1] ^= 1
    for _ in range(200):
        with suppress(RequestRefused):
            await one.ask(EXCHANGE, encode_exchange(bytes(record)))


async def find_flood(one: Member) -> None:
    record = one.record()
    for number in range(500):
        await one.ask(FIND, encode_find(number.to_bytes(32, "big"), record))


async def listing_flood(one: Member) -> None:
    """Small questions with long answers, read from disk: many at a time."""
    await one.enter()
    bases = [number.to_bytes(32, "big") for number in range(256)]
    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(one.ask, "record.digests", canonical.encode(bases))
            nursery.start_soon(one.ask, "record.cids", canonical.encode([bases[number], None, 4096]))


async def bundle_flood(one: Member) -> None:
    """Valid bundles as large as they may be, many at a time: each record is hashed, verified and embedded."""
    await one.enter()
    body = large_bundle(one.manifest)
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(one.ask, "record.store", body)


async def false_bundles(one: Member) -> None:
    """Bundles that are none, and ones whose records break a rule."""
    await one.enter()
    bad = large_bundle(one.manifest, altered=True)
    for body in itertools.cycle([b"\xc0", canonical.encode([[], [], [b"x"] * 500]), bad]):
        await one.ask("record.store", body)


def large_bundle(manifest: Manifest, *, altered: bool = False) -> bytes:
    author = Author(1, manifest, SystemClock().wall_us())
    embedder = StaticEmbedder()
    texts = [f"Fact number {number} of very many." for number in range(200)]
    codes = embedder.embed(texts)
    records = [author.create(text, codes[place].tobytes()) for place, text in enumerate(texts)]
    if altered:
        records = [author.create(text, codes[place - 1].tobytes()) for place, text in enumerate(texts)]
    items = [Item(record, int(Role.SUBJECT)) for record in records]
    return canonical.encode(bundle_value([author.opening], [r.without_payload() for r in records], items))


@dataclass
class State:
    """What the daemon holds. Its stores' idle readers and its owner's connections are not counted."""

    descriptors: int
    threads: int
    memory: int


def sockets_of(daemon: Daemon) -> int:
    """Connections of peers, in whatever state; the API's are kept alive for a while for its owner."""
    port = int(daemon.address.split("/")[4])
    sockets = psutil.Process(daemon.process.pid).net_connections()
    return sum(one.laddr[1] == port and one.status != psutil.CONN_LISTEN for one in sockets)


async def state_of(daemon: Daemon) -> State:
    """Once no peer is connected."""
    await trio.to_thread.run_sync(eventually, lambda: not sockets_of(daemon), "all connections to end")
    process = psutil.Process(daemon.process.pid)
    files = sum(Path(file.path).parent == daemon.home for file in process.open_files())
    api = len(process.net_connections())
    return State(process.num_fds() - files - api, process.num_threads(), process.memory_info().rss)


async def query(daemon: Daemon, text: str) -> list[str]:
    """What the owner's query finds."""
    return await trio.to_thread.run_sync(daemon.texts, text)


async def attack(daemon: Daemon, kind: Attack, number: int, goes_on: bool) -> None:
    """Attack, again and again if it `goes_on`; being refused or ignored ends nothing."""
    while True:
        try:
            async with member(daemon, number) as one:
                await kind(one)
        except* NetworkError:  # banned, it is refused as early as `hello`, within a nursery
            pass
        if not goes_on:
            return


ATTACKS = [
    hello_flood,
    introduction_flood,
    pytest.param(false_introductions, marks=pytest.mark.long),
    pytest.param(find_flood, marks=pytest.mark.long),
    listing_flood,
    pytest.param(bundle_flood, marks=pytest.mark.long),
    false_bundles,
]


@pytest.mark.parametrize("kind", ATTACKS)
async def test_a_daemon_answers_during_an_attack_and_is_as_before_after_it(
    daemon: Daemon, kind: Attack
) -> None:
    # What is loaded once, and what every worker thread keeps open, is there before it is counted.
    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(attack, daemon, kind, number, False)
        for _ in range(QUERIES):
            nursery.start_soon(query, daemon, TEXTS[0])
    before = await state_of(daemon)
    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(attack, daemon, kind, number, True)
        async with member(daemon, 50) as honest:
            await honest.enter()
            for number in range(QUERIES):
                with trio.fail_after(SECONDS):
                    text = TEXTS[number % len(TEXTS)]
                    assert text in await query(daemon, text)
                    assert await honest.ask(PING, EMPTY) == EMPTY
        nursery.cancel_scope.cancel()
    after = await state_of(daemon)
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads + 2, "idle worker threads come and go"
    assert after.memory <= before.memory + MEMORY


async def test_who_keeps_showing_what_is_false_is_banned_and_its_bundles_are_not_even_read(
    daemon: Daemon,
) -> None:
    async with member(daemon, 1) as one:
        await one.enter()
        codes: list[int] = []
        for _ in range(20):
            try:
                await one.ask("record.store", b"\xc0")
            except RequestRefused as refused:
                codes.append(refused.code)
        assert codes[0] == RefusalCode.BAD_REQUEST
        assert codes[-10:] == [RefusalCode.BANNED] * 10
        with pytest.raises(RequestRefused, match="banned"):
            await one.ask(EXCHANGE, encode_exchange(one.record()))
    with pytest.raises(RequestRefused, match="banned"):
        async with member(daemon, 1):
            pass  # a new connection changes nothing: not even `hello` is answered
    async with member(daemon, 2) as other:
        await other.enter()
        assert await other.ask(PING, EMPTY) == EMPTY
