"""The real network over loopback: what it promises to honest peers, and what hostile ones cost it."""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from chain.identity import peer_id
from dht.errors import (
    AddressError,
    FrameError,
    ListenError,
    PeerUnreachable,
    RefusalCode,
    RequestRefused,
    RequestTimeout,
)
from dht.network import EVENT_BACKLOG, MAX_BODY, Network, PeerDown, PeerEvent, PeerId, PeerUp
from dht.ports import SystemClock
from dht.wire.exchange import ByteStream
from dht.wire.frames import MAX_ID, Frame, FrameDecoder, Request, Response, encode_frame
from dht.wire.libp2p_network import LibP2PNetwork, open_libp2p_network
from dht.wire.libp2p_transport import PROTOCOL, SecureConnection, Transport, _Socket
from dht.wire.limits import DEFAULT_LIMITS, Limits
from dht.wire.pace import Rate

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
HANG = 10.0
"""Seconds after which a test that waits for something counts as hung."""


class SteppedClock:
    """A clock that tests move."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return 0


def seed(number: int) -> bytes:
    return bytes([number]) * 32


async def echo(_sender: PeerId, body: bytes) -> bytes:
    return body


@asynccontextmanager
async def networks(
    count: int, limits: Limits = DEFAULT_LIMITS, **options: object
) -> AsyncIterator[list[LibP2PNetwork]]:
    """`count` networks with an echo method, all knowing each other's addresses."""
    async with AsyncExitStack() as stack:
        made = []
        for number in range(1, count + 1):
            opened = open_libp2p_network(seed(number), [LOOPBACK], SystemClock(), limits=limits)
            made.append(await stack.enter_async_context(opened))
        for one in made:
            one.register("echo", echo)
            for other in made:
                one.learn(other.local, other.addresses)
        yield made


@asynccontextmanager
async def raw_peer(target: LibP2PNetwork, number: int = 99) -> AsyncIterator[SecureConnection]:
    """An authenticated connection to `target` that follows no rule of ours."""
    transport = Transport(seed(number), replace(DEFAULT_LIMITS, streams=1000))
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(target))
    secure = await transport.secure(stream, initiator=True)

    async def ignore(_stream: ByteStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(secure.run, ignore)
        yield secure
        nursery.cancel_scope.cancel()


def port_of(network: LibP2PNetwork) -> int:
    return int(network.addresses[0].split("/")[4])


async def expect(events: trio.MemoryReceiveChannel[PeerEvent], *wanted: PeerEvent) -> None:
    with trio.fail_after(HANG):
        for event in wanted:
            assert await events.receive() == event


async def settled(network: LibP2PNetwork, name: str, value: int) -> None:
    with trio.fail_after(HANG):
        while (network.counters() | network.gauges())[name] != value:
            await trio.testing.wait_all_tasks_blocked(0.001)


# Asking and answering


async def test_a_request_is_answered_and_both_know_who_the_other_is() -> None:
    async with networks(2) as (a, b):
        port: Network = a
        senders = []

        async def whoami(sender: PeerId, body: bytes) -> bytes:
            senders.append(sender)
            return body[::-1]

        b.register("reverse", whoami)
        assert await port.request(b.local, "reverse", b"abc", HANG) == b"cba"
        assert senders == [a.local]
        assert a.connected() == (b.local,)
        assert b.connected() == (a.local,)
        assert a.addresses[0].endswith(f"/p2p/{peer_id(a.local)}")


async def test_bodies_up_to_the_limit_pass_and_larger_ones_are_not_sent() -> None:
    async with networks(2) as (a, b):
        for size in (0, 1, 70_000, 600_000, MAX_BODY):
            body = os.urandom(size)
            assert await a.request(b.local, "echo", body, HANG) == body
        with pytest.raises(FrameError, match="echo"):
            await a.request(b.local, "echo", bytes(MAX_BODY + 1), HANG)
        assert a.connected() == (b.local,)


async def test_many_requests_share_one_dial_and_come_back_to_their_askers() -> None:
    async with networks(2) as (a, b):
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            answers[number] = await a.request(b.local, "echo", b"%d" % number, HANG)

        async with trio.open_nursery() as nursery:
            for number in range(DEFAULT_LIMITS.in_flight):
                nursery.start_soon(ask, number)
        assert answers == {number: b"%d" % number for number in range(DEFAULT_LIMITS.in_flight)}
        assert a.counters()["dials"] == 1
        assert b.counters()["accepted"] == 1


async def test_slow_answers_do_not_hold_up_quick_ones() -> None:
    async with networks(2) as (a, b):
        quick_done = trio.Event()

        async def slow(_sender: PeerId, body: bytes) -> bytes:
            await quick_done.wait()
            return body

        b.register("slow", slow)
        order = []

        async def ask(method: str) -> None:
            await a.request(b.local, method, b"", HANG)
            order.append(method)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "slow")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await ask("echo")
            quick_done.set()
        assert order == ["echo", "slow"]


