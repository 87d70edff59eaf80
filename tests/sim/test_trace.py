"""The trace tells runs apart by anything that a node could see."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from sim.trace import Event, Trace, TraceEvent

PEERS = st.sampled_from([bytes([number]) * 32 for number in range(3)])
EVENTS = st.builds(
    TraceEvent,
    at_us=st.integers(0, 3),
    event=st.sampled_from(list(Event)),
    sender=PEERS,
    receiver=PEERS,
    method=st.sampled_from(["", "a", "ab", "b"]),
    body_hash=st.sampled_from([b"", b"x", b"bx"]),
)


def digest(events: list[TraceEvent]) -> str:
    trace = Trace()
    for event in events:
        trace.record(event.at_us, event.event, event.sender, event.receiver, event.method, event.body_hash)
    return trace.hexdigest()


@given(st.lists(EVENTS, max_size=6), st.lists(EVENTS, max_size=6))
def test_digests_are_equal_exactly_for_equal_events(one: list[TraceEvent], other: list[TraceEvent]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


@given(EVENTS)
def test_each_field_counts(event: TraceEvent) -> None:
    variants = [
        event,
        replace(event, at_us=event.at_us + 1),
        replace(event, event=Event(event.event % len(Event) + 1)),
        replace(event, sender=bytes(32 - 1) + b"\xff"),
        replace(event, receiver=bytes(32 - 1) + b"\xff"),
        replace(event, method=event.method + "c"),
        replace(event, body_hash=event.body_hash + b"y"),
    ]
    assert len({digest([variant]) for variant in variants}) == len(variants)


def test_counts_by_method_in_order_of_names() -> None:
    seen: list[TraceEvent] = []
    trace = Trace(seen.append)
    one, two = b"1" * 32, b"2" * 32
    trace.record(5, Event.CONNECT, one, two)
    trace.record(6, Event.REQUEST, one, two, "put", b"abc")
    trace.record(7, Event.REPLY, two, one, "put", b"a")
    trace.record(8, Event.REQUEST, one, two, "get", b"abcd")
    trace.record(9, Event.REFUSAL, two, one, "get", b"5")
    trace.record(9, Event.LOST, two, one, "get", b"5")
    methods = trace.methods()
    assert list(methods) == ["get", "put"]
    assert (methods["put"].requests, methods["put"].replies, methods["put"].request_bytes) == (1, 1, 3)
    assert (methods["get"].refusals, methods["get"].lost, methods["get"].replies) == (1, 1, 0)
    assert trace.events == len(seen) == 6
    assert seen[1] == TraceEvent(6, Event.REQUEST, one, two, "put", sha256(b"abc").digest())
