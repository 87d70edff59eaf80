"""Rules about warrants: a warrant is valid if its proof is one, so a false accusation is itself an offence.

A fork is proven by two signed headers of one author and place with different CIDs. A broken rule is proven by
judging the record again from what the warrant brings and nothing else; only rules of `PROVABLE` count, whose
verdict follows from signed bytes and hashes. Left out are those that the accuser could bend: a signature is
no part of a CID, so "a named record is not signed" may be the work of who passed it on; a re-embedding cannot
be repeated by every node. Two warrants may contradict nobody: an honest agent signs one record for each place
and none that breaks a rule, whoever looks at it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chain.cid import Cid
from chain.errors import ChainError
from chain.kinds import GENESIS, MEMBRANE, WARRANTS
from chain.record import Record, check_payload, verify_signature
from chain.warrant import MAX_WARRANT, ForkProof, InvalidProof, Proof, proof_of
from validation.context import Context
from validation.header_rules import epoch
from validation.opening_rules import opening_fault
from validation.rule import Finding, Rule
from validation.verdict import Invalid, Pending, Verdict, unknown_epochs

PROVABLE = frozenset(
    {
        "payload-size",
        "kind",
        "genesis",
        "lamport-clock",
        "opening-order",
        "subject-shape",
        "prev",
        "clock",
        "closed",
        "lamport",
        "subject",
        "subject-line",
        "operations",
        "deps",
        "retract-by-creator",
        "task-deps",
        "task-start",
        "warrant-size",
        "body",
        "genesis-body",
        "profile-body",
        "close-body",
        "epoch-body",
        "operation",
        "fields",
        "behalf",
        "signing-time",
        "limits",
        "private-body",
        "vector",
        "delete-seen",
        "purge-own",
        "targets",
        "task-body",
        "learning-body",
        "reveal-commit",
        "seats",
        "result-members",
        "result-quorum",
        "agent-size",
        "rotation",
        "continuation",
        "revocation",
        "warrant-body",
        "warrant-proof",
    }
)
"""Rules whose breach anybody can see from the record, what it names and its author's opening."""


def warrant_size(record: Record, _context: Context) -> Finding:
    """A warrant is short enough for every node to keep."""
    size = record.header.payload_size
    if record.header.kind not in WARRANTS or size <= MAX_WARRANT:
        return None
    return f"the payload of a warrant has {size} bytes, the limit is {MAX_WARRANT}"


def warrant_body(record: Record, _context: Context) -> Finding:
    """The body has the shape of a proof."""
    if record.header.kind not in WARRANTS or record.payload is None:
        return None
    try:
        proof_of(record)
    except ChainError as error:
        return str(error)
    return None


def proof_rule(judge: Callable[[Record, Context], Verdict]) -> Rule:
    """The rule that a warrant proves what it says; `judge` asks all rules about an offending record."""

    def warrant_proof(record: Record, context: Context) -> Finding:
        """What the warrant says is so."""
        if record.header.kind not in WARRANTS or record.payload is None:
            return None
        try:
            proof = proof_of(record)
        except ChainError:
            return None  # `warrant-body` says what is wrong with it
        return unproven(proof, bare(context), judge)

    return Rule("warrant-proof", warrant_proof, needs_payload=True)


def bare(context: Context) -> Context:
    """The bench without anything that was found or remembered by this judge: manifest and epochs alone."""
    return replace(context, named={}, opening=None, embed=None, admitted=frozenset(), verified=frozenset())


def unproven(proof: Proof, context: Context, judge: Callable[[Record, Context], Verdict]) -> Finding:
    """Why a proof proves nothing, what has to be known first, or None when it does."""
    accused = proof.first if isinstance(proof, ForkProof) else proof.record
    if accused.header.network != context.network:
        return "the offending record belongs to another network"
    if not verify_signature(accused):
        return "the offending record is not signed by its author"
    stranger = _not_admitted(proof, context)
    if stranger is not None:
        return stranger
    if isinstance(proof, ForkProof):
        return _no_fork(proof)
    return _not_broken(proof, replace(context, opening=proof.opening), judge)


def _not_admitted(proof: Proof, context: Context) -> Finding:
    """Why the opening in a proof does not make the accused a member."""
    author = (proof.first if isinstance(proof, ForkProof) else proof.record).header.author
    for seq, (record, kind) in enumerate(zip(proof.opening, (GENESIS, MEMBRANE), strict=True)):
        header = record.header
        if (header.author, header.seq, header.kind) != (author, seq, kind) or record.payload is None:
            return f"the proof lacks the {kind} of the accused"
        try:
            check_payload(header, record.payload)
        except ChainError as error:
            return f"the {kind} in the proof: {error}"
        if not verify_signature(record):
            return f"the {kind} in the proof is not signed by the accused"
    return opening_fault(*proof.opening, context)


def _no_fork(proof: ForkProof) -> Finding:
    first, second = proof.first, proof.second
    if first.cid >= second.cid:
        return "a fork is two different records, the smaller CID first"
    same = (second.header.author, second.header.network, second.header.seq)
    if same != (first.header.author, first.header.network, first.header.seq):
        return "the two records are not of one place in one chain"
    return None if verify_signature(second) else "the offending record is not signed by its author"


def _not_broken(
    proof: InvalidProof, context: Context, judge: Callable[[Record, Context], Verdict]
) -> Finding:
    if proof.rule not in PROVABLE:
        return f"nobody can prove by a warrant that {proof.rule!r} is broken"
    author = proof.record.header.author
    for named in proof.named:
        if named.header.author != author and not verify_signature(named):
            return f"{named.cid.hex()} in the proof is not signed by its author"
    unknown = _unknown_epochs(proof, context)
    if unknown:
        return unknown_epochs(*unknown)
    verdict = judge(proof.record, replace(context, named={one.cid: one for one in proof.named}))
    if isinstance(verdict, Invalid) and verdict.rule == proof.rule:
        return None
    if isinstance(verdict, Pending) and verdict.epochs:
        return unknown_epochs(*verdict.epochs)  # and so it says nothing yet, neither for nor against
    found = f"breaks {verdict.rule!r}" if isinstance(verdict, Invalid) else "is not shown to break a rule"
    return f"the record {found}, and not {proof.rule!r}"


def _unknown_epochs(proof: Proof, context: Context) -> set[Cid]:
    """Epochs of the offending records, in this proof and those within it, that this node cannot judge by."""
    unknown: set[Cid] = set()
    while isinstance(proof, InvalidProof):
        for one in (*proof.opening, proof.record):
            if epoch(one, context) is not None:
                unknown.add(one.header.epoch)
        if proof.record.header.kind not in WARRANTS or proof.record.payload is None:
            break
        try:
            proof = proof_of(proof.record)
        except ChainError:
            break
    return unknown


WARRANT_HEADER_RULES: tuple[Rule, ...] = (Rule("warrant-size", warrant_size),)

WARRANT_RULES: tuple[Rule, ...] = (Rule("warrant-body", warrant_body, needs_payload=True),)
