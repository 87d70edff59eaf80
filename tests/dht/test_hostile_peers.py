"""Hostile peers against the real adapter: whatever they say, at whatever layer, the honest are answered and
nothing is left of them.

"Answered" is counted in requests that complete while the attack goes on; the time-outs here only tell a
hanging test from a running one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.keys import KeyType
from libp2p.crypto.rsa import create_new_key_pair as create_rsa_pair
from libp2p.crypto.serialization import key_type_to_public_key_deserializer
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from multiaddr import Multiaddr

from dht.errors import FrameError, NetworkError, PeerUnreachable
from dht.network import PeerDown, PeerId, PeerUp
from dht.ports import SystemClock
from dht.wire.frames import Frame, FrameDecoder, Request, Response, encode_frame
from dht.wire.libp2p_network import LibP2PNetwork, open_libp2p_network
from dht.wire.libp2p_transport import PROTOCOL, Transport
from dht.wire.limits import DEFAULT_LIMITS
from dht.wire.mux_guard import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW
from dht.wire.pace import Rate
from tests.dht.attackers import (
    GONE,
    HANG,
    LAWLESS,
    Mux,
    frames_to,
    honest,
    key,
    mux_to,
    noise_to,
    port_of,
    settled,
    socket_to,
    until_closed,
    victim,
    write_all,
)

Attack = Callable[[LibP2PNetwork], Awaitable[None]]
QUICK = replace(DEFAULT_LIMITS, connect_timeout=0.4, stream_timeout=0.3, frame_timeout=0.3, write_timeout=0.3)
"""Default limits with a short patience, so that waiting for its end is quick."""
SLOW = pytest.mark.slow
MULTISTREAM = b"\x13/multistream/1.0.0\n"


@asynccontextmanager
async def attacked(target: LibP2PNetwork, *attacks: Attack) -> AsyncIterator[None]:
    """Run the attacks beside the block; those that end are started again."""

    async def go_on(attack: Attack) -> None:
        while True:
            with suppress(*GONE):
                await attack(target)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for attack in attacks:
            nursery.start_soon(go_on, attack)
        yield
        nursery.cancel_scope.cancel()


async def nothing_is_left(target: LibP2PNetwork) -> None:
    """All connections and all memory come back."""
    for gauge in ("connections", "handshakes", "held_bytes"):
        await settled(target, gauge, 0)


# Slow ones


async def drip(write: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    """One byte at a time, as long as the other side lets us."""
    for at in range(len(data)):
        await write(data[at : at + 1])
        await trio.sleep(0.01)


@pytest.mark.parametrize(
    "layer",
    ["noise", "frame", *(pytest.param(layer, marks=SLOW) for layer in ("header", "body", "frame length"))],
)
async def test_a_message_that_trickles_costs_the_connection(layer: str) -> None:
    async with victim(QUICK) as a:
        events = a.events()
        mux = await mux_to(a)
        try:
            if layer == "noise":
                data = b"\xff\xff" + bytes(1000)
            elif layer == "header":
                data = HEADER.pack(0, PING, SYN, 0, 1)[:11]
            elif layer == "body":
                await mux.open()
                data = HEADER.pack(0, DATA, 0, 1, 1000) + bytes(1000)
            else:
                await mux.open()
                whole = encode_frame(Request(1, "echo", bytes(1000)))
                data = whole[:3] if layer == "frame length" else whole

            async def write(piece: bytes) -> None:
                if layer == "noise":
                    await mux.raw.write(piece)
                elif layer in ("header", "body"):
                    await mux.send(piece)
                else:
                    await mux.data(1, piece)

            async with honest(a) as ask:
                with suppress(*GONE):
                    await drip(write, data)
                await ask(10)
            with trio.fail_after(HANG):
                while await events.receive() != PeerDown(key(99)):
                    pass
            assert a.counters()["bad_frames"] == 1
        finally:
            mux.abort()
        await nothing_is_left(a)


async def test_a_handshake_that_trickles_ends_in_time_and_holds_nobody_up() -> None:
    async with victim(QUICK) as a:

        async def slow(_target: LibP2PNetwork) -> None:
            async with socket_to(a) as stream:
                await drip(stream.send_all, MULTISTREAM + b"\x07/noise\n" + b"\x00\x20" + bytes(1000))

        async with attacked(a, *[slow] * 20):
            await settled(a, "handshakes", 20)
            async with honest(a) as ask:
                await ask(20)
            await settled(a, "handshake_failures", 20, most=True)
        await nothing_is_left(a)


async def test_a_negotiation_that_trickles_costs_its_stream_only() -> None:
    async with victim(QUICK) as a:
        mux = await mux_to(a)
        try:
            for stream in (1, 3, 5):
                await mux.frame(WINDOW, SYN, stream, 0)
                await mux.data(stream, MULTISTREAM[:5])
            await mux.open(7)
            await mux.frames(7, Request(1, "echo", b"still here"))
            wanted = [HEADER.pack(0, WINDOW, RST, stream, 0) for stream in (1, 3, 5)]
            said = bytearray()
            with trio.fail_after(HANG):
                while not all(word in said for word in (b"still here", *wanted)):
                    said += await mux.session.read()
            assert a.connected() == (key(99),)
        finally:
            mux.abort()
        await nothing_is_left(a)


# What is too large


async def varint_flood(mux: Mux, line: bytes) -> None:
    """A line of 2**63 bytes, and then as many of them as are taken."""
    await mux.send(line)
    for _ in range(1000):
        await mux.send(bytes(60_000))


async def test_a_line_of_any_length_may_be_announced_and_none_is_stored() -> None:
    huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    async with victim(QUICK) as a:
        noise = await noise_to(a)
        with pytest.raises(GONE):
            await varint_flood(Mux(noise.raw, noise.session), MULTISTREAM + huge)
        noise.abort()
        await settled(a, "handshake_failures", 1)
        for opening in (huge, b"\x02a\n" * 2000, b"\x00" * 5000):
            async with socket_to(a) as stream:
                with suppress(*GONE):
                    await stream.send_all(MULTISTREAM + opening)
                await until_closed(stream)
        await settled(a, "handshake_failures", 4)
        assert a.counters()["bytes_in"] == 0
        await nothing_is_left(a)


@pytest.mark.parametrize(
    "header",
    [
        (0, DATA, 0, 1, (1 << 32) - 1),
        (0, DATA, 0, 1, DEFAULT_LIMITS.stream_window + 1),
        (0, DATA, SYN, 3, DEFAULT_LIMITS.stream_window + 1),
        (0, DATA, ACK, 1, DEFAULT_LIMITS.stream_window + 1),
        (0, DATA, 0, 77, 2 * DEFAULT_LIMITS.stream_window + 1),
        (0, WINDOW, SYN, 2, 0),
        (0, WINDOW, SYN, 0, 0),
        (0, PING, SYN, 5, 0),
        (0, 7, 0, 0, 0),
        (1, PING, SYN, 0, 0),
        (0, PING, 0x4000, 0, 0),
        HEADER.unpack(b"GET / HTTP/1"),
        HEADER.unpack(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00"),
    ],
)
async def test_a_header_that_breaks_the_rules_costs_the_connection(header: tuple[int, ...]) -> None:
    async with victim() as a:
        events = a.events()
        mux = await mux_to(a)
        await mux.open()
        await mux.send(HEADER.pack(*header))
        with trio.fail_after(HANG):
            assert await mux.drain() >= 0
            assert [await events.receive(), await events.receive()] == [PeerUp(key(99)), PeerDown(key(99))]
        assert a.counters()["bad_frames"] == 1
        await nothing_is_left(a)


async def test_unread_stream_data_counts_as_memory_and_is_bounded() -> None:
    """A peer beyond its pace is read slowly: what it piles up meanwhile, on all its streams, has a bound."""
    limits = replace(DEFAULT_LIMITS, held_bytes=1 << 20, requests=Rate(per_second=1, burst=1))
    async with victim(limits) as a:
        mux = await mux_to(a)
        tiny = b"".join(encode_frame(Request(n, "x", b"")) for n in range(5000))
        with suppress(*GONE):
            for stream in range(1, 1 + 2 * limits.streams, 2):
                await mux.open(stream)
                for _ in range(4):
                    await mux.data(stream, tiny[:60_000])
                assert a.gauges()["held_bytes"] <= 1 << 20
        with trio.fail_after(HANG):
            await mux.drain()
        assert a.counters()["dropped"] == 1
        await nothing_is_left(a)


# Another protocol


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        bytes(range(256)) * 40,
        MULTISTREAM + b"\x0b/tls/1.0.0\n" * 3,
    ],
)
async def test_another_protocol_gets_no_further_than_the_door(opening: bytes) -> None:
    async with victim(QUICK) as a, socket_to(a) as stream:
        with suppress(*GONE):
            await stream.send_all(opening)
        assert len(await until_closed(stream)) < 100
        await settled(a, "handshake_failures", 1)
        assert a.counters()["accepted"] == 0
        await nothing_is_left(a)


async def test_a_stock_libp2p_host_that_wants_something_else_keeps_its_connection() -> None:
    async with victim() as a:
        host = new_host(connection_config=ConnectionConfig(min_connections=0, low_watermark=0))
        peer = info_from_p2p_addr(Multiaddr(a.addresses[0]))
        async with host.run([]):
            await host.connect(peer)
            for wanted in ("/ipfs/ping/1.0.0", "/ipfs/kad/1.0.0", "/floodsub/1.0.0"):
                with pytest.raises(StreamFailure):
                    await host.new_stream(peer.peer_id, [TProtocol(wanted)])
            stream = await host.new_stream(peer.peer_id, [PROTOCOL])
            await stream.write(encode_frame(Request(5, "echo", b"hello")))
            decoder = FrameDecoder()
            frames: list[Frame] = []
            with trio.fail_after(HANG):
                while not frames:
                    frames = decoder.feed(await stream.read(4096))
            assert frames == [Response(5, b"hello")]
        await host.close()
        assert a.counters()["bad_frames"] == 0


@SLOW
async def test_an_identity_that_is_no_ed25519_key_is_refused_before_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Importing and checking an RSA key takes as long as a hundred requests."""
    pair = create_rsa_pair(2048)
    looked_at: list[bytes] = []
    monkeypatch.setitem(key_type_to_public_key_deserializer, KeyType.RSA.value, looked_at.append)
    async with victim() as a:
        transport = Transport(key_seed(9), LAWLESS)
        noise = NoiseTransport(pair, noise_privkey=create_noise_pair().private_key)
        transport._security = SecurityMultistream({NOISE: noise})
        with pytest.raises(PeerUnreachable), trio.fail_after(HANG):
            await transport.secure(await trio.open_tcp_stream("127.0.0.1", port_of(a)), initiator=True)
        await settled(a, "handshake_failures", 1)
    assert looked_at == []


