"""Secure sums: right to the bit whoever drops out, closed to fewer than the threshold, and hard to fool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.identity import AgentId
from federated.privacy.keystream import keystream
from federated.privacy.secure_messages import (
    Fault,
    Phase,
    SecureSumError,
    Session,
    read_message,
    write_message,
)
from federated.privacy.secure_sum import SecureSum
from federated.privacy.shamir import PRIME, SECRET_SIZE, join, split
from tests.federated.privacy.members import (
    LENGTH,
    Table,
    Words,
    identities,
    inputs,
    plain_sum,
    session_of,
    table,
)

Stream = Callable[[int], Words]
MESSAGES = list(Phase)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_sum_is_the_plain_sum_whoever_drops_out_and_when(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 9))
    session = session_of(count)
    vectors = inputs(count, data.draw(st.integers(0, 2**32)))
    away = data.draw(
        st.lists(st.sampled_from(session.roster), max_size=count - session.threshold, unique=True)
    )
    gone: dict[Phase, list[AgentId]] = {}
    for agent in away:
        gone.setdefault(data.draw(st.sampled_from(MESSAGES)), []).append(agent)
    game = table(session, vectors)
    game.run(gone)
    early = [agent for phase in MESSAGES[:3] for agent in gone.get(phase, ())]
    counted = [agent for agent in session.roster if agent not in early]
    expected = plain_sum([vectors[session.roster.index(agent)] for agent in counted])
    survivors, total = game.opened()
    assert total.tobytes() == expected.tobytes()
    assert list(survivors) == counted
    for member in game.members.values():
        assert member.survivors == survivors


def test_one_of_four_may_drop_out_in_any_phase() -> None:
    session = session_of(4)
    vectors = inputs(4, 5)
    for phase in MESSAGES:
        place = phase % 4
        game = table(session, vectors)
        game.run({phase: [session.roster[place]]})
        counted = vectors if phase > Phase.MASKED else vectors[:place] + vectors[place + 1 :]
        assert len(game.members) == 3
        assert game.opened()[1].tobytes() == plain_sum(counted).tobytes()


def test_one_more_is_too_many() -> None:
    session = session_of(7)
    game = table(session, inputs(7, 5))
    with pytest.raises(SecureSumError) as refused:
        game.run({Phase.MASKED: session.roster[:3]})
    assert refused.value.fault is Fault.TOO_FEW
    for threshold in (1, 4, 8):
        with pytest.raises(ValueError, match="threshold"):
            session_of(7, threshold=threshold)
    with pytest.raises(ValueError, match="3 to 16"):
        session_of(2)


# -- what colluders see --


@pytest.mark.parametrize("late", [False, True])
def test_colluders_below_the_threshold_see_the_same_whatever_the_others_have_with_the_same_sum(
    late: bool,
) -> None:
    """With the masks between honest members redrawn, which the colluders cannot tell from other masks.

    Those are what HKDF and ChaCha20 stand for: words that look uniform to whoever lacks the key. They are
    replaced by words that are uniform, and then the claim is exact: for every choice of inputs with the
    same sum there are as many masks that lead to the very same transcript. Here is how one becomes the
    other: what one member has more is moved along a line of pairs of honest members.
    """
    count, colluding = 7, 4
    session = session_of(count)
    assert colluding < session.threshold
    honest = list(session.roster[colluding:])
    # A vector that comes late is out of the sum, though the colluders have it: its own mask must hide it.
    slow = honest[-1] if late else None
    counted = [agent for agent in honest if agent != slow]
    first = inputs(count, 1)
    second = [vector.copy() for vector in first]
    moves = inputs(count, 2)
    for number, agent in enumerate(counted[:-1]):
        place, last = session.roster.index(agent), session.roster.index(counted[-1])
        second[place] += moves[number]
        second[last] -= moves[number]
    if slow is not None:
        second[session.roster.index(slow)] += moves[-1]

    # What is never opened: masks between two whose vectors count, and the own one of a vector that does not.
    secret = {
        seed: pair
        for seed, pair in honest_seeds(session, honest, first).items()
        if (len(pair) == 2 and slow not in pair) or pair == {slow}
    }
    uniform = {seed: inputs(1, 100 + number)[0] for number, seed in enumerate(sorted(secret))}

    def game_of(vectors: list[Words], shift: dict[bytes, Words]) -> Table:
        def expand(seed: bytes) -> Stream:
            if seed not in uniform:
                return keystream(seed)
            return lambda words: (uniform[seed] + shift.get(seed, np.uint64(0)))[:words]

        game = table(session, vectors, expand=expand)
        play(game, slow)
        return game

    shift: dict[bytes, Words] = {}
    owed = np.zeros(LENGTH, np.uint64)
    for one, other in zip(counted, counted[1:], strict=False):
        place = session.roster.index(one)
        owed = owed + first[place] - second[place]
        (seed,) = [seed for seed, pair in secret.items() if pair == {one, other}]
        shift[seed] = owed  # `one` is the lower of the two, so it adds
    if slow is not None:
        (seed,) = [seed for seed, pair in secret.items() if pair == {slow}]
        place = session.roster.index(slow)
        shift[seed] = first[place] - second[place]

    before, after = game_of(first, {}), game_of(second, shift)
    assert before.transcript == after.transcript, "every byte that was said, and so all that colluders hold"
    assert before.blobs == after.blobs
    assert before.transcript != game_of(second, {}).transcript, "which the masks alone bring about"
    late_one = [] if slow is None else [slow]
    assert np.array_equal(before.opened(late_one)[1], after.opened(late_one)[1])


def honest_seeds(session: Session, honest: list[AgentId], vectors: list[Words]) -> dict[bytes, set[AgentId]]:
    """The seeds of all masks that no colluder knows: of pairs of honest members, and of each alone."""
    used: dict[bytes, set[AgentId]] = {}
    current: list[AgentId] = []

    def expand(seed: bytes) -> Stream:
        used.setdefault(seed, set()).add(current[0])
        return keystream(seed)

    game = table(session, vectors, expand=expand)
    game.say([member.start() for member in game.members.values()])
    words = [game.close(agent, session.roster) for agent in game.members]
    game.say([data for data in words if data is not None])
    for agent in game.members:
        current[:] = [agent]
        game.close(agent, session.roster)
    return {seed: pair for seed, pair in used.items() if pair <= set(honest)}


def play(game: Table, slow: AgentId | None) -> None:
    """A run in which all hear the vector of `slow`, and go on without it."""
    everybody = list(game.members)
    words: list[bytes | None] = [member.start() for member in game.members.values()]
    for phase in MESSAGES:
        game.say([data for data in words if data is not None])
        if phase is Phase.MASKED and slow is not None:
            game.members.pop(slow)
            everybody.remove(slow)
        words = [game.close(agent, everybody) for agent in game.members]


def test_as_many_as_the_threshold_could_open_a_vector_so_the_test_above_can_fail() -> None:
    session = session_of(7)
    vectors = inputs(7, 3)
    game = table(session, vectors)
    play(game, None)
    victim, colluders = session.roster[0], session.roster[1 : 1 + session.threshold]
    held = [(session.place(agent), game.members[agent]._shares[victim]) for agent in colluders]
    for few, opens in ((session.threshold, True), (session.threshold - 1, False)):
        seed = join({place: pair[1] for place, pair in held[:few]})
        found = np.frombuffer(game.blobs[victim], "<u8").copy()
        if seed is not None:
            found -= keystream(seed)(LENGTH)
        for other in game.members.values():
            if other._me != victim:
                found += keystream(other._pair_seed(victim))(LENGTH) * np.uint64(
                    2**64 - 1 if victim < other._me else 1
                )
        assert np.array_equal(found, vectors[0]) is opens


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.binary(min_size=SECRET_SIZE, max_size=SECRET_SIZE), st.integers(0, 2**32))
def test_fewer_shares_than_the_threshold_fit_every_secret(threshold: int, other: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    secret = rng.bytes(SECRET_SIZE)
    shares = split(secret, threshold, threshold + 2, rng.bytes)
    for some in (range(threshold), range(2, threshold + 2)):
        assert join({place + 1: shares[place] for place in some}) == secret
    # One polynomial of the same degree goes through any threshold - 1 shares and another secret at 0.
    points = {0: int.from_bytes(other, "big")}
    points |= {place + 1: int.from_bytes(shares[place], "big") for place in range(threshold - 1)}
    missing = interpolated(points, threshold)
    fitting = {place + 1: shares[place] for place in range(threshold - 1)}
    assert join(fitting | {threshold: missing.to_bytes(66, "big")}) == other


def interpolated(points: dict[int, int], at: int) -> int:
    """The value of the polynomial through these points, by Lagrange."""
    total = 0
    for place, value in points.items():
        for other in points:
            if other != place:
                value = value * (at - other) * pow(place - other, -1, PRIME) % PRIME
        total += value
    return total % PRIME


# -- liars --


def begun(count: int = 4) -> tuple[Table, Session, list[AgentId]]:
    session = session_of(count)
    game = table(session, inputs(count, 9))
    game.say([member.start() for member in game.members.values()])
    return game, session, list(session.roster)


def told(member: SecureSum, data: bytes) -> Fault | None:
    try:
        member.receive(data)
    except SecureSumError as error:
        return error.fault
    return None


def test_messages_that_are_not_of_this_session_and_phase_are_refused_and_change_nothing() -> None:
    game, session, roster = begun()
    member = game.members[roster[0]]
    (signer,) = [one for one in identities(4) if one.agent == roster[1]]
    stranger = identities(5)
    (outside,) = [one for one in stranger if one.agent not in roster]
    good = game.transcript[1]
    keys = read_message(session, good).body
    cases = {
        b"": Fault.FORMAT,
        b"\xff" * 50: Fault.FORMAT,
        good + b"\x00": Fault.FORMAT,
        good[:-1] + bytes([good[-1] ^ 1]): Fault.SENDER,
        bytes(session.most_bytes + 1): Fault.SIZE,
        write_message(session, outside, Phase.KEYS, keys): Fault.SENDER,
        write_message(replace(session, round=4), signer, Phase.KEYS, keys): Fault.SESSION,
        write_message(replace(session, threshold=4), signer, Phase.KEYS, keys): Fault.SESSION,
        write_message(session, signer, Phase.KEYS, keys[:1]): Fault.FORMAT,
        write_message(session, signer, Phase.KEYS, [keys[0], bytes(31)]): Fault.FORMAT,
        write_message(session, signer, Phase.KEYS, [keys[1], keys[0]]): Fault.DOUBLE,
        write_message(session, signer, Phase.MASKED, [bytes(32), bytes(8)]): Fault.FORMAT,
        write_message(session, signer, Phase.SHARES, [bytes(32), bytes(32), [[roster[1]]] * 3]): Fault.FORMAT,
        write_message(session, signer, Phase.OPENING, [bytes(32), [[b"x" * 32, bytes(66)]]]): Fault.FORMAT,
    }
    for data, fault in cases.items():
        assert told(member, data) is fault, data[:40]
    assert member.candidates() == tuple(roster)
    assert told(member, good) is None, "the same again is no fault"
    member.close(roster)
    assert told(member, good) is Fault.LATE


def test_whoever_builds_on_another_view_or_deals_wrongly_is_named_and_the_rest_goes_on() -> None:
    game, session, roster = begun(4)
    words = [game.close(agent, roster) for agent in roster]
    shares = [data for data in words if data is not None]
    (liar,) = [one for one in identities(4) if one.agent == roster[3]]
    view, commitment, rows = read_message(session, shares[3]).body
    broken = [[agent, box[:-1] + bytes([box[-1] ^ 1]), *hashes] for agent, box, *hashes in rows]
    swapped = [[agent, box, second, first] for agent, box, first, second in rows]
    for body, fault in (
        ([bytes(32), commitment, rows], Fault.VIEW),
        ([view, commitment, rows[:3]], Fault.SHARES),
        ([view, commitment, broken], Fault.SHARES),
        ([view, commitment, swapped], Fault.SHARES),
    ):
        game, session, roster = begun(4)
        for agent in roster:
            game.close(agent, roster)
        game.members.pop(roster[3])
        game.say([*shares[:3], write_message(session, liar, Phase.SHARES, body)])
        for member in game.members.values():
            assert member.faults() == {roster[3]: fault}
            assert member.candidates() == tuple(roster[:3])
        with pytest.raises(SecureSumError) as refused:
            game.members[roster[0]].close(roster)
        assert (refused.value.fault, refused.value.agent) == (fault, roster[3])
        for _ in range(3):
            words = [game.close(agent, roster[:3]) for agent in game.members]
            game.say([data for data in words if data is not None])
        game.transcript = [data for data in game.transcript if not _is_shares_of(session, data, roster[3])]
        assert np.array_equal(game.opened()[1], plain_sum(inputs(4, 9)[:3]))


def _is_shares_of(session: Session, data: bytes, agent: AgentId) -> bool:
    message = read_message(session, data)
    return message.phase is Phase.SHARES and message.sender == agent


def test_nothing_is_opened_before_the_threshold_has_signed_one_view_and_a_wrong_share_is_found() -> None:
    game, session, roster = begun(4)
    words = [game.close(agent, roster) for agent in roster]
    for _ in range(2):
        game.say([data for data in words if data is not None])
        words = [game.close(agent, roster) for agent in game.members]
    # Two were told of another set of survivors: their words have another view, and two are too few.
    other = [
        write_message(session, one, Phase.SURVIVORS, [b"o" * 32])
        for one in identities(4)
        if one.agent in roster[2:]
    ]
    member = game.members[roster[0]]
    for data in (words[1], *other):
        assert data is not None
        member.receive(data)
    assert member.faults() == dict.fromkeys(roster[2:], Fault.VIEW)
    with pytest.raises(SecureSumError):
        member.close(member.candidates())
    assert member.phase is Phase.SURVIVORS
    assert not member._heard[Phase.OPENING], "it has opened nothing"

    member = game.members[roster[1]]
    for data in words:
        assert data is not None
        member.receive(data)
    opened = member.close(roster)
    assert opened is not None
    view, rows = read_message(session, opened).body
    (liar,) = [one for one in identities(4) if one.agent == roster[2]]
    member.receive(write_message(session, liar, Phase.OPENING, [view, rows]))
    assert member.faults() == {roster[2]: Fault.SHARES}, "shares of somebody else"


def test_points_of_low_order_are_no_keys() -> None:
    session = session_of(3)
    game = table(session, inputs(3, 1))
    member = game.members[session.roster[0]]
    member.start()
    (liar,) = [one for one in identities(3) if one.agent == session.roster[1]]
    member.receive(write_message(session, liar, Phase.KEYS, [bytes(32), bytes(32)]))
    assert member.faults() == {session.roster[1]: Fault.KEYS}
