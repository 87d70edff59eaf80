"""Who coordinates a ServerApp's run counts as gone once it is silent, however long it was busy before, but
not for ever; and an app that is in a hurry puts no member out."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from chain.cid import blob_cid, record_cid
from federated.presence import HOLDS_S, MAX_BUSY_S, SIGN_S, Presence
from tests.federated.models import task_of

TERMS = replace(task_of(), commit_ms=20_000, result_ms=5_000)
SILENCE_S = 25.0
CALL, OTHER = record_cid(b"a call"), record_cid(b"the call after it")
MEMBER = blob_cid(b"somebody")[:32]


@given(st.lists(st.floats(0, 2 * MAX_BUSY_S), max_size=20), st.floats(0, 100))
def test_signs_of_life_keep_a_coordinator_and_not_for_ever(signs: list[float], seen: float) -> None:
    presence = Presence(TERMS)
    assert presence.gone_at(CALL) == inf
    presence.saw(CALL, seen)
    assert presence.gone_at(CALL) == seen + SILENCE_S
    for at in sorted(signs):
        presence.heard(CALL, seen + at)
        presence.saw(CALL, seen + at)  # a call is first seen once
    most = seen + SILENCE_S + MAX_BUSY_S
    expected = max([seen + SILENCE_S, *(min(seen + at + HOLDS_S, most) for at in signs)])
    assert presence.gone_at(CALL) == expected
    presence.saw(OTHER, most)
    assert presence.gone_at(OTHER) == most + SILENCE_S, "it was said after the call before"


def test_an_own_sign_is_given_now_and_then() -> None:
    presence = Presence(TERMS)
    said = [at for at in range(0, 60, 4) if presence.says(CALL, float(at))]
    assert said[0] == 0
    assert all(later - before >= SIGN_S for before, later in zip(said, said[1:], strict=False))
    assert said[-1] >= 60 - 4 - SIGN_S
    assert HOLDS_S > 2 * SIGN_S, "one that is lost costs nothing"


def test_a_member_is_away_once_it_owes_answers_for_as_long_as_the_task_waits() -> None:
    presence, join, again = Presence(TERMS), record_cid(b"its join"), record_cid(b"its next join")
    for at in range(0, 18, 3):
        presence.owes(MEMBER, float(at), at + 3.0, join)
        assert not presence.is_away(MEMBER, join)
    presence.answered(MEMBER)
    presence.owes(MEMBER, 18.0, 21.0, join)
    assert not presence.is_away(MEMBER, join), "it answered meanwhile"
    presence.owes(MEMBER, 36.0, 38.0, join)
    assert presence.is_away(MEMBER, join)
    assert not presence.is_away(MEMBER, again), "it is back"
