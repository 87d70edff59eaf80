"""The simulated network keeps the promises of the `Network` port, exactly in virtual time."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.errors import AddressError, FrameError, PeerUnreachable, RefusalCode, RequestRefused, RequestTimeout
from dht.network import EVENT_BACKLOG, MAX_BODY, Network, PeerDown, PeerUp
from dht.wire.limits import DEFAULT_LIMITS
from sim.errors import HostError
from sim.links import LatencyLink, Link
from sim.network import SimNetwork, SimWorld, open_world
from sim.trace import Event, Trace, TraceEvent
from sim.virtual_clock import run_deterministic, virtual_us

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
MS = 1_000
STEADY = LatencyLink(0, (10 * MS, 10 * MS), 0)
"""Every message takes 10 ms and none is lost."""

Story = Callable[[SimWorld, SimNetwork, SimNetwork], Awaitable[None]]


async def echo(sender: bytes, body: bytes) -> bytes:
    return sender[:1] + body


def play(story: Story, link: Link = STEADY, seed: int = 1, trace: Trace | None = None) -> Trace:
    """Let A, who knows B's address, and B, who echoes, live through a story."""
    trace = trace or Trace()

    async def main() -> None:
        async with open_world(seed, link, trace) as world:
            a, b = await world.join(A), await world.join(B)
            a.learn(B, b.addresses)
            b.register("echo", echo)
            await story(world, a, b)

    run_deterministic(main, seed=seed)
    return trace


async def elapsed(call: Callable[[], Awaitable[object]]) -> tuple[object, int]:
    """The call's result or network error, and the virtual µs it took."""
    start = virtual_us()
    result: object
    try:
        result = await call()
    except (AddressError, FrameError, PeerUnreachable, RequestRefused, RequestTimeout) as error:
        result = error
    return result, virtual_us() - start


def test_the_first_request_connects_and_the_next_ones_take_one_round_trip() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        port: Network = a
        assert await elapsed(lambda: port.request(B, "echo", b"x", 5)) == (b"\x01x", 60 * MS)
        assert await elapsed(lambda: port.request(B, "echo", b"y", 5)) == (b"\x01y", 20 * MS)
        assert (a.connected(), b.connected()) == ((B,), (A,))

    methods = play(story).methods()
    assert (methods["echo"].requests, methods["echo"].replies, methods["echo"].reply_bytes) == (2, 2, 4)


def test_whoever_was_dialled_asks_back_over_the_same_connection() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        a.register("echo", echo)
        with pytest.raises(PeerUnreachable, match="no address"):
            await b.request(A, "echo", b"", 5)
        await a.request(B, "echo", b"", 5)
        assert await elapsed(lambda: b.request(A, "echo", b"z", 5)) == (b"\x02z", 20 * MS)

    play(story)


def test_what_the_listener_sends_at_once_arrives_after_the_connection() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        a.register("echo", echo)
        events = b.events()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.dial, b.addresses[0], 5)
            assert await events.receive() == PeerUp(A)
            assert await b.request(A, "echo", b"", 5) == b"\x02"

    for seed in range(20):
        play(story, LatencyLink(seed, (0, 0), 50 * MS), seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60_000), st.integers(0, 60_000))
def test_timeouts_are_exact_and_not_a_microsecond_early(timeout_ms: int, handler_ms: int) -> None:
    """The round trip takes 20 ms and the handler some more: an answer in time is an answer."""
    total = 20 + handler_ms

    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        async def slow(sender: bytes, body: bytes) -> bytes:
            await trio.sleep(handler_ms / 1_000)
            return body

        b.register("slow", slow)
        await a.dial(b.addresses[0], 1)
        result, took = await elapsed(lambda: a.request(B, "slow", b"r", timeout_ms / 1_000))
        if isinstance(result, RequestTimeout):
            assert timeout_ms <= total
            assert abs(took - timeout_ms * MS) <= 1
        else:
            assert result == b"r"
            assert abs(took - total * MS) <= 2
            assert total <= timeout_ms

    play(story)


