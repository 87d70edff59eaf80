"""Secure sums: right to the bit whoever drops out, closed to fewer than the threshold, and hard to fool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import blob_cid
from chain.identity import AgentId, Identity
from federated.privacy.keystream import keystream
from federated.privacy.opened_sum import CHUNK, add_mask, check_chain, open_sum, public_bytes
from federated.privacy.secure_messages import (
    Fault,
    Message,
    Phase,
    SecureSumError,
    Session,
    read_message,
    view_of,
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


def test_a_mask_goes_on_over_its_chunks_and_is_taken_away_again() -> None:
    seed = bytes(range(32))
    total = np.zeros(CHUNK + 9, np.uint64)
    add_mask(total, seed, 1, keystream)
    assert np.array_equal(total, keystream(seed)(CHUNK + 9))
    add_mask(total, seed, -1, keystream)
    assert not total.any()


def test_a_session_has_the_name_of_all_that_it_is_about() -> None:
    session = session_of(5)
    others = [
        session,
        replace(session, task=blob_cid(b"another task")),
        replace(session, round=4),
        replace(session, previous=b"p" * 32),
        replace(session, roster=session.roster[:4]),
        replace(session, threshold=5),
        replace(session, length=LENGTH + 1),
    ]
    assert len({one.digest() for one in others}) == len(others)


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


def test_no_two_boxes_and_no_two_masks_have_one_key() -> None:
    """Boxes have no nonce, so a key closes one; who sees two vectors under one mask has their difference."""
    streams: list[bytes] = []
    seeds: set[tuple[bytes, bytes, frozenset[AgentId]]] = set()
    keys: set[bytes] = set()
    for session in (
        session_of(4),
        replace(session_of(4), round=4),
        replace(session_of(4), previous=b"p" * 32),
    ):
        game = table(session, inputs(4, 1))  # of the same chance: all private keys are those of before
        game.run()
        for message in (read_message(session, data) for data in game.transcript):
            if message.phase is Phase.KEYS:
                keys.update(message.body)
            for agent, box, *_ in message.body[2] if message.phase is Phase.SHARES else ():
                if agent != message.sender:
                    dealt = b"".join(game.members[agent]._shares[message.sender])
                    streams.append(bytes(a ^ b for a, b in zip(box, dealt, strict=False)))
        for one in game.members.values():
            for other in game.members:
                if other != one._me:
                    seeds.add((one._pair_seed(other), session.digest(), frozenset((one._me, other))))
    assert len(streams) == len(set(streams)) == 3 * 4 * 3
    assert len(keys) == 4 * 2, "one key for boxes, another one, which may be opened, for masks"
    assert len(seeds) == len({seed for seed, *_ in seeds}) == 3 * 6


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


def test_each_coefficient_is_a_number_of_its_own_of_full_length() -> None:
    """Else fewer shares tell of the secret: the two unknown ones of a threshold of three are worked out."""
    rng = np.random.default_rng(1)
    found: list[int] = []
    for _ in range(20):
        secret = rng.bytes(SECRET_SIZE)
        first, second, third = (int.from_bytes(share, "big") for share in split(secret, 3, 3, rng.bytes))
        squared = (third - 2 * second + first) * pow(2, -1, PRIME) % PRIME
        found += [squared, (first - int.from_bytes(secret, "big") - squared) % PRIME]
    assert len(set(found)) == len(found)
    assert min(found) > PRIME >> 64


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
    unordered = [[agent, bytes(66)] for agent in roster[::-1]]
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
        write_message(session, signer, Phase.OPENING, [bytes(32), unordered]): Fault.FORMAT,
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


def test_who_was_left_out_does_not_come_back() -> None:
    game, session, roster = begun(5)
    inside = roster[:4]
    words = [game.close(agent, inside) for agent in inside]
    (out,) = [one for one in identities(5) if one.agent == roster[4]]
    assert words[0] is not None
    back = write_message(session, out, Phase.SHARES, read_message(session, words[0]).body)
    game.members.pop(roster[4])
    game.say([back, *(data for data in words if data is not None)])
    for member in game.members.values():
        assert member.faults() == {roster[4]: Fault.VIEW}
        assert member.candidates() == tuple(inside)


def test_of_two_deals_the_one_that_others_build_on_gives_the_shares() -> None:
    game, _, roster = begun(4)
    first, *_ = (game.close(agent, roster) for agent in roster)
    again = game.members[roster[0]]._deal()
    member = game.members[roster[1]]
    assert first is not None
    member.receive(first)
    assert not member.faults()
    before = member._shares[roster[0]]
    member.receive(again, instead=True)
    assert not member.faults()
    assert all(old != new for old, new in zip(before, member._shares[roster[0]], strict=True))


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


def identity_of(agent: AgentId, count: int = 5) -> Identity:
    return next(one for one in identities(count) if one.agent == agent)


@pytest.mark.parametrize("lie", [Phase.KEYS, Phase.SHARES])
def test_who_deals_another_secret_than_it_showed_is_named_when_the_sum_is_opened(lie: Phase) -> None:
    """Another seed than the hashed one; another key than the public one, of a member that then drops out."""
    session = session_of(5)
    liar = session.roster[2]

    def alter(message: Message) -> bytes | None:
        if message.sender != liar or message.phase is not lie:
            return None
        first, second, *rest = message.body
        body = [first, public_bytes(X25519PrivateKey.from_private_bytes(bytes([1]) * 32))]
        if lie is Phase.SHARES:
            body = [first, bytes(reversed(second)), *rest]
        return write_message(session, identity_of(liar), lie, body)

    game = table(session, inputs(5, 1))
    game.run({Phase.MASKED: [liar]} if lie is Phase.KEYS else {}, alter)
    with pytest.raises(SecureSumError) as refused:
        game.opened()
    assert (refused.value.fault, refused.value.agent) == (Fault.SHARES, liar)


def test_a_sum_is_opened_by_those_whose_vectors_count_and_as_they_were_dealt() -> None:
    session = session_of(5)
    game = table(session, inputs(5, 1))
    gone = session.roster[4]
    leaver = game.members[gone]
    game.run({Phase.MASKED: [gone]})
    said = game.said()
    assert len(open_sum(session, said).vectors) == session.threshold == 4
    first, second, *others = said.openings
    view, rows = first.body
    survivor = next(row[0] for row in rows if row[0] != gone)
    pairs = game.members[first.sender]._shares
    other_one = [[dealer, pairs[dealer][dealer != survivor and dealer != gone]] for dealer, _ in rows]

    def resaid(agent: AgentId, *body: object) -> Message:
        return read_message(session, write_message(session, identity_of(agent), Phase.OPENING, list(body)))

    own = [[dealer, leaver._shares[dealer][dealer != gone]] for dealer, _ in rows]
    for openings, fault, agent in (
        ((first, second, *others[:1]), Fault.TOO_FEW, None),
        ((first, first, second, *others), Fault.DOUBLE, None),
        ((first, second, *others, resaid(gone, view, own)), Fault.VIEW, gone),
        ((resaid(first.sender, b"o" * 32, rows), second, *others), Fault.VIEW, first.sender),
        ((resaid(first.sender, view, other_one), second, *others), Fault.SHARES, first.sender),
    ):
        ordered = tuple(sorted(openings, key=lambda one: one.sender))
        with pytest.raises(SecureSumError) as refused:
            open_sum(session, replace(said, openings=ordered))
        assert refused.value.fault is fault
        assert refused.value.agent == agent


def test_a_chain_in_which_somebody_was_dealt_nothing_is_none() -> None:
    session = session_of(5)
    game = table(session, inputs(5, 1))
    game.run()
    said = game.said()
    dealt, *others = said.shares
    view, commitment, rows = dealt.body
    few = write_message(session, identity_of(dealt.sender), Phase.SHARES, [view, commitment, rows[:4]])
    shares = (read_message(session, few), *others)
    masked = [
        write_message(session, identity_of(one.sender), Phase.MASKED, [view_of(session, shares), one.body[1]])
        for one in said.masked
    ]
    check_chain(session, said.keys, said.shares, said.masked)
    with pytest.raises(SecureSumError) as refused:
        check_chain(session, said.keys, shares, [read_message(session, data) for data in masked])
    assert (refused.value.fault, refused.value.agent) == (Fault.SHARES, dealt.sender)


def test_points_of_low_order_are_no_keys() -> None:
    session = session_of(3)
    game = table(session, inputs(3, 1))
    member = game.members[session.roster[0]]
    member.start()
    (liar,) = [one for one in identities(3) if one.agent == session.roster[1]]
    member.receive(write_message(session, liar, Phase.KEYS, [bytes(32), bytes(32)]))
    assert member.faults() == {session.roster[1]: Fault.KEYS}