@pytest.mark.slow
async def test_two_peers_that_dial_each_other_at_once_both_get_through_and_keep_one_connection() -> None:
    both = 0
    for _ in range(3):
        async with networks(2) as (a, b):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(a.request, b.local, "echo", b"from a", HANG)
                    nursery.start_soon(b.request, a.local, "echo", b"from b", HANG)
            both += a.gauges()["connections"] == b.gauges()["connections"] == 2
            for one, other in ((a, b), (b, a)):
                await settled(one, "connections", 1)
                assert one.connected() == (other.local,)
                assert await one.request(other.local, "echo", b"again", HANG) == b"again"
            assert a.counters()["dials"] == b.counters()["dials"] == 1
    assert both, "the dials were never simultaneous: the test shows nothing"


async def test_a_node_without_a_listener_asks_and_is_asked_over_what_it_dialled() -> None:
    async with networks(1) as (a,), open_libp2p_network(seed(7), (), SystemClock()) as quiet:
        quiet.register("echo", echo)
        assert quiet.addresses == ()
        assert await quiet.dial(a.addresses[0], HANG) == a.local
        assert await quiet.request(a.local, "echo", b"out", HANG) == b"out"
        assert await a.request(quiet.local, "echo", b"back", HANG) == b"back"


async def test_dialling_without_a_peer_id_tells_who_answered() -> None:
    async with networks(2) as (a, b):
        assert await a.dial(f"/ip4/127.0.0.1/tcp/{port_of(b)}", HANG) == b.local


async def test_a_stock_libp2p_host_can_ask_us() -> None:
    async with networks(1) as (a,):
        config = ConnectionConfig(min_connections=0, low_watermark=0)
        host = new_host(connection_config=config)
        async with host.run([]):
            await host.connect(info_from_p2p_addr(Multiaddr(a.addresses[0])))
            stream = await host.new_stream(info_from_p2p_addr(Multiaddr(a.addresses[0])).peer_id, [PROTOCOL])
            await stream.write(encode_frame(Request(5, "echo", b"hello")))
            decoder = FrameDecoder()
            frames: list[Frame] = []
            with trio.fail_after(HANG):
                while not frames:
                    frames = decoder.feed(await stream.read(4096))
            assert frames == [Response(5, b"hello")]
        await host.close()


# Refusals


async def test_unknown_methods_refusals_and_handler_errors_come_back_as_codes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with networks(2) as (a, b):

        async def forbid(_sender: PeerId, _body: bytes) -> bytes:
            raise RequestRefused(RefusalCode.FORBIDDEN, "not for you")

        async def fail(_sender: PeerId, _body: bytes) -> bytes:
            raise KeyError("a bug")

        async def wrong(_sender: PeerId, _body: bytes) -> bytes:
            return bytes(MAX_BODY + 1)

        b.register("forbid", forbid)
        b.register("fail", fail)
        b.register("wrong", wrong)
        expected = {
            "nothing": RefusalCode.UNKNOWN_METHOD,
            "forbid": RefusalCode.FORBIDDEN,
            "fail": RefusalCode.INTERNAL,
            "wrong": RefusalCode.INTERNAL,
        }
        with caplog.at_level(logging.ERROR):
            for method, code in expected.items():
                with pytest.raises(RequestRefused) as refused:
                    await a.request(b.local, method, b"", HANG)
                assert refused.value.code == code
                if method == "forbid":
                    assert refused.value.reason == "not for you"
                if method == "fail":
                    assert "a bug" not in refused.value.reason
        assert "KeyError: 'a bug'" in caplog.text
        assert await a.request(b.local, "echo", b"alive", HANG) == b"alive"
        assert b.counters()["refused_in"] == 4