def test_the_timeout_includes_the_connecting() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        result, took = await elapsed(lambda: a.request(B, "echo", b"", 0.059))
        assert isinstance(result, RequestTimeout)
        assert took == 59 * MS

    play(story)


def test_a_lost_request_or_reply_shows_as_a_timeout_as_often_as_it_should() -> None:
    trace = Trace()

    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        lost = 0
        for _ in range(1_000):
            result, took = await elapsed(lambda: a.request(B, "echo", b"", 30))
            if isinstance(result, RequestTimeout):
                assert took == 30_000 * MS
                lost += 1
        assert abs(lost / 1_000 - (1 - 0.9 * 0.9)) < 0.03
        assert trace.methods()["echo"].lost == lost

    play(story, replace(STEADY, loss=0.1), trace=trace)


def test_latency_of_requests_follows_the_link() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        await a.dial(b.addresses[0], 5)
        times = []
        for _ in range(2_000):
            _, took = await elapsed(lambda: a.request(B, "echo", b"", 5))
            times.append(took)
        assert 20 * MS <= min(times) <= max(times) <= 36 * MS
        assert abs(sum(times) / len(times) - 28 * MS) < MS / 2

    play(story, LatencyLink(1, (10 * MS, 10 * MS), 8 * MS))


def test_connecting_survives_losses_by_sending_again() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        result, took = await elapsed(lambda: a.dial(b.addresses[0], 20))
        assert result == B
        assert took % 1_000_000 == 40 * MS

    seen = set()
    for seed in range(8):
        trace = play(story, replace(STEADY, loss=0.15), seed)
        seen.add(trace.hexdigest())
    assert len(seen) > 1


def test_a_link_that_loses_everything_looks_like_a_host_that_is_not_there() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        result, took = await elapsed(lambda: a.dial(b.addresses[0], 60))
        assert isinstance(result, PeerUnreachable)
        assert took == DEFAULT_LIMITS.connect_timeout * 1_000_000
        result, took = await elapsed(lambda: a.dial(world.address(C), 1))
        assert isinstance(result, RequestTimeout)
        assert took == 1_000 * MS

    play(story, replace(STEADY, loss=1.0))


# Crashes.


def test_a_crash_fails_what_waits_one_delay_later_and_cancels_the_handlers() -> None:
    handled: list[str] = []

    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        async def forever(sender: bytes, body: bytes) -> bytes:
            try:
                await trio.sleep_forever()
            finally:
                handled.append("cancelled")
            raise AssertionError

        b.register("forever", forever)
        events = a.events()

        async def ask() -> None:
            result, took = await elapsed(lambda: a.request(B, "forever", b"", 60))
            assert isinstance(result, PeerUnreachable)
            assert took == 1_010 * MS

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1)
            assert handled == []
            world.crash(B)
        assert handled == ["cancelled"]
        assert [events.receive_nowait(), events.receive_nowait()] == [PeerUp(B), PeerDown(B)]
        assert (a.connected(), world.running()) == ((), (A,))

    play(story)


def test_a_crash_takes_the_node_s_own_tasks_with_it() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        b.learn(A, a.addresses)
        a.register("echo", echo)

        async def chatter() -> None:
            while True:
                await b.request(A, "echo", b"", 5)
                await trio.sleep(1)

        b.nursery.start_soon(chatter)
        await trio.sleep(10)
        world.crash(B)
        before = world.trace.methods()["echo"].requests
        await trio.sleep(10)
        assert before == world.trace.methods()["echo"].requests == 10
        with pytest.raises(PeerUnreachable, match="closed"):
            await b.request(A, "echo", b"", 5)

    play(story)


def test_a_crashed_host_refuses_after_one_round_trip_and_is_then_left_alone_for_a_while() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        world.crash(B)
        result, took = await elapsed(lambda: a.request(B, "echo", b"", 5))
        assert isinstance(result, PeerUnreachable)
        assert "refused" in str(result)
        assert took == 20 * MS
        result, took = await elapsed(lambda: a.request(B, "echo", b"", 5))
        assert isinstance(result, PeerUnreachable)
        assert "lately" in str(result)
        assert took == 0

    play(story)


