"""Every rule of the table against records made by hand to break it, and against none that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from chain.agent_life import (
    MAX_AGENT_PAYLOAD,
    MAX_AGENT_STATEMENT,
    rotation_body,
    sign_consent,
    sign_revocation,
)
from chain.behalf import content_statement, vote_statement
from chain.cid import blob_cid, raw_cid, record_cid
from chain.epoch import Expulsion, epoch_body
from chain.identity import Identity
from chain.kinds import (
    CREATE,
    EPOCH,
    GENESIS,
    INVALID_WARRANT,
    MEMBRANE,
    PROFILE,
    RULE_VERSION,
    SIGNED_AT_FROM,
    START,
)
from chain.learning_outcome import Outcome, Result, result_body
from chain.manifest import Limits
from chain.private import MAX_BOX, MIN_BOX
from chain.record import MAX_INT, MAX_PAYLOAD, Record, decode_payload
from chain.source_chain import Draft, head_of, next_record
from chain.warrant import MAX_NESTING, MAX_WARRANT, fork_body, invalid_body
from crdt.operations import MAX_PURGED, Vote, delete_body, purge_body, tag_body, untag_body
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
    poor_nonce,
    unsigned,
)
from validation.context import Context
from validation.named import learning_of, named_by, operation_of
from validation.payload_rules import EXPELS_FROM, FIXED_ATLAS, MAX_SIGNED_AHEAD_US
from validation.rules import MAX_AHEAD_US, RULES, judge, judge_header, parks
from validation.subject_rules import MAX_OPERATIONS
from validation.verdict import VALID, Invalid, Pending

Offence = Callable[[Bench], tuple[Record, Context]]


def of(name: str, *, body: dict[str, Any] | None = None, raw: bytes | None = None, **changes: Any) -> Offence:
    """A record of the bench with these changes, judged with all that it may need."""

    def offend(b: Bench) -> tuple[Record, Context]:
        record = forge(b.by_name[name], body=body, raw=raw, **changes)
        return record, b.context(record)

    return offend


def within(limits: Limits) -> Offence:
    """A tagged create of the bench, sound but for a network of these limits."""

    def offend(b: Bench) -> tuple[Record, Context]:
        record = forge(b.by_name["create"], body=content("roses", "red").to_body())
        context = b.context(record)
        return record, replace(context, manifest=replace(context.manifest, limits=limits))

    return offend


def body_with(name: str, /, **changes: Any) -> Offence:
    """A record of the bench with some fields of its body changed; `...` takes one away."""

    def offend(b: Bench) -> tuple[Record, Context]:
        record = b.by_name[name]
        assert record.payload is not None
        body = {**decode_payload(record.payload), **changes}
        forged = forge(record, body={key: value for key, value in body.items() if value is not ...})
        return forged, b.context(forged)

    return offend


def after(name: str, change: dict[str, Any], **changes: Any) -> Offence:
    """A bench record whose prev is itself forged with `change`."""

    def offend(b: Bench) -> tuple[Record, Context]:
        record = b.by_name[name]
        assert record.header.prev is not None
        before = forge(b.named()[record.header.prev], **change)
        forged = forge(record, prev=before.cid, **changes)
        return forged, b.context(forged, before)

    return offend


def citing(
    name: str, target: str, change: dict[str, Any], cite: Callable[[Record], dict[str, Any]]
) -> Offence:
    """A bench record that names another, forged with `change`, where `cite` puts it."""

    def offend(b: Bench) -> tuple[Record, Context]:
        cited = forge(b.by_name[target], **change)
        forged = forge(b.by_name[name], **cite(cited))
        return forged, b.context(forged, cited)

    return offend


def badly_signed(b: Bench) -> tuple[Record, Context]:
    record = unsigned(b.by_name["create"])
    return record, b.context(record)


def signed_by_another(b: Bench) -> tuple[Record, Context]:
    record = b.by_name["create"]
    other = forge(record, author=BOB.agent)
    stolen = replace(record, signature=other.signature)
    return stolen, b.context(stolen)


def after_close(b: Bench) -> tuple[Record, Context]:
    draft = Draft(CREATE, content("too late").to_body())
    record = next_record(BOB, NETWORK, NETWORK, head_of(b.by_name["close"]), draft, 0, SALT)
    return record, b.context(record)


def after_rotation(b: Bench) -> tuple[Record, Context]:
    draft = Draft(CREATE, content("by the old key").to_body())
    record = next_record(ALICE, NETWORK, NETWORK, head_of(b.by_name["rotate"]), draft, 0, SALT)
    return record, b.context(record)


def prev_is(name: str) -> Offence:
    def offend(b: Bench) -> tuple[Record, Context]:
        record = forge(b.by_name["create"], prev=b.by_name[name].cid)
        return record, b.context(record)

    return offend


def line_is(subject_prev: str, seq: int) -> Offence:
    def offend(b: Bench) -> tuple[Record, Context]:
        record = forge(b.by_name["delete"], subject_prev=b.by_name[subject_prev].cid, subject_seq=seq)
        return record, b.context(record)

    return offend


def creator_starts_at_zero(b: Bench) -> tuple[Record, Context]:
    record = forge(b.by_name["tag"], subject_seq=0, subject_prev=None)
    return record, b.context(record)


def deps_are(*names: str) -> Offence:
    def offend(b: Bench) -> tuple[Record, Context]:
        record = forge(b.by_name["delete"], deps=tuple(sorted(b.by_name[name].cid for name in names)))
        return record, b.context(record)

    return offend


def late_dep_while_prev_is_missing(b: Bench) -> tuple[Record, Context]:
    """With prev at hand, the rule about lamport would say it first."""
    dep = forge(b.by_name["edit"], lamport=6)
    record = forge(b.by_name["delete"], deps=(dep.cid,), lamport=6)
    return record, b.context(record, named={dep.cid: dep})


def cites_unsigned(name: str, target: str) -> Offence:
    def offend(b: Bench) -> tuple[Record, Context]:
        record = b.by_name[name]
        return record, b.context(record, unsigned(b.by_name[target]))

    return offend


def retract_by_stranger(b: Bench) -> tuple[Record, Context]:
    record = forge(b.by_name["delete"], kind="entry.retract", body={})
    return record, b.context(record)


def payload_swapped(b: Bench) -> tuple[Record, Context]:
    record = b.by_name["create"]
    assert record.payload is not None
    swapped = replace(record, payload=bytes(len(record.payload)))
    return swapped, b.context(swapped)


def payload_cut(b: Bench) -> tuple[Record, Context]:
    record = b.by_name["create"]
    assert record.payload is not None
    cut = replace(record, payload=record.payload[:-1])
    return cut, b.context(cut)


def opening_is(seq: int, **change: Any) -> Offence:
    """The author's own opening, badly made, before an otherwise valid record."""

    def offend(b: Bench) -> tuple[Record, Context]:
        record, opening = b.by_name["create"], list(b.alice.opening)
        opening[seq] = forge(opening[seq], **change)
        if seq == 0 and "prev" not in change:
            opening[1] = forge(opening[1], prev=opening[0].cid)
        return record, b.context(record, opening=(opening[0], opening[1]))

    return offend


