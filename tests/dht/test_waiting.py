"""Waiting records: whatever happens in whatever order, bounds hold and nothing goes without being counted."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chain.cid import Cid, record_cid
from chain.identity import AgentId, Identity
from chain.record import Record
from chain.source_chain import Draft, next_record
from dht.records.bundle import Item
from dht.records.waiting import (
    AUTHORS_SHARE,
    EXPIRED,
    NO_ROOM,
    PARKED_EXPIRED,
    SENDERS_SHARE,
    Waiting,
    WaitingLimits,
    WaitingRoom,
    opening_need,
)
from tests.dht.people import NETWORK_ID, identity
from validation.rules import MAX_AHEAD_US
from validation.verdict import Pending

LIMITS = WaitingLimits(
    records=12,
    bytes=16_000,
    author_records=4,
    author_bytes=6_000,
    author_parked=2,
    sender_records=7,
    patience_s=100.0,
    parked_s=400.0,
    fetches=2,
    fetch_first_s=5.0,
)
AUTHORS = [identity(number) for number in range(5)]
SENDERS = [identity(number).agent for number in (9, 10, 11)]
SENDER = SENDERS[0]
NEEDS: list[Cid] = [record_cid(bytes([number])) for number in range(4)]
OPENING = opening_need(AUTHORS[0].agent)


def record(author: Identity, number: int, hlc: int = 0, size: int = 0) -> Record:
    """A record that only has to be told from others."""
    draft = Draft("entry.create", {"n": number, "fill": bytes(size)})
    return next_record(author, NETWORK_ID, NETWORK_ID, None, draft, hlc, bytes(16))


RECORDS = [record(author, n, hlc=n * 100_000_000, size=n * 700) for author in AUTHORS for n in range(7)]


def waiting(one: Record, now: float = 0.0, sender: AgentId = SENDER) -> Waiting:
    return Waiting(Item(one, 1), None, (), sender, now)


class Room(RuleBasedStateMachine):
    """Any events in any order, beside a plain account of what has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom(LIMITS)
        self.now = 0.0
        self.missing: dict[Cid, set[bytes]] = {}
        """Of each record that was said to be pending: what it still needs."""

    def wall_us(self) -> int:
        return round(self.now * 1_000_000)

    @rule(
        one=st.sampled_from(RECORDS),
        needs=st.sets(st.sampled_from(NEEDS), min_size=1),
        opening=st.booleans(),
        sender=st.sampled_from(SENDERS),
    )
    def wait(self, one: Record, needs: set[Cid], opening: bool, sender: AgentId) -> None:
        known = one.cid in self.room._entries
        verdict = Pending(tuple(sorted(needs)), one.header.author if opening else None)
        before = len(self.room)
        if self.room.wait(waiting(one, self.now, sender), verdict, self.now) and not known:
            self.missing[one.cid] = {*needs, *([opening_need(one.header.author)] if opening else [])}
        assert len(self.room) <= before + 1

    @rule(one=st.sampled_from(RECORDS))
    def park(self, one: Record) -> None:
        self.room.park(waiting(one, self.now), self.now)

    @rule(needs=st.sets(st.sampled_from([*NEEDS, OPENING])))
    def arrive(self, needs: set[bytes]) -> None:
        self.room.arrived(sorted(needs))
        for missing in self.missing.values():
            missing -= needs

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, 30.0, 101.0, 401.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.room.pass_time(self.now, self.wall_us())

    @rule(limit=st.integers(1, 4))
    def judge(self, limit: int) -> None:
        for taken in self.room.take_ready(limit):
            cid, hlc = taken.item.record.cid, taken.item.record.header.hlc
            if cid in self.missing:
                assert not self.missing.pop(cid)
            else:
                assert hlc <= self.wall_us() + MAX_AHEAD_US

    @rule(limit=st.integers(1, 4))
    def fetch(self, limit: int) -> None:
        asked = self.room.fetches(self.now, limit)
        assert len(asked) <= limit
        for one, needs in asked:
            assert needs
            assert one.tries < LIMITS.fetches

    @invariant()
    def bounds_hold(self) -> None:
        entries = list(self.room._entries.values())
        assert len(entries) == len(self.room) == self.room.pending + self.room.parked <= LIMITS.records
        assert self.room.bytes == sum(entry.size for entry in entries) <= LIMITS.bytes
        for author in AUTHORS:
            mine = [entry for entry in entries if entry.waiting.author == author.agent]
            assert sum(entry.size for entry in mine) <= LIMITS.author_bytes
            assert sum(not entry.parked for entry in mine) <= LIMITS.author_records
            assert sum(entry.parked for entry in mine) <= LIMITS.author_parked
        for sender in SENDERS:
            brought = [entry for entry in entries if entry.waiting.sender == sender]
            assert len(brought) == len(self.room._brought.get(sender, ())) <= LIMITS.sender_records
        assert self.room._fetches == sum(map(len, self.room._fetch_times.values()))
        assert len(self.room._ends) + self.room._fetches <= 4 * LIMITS.records + 128

    @invariant()
    def what_has_all_it_needs_is_ready(self) -> None:
        self.missing = {cid: needs for cid, needs in self.missing.items() if cid in self.room._entries}
        for cid, needs in self.missing.items():
            assert self.room._entries[cid].needs == needs
            assert (cid in self.room._ready) == (not needs)

    @invariant()
    def every_end_is_counted(self) -> None:
        counts = self.room.counts
        assert len(self.room) <= counts.waited
        assert set(counts.reasons) <= {EXPIRED, PARKED_EXPIRED, NO_ROOM, AUTHORS_SHARE, SENDERS_SHARE}


