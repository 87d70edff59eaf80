"""The ledger keeps what decides, whatever it is told and in whatever order, and no more than a few a head."""

from __future__ import annotations

import random
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from chain.agent_life import revocation_body, rotation_body, rotation_of, sign_consent, sign_revocation
from chain.cid import Cid
from chain.epoch import Epoch, epoch_body
from chain.identity import Identity
from chain.kinds import FORK_WARRANT, REVOKE, ROTATE
from chain.record import Record
from chain.warrant import Offence, fork_body, offence_of, proof_of
from crdt.standing import standing_of, successors_of
from tests.validation.bench import ALICE, BOB, MANIFEST, NETWORK, RECOVERY, STEWARD, bench, content, forge
from validation.accusation import accuse_invalid
from validation.ledger import MAX_PER_OFFENDER, Ledger
from validation.rules import judge
from validation.verdict import VALID

SEQS = range(2, 12)


@cache
def warrants() -> tuple[Record, ...]:
    """Bob's warrants that Alice forked her chain at each of some places, and Alice's that Bob did."""
    b = bench()
    made = []
    for offender, accuser in ((b.alice, b.by_name["fork-warrant"]), (b.bob, b.by_name["invalid-warrant"])):
        for seq in SEQS:
            one, other = (forge(offender.records[2], seq=seq, hlc=hlc) for hlc in (1, 2))
            body = fork_body(offender.opening, one, other)
            made.append(forge(accuser, kind=FORK_WARRANT, body=body))
    return tuple(made)


def epoch(previous: Cid, number: int, lifted: list[Cid]) -> Record:
    one = Epoch(NETWORK, previous, number, None, MANIFEST.rules, tuple(lifted))
    body = epoch_body(one, [one.sign(STEWARD)])
    return forge(bench().by_name["epoch"], author=STEWARD.agent, epoch=previous, body=body)


def test_who_publishes_an_epoch_again_neither_moves_it_nor_takes_its_room() -> None:
    """Its signatures are good in anybody's chain, and each copy is an epoch of another name."""
    published = epoch(NETWORK, 1, [])
    copies = [forge(published, author=ALICE.agent, hlc=hlc) for hlc in range(1_000, 1_040)]
    assert min(copies, key=lambda one: one.cid).cid < published.cid, "of one number the smallest CID counts"
    ledger = Ledger(MANIFEST)
    assert not any(ledger.tell(copy).kept for copy in copies)
    assert ledger.tell(published).kept
    assert set(ledger.epochs) == {published.cid}
    assert ledger.newest[0] == published.cid


notices = st.lists(st.sampled_from(range(2 * len(SEQS))), max_size=30)


@given(told=notices, lifted=st.lists(st.sampled_from(range(2 * len(SEQS))), max_size=3), order=st.randoms())
def test_what_is_kept_decides_as_all_would_and_is_the_same_in_any_order(
    told: list[int], lifted: list[int], order: random.Random
) -> None:
    published = epoch(NETWORK, 1, [warrants()[place].cid for place in lifted])
    records = [warrants()[place] for place in told] + [published]
    ledger, other = Ledger(MANIFEST), Ledger(MANIFEST)
    for record in records:
        ledger.tell(record)
    order.shuffle(records)
    for record in records:
        other.tell(record)
    everything = {one.cid: _offence(one) for one in (warrants()[place] for place in told)}
    epochs = dict(ledger.epochs)
    assert ledger.standing.first == other.standing.first
    assert ledger.standing == standing_of(everything, epochs, NETWORK)
    open_ = [one.offender for cid, one in ledger.offences.items() if cid not in ledger.lifted]
    assert all(open_.count(agent) <= MAX_PER_OFFENDER for agent in (ALICE.agent, BOB.agent))
    named = set(epochs[published.cid].lifted)
    assert set(ledger.offences) - named == set(other.offences) - named


def _offence(warrant: Record) -> Offence:
    return offence_of(proof_of(warrant))