# Floods


async def ping_flood(a: LibP2PNetwork) -> None:
    mux = await mux_to(a)
    try:
        while True:
            await mux.send(HEADER.pack(0, PING, SYN, 0, 1) * 5000)
    finally:
        mux.abort()


async def window_flood(a: LibP2PNetwork) -> None:
    mux = await mux_to(a)
    try:
        await mux.open()
        while True:
            await mux.send(HEADER.pack(0, WINDOW, 0, 1, (1 << 32) - 1) * 5000)
    finally:
        mux.abort()


async def crumb_flood(a: LibP2PNetwork) -> None:
    """Yamux frames cut into Noise messages of one byte."""
    mux = await mux_to(a)
    try:
        ping = HEADER.pack(0, PING, ACK, 0, 1)
        while True:
            for at in range(len(ping)):
                await mux.send(ping[at : at + 1])
    finally:
        mux.abort()


async def stream_flood(a: LibP2PNetwork) -> None:
    """Streams opened and reset at once."""
    mux = await mux_to(a)
    try:
        stream = 1
        while True:
            batch = bytearray()
            for _ in range(500):
                batch += HEADER.pack(0, WINDOW, SYN, stream, 0) + HEADER.pack(0, WINDOW, RST, stream, 0)
                stream += 2
            await mux.send(bytes(batch))
    finally:
        mux.abort()


