"""Judging under fire: any decodable record, any part of what it names, any order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chain.errors import ChainError
from chain.kinds import KINDS_BY_RULE_VERSION, RULE_VERSION
from chain.record import MAX_INT, Record, decode_record, encode_payload
from tests.validation.bench import ALICE, BOB, NETWORK, SALT, UNKNOWN, bench, forge
from validation.named import named_by
from validation.rules import RULES, judge, judge_header
from validation.verdict import VALID, Invalid, Pending

BENCH = bench()
RECORDS = [*BENCH.alice.records, *BENCH.bob.records]
CIDS = sorted([*(record.cid for record in RECORDS), UNKNOWN])
NAMES = {rule.name for rule in RULES}

numbers = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 2_000, MAX_INT])
cids = st.sampled_from(CIDS)
body_values = st.recursive(
    st.none()
    | numbers
    | st.sampled_from(["", "rose", "garden", "x" * 101])
    | st.sampled_from([b"", b"\x7f\1\1\1", NETWORK])
    | cids,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
body_fields = st.sampled_from(
    [
        "adds",
        "atlas",
        "codes",
        "lifted",
        "name",
        "network",
        "nonce",
        "number",
        "over",
        "previous",
        "recovery",
        "rules",
        "seen",
        "signatures",
        "software",
        "tag",
        "tags",
        "text",
    ]
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """A record of the bench with some fields changed to ones that nearly fit, on the wire and back."""
    base = draw(st.sampled_from(RECORDS))
    fields: dict[str, st.SearchStrategy[Any]] = {
        "network": st.just(UNKNOWN) | st.just(NETWORK),
        "epoch": st.just(NETWORK) | cids,
        "author": st.sampled_from([ALICE.agent, BOB.agent]),
        "seq": numbers,
        "prev": st.none() | cids,
        "subject": st.none() | cids,
        "subject_seq": numbers,
        "subject_prev": st.none() | cids,
        "deps": st.lists(cids, max_size=3, unique=True).map(lambda found: tuple(sorted(found))),
        "lamport": numbers,
        "hlc": numbers,
        "kind": st.sampled_from([*sorted(KINDS_BY_RULE_VERSION[RULE_VERSION]), "entry.bless"]),
        "payload_size": numbers,
    }
    changed = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True))
    raw = draw(
        st.just(base.payload)
        | st.binary(max_size=40)
        | st.dictionaries(body_fields, body_values, max_size=4).map(lambda body: encode_payload(SALT, body))
    )
    record = forge(base, raw=raw, **{name: draw(fields[name]) for name in changed})
    if draw(st.integers(0, 9)) == 9:
        record = replace(record, signature=draw(st.binary(min_size=64, max_size=64)))
    return record


def test_any_decodable_record_gets_a_verdict() -> None:
    seen: set[str] = set()

    @given(record=records(), some=st.lists(st.sampled_from(RECORDS)), bare=st.booleans())
    def judged(record: Record, some: list[Record], bare: bool) -> None:
        try:
            record = decode_record((record.without_payload() if bare else record).encode())
        except ChainError:
            return
        context = BENCH.context(record, named={one.cid: one for one in some})
        for verdict in (
            judge(record, context),
            judge_header(record, context),
            judge(record, context, links=False),
        ):
            match verdict:
                case Invalid(rule, reason):
                    assert rule in NAMES
                    assert reason
                    seen.add(rule)
                case Pending(missing, opening_of):
                    assert missing or opening_of
                    assert list(missing) == sorted(set(missing))
                case other:
                    assert other == VALID

    judged()
    assert len(seen) >= 3  # the generator reaches beyond the first rule


@given(
    record=records(), order=st.permutations(RECORDS), keep=st.lists(st.booleans(), min_size=20, max_size=20)
)
def test_verdicts_do_not_depend_on_order_and_are_final(
    record: Record, order: list[Record], keep: list[bool]
) -> None:
    """With more at hand, pending may become final; valid and invalid stay what they were."""
    straight = {one.cid: one for one in RECORDS}
    shuffled = {one.cid: one for one in order}
    whole = judge(record, BENCH.context(record, named=straight))
    assert judge(record, BENCH.context(record, named=shuffled)) == whole
    part = {one.cid: one for one, kept in zip(order, keep, strict=False) if kept}
    early = judge(record, BENCH.context(record, named=part))
    if not isinstance(early, Pending):
        assert type(early) is type(whole)
    elif whole == VALID:
        assert early.missing
        assert set(early.missing) <= set(straight)


@given(record=records())
def test_only_what_a_record_names_matters(record: Record) -> None:
    named = {one.cid: one for one in RECORDS if one.cid in named_by(record)}
    assert judge(record, BENCH.context(record, named=named)) == judge(record, BENCH.context(record))