async def test_a_method_has_one_handler_and_a_sane_name() -> None:
    async with networks(1) as (a,):
        with pytest.raises(ValueError, match="echo"):
            a.register("echo", echo)
        with pytest.raises(FrameError):
            a.register("", echo)


async def test_too_many_requests_are_refused_on_both_sides() -> None:
    async with networks(2, replace(DEFAULT_LIMITS, handlers_per_peer=2, in_flight=3)) as (a, b):
        release = trio.Event()
        codes: list[int] = []

        async def wait(_sender: PeerId, body: bytes) -> bytes:
            await release.wait()
            return body

        b.register("wait", wait)

        async def ask() -> None:
            try:
                await a.request(b.local, "wait", b"", HANG)
            except RequestRefused as refused:
                codes.append(refused.code)

        await a.request(b.local, "echo", b"", HANG)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await settled(b, "refused_in", 1)
            assert codes == [RefusalCode.OVERLOADED], "the third is refused by the peer"
            nursery.start_soon(ask)
            await settled(b, "refused_in", 2)
            for _ in range(5):
                nursery.start_soon(ask)
            await settled(a, "refused_out", 4)
            release.set()
        assert len(codes) == 7
        assert set(codes) == {RefusalCode.OVERLOADED}
        assert await a.request(b.local, "echo", b"after", HANG) == b"after"


