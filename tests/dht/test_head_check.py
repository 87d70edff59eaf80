"""The head of an own chain is confirmed by what its holders can prove, and by more than half of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chain.cid import Cid, record_cid
from dht.evidence.claims import MAX_AGENTS, WINDOW_S, Claims
from dht.evidence.head_check import (
    Answer,
    Behind,
    Confirmed,
    Finding,
    Forked,
    Point,
    Twin,
    check_head,
    majority,
)

OWN = [record_cid(b"own %d" % seq) for seq in range(8)]
OTHER = [record_cid(b"other %d" % seq) for seq in range(12)]
HOLDERS = [bytes([number]) * 32 for number in range(5)]


def own_at(seq: int) -> Cid | None:
    return OWN[seq] if 0 <= seq < len(OWN) else None


def judge(length: int, answers: list[Answer], asked: int) -> Finding:
    head = (length - 1, OWN[length - 1]) if length else None
    return check_head(head, lambda seq: own_at(seq) if seq < length else None, answers, asked)


points = st.one_of(
    st.integers(0, 7).map(lambda seq: (seq, OWN[seq])), st.integers(0, 11).map(lambda seq: (seq, OTHER[seq]))
)
answers = st.builds(
    Answer,
    st.sampled_from(HOLDERS),
    st.lists(points, max_size=2).map(tuple),
    st.one_of(st.none(), st.floats(0, WINDOW_S)),
)


@given(length=st.integers(0, 8), said=st.lists(answers, max_size=6), asked=st.integers(0, 5), data=st.data())
def test_a_finding_is_what_the_answers_prove(
    length: int, said: list[Answer], asked: int, data: st.DataObject
) -> None:
    finding = judge(length, said, asked)
    assert finding == judge(length, data.draw(st.permutations(said)), asked), "order is nothing"
    assert finding == judge(length, [*said, *said], asked), "saying it twice is nothing"
    shown: list[Point] = [point for answer in said for point in answer.heads]
    if any(seq < length and cid != OWN[seq] for seq, cid in shown):
        assert isinstance(finding, Forked), "a fork is proven by one"
    elif any(seq >= length for seq, _ in shown):
        assert finding == Behind(
            max(seq for seq, _ in shown),
            tuple(sorted({a.holder for a in said if max(shown) in a.heads or _top(a) == max(shown)[0]})),
        )
    else:
        doubters = {answer.holder for answer in said if answer.other_s is not None}
        agree = {a.holder for a in said if length and (length - 1, OWN[length - 1]) in a.heads} - doubters
        if isinstance(finding, Confirmed):
            assert set(finding.holders) == agree
            assert len(agree) >= majority(asked) > 0
            assert 2 * len(agree) > asked
        elif isinstance(finding, Twin):
            assert 2 * len(doubters) > asked > 0


def _top(answer: Answer) -> int:
    return max((seq for seq, _ in answer.heads), default=-1)


def test_one_liar_of_three_neither_confirms_nor_stops_a_chain() -> None:
    head = (4, OWN[4])
    true = [Answer(HOLDERS[0], (head,)), Answer(HOLDERS[1], (head,))]
    for lie in (Answer(HOLDERS[2], ()), Answer(HOLDERS[2], ((1, OWN[1]),)), Answer(HOLDERS[2], (head,), 1.0)):
        assert isinstance(judge(5, [*true, lie], 3), Confirmed)
        assert not isinstance(judge(5, [true[0], lie], 3), Confirmed | Twin)
    hidden = [Answer(HOLDERS[0], ((6, OWN[6]),)), *[Answer(one, (head,)) for one in HOLDERS[1:3]]]
    assert judge(5, hidden, 3) == Behind(6, (HOLDERS[0],)), (
        "who knows more need not be believed: it is signed"
    )


turns = st.lists(
    st.tuples(st.sampled_from([b"a" * 16, b"b" * 16]), st.integers(0, 2), st.floats(0, 40)), max_size=30
)


@given(turns=turns)
def test_at_most_one_session_has_the_lease_unless_it_is_taken(
    turns: list[tuple[bytes, int, float]],
) -> None:
    """Against the plain rule: who had it last, and when."""
    claims, now = Claims(), 0.0
    holder: tuple[bytes, float] | None = None
    for session, what, passes in turns:
        now += passes
        if what == 2:
            claims.release(b"agent", session)
            holder = None if holder is not None and holder[0] == session else holder
            continue
        age = claims.claim(b"agent", session, what == 1, now)
        taken = what == 1 or holder is None or holder[0] == session or now - holder[1] >= WINDOW_S
        assert (age is None) == taken
        if taken:
            holder = (session, now)
        else:
            assert holder is not None
            assert age == now - holder[1]


def test_leases_are_bounded() -> None:
    claims = Claims()
    for number in range(MAX_AGENTS + 10):
        claims.claim(number.to_bytes(32, "big"), b"s" * 16, False, float(number))
    assert len(claims) == MAX_AGENTS
    assert claims.other((0).to_bytes(32, "big"), b"t" * 16, 0.0) is None


@given(first=st.integers(0, 6), steps=st.lists(st.integers(0, 11), max_size=40))
def test_of_two_copies_that_start_at_once_at_most_one_goes_on(first: int, steps: list[int]) -> None:
    """Each asks the same three holders for the lease, in whatever order the questions arrive."""
    claims = [Claims() for _ in range(3)]
    order = [*steps, *range(12)]
    told: dict[tuple[int, int], Answer] = {}
    for turn, step in enumerate(order):
        copy, holder = divmod((step + first) % 6, 3)
        if (copy, holder) not in told:
            age = claims[holder].claim(b"agent", bytes([copy]) * 16, False, float(turn) / 10)
            told[copy, holder] = Answer(HOLDERS[holder], ((4, OWN[4]),), age)
    go_on = [
        copy
        for copy in (0, 1)
        if isinstance(judge(5, [told[copy, holder] for holder in range(3)], 3), Confirmed)
    ]
    assert len(go_on) == 1, "and of three holders one of the two has two"
