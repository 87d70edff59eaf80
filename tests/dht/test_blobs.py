"""Blobs over the simulated network: what arrives is what the CID names; liars and sluggards cost little."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from blake3 import blake3

from chain import canonical
from chain.blob import CHUNK, MalformedBlobError, OversizedBlobError, chunk_list
from chain.cid import blob_cid, record_cid
from chain.errors import CidError
from dht.blobs.blob_store import BitmapError, bitmap, read_bitmap
from dht.blobs.chunk_plan import MAX_BUSY, MAX_FAILURES
from dht.blobs.service import (
    AT_ONCE,
    FETCHES,
    GET,
    LIST,
    LOOK_S,
    PER_AGENT,
    SERVE_EACH,
    BlobService,
    BlobUnavailable,
)
from dht.errors import RefusalCode, RequestRefused
from dht.network import MAX_BODY, Handler
from dht.overlay.kademlia import Kademlia
from node.storage.blob_files import BlobFiles
from node.storage.errors import BlobsFull, DiskFull
from sim.host import SimNetwork
from sim.links import LatencyLink
from sim.network import SimWorld, open_world
from sim.virtual_clock import InlineBlocking, SimClock, run_deterministic, seeded_random
from tests.dht.people import MANIFEST, identity, nonce_of

LIMIT = 64 << 20
LINK = LatencyLink(0, (5_000, 20_000), 1_000)


def content(size: int, seed: int = 0) -> bytes:
    return blake3(bytes([seed])).digest(length=size)


DATA = content(6 * CHUNK + 99)
CHUNKS = chunk_list(DATA)
CID = CHUNKS.cid
PARTS = [DATA[at : at + CHUNK] for at in range(0, len(DATA), CHUNK)]


class Swarm:
    """Members of one network with a blob service each; number 0 is entered through."""

    def __init__(self, world: SimWorld, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.services: dict[int, BlobService] = {}
        self.nodes: dict[int, Kademlia] = {}

    async def start(self, number: int, quota: int = 256 << 20) -> BlobService:
        host, node = await self._join(number)
        clock, rng = SimClock(), seeded_random(1, f"blobs {number}")
        store = BlobFiles(self.folder / str(number), quota, clock.wall_us)
        service = BlobService(host, node, store, InlineBlocking(0.001), clock, rng.choice)
        self.services[number] = service
        return service

    async def liar(self, number: int, *, lists: Handler, chunks: Handler) -> None:
        """A member that answers questions about blobs in its own way."""
        host, node = await self._join(number)
        host.register(LIST, node.members_only(lists))
        host.register(GET, node.members_only(chunks))

    async def _join(self, number: int) -> tuple[SimNetwork, Kademlia]:
        host = await self.world.join(identity(number).agent)
        node = Kademlia(
            host, identity(number), MANIFEST, nonce_of(number), 1, SimClock(), seeded_random(1, str(number))
        )
        await host.nursery.start(_run, node)
        await node.join([self.world.address(identity(0).agent)] if number else [])
        self.nodes[number] = node
        return host, node

    def half(self, number: int, indexes: list[int]) -> None:
        """Let a service hold some of the chunks."""
        store = self.services[number].store
        store.begin(CHUNKS)
        for index in indexes:
            store.keep(CID, index, PARTS[index])
        store.end(CID)


async def _run(node: Kademlia, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    await node.run(task_status=task_status)


def agents(*numbers: int) -> list[bytes]:
    return [identity(number).agent for number in numbers]


def play(
    folder: Path, story: Callable[[Swarm], Awaitable[None]], slow: dict[bytes, int] | None = None
) -> None:
    """Run a story in virtual time; `slow`: µs that a sender's messages take longer, filled meanwhile."""
    slower = slow if slow is not None else {}

    def link(sender: bytes, receiver: bytes, size: int, rng: random.Random) -> int | None:
        delay = LINK(sender, receiver, size, rng)
        return None if delay is None else delay + slower.get(sender, 0)

    async def main() -> None:
        async with open_world(1, link) as world:
            with trio.fail_after(3_600):
                await story(Swarm(world, folder))

    try:
        run_deterministic(main, seed=1)
    except* AssertionError as group:
        raise group.exceptions[0] from None