def test_a_restarted_host_starts_from_nothing_at_the_same_address() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        await a.request(B, "echo", b"", 5)
        world.crash(B)
        await trio.sleep(1)
        again = await world.join(B)
        assert again.addresses == (world.address(B),)
        result, _ = await elapsed(lambda: a.request(B, "echo", b"", 5))
        assert isinstance(result, RequestRefused)
        assert result.code == RefusalCode.UNKNOWN_METHOD
        again.register("echo", echo)
        assert await a.request(B, "echo", b"", 5) == b"\x01"

    play(story)


def test_news_of_a_crash_that_never_arrives_is_learnt_by_the_next_request() -> None:
    deaf = False

    def link(sender: bytes, receiver: bytes, size: int, rng: random.Random) -> int | None:
        return None if deaf else 10 * MS

    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        nonlocal deaf
        await a.request(B, "echo", b"", 5)
        deaf = True
        world.crash(B)
        result, took = await elapsed(lambda: a.request(B, "echo", b"", 7))
        assert isinstance(result, RequestTimeout)
        assert took == 7_000 * MS
        deaf = False
        assert a.connected() == (B,)
        result, took = await elapsed(lambda: a.request(B, "echo", b"", 7))
        assert isinstance(result, PeerUnreachable)
        assert took == 20 * MS
        assert a.connected() == ()

    play(story, link)


def test_a_crash_in_the_middle_of_a_handshake_is_a_refusal() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        for cut_ms in range(1, 40, 2):
            dialled = await world.join(C)

            async def dial() -> None:
                result, took = await elapsed(lambda: a.dial(world.address(C), 5))
                assert isinstance(result, PeerUnreachable | bytes)
                assert took <= 50 * MS

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial)
                await trio.sleep(cut_ms / 1_000)
                world.crash(C)
            await trio.sleep(1)
            assert a.connected() == dialled.connected() == ()

    play(story)


def test_crashing_what_is_down_or_joining_what_is_up_is_a_named_error() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        with pytest.raises(HostError, match="runs already"):
            await world.join(B)
        await b.aclose()
        await b.aclose()
        with pytest.raises(HostError, match="does not run"):
            world.crash(B)
        with pytest.raises(HostError, match="32 bytes"):
            await world.join(b"short")
        await world.join(B)

    play(story)


# Refusals, bounds and bad input.


def test_refusals_carry_code_and_reason() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        async def refuse(sender: bytes, body: bytes) -> bytes:
            raise RequestRefused(RefusalCode.FORBIDDEN, "not you")

        b.register("refuse", refuse)
        for method, code, reason in [("refuse", 4, "not you"), ("nonsense", 1, "no method 'nonsense'")]:
            result, _ = await elapsed(lambda method=method: a.request(B, method, b"", 5))  # type: ignore[misc]
            assert isinstance(result, RequestRefused)
            assert (result.code, result.reason) == (code, reason)

    assert play(story).methods()["refuse"].refusals == 1


