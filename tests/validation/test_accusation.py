"""Accusations: what was broken can be shown to everybody, and nobody else can be accused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chain.agent_life import revocation_body, sign_revocation
from chain.cid import Cid
from chain.epoch import Epoch
from chain.identity import Identity
from chain.invitation import sign_grant, sign_invitation
from chain.kinds import FORK_WARRANT, GENESIS, INVALID_WARRANT, MEMBRANE, PROFILE, REVOKE
from chain.record import Record
from chain.source_chain import Draft, head_of, next_record
from chain.warrant import MAX_WARRANT, InvalidProof, fork_body, invalid_body, offence_of, proof_of
from tests.validation.bench import (
    ALICE,
    BOB,
    MANIFEST,
    NETWORK,
    RECOVERY,
    SALT,
    STEWARD,
    UNKNOWN,
    Bench,
    bench,
    content,
    forge,
    next_epoch,
)
from tests.validation.test_rules import OFFENCES
from validation.accusation import accuse_fork, accuse_invalid
from validation.context import Context
from validation.named import named_by
from validation.rules import judge
from validation.verdict import VALID, Invalid, Pending, Verdict
from validation.warrant_rules import PROVABLE, unproven

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
        assert judge(warrant, replace(stranger(), epochs=context.epochs)) == VALID
        proven = offence_of(proof_of(warrant))
        assert (proven.rule, proven.records, proven.seq) == (rule, (record.cid,), record.header.seq)
        shown += 1
    if rule in PROVABLE - {"fields", "kind", "limits", "warrant-body"}:
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
    place = sorted(b.by_name).index(name)
    for number, rule in enumerate(sorted(PROVABLE)):
        for proof in (named, named[1:], [])[: 3 if (number + place) % 3 == 0 else 1]:
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


def test_a_warrant_stands_whichever_epochs_its_judge_knows() -> None:
    """Of a record with two faults one can only be seen by who knows the epoch of the record before it."""
    b = bench()
    published = b.by_name["epoch"]
    epochs = {published.cid: next_epoch()}
    before = forge(b.by_name["tag"], epoch=published.cid)
    place: dict[str, Any] = {"seq": before.header.seq + 1, "lamport": before.header.lamport + 7}
    seen: list[list[Verdict]] = []
    for epoch in (NETWORK, published.cid):
        record = forge(b.by_name["create"], hlc=before.header.hlc, prev=before.cid, epoch=epoch, **place)
        for known in ({}, epochs):
            draft = accuse_invalid(b.alice.opening, record, b.context(record, before, epochs=known))
            if draft is not None:
                warrant = in_bobs_chain(b, draft.kind, draft.body)
                seen.append([judge(warrant, replace(stranger(), epochs=other)) for other in ({}, epochs)])
    assert seen == [[Pending((published.cid,)), VALID]], "of the record that is in its right epoch"
    record = forge(b.by_name["create"], hlc=before.header.hlc, prev=before.cid, **place)
    body = invalid_body(b.alice.opening, record, "lamport", [before.without_payload()])
    warrant = in_bobs_chain(b, INVALID_WARRANT, body)
    assert judge(warrant, replace(stranger(), epochs={})) == Pending((published.cid,))
    assert isinstance(judge(warrant, replace(stranger(), epochs=epochs)), Invalid)


def test_a_revocation_by_whom_a_later_epoch_shut_out_is_shown_to_who_knows_that_epoch() -> None:
    founded = replace(MANIFEST, join_bits=0, by_invitation=True)
    here, later = founded.network_id, UNKNOWN
    known = {later: Epoch(here, here, 4, None, founded.rules)}

    def opening(author: Identity, *statements: bytes, epoch: Cid = here) -> tuple[Record, Record]:
        genesis = Draft(GENESIS, {"network": here, "recovery": RECOVERY.agent})
        first = next_record(author, here, epoch, None, genesis, 1, SALT)
        membrane = Draft(MEMBRANE, {"invitation": list(statements)})
        return first, next_record(author, here, epoch, head_of(first), membrane, 1, SALT)

    grant = sign_grant(STEWARD, here, BOB.agent, 3)
    invited = (sign_invitation(BOB, here, ALICE.agent, 7), grant)
    shut_out = opening(ALICE, *invited, epoch=later)
    bob = opening(BOB, sign_invitation(STEWARD, here, BOB.agent, 7))
    statement = sign_revocation(RECOVERY, here, ALICE.agent, 4, UNKNOWN)
    profile = next_record(BOB, here, here, head_of(bob[1]), Draft(PROFILE, {}), 1, SALT)
    draft = Draft(REVOKE, revocation_body(statement, shut_out))
    revoke = next_record(BOB, here, here, head_of(profile), draft, 1, SALT)
    proof = InvalidProof(bob, revoke, "revocation", (profile,))
    assert unproven(proof, Context(founded, here, known), judge) is None
    assert unproven(proof, Context(founded, here), judge) == Pending((later,))