def honest_list(have: bytes = b"") -> Handler:
    async def answer(_sender: bytes, _body: bytes) -> bytes:
        return canonical.encode([CHUNKS.encode(), have])

    return answer


async def honest_chunk(_sender: bytes, body: bytes) -> bytes:
    return PARTS[canonical.decode(body, 64)[1]]


def says(value: Any) -> Handler:
    async def answer(_sender: bytes, _body: bytes) -> bytes:
        return value if isinstance(value, bytes) else canonical.encode(value)

    return answer


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_one_puts_another_fetches(tmp_path: Path, size: int) -> None:
    async def story(swarm: Swarm) -> None:
        holder, asker = await swarm.start(0), await swarm.start(1)
        data = content(size, 7)
        info = await holder.put(data)
        assert (info.cid, info.size, info.pinned) == (chunk_list(data).cid, size, True)
        assert await asker.fetch(info.cid, LIMIT, agents(0)) == data
        mapped = await asker.fetch_mapped(info.cid, LIMIT, [])
        assert mapped[:] == data
        assert asker.counters.chunks_fetched == len(chunk_list(data))
        assert not (await asker.fetch_to_disk(info.cid, LIMIT, [])).pinned
        assert (await asker.fetch_to_disk(info.cid, LIMIT, [], pin=True)).pinned

    play(tmp_path, story)