def epoch_signed(signatures: str, **change: Any) -> Offence:
    def offend(b: Bench) -> tuple[Record, Context]:
        epoch = next_epoch(**change)
        signed = {
            "nobody": [],
            "stranger": [epoch.sign(ALICE)],
            "steward": [epoch.sign(STEWARD)],
            "forged": [(STEWARD.agent, bytes(64))],
        }
        record = forge(b.by_name["epoch"], body=epoch_body(epoch, signed[signatures]))
        return record, b.context(record)

    return offend


def signed_vote(ahead_ms: int | None, rules: int = RULE_VERSION) -> Offence:
    """The bench's vote, passed on for a crawler who signed it so long after its record, or timeless."""

    def offend(b: Bench) -> tuple[Record, Context]:
        vote = operation_of(b.by_name["vote"])
        assert isinstance(vote, Vote)
        words = (vote.value, vote.confidence, vote.reason)
        hlc_ms = b.by_name["vote"].header.hlc // 1000
        signed_ms = None if ahead_ms is None else hlc_ms + ahead_ms
        statement = vote_statement("crawler", b.by_name["vote"].subject, *words, signed_ms)
        behalf: dict[str, Any] = {"key": CRAWLER.agent, "name": "crawler"}
        behalf["signature"] = CRAWLER.sign(statement)
        if signed_ms is not None:
            behalf["signed_ms"] = signed_ms
        record, context = body_with("vote", behalf=behalf)(b)
        return record, replace(context, manifest=replace(context.manifest, rules=rules))

    return offend


def signed(text: str) -> dict[str, Any]:
    """Said to be by a crawler who signed this text."""
    statement = content_statement("crawler", text)
    return {"key": CRAWLER.agent, "name": "crawler", "signature": CRAWLER.sign(statement)}


CRAWLER = Identity.from_seed(bytes([9]) * 32)
BAREFACED = {"key": CRAWLER.agent, "name": "crawler", "signature": bytes(64)}


def in_rules(version: int, name: str, /, **changes: Any) -> Offence:
    """A record of the bench with such fields, in a network whose rules do not know them."""

    def offend(b: Bench) -> tuple[Record, Context]:
        record, context = body_with(name, **changes)(b)
        return record, replace(context, manifest=replace(context.manifest, rules=version))

    return offend


in_rules_4 = partial(in_rules, 4)


def in_rules_1(name: str) -> Offence:
    """A record of the bench in a network whose rules do not know its kind."""

    def offend(b: Bench) -> tuple[Record, Context]:
        context = b.context(b.by_name[name])
        return b.by_name[name], replace(context, manifest=replace(context.manifest, rules=1))

    return offend


REVEALED = decode_payload(bench().by_name["reveal"].payload or b"")
OTHER_NETWORK = MANIFEST.network_id[:-1] + bytes([MANIFEST.network_id[-1] ^ 1])


def result_with(
    change: Callable[[Outcome], Outcome], signers: tuple[Identity, ...] = (ALICE, BOB)
) -> Offence:
    """The bench's result with another outcome, signed anew by these."""

    def offend(b: Bench) -> tuple[Record, Context]:
        result = learning_of(b.by_name["result"])
        assert isinstance(result, Result)
        outcome, task = change(result.outcome), b.by_name["task"].cid
        signatures = sorted((signer.agent, outcome.sign(task, signer)) for signer in signers)
        record = forge(b.by_name["result"], body=result_body(Result(outcome, tuple(signatures))))
        return record, b.context(record)

    return offend


