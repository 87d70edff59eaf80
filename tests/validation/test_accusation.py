"""Accusations: what was broken can be shown to everybody, and nobody else can be accused."""

from __future__ import annotations

import pytest

from chain.kinds import FORK_WARRANT, INVALID_WARRANT
from chain.record import Record
from chain.warrant import MAX_WARRANT, fork_body, invalid_body, offence_of, proof_of
from tests.validation.bench import ALICE, BOB, NETWORK, STEWARD, Bench, bench, content, forge
from tests.validation.test_rules import OFFENCES
from validation.accusation import accuse_fork, accuse_invalid
from validation.context import Context
from validation.named import named_by
from validation.rules import judge
from validation.verdict import VALID, Invalid
from validation.warrant_rules import PROVABLE

BENT_BY_OTHERS = {"cited-signatures", "binding"}
"""Rules whose breach may be the work of whoever passed the record on, or that not every node can check."""


def opening_of(b: Bench, record: Record) -> tuple[Record, Record]:
    return b.alice.opening if record.header.author == ALICE.agent else b.bob.opening


def in_bobs_chain(b: Bench, kind: str, body: dict[str, object]) -> Record:
    return forge(b.by_name["fork-warrant"], kind=kind, body=body)


def stranger() -> Context:
    """The bench of a judge who has seen nothing: manifest and the accuser's opening."""
    b = bench()
    warrant = b.by_name["fork-warrant"]
    context = b.context(warrant)
    return Context(
        context.manifest,
        NETWORK,
        named={cid: context.named[cid] for cid in named_by(warrant)},
        opening=b.bob.opening,
    )


@pytest.mark.parametrize("rule", [rule for rule in OFFENCES if rule not in ("signature", "epoch", "opening")])
def test_what_breaks_a_provable_rule_is_shown_to_strangers(rule: str) -> None:
    b = bench()
    shown = 0
    for offence in OFFENCES[rule]:
        record, context = offence(b)
        if context.manifest != b.context(record).manifest or record.header.author == STEWARD.agent:
            continue
        draft = accuse_invalid(opening_of(b, record), record, context)
        if draft is None:
            continue
        warrant = in_bobs_chain(b, draft.kind, draft.body)
        assert judge(warrant, stranger()) == VALID
        proven = offence_of(proof_of(warrant))
        assert (proven.rule, proven.records, proven.seq) == (rule, (record.cid,), record.header.seq)
        shown += 1
    if rule in PROVABLE - {"kind", "limits", "warrant-body"}:
        assert shown
    if rule in BENT_BY_OTHERS or rule not in PROVABLE:
        assert not shown


def test_a_fork_is_shown_whatever_the_branches_say() -> None:
    b = bench()
    create = b.by_name["create"]
    for twin in (
        forge(create, body=content("thorns").to_body()),
        forge(create, seq=3, hlc=1, kind="entry.bless"),
    ):
        draft = accuse_fork(b.alice.opening, create, twin, b.context(create))
        assert draft is not None
        assert draft == accuse_fork(b.alice.opening, twin, create, b.context(create))
        assert judge(in_bobs_chain(b, draft.kind, draft.body), stranger()) == VALID
    assert accuse_fork(b.alice.opening, create, b.by_name["tag"], b.context(create)) is None


@pytest.mark.parametrize("name", bench().by_name)
def test_nobody_who_broke_nothing_can_be_accused(name: str) -> None:
    """Whichever rule the accuser names, whatever it leaves out of the proof."""
    b = bench()
    record = b.by_name[name]
    context = b.context(record)
    opening = opening_of(b, record)
    assert accuse_invalid(opening, record, context) is None
    named = [context.named[cid] for cid in named_by(record) if cid in context.named]
    for rule in sorted(PROVABLE):
        for proof in (named, named[1:], []):
            warrant = in_bobs_chain(b, INVALID_WARRANT, invalid_body(opening, record, rule, proof))
            verdict = judge(warrant, stranger())
            assert isinstance(verdict, Invalid), rule
            assert verdict.rule in ("warrant-proof", "warrant-body", "warrant-size")
    for other in b.by_name.values():
        if other.header.author == record.header.author:
            warrant = in_bobs_chain(b, FORK_WARRANT, fork_body(opening, record, other))
            assert isinstance(judge(warrant, stranger()), Invalid)


def test_a_false_warrant_convicts_its_author_and_a_true_one_about_it_nobody() -> None:
    b = bench()
    honest = b.by_name["create"]
    false = in_bobs_chain(b, INVALID_WARRANT, invalid_body(b.alice.opening, honest, "lamport", []))
    draft = accuse_invalid(b.bob.opening, false, b.context(false))
    assert draft is not None
    true = forge(b.by_name["invalid-warrant"], kind=draft.kind, body=draft.body)
    assert judge(true, b.context(true)) == VALID
    assert offence_of(proof_of(true)).offender == BOB.agent
    assert accuse_invalid(b.alice.opening, true, b.context(true)) is None


def test_what_takes_too_much_to_prove_is_not_accused() -> None:
    b = bench()
    long = forge(b.by_name["create"], body=content("x" * MAX_WARRANT).to_body() | {"codes": b"\x7f"})
    assert isinstance(judge(long, b.context(long)), Invalid)
    assert accuse_invalid(b.alice.opening, long, b.context(long)) is None
