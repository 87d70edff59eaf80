"""A chain of a network by invitation is valid exactly when its second record carries a proof that holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.cid import record_cid
from chain.epoch import Epoch
from chain.identity import Identity
from chain.invitation import sign_grant, sign_invitation
from chain.kinds import GENESIS, MEMBRANE, PROFILE
from chain.membrane import find_nonce
from chain.record import Record
from chain.source_chain import Draft, head_of, next_record
from tests.validation.bench import ALICE, BOB, MANIFEST, NETWORK, STEWARD
from validation.context import Context
from validation.rules import judge
from validation.verdict import VALID, Invalid, Pending

INVITED = replace(MANIFEST, join_bits=0, by_invitation=True)
"""Founded by the steward."""
HERE = INVITED.network_id
LATER = record_cid(b"the record of epoch 4")
EPOCHS = {LATER: Epoch(HERE, HERE, 4, None, INVITED.rules)}
BOB_MAY = sign_grant(STEWARD, HERE, BOB.agent)
BOB_MAY_UNTIL_3 = sign_grant(STEWARD, HERE, BOB.agent, 3)


def by(inviter: Identity, *grants: bytes) -> dict[str, object]:
    return {"invitation": [sign_invitation(inviter, HERE, ALICE.agent, 7), *grants]}


def chain(body: dict[str, object], epoch: bytes = HERE) -> list[Record]:
    """Alice's first three records, the second with this body."""
    records: list[Record] = []
    drafts = (
        Draft(GENESIS, {"network": HERE, "recovery": None}),
        Draft(MEMBRANE, body),
        Draft(PROFILE, {"name": "alice", "software": "tests"}),
    )
    for draft in drafts:
        head = head_of(records[-1]) if records else None
        records.append(next_record(ALICE, HERE, epoch, head, draft, 1, bytes(16)))
    return records


def verdicts(body: dict[str, object], epoch: bytes = HERE, known: bool = True) -> list[object]:
    """What becomes of the membrane record, and of the record after it."""
    genesis, membrane, profile = chain(body, epoch)
    named = {one.cid: one for one in (genesis, membrane, profile)}
    context = Context(INVITED, HERE, EPOCHS if known else {}, named)
    return [judge(membrane, context), judge(profile, replace(context, opening=(genesis, membrane)))]


@pytest.mark.parametrize(
    "body", [by(STEWARD), by(BOB, BOB_MAY), by(BOB, BOB_MAY_UNTIL_3)], ids=["founder", "inviter", "until"]
)
def test_who_is_invited_is_let_in(body: dict[str, object]) -> None:
    assert verdicts(body) == [VALID, VALID]


@pytest.mark.parametrize(
    "body",
    [
        by(BOB),
        by(ALICE),
        by(ALICE, sign_grant(BOB, HERE, ALICE.agent)),
        by(BOB, sign_grant(STEWARD, NETWORK, BOB.agent)),
        {"invitation": [sign_invitation(STEWARD, HERE, BOB.agent, 7)]},
        {"invitation": [sign_invitation(STEWARD, NETWORK, ALICE.agent, 7)]},
        {"invitation": []},
        {"nonce": find_nonce(HERE, ALICE.agent, 8)},
        {**by(STEWARD), "nonce": 1},
        {},
    ],
)
def test_nobody_else_is(body: dict[str, object]) -> None:
    membrane, later = verdicts(body)
    assert isinstance(membrane, Invalid)
    assert isinstance(later, Invalid)
    assert (membrane.rule, later.rule) == ("membrane-body", "opening")


def test_a_grant_ends_with_the_epoch_that_it_names() -> None:
    """Judged by the epoch of the membrane record, so the verdict never changes."""
    assert verdicts(by(BOB, BOB_MAY), LATER) == [VALID, VALID]
    membrane, later = verdicts(by(BOB, BOB_MAY_UNTIL_3), LATER)
    assert isinstance(membrane, Invalid)
    assert isinstance(later, Invalid)
    assert "ended with epoch 3" in membrane.reason
    assert verdicts(by(BOB, BOB_MAY_UNTIL_3), LATER, known=False) == [Pending((LATER,))] * 2
