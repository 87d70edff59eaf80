"""An invitation lets one key into one network, by the founder or one whom the founder named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import ChainError, MembraneError
from chain.invitation import (
    GRANT,
    INVITATION,
    MAX_INVITED_NONCE,
    MAX_PROOF_STATEMENT,
    MAX_UNTIL,
    check_proof_shape,
    sign_grant,
    sign_invitation,
)
from chain.membrane import Membrane, Passage, position
from chain.statement import sign_statement
from tests.chain.samples import ALICE, BOB, MANIFEST, STEWARD, damage

INVITED = replace(MANIFEST, join_bits=0, by_invitation=True)
"""A network that Alice founded."""
NETWORK, MEMBRANE = INVITED.network_id, INVITED.membrane
OTHER = replace(INVITED, name="another").network_id
FOUNDERS = sign_invitation(ALICE, NETWORK, STEWARD.agent, 7)
BOBS = sign_invitation(BOB, NETWORK, STEWARD.agent, 8)
BOB_MAY = sign_grant(ALICE, NETWORK, BOB.agent, 3)

nonces = st.integers(0, MAX_INVITED_NONCE)
untils = st.none() | st.integers(0, MAX_UNTIL)


@given(nonce=nonces, until=untils)
def test_the_founder_and_whom_the_founder_names_let_a_key_in(nonce: int, until: int | None) -> None:
    by_founder = [sign_invitation(ALICE, NETWORK, STEWARD.agent, nonce)]
    grant = sign_grant(ALICE, NETWORK, BOB.agent, until)
    by_bob = [sign_invitation(BOB, NETWORK, STEWARD.agent, nonce), grant]
    for proof, last in ((by_founder, None), (by_bob, until)):
        assert all(len(part) <= MAX_PROOF_STATEMENT for part in proof)
        passage = MEMBRANE.open(STEWARD.agent, proof)
        assert passage == Passage(nonce, tuple(proof), last)
        assert MEMBRANE.open(STEWARD.agent, passage.shown) == passage
        assert MEMBRANE.open_body(STEWARD.agent, passage.body) == passage
    assert position(NETWORK, STEWARD.agent, nonce) != position(NETWORK, BOB.agent, nonce)


HOSTILE: dict[str, tuple[list[bytes], str]] = {
    "nobody": ([], "1 to 2 statements"),
    "too many": ([BOBS, BOB_MAY, BOB_MAY], "1 to 2 statements"),
    "another guest's": ([sign_invitation(ALICE, NETWORK, BOB.agent, 7)], "invitation is for"),
    "another network's": ([sign_invitation(ALICE, OTHER, STEWARD.agent, 7)], "for the network"),
    "by a stranger": ([BOBS], "neither the founder's"),
    "by the guest": ([sign_invitation(STEWARD, NETWORK, STEWARD.agent, 7)], "neither the founder's"),
    "under a grant of another network": ([BOBS, sign_grant(ALICE, OTHER, BOB.agent)], "for the network"),
    "under another inviter's grant": ([BOBS, sign_grant(ALICE, NETWORK, STEWARD.agent)], "another inviter"),
    "under a grant by the inviter": ([BOBS, sign_grant(BOB, NETWORK, BOB.agent)], "not the founder's"),
    "two steps from the founder": (
        [sign_invitation(STEWARD, NETWORK, STEWARD.agent, 7), sign_grant(BOB, NETWORK, STEWARD.agent)],
        "not the founder's",
    ),
    "by the founder, with a grant": ([FOUNDERS, BOB_MAY], "needs no grant"),
    "in the wrong order": ([BOB_MAY, BOBS], "does not hold"),
    "a grant alone": ([BOB_MAY], "does not hold"),
    "an invitation as grant": ([BOBS, FOUNDERS], "does not hold"),
    "not signed": ([FOUNDERS[:-1] + bytes([FOUNDERS[-1] ^ 1])], "does not hold"),
    "of another shape": (
        [sign_statement(ALICE, INVITATION, [NETWORK, STEWARD.agent, 7, 1]).data],
        "two more",
    ),
    "of a short key": ([sign_statement(ALICE, INVITATION, [NETWORK, bytes(31), 7]).data], "32-byte key"),
    "with a negative nonce": (
        [sign_statement(ALICE, INVITATION, [NETWORK, STEWARD.agent, -1]).data],
        "nonce",
    ),
    "with a nonce too large": (
        [sign_statement(ALICE, INVITATION, [NETWORK, STEWARD.agent, MAX_INVITED_NONCE + 1]).data],
        "nonce",
    ),
    "with a nonce that is none": (
        [sign_statement(ALICE, INVITATION, [NETWORK, STEWARD.agent, True]).data],
        "n",
    ),
    "with a grant without end": (
        [BOBS, sign_statement(ALICE, GRANT, [NETWORK, BOB.agent, MAX_UNTIL + 1]).data],
        "until",
    ),
    "too large": ([sign_statement(ALICE, INVITATION, [NETWORK, bytes(200), 7]).data], "at most 256 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_other_proof_lets_anybody_in(name: str) -> None:
    proof, reason = HOSTILE[name]
    with pytest.raises(MembraneError, match=reason):
        MEMBRANE.open(STEWARD.agent, proof)


@pytest.mark.parametrize("shown", [7, True, None, "7", b"7", [7], [None], {"nonce": 7}, [[FOUNDERS]]])
def test_what_is_no_proof_lets_nobody_in(shown: Any) -> None:
    with pytest.raises(MembraneError):
        MEMBRANE.open(STEWARD.agent, shown)
    with pytest.raises(MembraneError):
        MEMBRANE.open_body(STEWARD.agent, {"nonce": shown})
    with pytest.raises(MembraneError):
        MEMBRANE.open_body(STEWARD.agent, {"invitation": [FOUNDERS], "nonce": shown})


def test_an_open_network_takes_work_and_no_invitation() -> None:
    free = replace(MANIFEST, join_bits=0).membrane
    with pytest.raises(MembraneError):
        free.open(STEWARD.agent, [sign_invitation(ALICE, free.network, STEWARD.agent, 7)])
    with pytest.raises(MembraneError):
        free.open_body(STEWARD.agent, {"invitation": [FOUNDERS]})
    assert free.open(STEWARD.agent, 7) == Passage(7)


@given(data=st.data(), by_bob=st.booleans())
def test_a_damaged_proof_lets_nobody_in(data: st.DataObject, by_bob: bool) -> None:
    proof = [BOBS, BOB_MAY] if by_bob else [FOUNDERS]
    place = data.draw(st.integers(0, len(proof) - 1))
    proof[place] = data.draw(damage(proof[place]))
    if proof in ([BOBS, BOB_MAY], [FOUNDERS]):
        return
    with pytest.raises(ChainError):
        MEMBRANE.open(STEWARD.agent, proof)


def test_out_of_range_is_not_signed() -> None:
    for sign in (
        lambda: sign_invitation(ALICE, NETWORK, bytes(31), 7),
        lambda: sign_invitation(ALICE, NETWORK, BOB.agent, -1),
        lambda: sign_grant(ALICE, NETWORK, b"", None),
        lambda: sign_grant(ALICE, NETWORK, BOB.agent, MAX_UNTIL + 1),
    ):
        with pytest.raises(MembraneError):
            sign()
    assert check_proof_shape([FOUNDERS]) == (FOUNDERS,)
    assert isinstance(MEMBRANE, Membrane)
