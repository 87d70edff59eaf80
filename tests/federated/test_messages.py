"""Bodies of `learning.sign`: round trips, and nothing but `FrameError` for what a peer may send instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.learning_task import MAX_SEATS
from dht.errors import FrameError
from federated.messages import (
    MAX_QUESTION,
    MAX_REPLY,
    MAX_VIEW,
    Question,
    Reply,
    Word,
    decode_question,
    decode_reply,
)
from tests.chain.samples import damage, record_cids, values

agents = st.binary(min_size=32, max_size=32)
digests = st.binary(min_size=32, max_size=32)
cids = st.lists(record_cids, max_size=4).map(tuple)
questions = st.builds(
    Question, record_cids, digests, st.lists(agents, min_size=1, max_size=4).map(tuple), cids, cids, digests
)
replies = st.builds(Reply, st.sampled_from(Word), st.just(b"") | st.binary(min_size=64, max_size=64), cids)


@given(question=questions, reply=replies)
def test_round_trip(question: Question, reply: Reply) -> None:
    assert decode_question(question.encode()) == question
    assert decode_reply(reply.encode()) == reply


@given(data=st.data(), question=questions, reply=replies, value=values)
def test_damage_is_a_frame_error(
    data: st.DataObject, question: Question, reply: Reply, value: object
) -> None:
    for body in (
        data.draw(damage(question.encode())),
        data.draw(damage(reply.encode())),
        canonical.encode(value),
    ):
        for decode in (decode_question, decode_reply):
            try:
                decode(body)
            except FrameError:
                continue


def test_the_largest_fit_and_larger_ones_are_refused() -> None:
    cid = b"\x01\x81\x04\x12\x20" + bytes(32)
    largest = Question(cid, bytes(32), (bytes(32),) * MAX_SEATS, (cid,) * MAX_VIEW, (cid,) * 32, bytes(32))
    assert decode_question(largest.encode()) == largest
    assert len(largest.encode()) <= MAX_QUESTION
    reply = Reply(Word.MISSING, bytes(64), (cid,) * MAX_VIEW)
    assert decode_reply(reply.encode()) == reply
    assert len(reply.encode()) <= MAX_REPLY
    for wrong in (
        Question(cid, bytes(32), (), (), (), bytes(32)),
        Question(cid, bytes(32), (bytes(32),) * (MAX_SEATS + 1), (), (), bytes(32)),
        Question(cid, bytes(32), (bytes(32),), (cid,) * (MAX_VIEW + 1), (), bytes(32)),
        Question(b"task", bytes(32), (bytes(32),), (), (), bytes(32)),
    ):
        with pytest.raises(FrameError):
            decode_question(wrong.encode())
