"""Whose records count: a function of what was proven and lifted, in whatever order it became known."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from chain.agent_life import Rotation
from chain.cid import Cid, raw_cid, record_cid
from chain.epoch import Epoch, Expulsion
from chain.source_chain import head_of, next_record
from chain.warrant import Offence
from crdt import drafts
from crdt.entry_view import view_of
from crdt.standing import MAX_LINE, Standing, lifted_of, outsiders_of, standing_of, successors_of
from tests.validation import bench as validation_bench

NETWORK = raw_cid(b"a network for tests of standing")
AGENTS = (bytes([1]) * 32, bytes([2]) * 32)
EPOCHS = tuple(record_cid(bytes([number])) for number in range(3))
"""The CIDs of epochs 1, 2 and 3."""
WARRANTS = tuple(record_cid(b"warrant" + bytes([number])) for number in range(6))
ANY_EPOCH = (NETWORK, *EPOCHS, record_cid(b"an epoch that nobody knows"))

offences = st.builds(
    Offence,
    offender=st.sampled_from(AGENTS),
    seq=st.integers(0, 5),
    rule=st.sampled_from(["fork", "prev"]),
    records=st.just(()),
    epochs=st.lists(st.sampled_from(ANY_EPOCH), min_size=1, max_size=2).map(tuple),
)
proven = st.dictionaries(st.sampled_from(WARRANTS), offences)
liftings = st.lists(st.lists(st.sampled_from(WARRANTS), max_size=2).map(tuple), min_size=3, max_size=3)


def epochs_of(lifted: list[tuple[Cid, ...]], upto: int = 3) -> dict[Cid, Epoch]:
    return {
        EPOCHS[place]: Epoch(NETWORK, ANY_EPOCH[place], place + 1, None, 3, lifted[place])
        for place in range(upto)
    }


@given(proven=proven, lifted=liftings, order=st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_shows(
    proven: dict[Cid, Offence], lifted: list[tuple[Cid, ...]], order: random.Random
) -> None:
    pairs = [*proven.items()] * 2
    order.shuffle(pairs)
    epochs = [*epochs_of(lifted).items()]
    order.shuffle(epochs)
    assert standing_of(dict(pairs), dict(epochs), NETWORK) == standing_of(proven, epochs_of(lifted), NETWORK)


@given(proven=proven, more=proven)
def test_one_more_warrant_never_makes_more_count(
    proven: dict[Cid, Offence], more: dict[Cid, Offence]
) -> None:
    before, after = standing_of(proven, {}, NETWORK), standing_of(more | proven, {}, NETWORK)
    assert all(after.first[agent] <= seq for agent, seq in before.first.items())
    assert after.first == {
        agent: min(one.seq for one in (more | proven).values() if one.offender == agent)
        for agent in {one.offender for one in (more | proven).values()}
    }


@given(proven=proven, lifted=liftings)
def test_lifting_forgives_what_was_done_before_it_there_and_later_and_nothing_else(
    proven: dict[Cid, Offence], lifted: list[tuple[Cid, ...]]
) -> None:
    found = lifted_of(proven, epochs_of(lifted), NETWORK)
    numbers = {NETWORK: 0} | {cid: place + 1 for place, cid in enumerate(EPOCHS)}
    for warrant, offence in proven.items():
        by = [
            place + 1
            for place, named in enumerate(lifted)
            for one in named
            if one in proven
            and (proven[one].offender, proven[one].seq <= offence.seq) == (offence.offender, True)
        ]
        last = max((numbers.get(epoch, 99) for epoch in offence.epochs), default=99)
        assert (warrant in found) == (last < max(by, default=-1))
    first = standing_of(proven, epochs_of(lifted), NETWORK).first
    assert set(first) == {one.offender for cid, one in proven.items() if cid not in found}


def test_a_second_accuser_undoes_no_pardon_but_a_new_fork_counts() -> None:
    fork = Offence(AGENTS[0], 4, "fork", (), (NETWORK, NETWORK))
    pardon = epochs_of([(WARRANTS[0],), (), ()], 1)
    both = {WARRANTS[0]: fork, WARRANTS[1]: replace(fork, seq=5)}
    assert standing_of(both, pardon, NETWORK) == Standing()
    again = both | {WARRANTS[2]: replace(fork, seq=9, epochs=(EPOCHS[0], NETWORK))}
    assert standing_of(again, pardon, NETWORK) == Standing({AGENTS[0]: 9})
    earlier = both | {WARRANTS[2]: replace(fork, seq=3)}
    assert standing_of(earlier, pardon, NETWORK) == Standing({AGENTS[0]: 3})


KEYS = tuple(bytes([number]) * 32 for number in range(1, 6))
rotations = st.lists(
    st.builds(
        Rotation,
        st.sampled_from(KEYS),
        st.sampled_from(KEYS),
        st.integers(3, 9),
        st.binary(min_size=1, max_size=2).map(record_cid),
    ).filter(lambda one: one.agent != one.successor),
    max_size=8,
    unique_by=lambda one: one.record,
)


@given(made=rotations, first=st.dictionaries(st.sampled_from(KEYS), st.integers(0, 9)), order=st.randoms())
def test_a_line_of_keys_ends_and_no_order_shows(
    made: list[Rotation], first: dict[bytes, int], order: random.Random
) -> None:
    standing = Standing(first, successors_of(made, first))
    shuffled = made * 2
    order.shuffle(shuffled)
    assert standing.successors == successors_of(shuffled, first)
    for key in KEYS:
        line = standing.line_of(key)
        assert line[0] == key
        assert len(set(line)) == len(line)
        assert key in standing.same_as(key)
        assert all(standing.same_as(one) == standing.same_as(key) for one in standing.same_as(key))
    for agent, successor in standing.successors.items():
        assert any(
            (one.agent, one.successor) == (agent, successor) and one.seq < first.get(agent, 10)
            for one in made
        ), "a rotation counts where its record does"


def test_a_line_of_thousands_of_keys_is_followed_for_some() -> None:
    """Every fold of an entry follows the lines of all who voted on it."""
    keys = [number.to_bytes(32, "big") for number in range(5_000)]
    standing = Standing({}, dict(zip(keys, keys[1:], strict=False)))
    assert standing.line_of(keys[7]) == tuple(keys[7 : 7 + MAX_LINE])


def test_who_goes_on_under_a_new_key_votes_once() -> None:
    b, network = validation_bench.bench(), validation_bench.NETWORK
    alice, bob = validation_bench.ALICE, validation_bench.BOB
    said = [b.by_name[name] for name in ("create", "edit", "tag", "untag", "delete", "retract", "vote")]
    draft = drafts.draft_vote(validation_bench.view(said), alice.agent, 1)
    after = head_of(b.by_name["epoch"])
    said.append(next_record(alice, network, network, after, draft, 0, validation_bench.SALT))
    records = {record.cid: record for record in said}

    def ballots(standing: Standing) -> list[tuple[bytes, int]]:
        view = view_of(said[0].cid, records, standing)
        assert view is not None
        return [(one.agent, one.vote.value) for one in view.votes]

    both = sorted([(alice.agent, 1), (bob.agent, -1)])
    assert ballots(Standing()) == both
    assert ballots(Standing({}, {alice.agent: bob.agent})) == [(bob.agent, -1)]
    assert ballots(Standing({}, {bob.agent: alice.agent})) == [(alice.agent, 1)]
    assert ballots(Standing({}, {alice.agent: KEYS[4], KEYS[4]: bob.agent})) == [(bob.agent, -1)]
    assert ballots(Standing({}, {alice.agent: KEYS[4]})) == both, "who has not voted again keeps the vote"
    assert ballots(Standing({bob.agent: 0}, {alice.agent: bob.agent})) == [(alice.agent, 1)]


changes = st.lists(
    st.tuples(st.sampled_from(AGENTS), st.none() | st.tuples(st.integers(0, 9), st.booleans())),
    min_size=3,
    max_size=3,
)


@given(changes=changes, order=st.permutations(range(3)))
def test_who_is_out_is_what_the_line_of_epochs_said_last(
    changes: list[tuple[bytes, tuple[int, bool] | None]], order: list[int]
) -> None:
    """Each epoch puts one agent out, or lets it in again; whatever order they come to be known in."""
    epochs: dict[Cid, Epoch] = {}
    for place, (agent, out) in enumerate(changes):
        one = Epoch(NETWORK, ANY_EPOCH[place], place + 1, None, 4)
        epochs[EPOCHS[place]] = (
            replace(one, readmitted=(agent,))
            if out is None
            else replace(one, expelled=(Expulsion(agent, *out),))
        )
    last = dict(changes)
    told = outsiders_of({EPOCHS[place]: epochs[EPOCHS[place]] for place in order}, NETWORK)
    assert {one.agent: (one.since, one.guests) for one in told.expelled.values()} == {
        agent: out for agent, out in last.items() if out is not None
    }
    assert told.readmitted == {agent for agent, out in last.items() if out is None}
    standing = standing_of({}, epochs, NETWORK)
    assert standing.first == {one.agent: one.since for one in told.expelled.values()}
    for guest in (b"guest", *AGENTS):
        for inviter in (None, *AGENTS):
            host = None if inviter is None else last.get(inviter)
            by_host = host is not None and host[1] and guest not in told.readmitted
            assert told.bars(guest, inviter) == (guest in told.expelled or by_host)


def test_an_epoch_beside_the_line_puts_nobody_out() -> None:
    """Of two epochs of one number the smaller CID counts, and what the other said does not."""
    first, second = (Epoch(NETWORK, NETWORK, 1, None, 4, (), (Expulsion(agent, 3),)) for agent in AGENTS)
    low, high = sorted(EPOCHS[:2])
    assert [*outsiders_of({high: second, low: first}, NETWORK).expelled] == [AGENTS[0]]
    after = {high: second, low: first, EPOCHS[2]: Epoch(NETWORK, high, 2, None, 4)}
    assert [*outsiders_of(after, NETWORK).expelled] == [AGENTS[1]]