def seat_is(name: str, join: str) -> Offence:
    """A roster in which Bob's seat names another record."""

    def offend(b: Bench) -> tuple[Record, Context]:
        body = {"roster": [[BOB.agent, b.by_name[join].cid]]}
        record = forge(b.by_name[name], body=body)
        return record, b.context(record)

    return offend


def started_by_another(b: Bench) -> tuple[Record, Context]:
    start = b.by_name["start"]
    assert start.payload is not None
    record = forge(b.by_name["leave"], kind=START, body=decode_payload(start.payload))
    return record, b.context(record)


def commit_is(name: str) -> Offence:
    return lambda b: body_with("reveal", commit=b.by_name[name].cid)(b)


def join_is_unsigned(b: Bench) -> tuple[Record, Context]:
    return b.by_name["start"], b.context(b.by_name["start"], unsigned(b.by_name["join"]))


def goes_back(b: Bench) -> tuple[Record, Context]:
    """A record of epoch 0 after one of epoch 1."""
    published = b.by_name["epoch"]
    before = forge(b.by_name["tag"], epoch=published.cid)
    place: dict[str, Any] = {"seq": before.header.seq + 1, "lamport": before.header.lamport + 1}
    record = forge(b.by_name["create"], hlc=before.header.hlc, prev=before.cid, **place)
    return record, b.context(record, before, epochs={published.cid: next_epoch()})


def another_atlas(b: Bench, rules: int = FIXED_ATLAS) -> tuple[Record, Context]:
    """After an epoch of that rule version."""
    before = b.by_name["epoch"]
    epoch = replace(next_epoch(2, before.cid), atlas=blob_cid(b"another atlas"))
    record = forge(before, epoch=before.cid, body=epoch_body(epoch, [epoch.sign(STEWARD)]))
    return record, b.context(record, epochs={before.cid: next_epoch(rules=rules)})


def puts_out(b: Bench) -> tuple[Record, Context]:
    """An epoch that puts Bob out, under rules that know no such thing."""
    before = b.by_name["epoch"]
    epoch = replace(next_epoch(2, before.cid), expelled=(Expulsion(BOB.agent, 3),))
    record = forge(before, epoch=before.cid, body=epoch_body(epoch, [epoch.sign(STEWARD)]))
    return record, b.context(record, epochs={before.cid: next_epoch(rules=EXPELS_FROM - 1)})


def header_of(name: str) -> bytes:
    return bench().by_name[name].without_payload().encode()


def accusing_fork(one: str, other: str) -> Offence:
    """A warrant that calls two honest records a fork."""

    def offend(b: Bench) -> tuple[Record, Context]:
        body = fork_body(b.alice.opening, b.by_name[one], b.by_name[other])
        return of("fork-warrant", body=body)(b)

    return offend


def cites_unsigned_in_proof(b: Bench) -> tuple[Record, Context]:
    """Who passes a record on may spoil its signature: that is no proof against who named it."""
    record = forge(b.by_name["edit"], lamport=9)
    named = [b.by_name["profile"], unsigned(b.by_name["create"]), b.bob.records[2]]
    return of("invalid-warrant", body=invalid_body(b.bob.opening, record, "lamport", named))(b)


def nested(levels: int) -> Offence:
    """A warrant about a false warrant about … about an honest record."""

    def offend(b: Bench) -> tuple[Record, Context]:
        record = b.by_name["leave"]
        for level in range(levels + 1):
            opening = b.bob.opening if record.header.author == BOB.agent else b.alice.opening
            body = invalid_body(opening, record, "lamport", [])
            record = forge(b.by_name["invalid-warrant" if level % 2 else "fork-warrant"], body=body)
            if level % 2 == 0:
                record = forge(record, kind=INVALID_WARRANT)
        return record, b.context(record)

    return offend


OF_ANOTHER_NETWORK = forge(bench().by_name["leave"], network=OTHER_NETWORK, lamport=1).without_payload()


def rotation_to(successor: Identity) -> Record:
    """Alice's rotation to somebody who agrees."""
    body = rotation_body(successor.agent, sign_consent(successor, NETWORK, ALICE.agent))
    return forge(bench().by_name["rotate"], body=body)


def revoked_by(signer: Identity, agent: bytes, network: bytes = NETWORK, seq: int = 4) -> bytes:
    return sign_revocation(signer, network, agent, seq, bench().alice.records[4].cid)


def genesis_naming(recovery: Identity) -> Record:
    """A second genesis of Alice, signed with her stolen key, that names another recovery key."""
    return forge(bench().by_name["genesis"], body={"network": NETWORK, "recovery": recovery.agent})