TestRoom = Room.TestCase
TestRoom.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


@given(order=st.permutations(NEEDS), late=st.floats(0, 99))
def test_a_record_whose_needs_arrive_is_judged_whatever_the_time(order: list[Cid], late: float) -> None:
    room = WaitingRoom(LIMITS)
    assert room.wait(waiting(RECORDS[0]), Pending(tuple(sorted(NEEDS))), 0.0)
    for need in order:
        assert not room.take_ready(9)
        room.pass_time(late, 0)
        room.arrived([need])
    room.pass_time(late + 1_000_000, 0)  # nobody took it for long: it is ready, so it does not expire
    assert [one.item.record for one in room.take_ready(9)] == [RECORDS[0]]
    assert not len(room)


def test_what_nobody_brings_is_asked_for_a_few_times_and_then_dropped_and_counted() -> None:
    room = WaitingRoom(LIMITS)
    room.wait(waiting(RECORDS[0]), Pending((NEEDS[0],), AUTHORS[0].agent), 0.0)
    asked = []
    now: float | None = 0.0
    while now is not None:
        room.pass_time(now, 0)
        asked += [(now, needs) for _, needs in room.fetches(now, 9)]
        now = room.next_at(now, 0)
    assert asked == [(5.0, (NEEDS[0], OPENING)), (20.0, (NEEDS[0], OPENING))]
    assert (len(room), room.counts.reasons) == (0, {EXPIRED: 1})


def test_what_comes_from_the_future_is_ready_when_its_time_has_come_or_goes_after_a_day() -> None:
    soon, never = (record(AUTHORS[0], 1, hlc=at * 1_000_000) for at in (160, 10_000))
    room = WaitingRoom(LIMITS)
    assert room.park(waiting(soon), 0.0)
    assert room.park(waiting(never), 0.0)
    assert not room.park(waiting(record(AUTHORS[0], 3, hlc=1 << 60)), 0.0)
    assert room.next_at(0.0, 0) == 100.0
    room.pass_time(99.0, 99_000_000)
    assert not room.take_ready(9)
    room.pass_time(100.0, 100_000_000)
    assert [one.item.record for one in room.take_ready(9)] == [soon]
    room.pass_time(400.0, 400_000_000)
    assert (len(room), room.counts.reasons) == (0, {AUTHORS_SHARE: 1, PARKED_EXPIRED: 1})


def test_who_waits_with_most_makes_room_for_who_waits_with_little() -> None:
    limits = replace(LIMITS, bytes=8_000, author_bytes=8_000, author_records=9)
    room = WaitingRoom(limits)
    greedy = [record(AUTHORS[0], n, size=900) for n in range(6)]
    kept = [one for one in greedy if room.wait(waiting(one), Pending((NEEDS[0],)), 0.0)]
    assert len(kept) == 4
    modest = record(AUTHORS[1], 1, size=900)
    assert room.wait(waiting(modest), Pending((NEEDS[0],)), 0.0)
    room.arrived([NEEDS[0]])
    left = {one.item.record.cid for one in room.take_ready(99)}
    assert left == {one.cid for one in kept[:-1]} | {modest.cid}
    assert room.counts.reasons == {NO_ROOM: 1, AUTHORS_SHARE: 2}


def test_who_brings_records_of_keys_that_nobody_paid_for_keeps_nobody_elses_out() -> None:
    """Each key is an author that waits with little, and they cost nothing."""
    liar, other, honest = SENDERS
    room = WaitingRoom(replace(LIMITS, sender_records=9))
    for number in range(LIMITS.records):
        one = record(identity(20 + number), 0)
        assert room.wait(waiting(one, sender=liar if number < 9 else other), Pending((NEEDS[0],)), 0.0)
    assert not room.wait(waiting(record(identity(50), 0), sender=liar), Pending((NEEDS[0],)), 0.0)
    mine = [record(identity(60), number, size=100) for number in range(2)]
    assert all(room.wait(waiting(one, sender=honest), Pending((NEEDS[1],)), 0.0) for one in mine)
    assert room.counts.reasons == {SENDERS_SHARE: 1, NO_ROOM: 2}
    assert len(room._brought[liar]) == 7
    # And what they need is asked for by turns, however much of another is due.
    asked = [(one.sender, needs) for one, needs in room.fetches(5.0, 4)]
    assert sorted(asked[:3]) == sorted([(liar, (NEEDS[0],)), (other, (NEEDS[0],)), (honest, (NEEDS[1],))])
    assert (honest, (NEEDS[1],)) in [(one.sender, needs) for one, needs in room.fetches(5.0, 4)]


def test_a_header_that_waits_gives_way_to_the_whole_record_and_keeps_its_deadline() -> None:
    room = WaitingRoom(LIMITS)
    room.wait(waiting(RECORDS[1].without_payload()), Pending((NEEDS[0],)), 0.0)
    room.wait(waiting(RECORDS[1], 90.0), Pending((NEEDS[0],)), 90.0)
    room.wait(waiting(RECORDS[1].without_payload(), 91.0), Pending((NEEDS[0],)), 91.0)
    (entry,) = room._entries.values()
    assert entry.waiting.whole
    assert entry.until == 100.0