def test_two_holders_of_a_half_each_are_enough(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        for number in range(3):
            await swarm.start(number)
        swarm.half(0, [0, 2, 4])
        swarm.half(1, [1, 3, 5, 6])
        assert await swarm.services[2].fetch(CID, LIMIT, agents(0, 1)) == DATA
        assert swarm.services[0].counters.chunks_served == 3
        assert swarm.services[1].counters.chunks_served == 4

    play(tmp_path, story)


def test_the_work_is_shared_among_the_holders(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        for number in range(4):
            await swarm.start(number)
        data = content(48 * CHUNK)
        for number in range(3):
            await swarm.services[number].put(data)
        await swarm.services[3].fetch(chunk_list(data).cid, LIMIT, agents(0, 1, 2))
        served = [swarm.services[number].counters.chunks_served for number in range(3)]
        assert sum(served) == 48
        assert min(served) >= 8

    play(tmp_path, story)


WRONG_CHUNKS = {
    "another chunk's bytes": PARTS[1],
    "a flipped bit": bytes([PARTS[0][0] ^ 1]) + PARTS[0][1:],
    "too short": b"x",
    "as long as a body may be": bytes(MAX_BODY),
}


@pytest.mark.parametrize("wrong", WRONG_CHUNKS.values(), ids=WRONG_CHUNKS.keys())
def test_a_liar_about_chunks_is_reported_and_left_out(tmp_path: Path, wrong: bytes) -> None:
    async def lies(_sender: bytes, body: bytes) -> bytes:
        return PARTS[2] if canonical.decode(body, 64)[1] == 1 else wrong

    async def story(swarm: Swarm) -> None:
        await swarm.start(0)
        await swarm.liar(1, lists=honest_list(), chunks=lies)
        asker = await swarm.start(2)
        await swarm.services[0].put(DATA)
        before = swarm.nodes[2].counters.bad_answers
        assert await asker.fetch(CID, LIMIT, agents(1, 0)) == DATA
        assert 1 <= asker.counters.lies <= PER_AGENT
        assert swarm.nodes[2].counters.bad_answers == before + asker.counters.lies

    play(tmp_path, story)


WRONG_LISTS: dict[str, object] = {
    "another blob's list": [chunk_list(b"other").encode(), b""],
    "a list of a terabyte": [canonical.encode([1 << 40, [bytes(32)] * 200]), b""],
    "an endless list": [bytes(MAX_BODY - 64), b""],
    "no list": [1, 2],
    "garbage": b"\xc1",
    "nothing": b"",
    "a bitmap that does not fit": [CHUNKS.encode(), bytes(9)],
    "a bitmap of more": [CHUNKS.encode(), b"\xff"],
}


@pytest.mark.parametrize("wrong", WRONG_LISTS.values(), ids=WRONG_LISTS.keys())
def test_a_liar_about_the_list_is_reported_and_left_out(tmp_path: Path, wrong: object) -> None:
    async def story(swarm: Swarm) -> None:
        await swarm.start(0)
        await swarm.liar(1, lists=says(wrong), chunks=honest_chunk)
        asker = await swarm.start(2)
        await swarm.services[0].put(DATA)
        with pytest.raises(BlobUnavailable):
            await asker.fetch(CID, LIMIT, agents(1))
        assert asker.store.infos() == []
        assert asker.counters.lies == 1
        assert swarm.nodes[2].counters.bad_answers == 1
        assert await asker.fetch(CID, LIMIT, agents(1, 0)) == DATA

    play(tmp_path, story)


def test_a_cid_that_names_too_much_is_refused_before_any_room_is_made(tmp_path: Path) -> None:
    terabyte = canonical.encode([1 << 40, [bytes(32)] * 200])

    async def story(swarm: Swarm) -> None:
        holder, asker = await swarm.start(0), await swarm.start(1)
        await swarm.liar(2, lists=says([terabyte, b""]), chunks=honest_chunk)
        await holder.put(DATA)
        with pytest.raises(
            OversizedBlobError, match=f"{len(DATA)} bytes is over the limit of {len(DATA) - 1}"
        ):
            await asker.fetch(CID, len(DATA) - 1, agents(0))
        with pytest.raises(OversizedBlobError):
            await asker.fetch(blob_cid(terabyte), LIMIT, agents(2))
        await swarm.liar(3, lists=says([b"\0", b""]), chunks=honest_chunk)
        with pytest.raises(MalformedBlobError):
            await asker.fetch(blob_cid(b"\0"), LIMIT, agents(3))
        assert asker.store.infos() == []
        assert asker.counters.lies == 0
        with pytest.raises(OversizedBlobError):
            await holder.fetch(CID, 5, [])
        with pytest.raises(CidError):
            await asker.fetch(record_cid(b"x"), LIMIT, agents(0))

    play(tmp_path, story)


def test_a_slow_holder_does_not_hold_up_the_fetch(tmp_path: Path) -> None:
    slow: dict[bytes, int] = {}

    async def story(swarm: Swarm) -> None:
        for number in range(3):
            await swarm.start(number)
        await swarm.services[0].put(DATA)
        await swarm.services[1].put(DATA)
        slow[identity(1).agent] = 4_000_000
        began = trio.current_time()
        assert await swarm.services[2].fetch(CID, LIMIT, agents(1, 0)) == DATA
        assert trio.current_time() - began < 3

    play(tmp_path, story, slow)


def test_holders_that_are_all_slow_are_joined_by_the_next(tmp_path: Path) -> None:
    async def never(_sender: bytes, _body: bytes) -> bytes:
        await trio.sleep_forever()

    async def story(swarm: Swarm) -> None:
        await swarm.start(0)
        asker = await swarm.start(1)
        await swarm.services[0].put(DATA)
        others = range(10, 10 + AT_ONCE)
        for number in others:
            await swarm.liar(number, lists=honest_list(), chunks=never)
        began = trio.current_time()
        assert await asker.fetch(CID, LIMIT, [*agents(*others), *agents(0)]) == DATA
        assert trio.current_time() - began < 15

    play(tmp_path, story)


def test_who_has_it_not_or_refuses_or_is_gone_is_passed_over_and_named_in_the_error(tmp_path: Path) -> None:
    async def refuses(_sender: bytes, _body: bytes) -> bytes:
        raise RequestRefused(RefusalCode.FORBIDDEN, "not for you")

    async def story(swarm: Swarm) -> None:
        for number in range(3):
            await swarm.start(number)
        await swarm.liar(3, lists=refuses, chunks=honest_chunk)
        await swarm.liar(4, lists=honest_list(), chunks=refuses)
        await swarm.start(5)
        swarm.world.crash(identity(5).agent)
        asker = swarm.services[2]
        with pytest.raises(
            BlobUnavailable, match="not to be had: 7 of its chunks at none of the 4"
        ) as caught:
            await asker.fetch(CID, LIMIT, agents(1, 3, 4, 5))
        for reason in ("does not have it", "not for you"):
            assert reason in str(caught.value)
        assert asker.counters.lies == 0
        with pytest.raises(BlobUnavailable, match="its chunk list at none of the 1"):
            await asker.fetch(chunk_list(b"?").cid, LIMIT, agents(1))
        with pytest.raises(BlobUnavailable, match="none of the 0"):
            await asker.fetch(chunk_list(b"?").cid, LIMIT, agents(2))
        await swarm.services[0].put(DATA)
        assert await asker.fetch(CID, LIMIT, agents(1, 3, 4, 5, 0)) == DATA

    play(tmp_path, story)


def test_a_holder_that_fails_now_and_then_is_asked_again(tmp_path: Path) -> None:
    calls = 0

    async def flaky(_sender: bytes, body: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls % 4 == 1:
            raise RequestRefused(RefusalCode.OVERLOADED, "later")
        return PARTS[canonical.decode(body, 64)[1]]

    async def story(swarm: Swarm) -> None:
        asker = await swarm.start(0)
        await swarm.liar(1, lists=honest_list(), chunks=flaky)
        assert await asker.fetch(CID, LIMIT, agents(1)) == DATA

    assert MAX_FAILURES > 1
    play(tmp_path, story)


def test_one_lost_message_does_not_lose_the_only_holder(tmp_path: Path) -> None:
    calls = 0

    async def deaf_at_first(sender: bytes, body: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            await trio.sleep_forever()
        return await honest_list()(sender, body)

    async def story(swarm: Swarm) -> None:
        asker = await swarm.start(0)
        await swarm.liar(1, lists=deaf_at_first, chunks=honest_chunk)
        assert await asker.fetch(CID, LIMIT, agents(1)) == DATA

    play(tmp_path, story)


def test_a_holder_that_offers_what_it_does_not_have_ends_the_fetch_in_time(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        asker = await swarm.start(0)
        await swarm.liar(1, lists=honest_list(), chunks=says(b""))
        with pytest.raises(BlobUnavailable, match="7 of its chunks"):
            await asker.fetch(CID, LIMIT, agents(1))
        assert asker.counters.lies == 0

    play(tmp_path, story)


def test_a_fetch_goes_on_from_what_is_on_disk(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        holder, asker = await swarm.start(0), await swarm.start(1)
        await holder.put(DATA)
        with trio.CancelScope() as scope:
            swarm.world._nursery.start_soon(_cancel_when, scope, lambda: asker.counters.chunks_fetched >= 3)
            await asker.fetch(CID, LIMIT, agents(0))
        assert scope.cancelled_caught
        kept = asker.counters.chunks_fetched
        assert 3 <= kept < len(CHUNKS)
        swarm.world.crash(identity(1).agent)
        again = await swarm.start(1)
        assert again.store.missing(CID) is not None
        assert await again.fetch(CID, LIMIT, agents(0)) == DATA
        assert again.counters.chunks_fetched == len(CHUNKS) - kept

    play(tmp_path, story)


@pytest.mark.slow
def test_of_three_holders_one_dies_and_one_lies_in_the_middle_and_no_copy_is_held(tmp_path: Path) -> None:
    data = content(40 << 20)
    chunks = chunk_list(data)
    told = 0

    async def turns(_sender: bytes, body: bytes) -> bytes:
        nonlocal told
        index = canonical.decode(body, 64)[1]
        told += 1
        return data[index * CHUNK : (index + 1) * CHUNK] if told <= 20 else data[:CHUNK][::-1]

    async def crash(swarm: Swarm, asker: BlobService) -> None:
        while asker.counters.chunks_fetched < 60:  # noqa: ASYNC110 (virtual time, as below)
            await trio.sleep(0.001)
        swarm.world.crash(identity(1).agent)

    async def story(swarm: Swarm) -> None:
        holder, dies = await swarm.start(0), await swarm.start(1)
        await swarm.liar(2, lists=says([chunks.encode(), b""]), chunks=turns)
        asker = await swarm.start(3)
        for service in (holder, dies):
            await service.put(data)
        swarm.world._nursery.start_soon(crash, swarm, asker)
        tracemalloc.start()
        try:
            mapped = await asker.fetch_mapped(chunks.cid, LIMIT, agents(0, 1, 2))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert mapped[:] == data
        assert asker.counters.chunks_fetched == len(chunks)
        assert told > 20
        assert 1 <= asker.counters.lies <= PER_AGENT
        assert 0 < dies.counters.chunks_served < 60
        # Holders and the asker together: chunks under way, never the blob.
        assert most < 12 << 20

    play(tmp_path, story)


async def _cancel_when(scope: trio.CancelScope, condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (virtual time: nothing to wait on but the clock)
        await trio.sleep(0.001)
    scope.cancel()


def test_fetches_of_one_blob_at_once_share_one(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        holder, asker = await swarm.start(0), await swarm.start(1)
        await holder.put(DATA)
        found: list[bytes] = []

        async def fetch() -> None:
            found.append(await asker.fetch(CID, LIMIT, agents(0)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(fetch)
        assert found == [DATA] * 5
        assert holder.counters.chunks_served == len(CHUNKS)

    play(tmp_path, story)


def test_many_fetches_at_once_never_ask_more_than_is_served(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        holder, asker = await swarm.start(0), await swarm.start(1)
        blobs = [content(3 * CHUNK, seed) for seed in range(12)]
        for data in blobs:
            await holder.put(data)
        found = {}

        async def fetch(data: bytes) -> None:
            cid = chunk_list(data).cid
            found[cid] = await asker.fetch(cid, LIMIT, agents(0))

        async with trio.open_nursery() as nursery:
            for data in blobs:
                nursery.start_soon(fetch, data)
        assert found == {chunk_list(data).cid: data for data in blobs}
        assert holder.counters.chunks_refused == 0
        assert asker._lanes == {}

    play(tmp_path, story)


@pytest.mark.slow
def test_a_roster_that_fetches_from_one_author_at_once_all_get_it(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        author = await swarm.start(0)
        for number in range(1, 16):
            await swarm.start(number)
        data = content(8 * CHUNK)
        cid = (await author.put(data)).cid
        found: list[bytes] = []

        async def fetch(number: int) -> None:
            found.append(await swarm.services[number].fetch(cid, LIMIT, agents(0)))

        async with trio.open_nursery() as nursery:
            for number in range(1, 16):
                nursery.start_soon(fetch, number)
        assert found == [data] * 15
        assert author.counters.chunks_refused == 0

    play(tmp_path, story)


@pytest.mark.parametrize(("refusals", "ends"), [(MAX_BUSY, True), (10_000, False)])
def test_a_holder_with_too_much_to_do_is_waited_for_but_not_for_ever(
    tmp_path: Path, refusals: int, ends: bool
) -> None:
    calls = 0

    async def busy(_sender: bytes, body: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls <= refusals:
            raise RequestRefused(RefusalCode.OVERLOADED, "later")
        return PARTS[canonical.decode(body, 64)[1]]

    async def story(swarm: Swarm) -> None:
        asker = await swarm.start(0)
        await swarm.liar(1, lists=honest_list(), chunks=busy)
        if ends:
            assert await asker.fetch(CID, LIMIT, agents(1)) == DATA
        else:
            with pytest.raises(BlobUnavailable, match="later"):
                await asker.fetch(CID, LIMIT, agents(1))
            assert calls < 2 * MAX_BUSY

    play(tmp_path, story)


def test_a_greedy_peer_is_refused_beyond_its_share(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        holder = await swarm.start(0)
        await swarm.start(1)
        await holder.put(DATA)
        replies: list[object] = []

        async def grab() -> None:
            body = canonical.encode([CID, 0])
            try:
                replies.append(await swarm.nodes[1].request(identity(0).agent, GET, body))
            except RequestRefused as error:
                replies.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(grab)
        assert replies.count(PARTS[0]) == PER_AGENT
        assert replies.count(RefusalCode.OVERLOADED) == 20 - PER_AGENT
        assert holder.counters.chunks_refused == 20 - PER_AGENT

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("method", "question"),
    [
        (LIST, b"\xc1"),
        (LIST, []),
        (LIST, [b"x"]),
        (LIST, [record_cid(b"x")]),
        (LIST, [CID, 0]),
        (GET, [CID]),
        (GET, [CID, -1]),
        (GET, [CID, True]),
        (GET, [CID, b"0"]),
        (LIST, [CID + bytes(100)]),
    ],
)
def test_a_malformed_question_is_refused(tmp_path: Path, method: str, question: object) -> None:
    async def story(swarm: Swarm) -> None:
        await swarm.start(0)
        await swarm.start(1)
        body = question if isinstance(question, bytes) else canonical.encode(question)
        with pytest.raises(RequestRefused) as caught:
            await swarm.nodes[1].request(identity(0).agent, method, body)
        assert caught.value.code == RefusalCode.BAD_REQUEST

    play(tmp_path, story)


def test_a_blob_that_does_not_fit_or_a_full_disk_is_the_stores_own_error(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        holder = await swarm.start(0)
        asker = await swarm.start(1, quota=4 * CHUNK)
        await holder.put(DATA)
        with pytest.raises(BlobsFull):
            await asker.fetch(CID, LIMIT, agents(0))
        small = await holder.put(content(CHUNK, 3))

        def keep(*_: object) -> bool:
            raise DiskFull(Path("part"), "no space left")

        asker.store.keep = keep  # type: ignore[method-assign, assignment]
        with pytest.raises(DiskFull):
            await asker.fetch(small.cid, LIMIT, agents(0))

    play(tmp_path, story)


def test_bitmaps_say_which_chunks_are_there() -> None:
    for count in (1, 7, 8, 9, 200):
        for missing in (set(), {0}, {count - 1}, set(range(count))):
            has = read_bitmap(count, bitmap(count, frozenset(missing)))
            assert (set(range(count)) if has is None else has) == set(range(count)) - missing
    with pytest.raises(BitmapError):
        read_bitmap(8, b"\0\0")
    with pytest.raises(BitmapError):
        read_bitmap(7, b"\x80")


def test_fetches_that_trickle_give_their_places_to_those_that_wait_and_end_all_the_same(
    tmp_path: Path,
) -> None:
    """One peer that serves as slowly as it may cannot occupy all places for as long as it likes."""
    blobs = {
        chunk_list(data).cid: data for data in (content(5 * CHUNK, seed) for seed in range(1, FETCHES + 1))
    }

    async def lists(_sender: bytes, body: bytes) -> bytes:
        return canonical.encode([chunk_list(blobs[canonical.decode(body, 64)[0]]).encode(), b""])

    async def chunks(_sender: bytes, body: bytes) -> bytes:
        cid, index = canonical.decode(body, 64)
        await trio.sleep(9)
        return blobs[cid][index * CHUNK : (index + 1) * CHUNK]

    async def story(swarm: Swarm) -> None:
        await swarm.start(0)
        await swarm.liar(1, lists=lists, chunks=chunks)
        asker = await swarm.start(2)
        await swarm.services[0].put(DATA)
        async with trio.open_nursery() as nursery:
            for cid in blobs:
                nursery.start_soon(asker.fetch, cid, LIMIT, agents(1))
            await trio.sleep(1)
            began = trio.current_time()
            assert await asker.fetch(CID, LIMIT, agents(0)) == DATA
            assert trio.current_time() - began <= 2 * LOOK_S
            assert asker.counters.yielded
        for cid, data in blobs.items():
            assert await asker.fetch(cid, LIMIT, []) == data

    play(tmp_path, story)


def test_serving_keeps_to_its_bytes_a_second(tmp_path: Path) -> None:
    async def story(swarm: Swarm) -> None:
        holder, asker = await swarm.start(0), await swarm.start(1)
        size = SERVE_EACH.burst + 4 * SERVE_EACH.per_second
        data = content(int(size), 3)
        info = await holder.put(data)
        began = trio.current_time()
        await asker.fetch_to_disk(info.cid, 2 * LIMIT, agents(0))
        took = trio.current_time() - began
        assert 3.5 <= took <= 8, "the burst at once, the rest at the pace"

    play(tmp_path, story)