async def tiny_flood(a: LibP2PNetwork) -> None:
    """The smallest requests there are, for a method that does not exist, answers drained."""
    async with frames_to(a) as secure:
        stream = await secure.open()
        tiny = b"".join(encode_frame(Request(n, "x", b"")) for n in range(4000))

        async def drain() -> None:
            while await stream.read():
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            while True:
                await write_all(stream, tiny)


async def half_open_flood(a: LibP2PNetwork) -> None:
    """All streams that are allowed, none of which ever says a word."""
    mux = await mux_to(a)
    try:
        for stream in range(1, 1 + 2 * DEFAULT_LIMITS.streams, 2):
            await mux.frame(WINDOW, SYN, stream, 0)
        await mux.drain()
    finally:
        mux.abort()


FLOODS = [
    ping_flood,
    tiny_flood,
    *(
        pytest.param(flood, marks=SLOW)
        for flood in (window_flood, crumb_flood, stream_flood, half_open_flood)
    ),
]


@pytest.mark.parametrize("flood", FLOODS)
async def test_the_honest_are_answered_while_a_flood_goes_on(flood: Attack) -> None:
    limits = replace(QUICK, units=Rate(2000, 1000), requests=Rate(500, 1000))
    async with victim(limits) as a:
        async with honest(a) as ask:
            before = a.counters()
            async with attacked(a, flood, flood):
                await settled(a, "accepted", before["accepted"] + 2, most=True)
                await ask(100)
                flooded = a.counters()["requests_in"] - 100
                assert flooded <= 100 * 400, "between two honest requests a few hundred others are looked at"
                with trio.fail_after(HANG):
                    while flood is not half_open_flood and a.counters()["slowed"] == 0:
                        await ask(10)
        await nothing_is_left(a)


