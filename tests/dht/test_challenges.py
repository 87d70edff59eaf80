"""Challenges: everybody's turn comes, one failure is a doubt, two are a conviction, silence is no way out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.evidence.challenges import AT_ONCE, SILENT_MOST, Challenges, Outcome

HOLDERS = [bytes([number]) * 32 for number in range(4)]
CIDS = [bytes([number]) for number in range(20)]
claims = st.lists(st.tuples(st.sampled_from(HOLDERS), st.sampled_from(CIDS)), max_size=80)


@given(claims, st.sets(st.sampled_from(HOLDERS)))
def test_what_is_chosen_was_claimed_by_somebody_usable(
    some: list[tuple[bytes, bytes]], usable: set[bytes]
) -> None:
    chosen = Challenges().choose(some, usable)
    if chosen is None:
        assert not [agent for agent, _ in some if agent in usable]
        return
    assert chosen.holder in usable
    assert {(chosen.holder, cid) for cid in chosen.cids} <= set(some)
    wanted = {cid for agent, cid in some if agent == chosen.holder}
    assert len(chosen.cids) == min(AT_ONCE, len(wanted)) == len(set(chosen.cids))


def test_everybodys_turn_comes_and_who_is_in_doubt_goes_first() -> None:
    challenges = Challenges()
    everybody = [(agent, CIDS[0]) for agent in HOLDERS]
    for turn, agent in enumerate([*HOLDERS, *HOLDERS]):
        chosen = challenges.choose(reversed(everybody), HOLDERS)
        assert chosen is not None
        assert chosen.holder == agent
        assert challenges.answered(agent, CIDS[:1], (), turn) is Outcome.KEPT
    assert challenges.answered(HOLDERS[3], CIDS[:1], CIDS[:1], 8.0) is Outcome.DOUBTED
    assert challenges.in_doubt == {HOLDERS[3]}
    assert challenges.least_asked(HOLDERS) == HOLDERS[3]
    assert challenges.least_asked([]) is None


def test_two_failures_in_a_row_convict_and_an_honest_answer_clears() -> None:
    challenges, due = Challenges(), CIDS[:2]
    assert challenges.answered(HOLDERS[0], due, due[:1], 0.0) is Outcome.DOUBTED
    assert challenges.answered(HOLDERS[0], due, (), 1.0) is Outcome.KEPT
    assert challenges.answered(HOLDERS[0], due, due[1:], 2.0) is Outcome.DOUBTED
    assert challenges.answered(HOLDERS[0], due, CIDS[5:6], 3.0) is Outcome.LET_GO, "others hold that now"
    assert challenges.answered(HOLDERS[0], due, CIDS[1:6], 4.0) is Outcome.CONVICTED
    assert not challenges.in_doubt


def test_silence_counts_as_a_failure_after_a_while() -> None:
    challenges = Challenges()
    for _ in range(2):
        assert [challenges.unanswered(HOLDERS[0], 0.0) for _ in range(SILENT_MOST)] == [False, False, True]
    challenges.unanswered(HOLDERS[0], 0.0)
    challenges.unanswered(HOLDERS[0], 0.0)
    challenges.answered(HOLDERS[0], CIDS[:1], (), 1.0)
    assert not challenges.unanswered(HOLDERS[0], 2.0)