async def test_a_handler_that_takes_too_long_is_cancelled() -> None:
    async with networks(2, replace(DEFAULT_LIMITS, handler_timeout=0.05)) as (a, b):

        async def hang(_sender: PeerId, _body: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        b.register("hang", hang)
        with pytest.raises(RequestRefused, match="too long"):
            await a.request(b.local, "hang", b"", HANG)


# Time-outs and cancellation


async def test_cancelled_requests_free_their_slot_and_their_late_replies_are_dropped() -> None:
    async with networks(2, replace(DEFAULT_LIMITS, in_flight=1)) as (a, b):
        release = trio.Event()

        async def wait(_sender: PeerId, body: bytes) -> bytes:
            await release.wait()
            return body

        b.register("wait", wait)
        for _ in range(3):
            with pytest.raises(RequestTimeout, match="wait"):
                await a.request(b.local, "wait", b"late", 0.05)
        assert await a.request(b.local, "echo", b"now", HANG) == b"now"
        release.set()
        await settled(a, "late", 3)
        assert a.gauges()["held_bytes"] == 0
        assert b.gauges()["held_bytes"] == 0


async def test_requests_in_flight_fail_at_once_when_their_peer_goes() -> None:
    async with networks(2) as (a, b):
        started = trio.Event()

        async def hang(_sender: PeerId, _body: bytes) -> bytes:
            started.set()
            await trio.sleep_forever()
            raise AssertionError

        b.register("hang", hang)
        events = a.events()
        began = trio.current_time()

        async def ask() -> None:
            with pytest.raises(PeerUnreachable):
                await a.request(b.local, "hang", b"", 600)

        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                nursery.start_soon(ask)
                await started.wait()
                await b.aclose()
        assert trio.current_time() - began < HANG
        await expect(events, PeerUp(b.local), PeerDown(b.local))
        assert a.connected() == ()


@asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """A port where connections are taken and never answered."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    try:
        yield listeners[0].socket.getsockname()[1]
    finally:
        for listener in listeners:
            await listener.aclose()


async def test_a_dead_peer_costs_one_time_out_then_fails_at_once_until_its_back_off_ends() -> None:
    clock = SteppedClock()
    limits = replace(DEFAULT_LIMITS, connect_timeout=0.3, backoff_first=10.0, attempt_delay=0.05)
    dead = b"\x05" * 32
    async with black_hole() as port, open_libp2p_network(seed(1), (), clock, limits=limits) as a:
        a.learn(dead, [f"/ip4/127.0.0.1/tcp/{port}", "/ip4/127.0.0.1/tcp/1"])

        async def ask() -> float:
            began = trio.current_time()
            with pytest.raises(PeerUnreachable):
                await a.request(dead, "echo", b"", 60)
            return trio.current_time() - began

        first: list[float] = []

        async def note() -> None:
            first.append(await ask())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(note)
        assert all(0.25 < took < 3 for took in first)
        assert a.counters()["dials"] == 2
        assert max([await ask() for _ in range(5)]) < 0.1
        assert a.counters()["dials"] == 2
        clock.now += 10.1
        assert await ask() > 0.25
        assert a.counters()["dials"] == 4


async def test_a_request_may_time_out_before_the_dial_that_others_share() -> None:
    limits = replace(DEFAULT_LIMITS, connect_timeout=HANG)
    async with black_hole() as port, open_libp2p_network(seed(1), (), SystemClock(), limits=limits) as a:
        a.learn(b"\x05" * 32, [f"/ip4/127.0.0.1/tcp/{port}"])
        with pytest.raises(RequestTimeout):
            await a.request(b"\x05" * 32, "echo", b"", 0.05)
        with pytest.raises(RequestTimeout, match=str(port)):
            await a.dial(f"/ip4/127.0.0.1/tcp/{port}", 0.05)


async def test_an_explicit_dial_may_take_longer_than_those_that_requests_share() -> None:
    async with (
        black_hole() as port,
        open_libp2p_network(
            seed(1), (), SystemClock(), limits=replace(DEFAULT_LIMITS, connect_timeout=0.05)
        ) as a,
    ):
        began = trio.current_time()
        with pytest.raises(RequestTimeout):
            await a.dial(f"/ip4/127.0.0.1/tcp/{port}", 0.3)
        assert trio.current_time() - began > 0.25


async def test_a_peer_without_address_and_the_node_itself_cannot_be_asked() -> None:
    async with networks(1) as (a,):
        with pytest.raises(PeerUnreachable, match="no address"):
            await a.request(b"\x05" * 32, "echo", b"", HANG)
        with pytest.raises(PeerUnreachable, match="itself"):
            await a.request(a.local, "echo", b"", HANG)
        with pytest.raises(PeerUnreachable):
            await a.dial(f"/ip4/127.0.0.1/tcp/{port_of(a)}", HANG)
        assert a.connected() == ()


async def test_a_peer_that_comes_to_us_ends_its_own_back_off() -> None:
    limits = replace(DEFAULT_LIMITS, backoff_first=600.0)
    async with networks(2, limits) as (a, b):
        port, other = port_of(b), b.local
        await b.aclose()
        a.learn(other, [f"/ip4/127.0.0.1/tcp/{port}"])
        with pytest.raises(PeerUnreachable):
            await a.request(other, "echo", b"", HANG)
        async with open_libp2p_network(seed(2), [f"/ip4/127.0.0.1/tcp/{port}"], SystemClock()) as again:
            again.register("echo", echo)
            events = a.events()
            await again.dial(a.addresses[0], HANG)
            await expect(events, PeerUp(other))
            assert await a.request(other, "echo", b"back", HANG) == b"back"


# Addresses and listening


async def test_another_peer_than_the_address_names_is_refused() -> None:
    async with networks(2) as (a, b):
        wrong = f"/ip4/127.0.0.1/tcp/{port_of(b)}/p2p/{peer_id(seed(9))}"
        with pytest.raises(AddressError, match=peer_id(b.local)):
            await a.dial(wrong, HANG)
        a.learn(b"\x06" * 32, [f"/ip4/127.0.0.1/tcp/{port_of(b)}"])
        with pytest.raises(PeerUnreachable, match="correct the address"):
            await a.request(b"\x06" * 32, "echo", b"", HANG)
        assert a.connected() == ()


@pytest.mark.parametrize("address", ["nonsense", "/ip4/127.0.0.1/tcp/0", "/ip4/1.2.3.4/udp/1/quic-v1"])
async def test_what_cannot_be_dialled_is_named(address: str) -> None:
    async with networks(1) as (a,):
        with pytest.raises(AddressError):
            await a.dial(address, HANG)


@pytest.mark.parametrize("reuse", [False, True])
async def test_a_taken_port_is_one_clear_error_even_when_its_owner_shares_ports(reuse: bool) -> None:
    with socket.socket() as taken:
        if reuse:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"tcp/{port}: the port is in use") as refused:
            async with open_libp2p_network(seed(1), [LOOPBACK, f"/ip4/127.0.0.1/tcp/{port}"], SystemClock()):
                pytest.fail("listened on a taken port")
        assert "\n" not in str(refused.value)


async def test_listening_needs_an_ip_address_of_this_machine() -> None:
    for address in ("/dns/localhost/tcp/0", "/ip4/192.0.2.1/tcp/0"):
        with pytest.raises(ListenError, match="cannot listen on"):
            async with open_libp2p_network(seed(1), [address], SystemClock()):
                pytest.fail("listened nowhere")


async def test_a_wildcard_listener_names_addresses_that_can_be_dialled() -> None:
    async with open_libp2p_network(seed(1), ["/ip4/0.0.0.0/tcp/0"], SystemClock()) as a:
        assert a.addresses
        assert all("/0.0.0.0/" not in address for address in a.addresses)
        async with open_libp2p_network(seed(2), (), SystemClock()) as b:
            assert await b.dial(a.addresses[0], HANG) == a.local
    announced = "/ip4/203.0.113.5/tcp/4001"
    async with open_libp2p_network(seed(1), [LOOPBACK], SystemClock(), announce=[announced]) as a:
        assert a.addresses == (f"{announced}/p2p/{peer_id(a.local)}",)


async def test_closing_leaves_no_listener_task_or_descriptor() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with networks(1) as (a,):
        port = 0
        before = open_files()
        for _ in range(50):
            async with open_libp2p_network(seed(2), [f"/ip4/127.0.0.1/tcp/{port}"], SystemClock()) as b:
                port = port_of(b)
                b.learn(a.local, a.addresses)
                await b.request(a.local, "echo", b"", HANG)
            with pytest.raises(OSError, match=str(port)):
                await trio.open_tcp_stream("127.0.0.1", port)
        await settled(a, "connections", 0)
        assert open_files() <= before + 1
        assert a.counters()["accepted"] == 50, "an ended connection gives its place back"


async def test_closing_twice_and_using_a_closed_network() -> None:
    async with networks(2) as (a, b):
        events = a.events()
        await a.aclose()
        await a.aclose()
        with pytest.raises(PeerUnreachable, match="closed"):
            await a.request(b.local, "echo", b"", HANG)
        with pytest.raises(trio.EndOfChannel):
            await events.receive()
        with pytest.raises(trio.EndOfChannel):
            await a.events().receive()


async def test_an_exception_of_the_block_is_not_wrapped() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_libp2p_network(seed(1), [LOOPBACK], SystemClock()):
            raise LookupError("mine")


async def test_opening_leaves_logging_as_it_was() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    async with networks(2) as (a, b):
        await a.request(b.local, "echo", b"", HANG)
    assert (list(root.handlers), root.level) == before


# Events


async def test_events_tell_first_and_last_connection_only_and_drop_the_oldest() -> None:
    async with networks(1) as (a,):
        patient, gone = a.events(), a.events()
        gone.close()
        rounds = EVENT_BACKLOG // 2 + 3
        for number in range(rounds):
            async with open_libp2p_network(seed(3), (), SystemClock()) as b:
                await b.dial(a.addresses[0], HANG)
                await settled(a, "accepted", number + 1)
            await settled(a, "connections", 0)
        assert patient.statistics().current_buffer_used == EVENT_BACKLOG
        for _ in range(EVENT_BACKLOG // 2):
            assert patient.receive_nowait() == PeerUp(b.local)
            assert patient.receive_nowait() == PeerDown(b.local)


# Hostile peers


async def still_serves(a: LibP2PNetwork) -> None:
    async with open_libp2p_network(seed(42), (), SystemClock()) as honest:
        await honest.dial(a.addresses[0], HANG)
        assert await honest.request(a.local, "echo", b"fine", HANG) == b"fine"


OVERSIZED = (2**31).to_bytes(4, "big")


@pytest.mark.parametrize(
    "garbage",
    [
        OVERSIZED,
        b"\0\0\0\0",
        b"\0\0\0\x05\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        encode_frame(Response(1, b"answer to nothing")),
    ],
)
async def test_a_bad_frame_costs_its_sender_the_connection(garbage: bytes) -> None:
    async with networks(1) as (a,):
        events = a.events()
        async with raw_peer(a) as peer:
            stream = await peer.open()
            await stream.write(garbage)
            await expect(events, PeerUp(seed_key(99)), PeerDown(seed_key(99)))
        assert a.counters()["bad_frames"] == 1
        assert a.gauges()["held_bytes"] == 0
        await still_serves(a)


def seed_key(number: int) -> PeerId:
    return Transport(seed(number), DEFAULT_LIMITS).local


@pytest.mark.parametrize("before", [0, 1])
async def test_an_unfinished_frame_costs_the_connection_after_its_time(before: int) -> None:
    async with networks(1, replace(DEFAULT_LIMITS, frame_timeout=0.2)) as (a,):
        events = a.events()
        async with raw_peer(a) as peer:
            stream = await peer.open()
            whole = encode_frame(Request(1, "echo", b"x" * 500))
            await stream.write(before * whole + whole[:100])
            await expect(events, PeerUp(seed_key(99)))
            began = trio.current_time()

            async def drip() -> None:  # one byte at a time does not prolong it
                while True:
                    await stream.write(b"x")
                    await trio.sleep(0.02)

            with trio.fail_after(HANG), pytest.raises(PeerUnreachable):
                await drip()
            assert trio.current_time() - began < 2
            await expect(events, PeerDown(seed_key(99)))
        assert a.counters()["bad_frames"] == 1


async def test_a_peer_that_never_reads_its_answers_is_dropped() -> None:
    async with networks(1, replace(DEFAULT_LIMITS, write_timeout=0.3)) as (a,):
        events = a.events()
        async with raw_peer(a) as peer:
            stream = await peer.open()
            for number in range(8):
                frame = encode_frame(Request(number, "echo", bytes(500_000)))
                for start in range(0, len(frame), 60_000):
                    await stream.write(frame[start : start + 60_000])
            await expect(events, PeerUp(seed_key(99)), PeerDown(seed_key(99)))
        assert a.counters()["dropped"] == 1
        assert a.gauges()["held_bytes"] == 0
        await still_serves(a)


async def test_a_write_to_a_peer_that_stops_reading_its_socket_ends_the_connection() -> None:
    ours, theirs = trio.socket.socketpair()
    with theirs:
        written = _Socket(trio.SocketStream(ours), True, replace(DEFAULT_LIMITS, write_timeout=0.1))
        with trio.fail_after(HANG), pytest.raises(ConnectionClosedError, match="does not read"):
            await written.write(bytes(50_000_000))
        with pytest.raises(ConnectionClosedError):
            await written.read(1)


@pytest.mark.slow
async def test_requests_whose_answers_are_not_read_are_refused_then_cost_the_connection() -> None:
    async with networks(1, replace(DEFAULT_LIMITS, queue_bytes=100_000)) as (a,):
        async with raw_peer(a) as peer:
            stream = await peer.open()

            async def ask_on() -> None:
                for number in range(0, MAX_ID, 100):
                    batch = [encode_frame(Request(number + more, "no", b"")) for more in range(100)]
                    await stream.write(b"".join(batch))

            with trio.fail_after(HANG), pytest.raises(PeerUnreachable):
                await ask_on()
        assert a.counters()["dropped"] == 1
        assert a.gauges()["held_bytes"] == 0
        await still_serves(a)


async def test_a_peer_that_opens_endless_streams_is_dropped() -> None:
    async with networks(1, replace(DEFAULT_LIMITS, streams=4)) as (a,):
        events = a.events()
        async with raw_peer(a) as peer:

            async def open_on() -> None:
                for _ in range(50):
                    await peer.open()

            with trio.fail_after(HANG), pytest.raises(PeerUnreachable):
                await open_on()
            await expect(events, PeerUp(seed_key(99)), PeerDown(seed_key(99)))
        await still_serves(a)


async def test_data_beyond_every_window_costs_the_connection() -> None:
    async with networks(1, replace(DEFAULT_LIMITS, streams=1, stream_window=1024)) as (a,):
        events = a.events()
        async with raw_peer(a) as peer:
            stream = await peer.open()
            await stream.write(encode_frame(Request(1, "echo", bytes(30_000))))
            await expect(events, PeerUp(seed_key(99)), PeerDown(seed_key(99)))


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        random.Random(64).randbytes(64),
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a multistream line of 2**63 bytes
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + b"\0" * 1000,
        b"\x13/multistream/1.0.0\n\x11/plaintext/2.0.0\n",
    ],
)
async def test_strangers_who_prove_no_identity_get_nowhere(opening: bytes) -> None:
    async with networks(1, replace(DEFAULT_LIMITS, connect_timeout=0.5)) as (a,):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(a))
        await stream.send_all(opening)
        await settled(a, "handshake_failures", 1)
        assert a.connected() == ()
        assert a.counters()["accepted"] == 0
        await stream.aclose()
        await still_serves(a)


async def test_a_stranger_cannot_announce_more_than_a_handshake_needs() -> None:
    ours, theirs = trio.socket.socketpair()
    with theirs, ours:
        stranger = _Socket(trio.SocketStream(ours), False, DEFAULT_LIMITS)
        with trio.fail_after(HANG), pytest.raises(IOException, match="4097"):
            await stranger.read(4097)


async def test_silent_strangers_are_sent_away_and_do_not_fill_the_house() -> None:
    limits = replace(DEFAULT_LIMITS, connect_timeout=0.4, handshakes=3)
    async with networks(1, limits) as (a,):
        silent = [await trio.open_tcp_stream("127.0.0.1", port_of(a)) for _ in range(6)]
        await settled(a, "handshake_failures", 6)
        for stream in silent:
            with trio.fail_after(HANG):
                while await stream.receive_some():
                    pass
            await stream.aclose()
        await still_serves(a)


async def test_the_connection_idle_longest_makes_room_for_a_new_one() -> None:
    clock = SteppedClock()
    limits = replace(DEFAULT_LIMITS, connections=2)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(open_libp2p_network(seed(1), [LOOPBACK], clock, limits=limits))
        a.register("echo", echo)
        guests = []
        for number in (2, 3, 4):
            guest = await stack.enter_async_context(open_libp2p_network(seed(number), (), SystemClock()))
            guests.append(guest)
            clock.now += 1
            await guest.dial(a.addresses[0], HANG)
            await guest.request(a.local, "echo", b"", HANG)
            if number == 3:
                clock.now += 1
                await guests[0].request(a.local, "echo", b"", HANG)
        assert a.connected() == tuple(sorted((guests[0].local, guests[2].local)))


async def test_connections_of_one_peer_are_bounded_and_the_oldest_goes() -> None:
    async with networks(1, replace(DEFAULT_LIMITS, connections_per_peer=2)) as (a,):
        events = a.events()
        async with raw_peer(a) as first, raw_peer(a) as second, raw_peer(a) as third:
            await settled(a, "accepted", 3)
            for live in (second, third):
                stream = await live.open()
                await stream.write(encode_frame(Request(1, "echo", b"ok")))
                assert FrameDecoder().feed(await stream.read()) == [Response(1, b"ok")]
            with pytest.raises(PeerUnreachable), trio.fail_after(HANG):
                await first.open()
            assert a.gauges()["connections"] == 2
            assert events.statistics().current_buffer_used == 1, "the peer never went away"


async def test_a_host_that_strangers_name_is_knocked_at_no_faster_than_its_pace() -> None:
    """Dial amplification: address records may name any door, a thousand of them the same one."""
    limits = replace(DEFAULT_LIMITS, new_dials_local=Rate(per_second=1, burst=8), connect_timeout=0.5)
    clock = SteppedClock()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    knocks = 0
    async with trio.open_nursery() as nursery, open_libp2p_network(seed(1), (), clock, limits=limits) as a:

        async def door(stream: trio.SocketStream) -> None:
            nonlocal knocks
            knocks += 1
            await stream.aclose()

        nursery.start_soon(trio.serve_listeners, door, listeners)
        port = listeners[0].socket.getsockname()[1]
        refused = []
        for number in range(50):
            stranger = seed_key(100 + number)
            a.learn(stranger, [f"/ip4/127.0.0.1/tcp/{port}"])
            try:
                await a.request(stranger, "echo", b"", HANG)
            except (PeerUnreachable, RequestRefused) as error:
                refused.append(isinstance(error, RequestRefused))
        assert refused == [False] * 8 + [True] * 42, "and the peer is not blamed for what we did not try"
        clock.now += 3
        with pytest.raises(PeerUnreachable):
            await a.request(seed_key(149), "echo", b"", HANG)
        assert knocks == 9
        nursery.cancel_scope.cancel()
