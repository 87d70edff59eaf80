"""The publisher's decision: what is missing is sent, what is there is not, and nothing settles too early."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from chain.cid import record_cid
from chain.identity import Identity
from chain.kinds import CREATE
from chain.record import Record
from chain.source_chain import Draft, next_record
from dht.records.bundle import MAX_ITEMS
from dht.records.methods import FRAME_BYTES
from dht.records.placement import Role
from dht.repair.publisher import Placing, _frames, plan

NODES = [bytes([n]) * 32 for n in range(7)]
NETWORK = b"\x01\x55\x12\x20" + bytes(32)
ROLES = (1, 2, 4)


def record(number: int) -> Record:
    identity = Identity.from_seed(bytes(32))
    return next_record(identity, NETWORK, NETWORK, None, Draft(CREATE, {"n": number}), number, bytes(16))


RECORDS = [record(number) for number in range(4)]

placings = st.lists(
    st.builds(
        Placing,
        st.sampled_from(RECORDS),
        st.lists(
            st.tuples(
                st.sampled_from(ROLES), st.lists(st.sampled_from(NODES), unique=True, max_size=5).map(tuple)
            ),
            unique_by=lambda pair: pair[0],
            max_size=3,
        ).map(tuple),
    ),
    unique_by=lambda placing: placing.record.cid,
    max_size=4,
)
acknowledgements = st.dictionaries(
    st.sampled_from([one.cid for one in RECORDS]),
    st.dictionaries(st.sampled_from(NODES), st.integers(1, 7), max_size=6),
    max_size=4,
)


@given(placings, acknowledgements, st.integers(1, 4))
def test_a_plan_sends_exactly_what_is_missing(chosen: list[Placing], have: dict, need: int) -> None:  # type: ignore[type-arg]
    decided = plan(chosen, have, need)
    sent: dict[bytes, dict[bytes, int]] = {}
    for agent, items in decided.sends.items():
        for one, roles in items:
            assert not have.get(one.cid, {}).get(agent, 0) & roles, "sent to a holder that has it"
            sent.setdefault(one.cid, {})[agent] = roles
    for placing in chosen:
        acknowledged = have.get(placing.record.cid, {})
        satisfied = True
        for role, holders in placing.holders:
            copies = sum(1 for roles in acknowledged.values() if roles & role)
            new = sum(1 for roles in sent.get(placing.record.cid, {}).values() if roles & role)
            satisfied &= copies >= need
            candidates = sum(1 for agent in holders if not acknowledged.get(agent, 0) & role)
            assert new == min(max(0, need - copies), candidates)
        assert (placing.record.cid in decided.settled) == satisfied


@given(placings, st.integers(1, 4))
def test_when_all_acknowledge_everything_settles_that_has_enough_holders(
    chosen: list[Placing], need: int
) -> None:
    have: dict[bytes, dict[bytes, int]] = {}
    for agent, items in plan(chosen, have, need).sends.items():
        for one, roles in items:
            have.setdefault(one.cid, {})[agent] = roles
    again = plan(chosen, have, need)
    assert again.sends == {}
    for placing in chosen:
        enough = all(len(holders) >= need for _, holders in placing.holders)
        assert (placing.record.cid in again.settled) == enough


def test_a_copy_at_a_holder_that_is_no_longer_among_the_nearest_counts() -> None:
    placing = Placing(RECORDS[0], ((1, (NODES[1], NODES[2])),))
    decided = plan([placing], {RECORDS[0].cid: {NODES[0]: 1, NODES[1]: 1}}, need=2)
    assert decided.sends == {}
    assert decided.settled == [RECORDS[0].cid]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(ROLES)), max_size=MAX_ITEMS + 200))
@example([(0, 2)] * (MAX_ITEMS + 1))
@example([(0, 7)] * 4)
def test_frames_keep_the_order_and_their_bounds(chosen: list[tuple[int, int]]) -> None:
    big = replace(RECORDS[0], payload=bytes(FRAME_BYTES // 3))
    sends = [((big, *RECORDS[1:])[number], roles) for number, roles in chosen]
    frames = _frames(sends)
    assert [one for frame in frames for one in frame] == sends
    for frame in frames:
        assert 0 < len(frame) <= MAX_ITEMS
        payloads = [len(record.payload or b"") for record, roles in frame if roles & ~Role.AUTHOR]
        assert sum(payloads) <= FRAME_BYTES


def test_records_differ() -> None:
    assert len({one.cid for one in RECORDS}) == len(RECORDS)
    assert record_cid(RECORDS[0].header_bytes) == RECORDS[0].cid