async def test_a_peer_beyond_its_pace_is_read_more_slowly_and_loses_nothing() -> None:
    limits = replace(DEFAULT_LIMITS, requests=Rate(per_second=400, burst=50))
    async with victim(limits) as a, open_libp2p_network(key_seed(5), (), SystemClock()) as eager:
        await eager.dial(a.addresses[0], HANG)
        done = 0

        async def ask() -> None:
            nonlocal done
            for _ in range(5):
                await eager.request(a.local, "echo", b"", HANG)
                done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask)
        assert done == 200
        assert a.counters()["slowed"] > 0
        assert a.counters()["refused_in"] == 0


def key_seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def test_slow_requests_of_many_peers_leave_places_for_others() -> None:
    limits = replace(DEFAULT_LIMITS, handlers=32, handlers_per_peer=16)
    async with victim(limits) as a, AsyncExitStack() as stack:

        async def hang(_sender: PeerId, body: bytes) -> bytes:
            await trio.sleep_forever()
            return body

        a.register("hang", hang)
        for number in range(20, 28):
            secure = await stack.enter_async_context(frames_to(a, number))
            stream = await secure.open()
            await write_all(stream, b"".join(encode_frame(Request(n, "hang", b"")) for n in range(100)))
        await settled(a, "requests_in", 800)
        assert a.counters()["refused_in"] > 700
        async with honest(a) as ask:
            await ask(100)
        assert a.counters()["refused_in"] < 800, "some were let in"


@pytest.mark.parametrize(
    "frames",
    [
        [Request(1, "hang", b""), Request(1, "hang", b"")],
        [Response(1, b"answer to nothing")],
        [Request(1, "hang", b""), Response(1, b"to itself")],
    ],
)
async def test_a_question_asked_twice_or_an_answer_out_of_place_costs_the_connection(
    frames: list[Request | Response],
) -> None:
    async with victim() as a:

        async def hang(_sender: PeerId, body: bytes) -> bytes:
            await trio.sleep_forever()
            return body

        a.register("hang", hang)
        mux = await mux_to(a)
        await mux.open()
        await mux.frames(1, *frames)
        with trio.fail_after(HANG):
            await mux.drain()
        assert a.counters()["bad_frames"] == 1
        await nothing_is_left(a)


@pytest.mark.parametrize("answers", [[7], [0, 0], [0, 7]])
async def test_a_peer_that_answers_what_was_not_asked_is_dropped(answers: list[int]) -> None:
    """We ask one request, whose id is 0; the peer answers something else, or twice."""
    async with victim() as a, frames_to(a) as secure:
        await settled(a, "connections", 1)
        muxed = secure._muxed
        outcome: list[object] = []

        async def ask() -> None:
            try:
                outcome.append(await a.request(key(99), "anything", b"", HANG))
            except NetworkError as error:
                outcome.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with trio.fail_after(HANG):
                while not any(stream % 2 == 0 for stream in muxed.streams):
                    await trio.testing.wait_all_tasks_blocked(0.001)
                number = next(stream for stream in muxed.streams if stream % 2 == 0)
                stream = muxed.streams[number]
                await stream.write(MULTISTREAM + bytes([len(PROTOCOL) + 1]) + PROTOCOL.encode() + b"\n")
                await stream.write(b"".join(encode_frame(Response(n, b"!")) for n in answers))
                await settled(a, "bad_frames", 1)
        assert len(outcome) == 1
        assert outcome == [b"!"] or not isinstance(outcome[0], (bytes, FrameError))
        await nothing_is_left(a)


