"""The body of a share: what is written is read back, and nothing else gets through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import blob_cid, record_cid
from chain.errors import RecordError
from chain.learning_task import ALL_TO_ALL, GOSSIP, INT8, MAX_FANOUT, MAX_ROUNDS, Array, Task, task_from_body
from chain.share import MAX_REFUSED, Share, read_share, share_body
from tests.chain.samples import blob_cids, record_cids

shares = st.builds(
    Share,
    round=st.integers(1, MAX_ROUNDS + 1),
    blob=blob_cids,
    size=st.integers(0, 1 << 40),
    examples=st.integers(0, 1 << 40),
    metrics=st.dictionaries(st.sampled_from(["loss", "accuracy"]), st.integers(-(1 << 40), 1 << 40)),
    base=blob_cids,
    combined=st.sets(record_cids, max_size=MAX_FANOUT + 1).map(lambda found: tuple(sorted(found))),
    refused=st.dictionaries(record_cids, st.sampled_from(["norm", "double"]), max_size=MAX_REFUSED).map(
        lambda found: tuple(sorted(found.items()))
    ),
)
RECORDS = sorted(record_cid(b"%d" % n) for n in range(20))
GOOD = share_body(Share(1, blob_cid(b"m"), 1, 1, {}, blob_cid(b"b"), tuple(RECORDS[:2])))
BAD: list[dict[str, Any]] = [
    {"round": 0},
    {"round": MAX_ROUNDS + 2},
    {"blob": RECORDS[0]},
    {"base": b""},
    {"size": -1},
    {"examples": True},
    {"metrics": {"loss": 0.5}},
    {"combined": RECORDS[:2][::-1]},
    {"combined": [RECORDS[0], RECORDS[0]]},
    {"combined": RECORDS[: MAX_FANOUT + 2]},
    {"refused": [[RECORDS[0], "x" * 33]]},
    {"refused": [[RECORDS[0]]]},
    {"refused": [[RECORDS[1], "norm"], [RECORDS[0], "norm"]]},
    {"refused": [[one, "norm"] for one in RECORDS[: MAX_REFUSED + 1]]},
    {"more": 1},
]


@given(shares)
@settings(max_examples=25)
def test_what_is_written_is_read_back(share: Share) -> None:
    assert read_share(share_body(share)) == share


@pytest.mark.parametrize("change", BAD, ids=lambda change: next(iter(change)))
def test_what_is_not_a_share_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        read_share(GOOD | change)


def test_gossip_has_its_own_terms() -> None:
    arrays = (Array("w", "<f4", (1,)),)
    task = Task("t", arrays, blob_cid(b""), 1, 1, 200, 1000, 1000, 1000, 1, 1, {}, topology=GOSSIP)
    body = task.to_body()
    assert task_from_body(body | {"fanout": MAX_FANOUT}).fanout == MAX_FANOUT
    for change in ({"fanout": 0}, {"fanout": MAX_FANOUT + 1}, {"compression": INT8}):
        with pytest.raises(RecordError):
            task_from_body(body | change)
    with pytest.raises(RecordError, match="fanout is for the topology gossip"):
        task_from_body(replace(task, topology=ALL_TO_ALL, max_members=16).to_body() | {"fanout": 3})