def test_later_offences_do_not_push_out_an_earlier_one() -> None:
    ledger = Ledger(MANIFEST)
    mine = warrants()[: len(SEQS)]
    assert all(ledger.tell(one).kept for one in mine[-MAX_PER_OFFENDER:])
    told = ledger.tell(mine[0])
    assert told.kept
    assert told.dropped == (mine[-1].cid,)
    assert told.moved == {ALICE.agent: SEQS[0]}
    assert not ledger.tell(mine[-2]).kept or mine[-2].cid in ledger
    assert not ledger.tell(mine[-1]).kept


def long_warrants(count: int) -> list[Record]:
    """Proofs of some 20 kB that Alice signed vectors of another space, each at a place of its own."""
    b = bench()
    made = []
    for seq in range(20, 20 + count):
        bad = forge(b.by_name["create"], seq=seq, body=content("x" * 20_000).to_body() | {"codes": b"\x7f"})
        before = forge(b.by_name["tag"], seq=seq - 1, lamport=bad.header.lamport - 1)
        bad = forge(bad, prev=before.cid, hlc=before.header.hlc)
        draft = accuse_invalid(b.alice.opening, bad, b.context(bad, before))
        assert draft is not None
        made.append(forge(b.by_name["fork-warrant"], kind=draft.kind, body=draft.body))
    return made


def test_what_everybody_has_to_keep_is_bounded_in_bytes() -> None:
    long, short = long_warrants(3), warrants()
    ledger = Ledger(MANIFEST)
    assert [ledger.tell(one).kept for one in long] == [True, False, False], "one of them says it all"
    assert ledger.tell(short[0]).dropped == (long[0].cid,)
    size = len(short[0].payload or b"")
    ledger = Ledger(MANIFEST, most_bytes=size)
    assert ledger.tell(short[0]).kept
    assert not ledger.tell(short[-1]).kept, "another offender finds no room"
    assert ledger.earliest(BOB.agent) is None
    assert ledger.tell(short[1]).kept, "of known ones a few are kept all the same"


def revoke(seq: int) -> Record:
    """Alice's recovery key says that nothing of hers counts after `seq`."""
    statement = sign_revocation(RECOVERY, NETWORK, ALICE.agent, seq, bench().alice.records[2].cid)
    return forge(
        bench().by_name["revoke"], kind=REVOKE, body=revocation_body(statement, bench().alice.opening)
    )


@cache
def rotate(successor: Identity, seq: int) -> Record:
    body = rotation_body(successor.agent, sign_consent(successor, NETWORK, ALICE.agent))
    return forge(bench().by_name["rotate"], kind=ROTATE, seq=seq, body=body)


@given(
    told=st.lists(st.tuples(st.sampled_from((STEWARD, BOB)), st.integers(3, 12)), unique=True),
    forks=notices,
    order=st.randoms(),
)
def test_one_agents_rotations_leave_room_for_those_of_all_others(
    told: list[tuple[Identity, int]], forks: list[int], order: random.Random
) -> None:
    """Whoever signs thousands of them has a few kept, everywhere the same ones."""
    rotations = [rotate(*one) for one in told]
    records = [*rotations, *(warrants()[place] for place in forks)]
    ledger, other = Ledger(MANIFEST), Ledger(MANIFEST)
    dropped: set[Cid] = set()
    for record in records:
        one = ledger.tell(record)
        dropped |= {*one.dropped, *([] if one.kept else [record.cid])}
    order.shuffle(records)
    for record in records:
        other.tell(record)
    rotations.sort(key=lambda one: (one.header.seq, one.cid))
    kept = rotations[:MAX_PER_OFFENDER]
    assert [one.cid in ledger for one in rotations] == [one in kept for one in rotations]
    assert {one.cid for one in rotations} - {one.cid for one in kept} <= dropped
    assert ledger.standing == other.standing
    assert ledger.standing.successors == successors_of(map(rotation_of, kept), ledger.standing.first)


