"""An archive is judged by itself: what is whole passes, and whatever is bent, cut or missing is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.archive import ArchiveError
from chain.archive_parts import ArchiveWriter
from chain.record import encode_payload
from tests.validation.archive_samples import RULES, authors, judged, pieces, work

WHOLE = b"".join(pieces())


def test_a_whole_archive_is_judged_and_counted() -> None:
    tally, faults = judged(WHOLE, portion=7)
    assert not faults
    assert (tally.entries, tally.records, tally.erased, tally.authors) == (1, 5, 1, 2)
    assert tally.kinds == dict.fromkeys(
        ["entry.create", "entry.edit", "entry.tag", "entry.vote", "entry.purge"], 1
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_a_flipped_bit_anywhere_is_found(bit: int) -> None:
    bent = bytearray(WHOLE)
    bent[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ArchiveError) as told:
        judged(bytes(bent))
    assert "\n" not in str(told.value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_archive_is_not_taken_for_a_whole_one(end: int) -> None:
    with pytest.raises(ArchiveError, match="ends"):
        judged(WHOLE[:end])


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_missing_or_moved_part_is_found(data: st.DataObject) -> None:
    parts = pieces()
    place = data.draw(st.integers(0, len(parts) - 2))
    part = parts.pop(place)
    where = data.draw(st.none() | st.integers(0, len(parts)).filter(lambda to: to != place))
    if where is not None:
        parts.insert(where, part)
    with pytest.raises(ArchiveError):
        judged(b"".join(parts))


def test_a_record_that_breaks_a_rule_is_named_with_its_place() -> None:
    mine, _ = work()
    _, bob = authors()
    edit = next(one for one in mine if one.header.kind == "entry.edit")
    bad = bob.signed(edit, {**edit.body(), "text": ""})
    tally, faults = judged(b"".join(pieces([*mine[:1], bad, *mine[-1:]])))
    assert [(one.record, one.rule) for one in faults if one.rule == "operation"] == [(bad.cid, "operation")]
    assert tally.invalid == 1
    assert WHOLE[faults[0].at :]


@pytest.mark.parametrize(
    ("kept", "lacks"),
    [
        (lambda ordered: ordered[:-1], "erased-by-author"),
        (lambda ordered: [*ordered, authors()[0].records[3]], "archive-place"),
        (lambda ordered: [*ordered[:-1], replace(ordered[-1], signature=bytes(64))], "signature"),
    ],
)
def test_what_does_not_belong_or_is_not_proven_is_a_fault(kept: object, lacks: str) -> None:
    mine, _ = work()
    _, faults = judged(b"".join(pieces(kept(list(mine)))))  # type: ignore[operator]
    assert lacks in [one.rule for one in faults]


def test_without_what_it_names_a_record_is_undecided_and_not_valid() -> None:
    mine, _ = work()
    tally, faults = judged(b"".join(pieces(mine, companions=[])))
    assert faults
    assert all(one.undecided and "not in the archive" in one.reason for one in faults)
    assert tally.undecided == len(faults)


def test_an_author_who_did_not_pay_is_not_admitted() -> None:
    ann, _ = authors()
    genesis, membrane = ann.opening
    poor = ann.signed(membrane, {"nonce": 0})
    writer = ArchiveWriter()
    data = writer.begin(RULES) + b"".join(writer.group(None, [(genesis, poor)], [], [])) + writer.end()
    _, faults = judged(data)
    assert [one.rule for one in faults] == ["membrane-body"]


def test_a_group_keeps_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.archive_parts.MAX_GROUP_BYTES", 1000)
    with pytest.raises(ArchiveError, match="keeps more than 1000 bytes"):
        judged(WHOLE)


def test_the_same_record_twice_is_refused() -> None:
    mine, _ = work()
    with pytest.raises(ArchiveError, match="twice"):
        judged(b"".join(pieces([mine[0], mine[0]])))


def test_a_payload_of_another_record_is_not_taken() -> None:
    mine, _ = work()
    other = replace(mine[1], payload=encode_payload(bytes(16), {}))
    with pytest.raises(ArchiveError, match="other bytes"):
        judged(b"".join(pieces([mine[0], other])))