OFFENCES: dict[str, list[Offence]] = {
    "version": [of("create", version=2), of("create", version=0)],
    "network": [of("create", network=OTHER_NETWORK)],
    "payload-size": [of("create", payload_size=MAX_PAYLOAD + 1)],
    "signature": [badly_signed, signed_by_another],
    "epoch": [of("create", epoch=UNKNOWN), of("create", epoch=OTHER_NETWORK)],
    "kind": [of("create", kind="entry.bless"), of("create", kind="entry.Create"), in_rules_1("vote")],
    "genesis": [
        of("genesis", prev=UNKNOWN),
        of("create", prev=None),
        of("create", seq=0),
        of("genesis", lamport=1),
    ],
    "lamport-clock": [
        of("create", lamport=2_001, hlc=2_000),
        of("vote", lamport=MAX_INT),
    ],
    "opening-order": [
        of("genesis", kind=PROFILE),
        of("create", kind=GENESIS),
        of("create", kind=MEMBRANE),
        of("create", kind=PROFILE),
        of("membrane", kind=CREATE),
        of("profile", kind=CREATE),
    ],
    "subject-shape": [
        of("create", subject=UNKNOWN),
        of("create", subject_seq=1),
        of("create", subject_prev=UNKNOWN),
        of("create", deps=(UNKNOWN,)),
        of("profile", deps=(UNKNOWN,)),
        of("epoch", subject=UNKNOWN),
        of("edit", subject=None),
        of("vote", subject=None),
        of("edit", subject_prev=UNKNOWN),
        of("delete", subject_prev=None),
    ],
    "prev": [
        prev_is("edit"),
        prev_is("membrane"),
        of("create", seq=5),
        after("create", {"network": OTHER_NETWORK}),
        after("create", {"kind": CREATE}),
        after("tag", {"kind": GENESIS}),
    ],
    "clock": [of("create", hlc=999), after("create", {"hlc": 2_001})],
    "closed": [after_close, after_rotation],
    "epoch-order": [goes_back],
    "lamport": [
        of("create", lamport=0),
        of("create", lamport=7),
        of("edit", lamport=5),
        after("create", {"lamport": 9}),
    ],
    "subject": [
        citing("edit", "create", {"kind": PROFILE}, lambda cited: {"subject": cited.cid}),
        citing("vote", "create", {"kind": PROFILE}, lambda cited: {"subject": cited.cid}),
        citing("edit", "create", {"lamport": 99}, lambda cited: {"subject": cited.cid}),
        citing("edit", "create", {"hlc": 3_001}, lambda cited: {"subject": cited.cid}),
        citing("edit", "create", {"network": OTHER_NETWORK}, lambda cited: {"subject": cited.cid}),
    ],
    "subject-line": [
        creator_starts_at_zero,
        of("vote", subject_seq=9),
        line_is("tag", 2),
        line_is("profile", 2),
        line_is("untag", 1),
        line_is("untag", 3),
        citing("delete", "untag", {"seq": 9}, lambda cited: {"subject_prev": cited.cid}),
        citing("delete", "untag", {"lamport": 99}, lambda cited: {"subject_prev": cited.cid}),
        citing("delete", "untag", {"hlc": 9_999}, lambda cited: {"subject_prev": cited.cid}),
        citing("delete", "untag", {"subject": UNKNOWN}, lambda cited: {"subject_prev": cited.cid}),
    ],
    "operations": [
        citing(
            "delete",
            "untag",
            {"subject_seq": MAX_OPERATIONS},
            lambda cited: {"subject_prev": cited.cid, "subject_seq": MAX_OPERATIONS + 1},
        )
    ],
    "deps": [
        deps_are("tag"),
        deps_are("profile"),
        lambda b: of("delete", deps=(b.by_name["vote"].cid,), lamport=9)(b),
        citing("edit", "create", {"hlc": 3_001}, lambda cited: {"deps": (cited.cid,)}),
        citing("delete", "edit", {"hlc": 9_999}, lambda cited: {"deps": (cited.cid,)}),
        late_dep_while_prev_is_missing,
        citing("delete", "edit", {"subject": UNKNOWN}, lambda cited: {"deps": (cited.cid,)}),
        citing("delete", "edit", {"network": OTHER_NETWORK}, lambda cited: {"deps": (cited.cid,)}),
    ],
    "cited-signatures": [
        cites_unsigned("edit", "create"),
        cites_unsigned("tag", "edit"),
        cites_unsigned("vote", "retract"),
    ],
    "retract-by-creator": [retract_by_stranger],
    "task-deps": [
        of("commit", deps=()),
        lambda b: of("other-join", deps=(), subject_prev=b.by_name["task"].cid)(b),
    ],
    "task-start": [started_by_another],
    "warrant-size": [of("fork-warrant", payload_size=MAX_WARRANT + 1)],
    "agent-size": [of("rotate", payload_size=MAX_AGENT_PAYLOAD + 1)],
    "payload": [payload_swapped, payload_cut, of("create", payload_size=3), of("create", payload_size=0)],
    "body": [of("create", raw=b""), of("create", raw=b"\xc0"), of("create", raw=b"\x92\xc4\x01\0\x80")],
    "opening": [
        opening_is(0, body={"network": OTHER_NETWORK, "recovery": None}),
        opening_is(0, network=OTHER_NETWORK),
        opening_is(0, raw=b""),
        opening_is(0, body={}),
        opening_is(0, prev=UNKNOWN),
        opening_is(1, body={"nonce": poor_nonce()}),
        opening_is(1, prev=UNKNOWN),
        opening_is(1, raw=b"\xc1"),
        opening_is(1, network=OTHER_NETWORK),
    ],
    "genesis-body": [
        body_with("genesis", network=OTHER_NETWORK),
        body_with("genesis", network=None),
        body_with("genesis", recovery=bytes(31)),
        body_with("genesis", recovery="none"),
        body_with("genesis", more=1),
        body_with("genesis", recovery=...),
    ],
    "membrane-body": [
        body_with("membrane", nonce=poor_nonce()),
        body_with("membrane", nonce=-1),
        body_with("membrane", nonce=1 << 63),
        body_with("membrane", nonce=True),
        body_with("membrane", nonce="0"),
        body_with("membrane", nonce=...),
        body_with("membrane", more=1),
    ],
    "profile-body": [
        body_with("profile", name="x" * 101),
        body_with("profile", name=""),
        body_with("profile", software=None),
        body_with("profile", software="é" * 51),
        body_with("profile", software=...),
        body_with("profile", more=1),
    ],
    "close-body": [body_with("close", why="enough")],
    "epoch-body": [
        epoch_signed("nobody"),
        epoch_signed("stranger"),
        epoch_signed("forged"),
        epoch_signed("steward", number=2),
        epoch_signed("steward", previous=UNKNOWN),
        body_with("epoch", rules=RULE_VERSION + 1),
        body_with("epoch", rules=0),
        body_with("epoch", lifted=None),
        body_with("epoch", atlas=...),
        another_atlas,
        puts_out,
    ],
    "operation": [
        body_with("create", text=""),
        body_with("create", text="x" * (64 * 1024 + 1)),
        body_with("create", text=...),
        body_with("create", codes=...),
        body_with("create", tags=["b", "a"]),
        body_with("create", tags=[f"{n:03}" for n in range(65)]),
        body_with("create", tags=["x" * 101]),
        body_with("create", domain="x" * 101),
        body_with("create", confidence=1_000_001),
        body_with("create", confidence=-1),
        body_with("create", citations=["x"] * 65),
        body_with("create", citations=["x" * 1001]),
        body_with("create", over=[UNKNOWN]),
        body_with("create", author="me"),
        body_with("vote", value=2),
        body_with("vote", value=...),
        body_with("vote", reason="x" * 1001),
        body_with("vote", confidence=-1),
        body_with("vote", target=UNKNOWN),
        body_with("edit", over=...),
        body_with("tag", tag=""),
        body_with("tag", tag=7),
        body_with("untag", adds=[]),
        body_with("untag", adds=["x"]),
        body_with("delete", seen=[]),
        body_with("delete", seen=...),
        body_with("retract", why="regret"),
        body_with("purge", records=[]),
        body_with("purge", records=[UNKNOWN] * 2),
        body_with("purge", records=[record_cid(bytes([n])) for n in range(MAX_PURGED + 1)]),
        body_with("purge", why="regret"),
    ],
    "fields": [
        in_rules_4("create", format="markdown"),
        in_rules_4("create", title="Moss"),
        in_rules_4("vote", behalf={"name": "a crawler"}),
        in_rules_4("edit", resolution={"decision": "merge", "reason": "both are right"}),
        in_rules_4("edit", splices=[[0, 1, ""]]),
    ],
    "limits": [within(Limits(text=3)), within(Limits(tags=0))],
    "private-body": [
        body_with("private", box=...),
        body_with("private", box=bytes(MIN_BOX - 1)),
        body_with("private", box=bytes(MAX_BOX + 1)),
        body_with("private", box="text"),
        body_with("private", entry=UNKNOWN),
    ],
    "vector": [
        body_with("create", codes=b"\x7f"),
        body_with("create", codes=bytes([127] * 5)),
        body_with("create", codes=bytes(4)),
        body_with("create", codes=b"\x80\0\0\0"),
        body_with("create", codes=b"\x7e\0\0\0"),
        body_with("edit", codes=b"\x01\x01\x01\x01"),
    ],
    "delete-seen": [
        lambda b: of("delete", body=delete_body([b.by_name["create"].cid]))(b),
        lambda b: of("delete", body=delete_body([b.by_name["edit"].cid, UNKNOWN]))(b),
    ],
    "purge-own": [
        lambda b: of("purge", body=purge_body([b.by_name["create"].cid]))(b),
        lambda b: of("purge", body=purge_body([b.by_name["edit"].cid, b.by_name["tag"].cid]))(b),
        lambda b: of("purge", body=purge_body([b.by_name["tag"].cid, UNKNOWN]))(b),
    ],
    "targets": [
        lambda b: of("purge", body=purge_body([b.by_name["delete"].cid]))(b),
        lambda b: of("purge", body=purge_body([b.bob.opening[1].cid]))(b),
        lambda b: body_with("edit", over=[b.by_name["tag"].cid])(b),
        lambda b: of("untag", body=untag_body("garden", [b.by_name["vote"].cid]))(b),
        lambda b: body_with("describe", over=[b.by_name["edit"].cid])(b),
        lambda b: body_with("unlink", adds=[b.by_name["assess"].cid])(b),
        lambda b: body_with("edit", over=[b.by_name["profile"].cid])(b),
        lambda b: of("untag", body=untag_body("garden", [b.by_name["retract"].cid]))(b),
        citing("untag", "tag", {"subject": UNKNOWN}, lambda t: {"body": untag_body("garden", [t.cid])}),
        cites_unsigned("untag", "tag"),
    ],
    "behalf": [
        body_with("create", behalf=signed("another text")),
        body_with("edit", behalf={**signed("roses ramble"), "name": "another"}),
        body_with("vote", behalf=signed("roses ramble")),
        body_with("vote", behalf=BAREFACED),
    ],
    "signing-time": [
        signed_vote(None),
        signed_vote(MAX_SIGNED_AHEAD_US // 1000 + 1),
    ],
    "binding": [
        body_with("create", codes=b"\x81\0\0\0"),
        body_with("create", codes=b"\x7f\0\0\x7f"),
        body_with("create", text="???"),
        body_with("edit", text="ab"),
    ],
    "task-body": [
        body_with("task", name=""),
        body_with("task", mode="server"),
        body_with("task", strategy="fedprox"),
        body_with("task", strategy=["clip", "mean"]),
        body_with("task", max_norm=0),
        in_rules_4("task", strategy="clip|nnm|trimmed_mean"),
        in_rules_4("task", max_norm=5),
        in_rules(6, "task", rules=7),
        body_with("task", rules=6),
        body_with("task", rules=RULE_VERSION + 1),
        body_with("task", rules=7, mode="server-app"),
        body_with("task", arrays=[]),
        body_with("task", arrays=[["w", "<f4", [2]], ["w", "<f4", [2]]]),
        body_with("task", arrays=[["w", "|O", [2]]]),
        body_with("task", arrays=[["w", "<f4", [0]]]),
        body_with("task", arrays=[["w", "<f4", [1] * 9]]),
        body_with("task", arrays=[["w", "<f4", [1 << 14, 1 << 13]]]),
        body_with("task", parameters=UNKNOWN),
        body_with("task", rounds=0),
        body_with("task", min_members=5),
        body_with("task", max_members=17),
        body_with("task", commit_ms=999),
        body_with("task", reveal_ms=86_400_001),
        body_with("task", max_examples=True),
        body_with("task", max_abs=0),
        body_with("task", config={"lr": None}),
        body_with("task", config={"x": "y" * 17_000}),
        body_with("task", config={f"{n}": n for n in range(65)}),
        body_with("task", more=1),
    ],
    "learning-body": [
        body_with("join", why="curious"),
        body_with("leave", why="tired"),
        body_with("start", roster=[]),
        body_with("commit", hash=bytes(31)),
        body_with("commit", round=0),
        body_with("commit", previous=bytes(33)),
        body_with("reveal", salt=bytes(16)),
        body_with("reveal", examples=-1),
        body_with("reveal", metrics={"loss": "low"}),
        body_with("reveal", metrics={f"{n}": n for n in range(33)}),
        body_with("reveal", commits=[UNKNOWN] * 2),
        body_with("reveal", blob=UNKNOWN),
        body_with("result", members=[]),
        body_with("result", members=[BOB.agent] * 2),
        body_with("result", refused=[[BOB.agent, "x" * 33]]),
        body_with("result", signatures=[[BOB.agent, b""]]),
        body_with("result", reveals=[]),
        body_with("result", roster=[[BOB.agent]]),
    ],
    "reveal-commit": [
        commit_is("join"),
        commit_is("start"),
        citing("reveal", "commit", {"subject": UNKNOWN}, lambda c: {"body": {**REVEALED, "commit": c.cid}}),
    ],
    "seats": [
        seat_is("start", "other-join"),
        seat_is("start", "commit"),
        result_with(lambda outcome: replace(outcome, roster=((BOB.agent, outcome.reveals[0]),))),
        join_is_unsigned,
    ],
    "result-members": [
        result_with(lambda outcome: replace(outcome, members=(BOB.agent,)), (BOB,)),
        result_with(lambda outcome: replace(outcome, refused=((STEWARD.agent, "shape"),))),
        result_with(lambda outcome: outcome, (ALICE, BOB, STEWARD)),
    ],
    "result-quorum": [
        result_with(lambda outcome: outcome, ()),
        result_with(lambda outcome: outcome, (BOB,)),
        body_with("result", parameters=blob_cid(b"another model")),
        body_with("result", signatures=[[one, bytes(64)] for one in sorted((ALICE.agent, BOB.agent))]),
    ],
    "warrant-body": [
        body_with("fork-warrant", second=...),
        body_with("fork-warrant", first=b"no record"),
        body_with("fork-warrant", opening=[]),
        body_with("fork-warrant", first=bench().by_name["create"].encode()),
        body_with("invalid-warrant", rule=""),
        body_with("invalid-warrant", named=[b"no record"]),
        body_with("invalid-warrant", named=[header_of("join"), header_of("join")]),
        nested(MAX_NESTING + 1),
    ],
    "rotation": [
        body_with("rotate", successor=ALICE.agent, consent=sign_consent(ALICE, NETWORK, ALICE.agent)),
        body_with("rotate", successor=STEWARD.agent),
        body_with("rotate", consent=sign_consent(STEWARD, NETWORK, ALICE.agent)),
        body_with("rotate", consent=sign_consent(BOB, NETWORK, STEWARD.agent)),
        body_with("rotate", consent=sign_consent(BOB, raw_cid(b"another network"), ALICE.agent)),
        body_with("rotate", consent=sign_revocation(BOB, NETWORK, ALICE.agent, 3, UNKNOWN)),
        body_with("rotate", consent=bytes(MAX_AGENT_STATEMENT + 1)),
        body_with("rotate", reason="holidays"),
    ],
    "continuation": [
        body_with("continue", rotation=unsigned(bench().by_name["rotate"]).encode()),
        body_with("continue", rotation=header_of("rotate")),
        body_with("continue", rotation=bench().by_name["create"].encode()),
        body_with("continue", rotation=rotation_to(STEWARD).encode()),
        body_with("continue", rotation=forge(rotation_to(BOB), network=raw_cid(b"another")).encode()),
        body_with("continue", rotation=7),
    ],
    "revocation": [
        body_with("revoke", statement=revoked_by(ALICE, ALICE.agent)),
        body_with("revoke", statement=revoked_by(BOB, ALICE.agent)),
        body_with("revoke", statement=revoked_by(RECOVERY, STEWARD.agent)),
        body_with("revoke", statement=revoked_by(RECOVERY, BOB.agent)),
        body_with("revoke", statement=revoked_by(RECOVERY, ALICE.agent, raw_cid(b"another network"))),
        body_with("revoke", statement=revoked_by(RECOVERY, ALICE.agent, seq=1)),
        body_with("revoke", statement=revoked_by(RECOVERY, ALICE.agent)[:-1] + b"x"),
        body_with("revoke", statement=sign_consent(RECOVERY, NETWORK, ALICE.agent)),
        body_with("revoke", opening=[one.encode() for one in bench().bob.opening]),
        body_with("revoke", opening=[one.without_payload().encode() for one in bench().alice.opening]),
        body_with("revoke", opening=[unsigned(one).encode() for one in bench().alice.opening]),
        body_with("revoke", opening=[genesis_naming(BOB).encode(), bench().alice.opening[1].encode()]),
    ],
    "warrant-proof": [
        accusing_fork("create", "create"),
        accusing_fork("create", "tag"),
        accusing_fork("tag", "untag"),
        body_with("fork-warrant", first=unsigned(bench().by_name["create"]).without_payload().encode()),
        body_with("fork-warrant", opening=[one.encode() for one in bench().bob.opening]),
        body_with("fork-warrant", opening=[one.without_payload().encode() for one in bench().alice.opening]),
        body_with("invalid-warrant", rule="prev"),
        body_with("invalid-warrant", rule="binding"),
        body_with("invalid-warrant", rule="cited-signatures"),
        body_with("invalid-warrant", named=[]),
        body_with("invalid-warrant", record=header_of("leave")),
        cites_unsigned_in_proof,
        body_with("invalid-warrant", record=OF_ANOTHER_NETWORK.encode(), rule="lamport"),
        nested(MAX_NESTING),
    ],
}


def test_every_rule_has_an_offence_and_a_purpose() -> None:
    assert list(OFFENCES) == [rule.name for rule in RULES]
    assert all(OFFENCES.values())
    assert all(rule.check.__doc__ for rule in RULES)


@pytest.mark.parametrize(
    ("rule", "offence"),
    [
        pytest.param(rule, offence, id=f"{rule}-{number}")
        for rule, offences in OFFENCES.items()
        for number, offence in enumerate(offences)
    ],
)
def test_an_offender_is_refused_by_its_rule(rule: str, offence: Offence) -> None:
    record, context = offence(bench())
    verdict = judge(record, context)
    if rule == "epoch":
        assert verdict == Pending((record.header.epoch,))
    else:
        assert isinstance(verdict, Invalid)
        assert verdict.rule == rule, verdict.reason
        assert verdict.reason


@pytest.mark.parametrize("name", bench().by_name)
def test_an_honest_record_of_every_kind_is_valid(name: str) -> None:
    b = bench()
    record = b.by_name[name]
    context = b.context(record)
    assert judge(record, context) == VALID
    assert judge_header(record, context) == VALID
    assert judge(record.without_payload(), context) == VALID
    headers = {cid: b.named()[cid].without_payload() for cid in named_by(record)}
    assert judge(record, replace(context, named=headers)) == VALID


@pytest.mark.parametrize("name", bench().by_name)
def test_whatever_is_missing_is_named_all_at_once(name: str) -> None:
    b = bench()
    record = b.by_name[name]
    named = named_by(record)
    opening_of = record.header.author if record.header.seq >= 2 else None
    alone = judge(record, b.context(record, named={}, opening=None))
    assert alone == (Pending(named, opening_of) if named else VALID)
    for cid in named:
        rest = {other: found for other, found in b.named().items() if other != cid}
        assert judge(record, b.context(record, named=rest)) == Pending((cid,))


def test_something_broken_beats_something_missing() -> None:
    b = bench()
    record, context = OFFENCES["vector"][0](b)
    verdict = judge(record, replace(context, named={}, opening=None))
    assert isinstance(verdict, Invalid)
    assert verdict.rule == "vector"


def test_an_opening_that_its_author_did_not_sign_counts_as_missing() -> None:
    b = bench()
    record = b.by_name["create"]
    genesis, membrane = b.alice.opening
    for opening in (
        b.bob.opening,
        (unsigned(genesis), membrane),
        (genesis, unsigned(membrane)),
        (membrane, genesis),
        (genesis, membrane.without_payload()),
        (genesis, replace(membrane, payload=b"other bytes")),
    ):
        verdict = judge(record, b.context(record, opening=opening))
        assert verdict == Pending(opening_of=ALICE.agent)


def test_an_admitted_author_and_verified_records_are_not_checked_again() -> None:
    b = bench()
    record = b.by_name["edit"]
    assert judge(record, b.context(record, opening=None, admitted={BOB.agent})) == VALID
    create = unsigned(b.by_name["create"])
    assert judge(record, b.context(record, create, verified={create.cid})) == VALID


def test_a_named_record_under_a_wrong_key_is_not_taken_for_it() -> None:
    b = bench()
    record = b.by_name["create"]
    assert record.header.prev is not None
    wrong = {record.header.prev: b.by_name["edit"]}
    assert judge(record, b.context(record, named=wrong)) == Pending((record.header.prev,))


@pytest.mark.parametrize(
    "vote",
    [signed_vote(1), signed_vote(MAX_SIGNED_AHEAD_US // 1000), signed_vote(None, rules=SIGNED_AT_FROM - 1)],
)
def test_a_signed_vote_has_its_time_once_the_rules_know_it(vote: Offence) -> None:
    record, context = vote(bench())
    assert judge(record, context) == VALID


def test_before_the_rules_know_it_the_time_is_no_field_of_a_vote() -> None:
    verdict = judge(*signed_vote(1, rules=SIGNED_AT_FROM - 1)(bench()))
    assert isinstance(verdict, Invalid)
    assert verdict.rule == "operation"


def test_a_signature_is_over_the_time() -> None:
    record, context = signed_vote(5)(bench())
    behalf = record.body()["behalf"]
    later = forge(record, body={**record.body(), "behalf": {**behalf, "signed_ms": behalf["signed_ms"] + 1}})
    verdict = judge(later, context)
    assert isinstance(verdict, Invalid)
    assert verdict.rule == "behalf"


def test_a_bad_payload_does_not_invalidate_a_successor() -> None:
    b = bench()
    bad = forge(b.by_name["create"], body={"text": "no vector"})
    assert isinstance(judge(bad, b.context(bad)), Invalid)
    assert judge_header(bad, b.context(bad)) == VALID
    draft = Draft(CREATE, content("the next").to_body())
    successor = next_record(ALICE, NETWORK, NETWORK, head_of(bad), draft, 0, SALT)
    assert judge(successor, b.context(successor, bad)) == VALID


def test_without_links_only_the_records_own_bytes_count() -> None:
    b = bench()
    own = Context(MANIFEST, NETWORK)
    for record in b.by_name.values():
        assert judge(record, own, links=False) == VALID
    swapped, _ = OFFENCES["payload"][0](b)
    assert isinstance(judge(swapped, own, links=False), Invalid)
    assert isinstance(judge(unsigned(b.by_name["create"]), own, links=False), Invalid)
    foreign = forge(b.by_name["create"], epoch=UNKNOWN)
    assert judge(foreign, own, links=False) == Pending((UNKNOWN,))


def test_an_epoch_may_bring_another_atlas_once_the_rules_know_how() -> None:
    assert judge(*another_atlas(bench(), FIXED_ATLAS + 1)) == VALID


def test_a_known_epoch_is_judged_by_its_rule_version() -> None:
    b = bench()
    published = b.by_name["epoch"]
    record = forge(b.by_name["create"], epoch=published.cid)
    assert judge(record, b.context(record, epochs={published.cid: next_epoch()})) == VALID
    newer = b.context(record, epochs={published.cid: next_epoch(rules=RULE_VERSION + 1)})
    assert judge(record, newer) == Pending((published.cid,))
    second = next_epoch(2, published.cid)
    after_it = forge(published, body=epoch_body(second, [second.sign(STEWARD)]), epoch=published.cid)
    assert judge(after_it, b.context(after_it, epochs={published.cid: next_epoch()})) == VALID
    assert published.header.kind == EPOCH


def test_an_unknown_epoch_hides_what_later_rules_would_say() -> None:
    b = bench()
    record = forge(b.by_name["create"], epoch=UNKNOWN, kind="entry.bless")
    assert judge(record, b.context(record)) == Pending((UNKNOWN,))


def test_a_clock_ahead_parks_and_never_invalidates() -> None:
    b = bench()
    ahead = forge(b.by_name["create"], hlc=(1 << 63) - 1)
    assert judge(ahead, b.context(ahead)) == VALID
    now = 5_000_000
    assert parks(ahead, now)
    assert not parks(forge(ahead, hlc=now + MAX_AHEAD_US), now)
    assert parks(forge(ahead, hlc=now + MAX_AHEAD_US + 1), now)


def test_the_boundary_values_are_valid() -> None:
    b = bench()
    create = b.by_name["create"]
    text = "x" * (64 * 1024)
    body = {
        **content(text).to_body(),
        "tags": [f"{n:0100}" for n in range(64)],
        "citations": ["x" * 1000] * 64,
        "confidence": 1_000_000,
        "domain": "é" * 50,
    }
    for record in (
        forge(create, body=body),
        forge(create, body={**content("zero").to_body(), "confidence": 0}),
        forge(b.by_name["tag"], body=tag_body("x" * 100)),
    ):
        assert judge(record, b.context(record)) == VALID


def test_a_stranger_may_edit_at_height_zero_and_the_creator_at_one() -> None:
    b = bench()
    assert b.by_name["edit"].header.subject_seq == 0
    assert b.by_name["tag"].header.subject_seq == 1
    assert b.by_name["tag"].header.subject_prev == b.by_name["create"].cid
    assert record_cid(b.by_name["tag"].header_bytes) == b.by_name["tag"].cid