def test_a_failing_handler_is_an_internal_error_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        async def fail(sender: bytes, body: bytes) -> bytes:
            raise KeyError("secret")

        async def oversized(sender: bytes, body: bytes) -> bytes:
            return bytes(MAX_BODY + 1)

        async def endless(sender: bytes, body: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        for handler in (fail, oversized, endless):
            b.register(handler.__name__, handler)
            result, _ = await elapsed(lambda name=handler.__name__: a.request(B, name, b"", 100))  # type: ignore[misc]
            assert isinstance(result, RequestRefused)
            assert result.code == RefusalCode.INTERNAL
            assert "secret" not in result.reason

    with caplog.at_level(logging.ERROR):
        play(story)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert "'fail'" in caplog.text


def test_oversized_bodies_and_bad_methods_never_leave() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        assert len(await a.request(B, "echo", bytes(MAX_BODY - 1), 5)) == MAX_BODY
        with pytest.raises(FrameError):
            await a.request(B, "echo", bytes(MAX_BODY + 1), 5)
        with pytest.raises(FrameError):
            await a.request(B, "écho", b"", 5)
        with pytest.raises(FrameError):
            b.register("x" * 65, echo)
        with pytest.raises(ValueError, match="already"):
            b.register("echo", echo)

    assert play(story).methods()["echo"].requests == 1


def test_too_many_requests_are_refused_on_either_side() -> None:
    limits = replace(DEFAULT_LIMITS, in_flight=5, handlers_per_peer=3)

    async def main() -> list[str]:
        outcomes: list[str] = []
        async with open_world(1, STEADY, limits=limits) as world:
            a, b = await world.join(A), await world.join(B)

            async def slow(sender: bytes, body: bytes) -> bytes:
                await trio.sleep(1)
                return b""

            async def ask() -> None:
                try:
                    await a.request(B, "slow", b"", 5)
                    outcomes.append("answered")
                except RequestRefused as refusal:
                    where = "here" if "in flight" in refusal.reason else "there"
                    outcomes.append(f"{RefusalCode(refusal.code).name} {where}")

            b.register("slow", slow)
            await a.dial(world.address(B), 5)
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for _ in range(7):
                        nursery.start_soon(ask)
        return outcomes

    expected = ["OVERLOADED here"] * 2 + ["OVERLOADED there"] * 2 + ["answered"] * 3
    assert run_deterministic(main, seed=1) == expected * 2


def test_addresses_that_name_somebody_else_are_refused() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        with pytest.raises(AddressError):
            a.learn(C, b.addresses)
        a.learn(A, a.addresses)
        with pytest.raises(PeerUnreachable, match="itself"):
            await a.request(A, "echo", b"", 5)
        with pytest.raises(AddressError):
            await a.dial("/memory/nowhere", 5)
        imposter = world.address(C).rsplit("/p2p/", 1)[1]
        with pytest.raises(AddressError, match="answered at"):
            await a.dial(f"{b.addresses[0].rsplit('/p2p/', 1)[0]}/p2p/{imposter}", 5)
        assert await a.dial(b.addresses[0].rsplit("/p2p/", 1)[0], 5) == B

    play(story)


def test_a_host_that_does_not_listen_dials_out_and_is_asked_back_but_not_dialled() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        quiet = await world.join(C, listening=False)
        quiet.register("echo", echo)
        assert quiet.addresses == ()
        with pytest.raises(PeerUnreachable, match="refused"):
            await a.dial(world.address(C), 5)
        assert await quiet.dial(b.addresses[0], 5) == B
        assert await b.request(C, "echo", b"", 5) == b"\x02"

    play(story)


def test_requests_at_the_same_time_share_one_dial_which_survives_a_cancelled_one() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        async with trio.open_nursery() as nursery:

            async def impatient() -> None:
                with pytest.raises(RequestTimeout):
                    await a.request(B, "echo", b"", 0.001)

            async def patient() -> None:
                assert await elapsed(lambda: a.request(B, "echo", b"", 1)) == (b"\x01", 60 * MS)

            for task in (impatient, patient, patient):
                nursery.start_soon(task)

    events: list[TraceEvent] = []
    play(story, trace=Trace(events.append))
    assert [event.event for event in events].count(Event.CONNECT) == 1


def test_slow_readers_of_events_lose_the_oldest_and_closed_ones_cost_nothing() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        slow, closed = a.events(), a.events()
        closed.close()
        for _ in range(EVENT_BACKLOG):
            await a.dial(world.address(B), 5)
            world.crash(B)
            await trio.sleep(1)
            await world.join(B)
        await a.aclose()
        seen = [event async for event in slow]
        assert seen == [PeerUp(B), PeerDown(B)] * (EVENT_BACKLOG // 2)
        assert [event async for event in a.events()] == []

    play(story)


def test_closing_one_end_closes_the_other() -> None:
    async def story(world: SimWorld, a: SimNetwork, b: SimNetwork) -> None:
        await a.dial(b.addresses[0], 5)
        await a.aclose()
        assert (a.connected(), a.addresses, b.connected()) == ((), (), (A,))
        await trio.sleep(0.010_001)
        assert b.connected() == ()

    play(story)