async def test_a_peer_that_asks_and_never_reads_is_dropped_with_all_that_waits_for_it() -> None:
    async with victim(replace(QUICK, queue_bytes=4 << 20)) as a:

        async def much(_sender: PeerId, _body: bytes) -> bytes:
            return bytes(100_000)

        a.register("much", much)
        mux = await mux_to(a)  # no window is ever given
        await mux.open()
        await mux.frames(1, *(Request(n, "much", b"") for n in range(60)))
        async with honest(a) as ask:
            await ask(20)
        await settled(a, "dropped", 1)
        await nothing_is_left(a)
        mux.abort()


@SLOW
async def test_when_memory_runs_out_those_who_hold_most_of_it_go() -> None:
    """Frames begun and not ended, by ten peers, in more bytes than there are: an honest body passes."""
    limits = replace(DEFAULT_LIMITS, held_bytes=4 << 20)
    big = encode_frame(Request(1, "echo", bytes(1 << 20)))[:-1]

    async def hoard(a: LibP2PNetwork, number: int) -> None:
        async with frames_to(a, number) as secure:
            with suppress(*GONE):
                await write_all(await secure.open(), big)
                await trio.sleep_forever()

    async with (
        victim(limits) as a,
        open_libp2p_network(key_seed(7), (), SystemClock()) as network,
        trio.open_nursery() as nursery,
    ):
        for number in range(20, 30):
            nursery.start_soon(hoard, a, number)
        with trio.fail_after(HANG):
            while a.counters()["evicted"] + a.counters()["dropped"] < 6:
                await trio.testing.wait_all_tasks_blocked(0.001)
        await network.dial(a.addresses[0], HANG)
        for _ in range(5):
            body = bytes(300_000)
            assert await network.request(a.local, "echo", body, HANG) == body
        assert a.counters()["evicted"] + a.counters()["dropped"] <= 10
        assert a.gauges()["held_bytes"] <= 4 << 20
        nursery.cancel_scope.cancel()


# Connections that come to nothing, and too many of them


async def test_a_silent_crowd_displaces_itself_and_not_the_honest() -> None:
    limits = replace(DEFAULT_LIMITS, handshakes=8)
    async with victim(limits) as a, AsyncExitStack() as stack:
        for _ in range(60):
            await stack.enter_async_context(socket_to(a))
        await settled(a, "handshake_failures", 52)
        for number in range(5):
            async with honest(a, 100 + number) as ask:
                await ask(1)
        assert a.gauges()["handshakes"] <= 8


async def test_a_source_that_connects_too_quickly_is_turned_away_unread() -> None:
    limits = replace(DEFAULT_LIMITS, arrivals=Rate(per_second=0.001, burst=10))
    async with victim(limits) as a, honest(a) as ask:
        for _ in range(50):
            async with socket_to(a):
                pass
        await settled(a, "turned_away", 41)
        await ask(10)
        await settled(a, "handshake_failures", 50)


@SLOW
async def test_strangers_make_room_before_peers_whose_address_is_verified() -> None:
    limits = replace(DEFAULT_LIMITS, connections=6)
    async with victim(limits) as a, honest(a) as ask, AsyncExitStack() as stack:
        await ask(1)
        for number in range(30, 50):
            secure = await stack.enter_async_context(frames_to(a, number))
            stream = await secure.open()
            await stream.write(encode_frame(Request(1, "echo", b"I am busy, too")))
        await settled(a, "accepted", 21)
        assert a.gauges()["connections"] == 6
        assert key(7) in a.connected()
        await ask(10)


async def test_half_closed_connections_and_streams_end() -> None:
    async with victim(QUICK) as a:
        async with socket_to(a) as stream:
            await stream.send_eof()
            await until_closed(stream)
        await settled(a, "handshake_failures", 1)
        mux = await mux_to(a)
        await mux.open(1)
        await mux.frame(WINDOW, FIN, 1, 0)
        await mux.open(3)
        await mux.frame(DATA, FIN, 3, 0)
        await mux.frame(DATA, SYN | FIN, 5, 0)
        await mux.frame(DATA, SYN | RST, 7, 0)
        await mux.open(9)
        await mux.frames(9, Request(1, "echo", b"after all that"))
        said = bytearray()
        with trio.fail_after(HANG):
            while b"after all that" not in said:
                said += await mux.session.read()
        await mux.frame(GO_AWAY, 0, 0, 0)
        with trio.fail_after(HANG):
            await mux.drain()
        await nothing_is_left(a)
        assert a.counters()["bad_frames"] == 0