@given(told=notices, revoked=st.lists(st.sampled_from(SEQS), min_size=1, max_size=4), order=st.randoms())
def test_a_revocation_stands_whatever_else_is_proven_and_lifted(
    told: list[int], revoked: list[int], order: random.Random
) -> None:
    """The earliest one decides, replays of later ones change nothing, and no epoch lifts it."""
    records = [*(warrants()[place] for place in told), *map(revoke, revoked), *map(revoke, revoked)]
    records.append(epoch(NETWORK, 1, [*(one.cid for one in warrants()), *(revoke(s).cid for s in revoked)]))
    order.shuffle(records)
    ledger = Ledger(MANIFEST)
    for record in records:
        ledger.tell(record)
    assert ledger.earliest(ALICE.agent) == min(revoked) + 1
    assert ledger.revoked(ALICE.agent)
    assert not ledger.revoked(BOB.agent)
    assert ledger.earliest(BOB.agent) is None, "what the stewards lift is lifted"


def of_a_second_genesis() -> tuple[Record, Record, Record]:
    """Two copies of a revocation by a recovery key that whoever stole Alice's key named in another genesis of
    hers, and the warrant about her two geneses.
    """
    b, thief = bench(), Identity.from_seed(bytes([12]) * 32)
    genesis = forge(b.alice.records[0], body={"network": NETWORK, "recovery": thief.agent})
    opening = (genesis, forge(b.alice.records[1], prev=genesis.cid))
    statement = sign_revocation(thief, NETWORK, ALICE.agent, 2, b.alice.records[2].cid)
    body = revocation_body(statement, opening)
    fork = forge(b.by_name["fork-warrant"], body=fork_body(b.alice.opening, b.alice.records[0], genesis))
    revokes = [forge(b.by_name["revoke"], body=body, hlc=hlc) for hlc in (1 << 40, 2 << 40)]
    assert judge(revokes[0], b.context(revokes[0])) == VALID
    return revokes[0], revokes[1], fork


@given(order=st.randoms(), proven=st.booleans())
def test_who_stole_a_key_cannot_revoke_it_for_good_by_a_genesis_of_its_own(
    order: random.Random, proven: bool
) -> None:
    """Which genesis is the agent's the stewards say, and only where two are shown."""
    stolen, again, fork = of_a_second_genesis()
    liftings = epoch(NETWORK, 1, [stolen.cid, *([fork.cid] if proven else [])])
    records = [stolen, again, liftings, *([fork] if proven else [])]
    order.shuffle(records)
    ledger = Ledger(MANIFEST)
    for record in records:
        ledger.tell(record)
    assert ledger.earliest(ALICE.agent) == (None if proven else 3)
    assert ledger.revoked(ALICE.agent) != proven
    ledger.tell(revoke(9))
    assert ledger.earliest(ALICE.agent) == (10 if proven else 3), "her own recovery key still counts"
    assert ledger.revoked(ALICE.agent)
    assert ledger.may_be_lifted(stolen.cid) == proven
    assert ledger.may_be_lifted(revoke(9).cid) == proven, "the stewards would have to be wrong"
    assert not ledger.may_be_lifted(epoch(NETWORK, 1, []).cid)


def test_a_thiefs_rotation_does_not_count_and_the_owners_does() -> None:
    ledger = Ledger(MANIFEST)
    ledger.tell(rotate(STEWARD, 9))
    assert ledger.standing.line_of(ALICE.agent) == (ALICE.agent, STEWARD.agent)
    ledger.tell(revoke(7))
    assert ledger.standing.line_of(ALICE.agent) == (ALICE.agent,), "it lies above the last good record"
    ledger.tell(rotate(BOB, 7))
    assert ledger.standing.line_of(ALICE.agent) == (ALICE.agent, BOB.agent)
    assert not ledger.standing.counts(rotate(STEWARD, 9))
