"""Epochs: the signed changes of what a manifest lets change (atlas, rule version, lifted warrants).

Epoch 0 is the manifest itself. Each later epoch names its predecessor and carries the signatures of at least
`threshold` of the manifest's stewards over its content, under a domain tag of its own; it is published as
the payload of a `network.epoch` record. Who publishes it does not matter, the signatures do. An epoch is
judged by the manifest and its predecessor alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from chain import canonical
from chain.cid import Cid, is_blob_cid, is_cid, is_record_cid
from chain.errors import RecordError, SignatureError
from chain.identity import SIGNATURE_SIZE, AgentId, Identity, verify
from chain.manifest import MAX_STEWARDS, Manifest

EPOCH_TAG = b"roseforest/epoch/1\0"
MAX_LIFTED = 256
MAX_EPOCH_NUMBER = 1 << 31
MAX_RULES = 1 << 16


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch. `number` is its predecessor's plus one; `lifted` are warrants that no longer count."""

    network: Cid
    previous: Cid
    number: int
    atlas: Cid | None
    rules: int
    lifted: tuple[Cid, ...] = ()

    def message(self) -> bytes:
        """What a steward signs."""
        fields = [self.network, self.previous, self.number, self.atlas, self.rules, list(self.lifted)]
        return EPOCH_TAG + sha256(canonical.encode(fields)).digest()

    def sign(self, steward: Identity) -> tuple[AgentId, bytes]:
        """One steward's signature, as it goes into the payload."""
        return steward.agent, steward.sign(self.message())


def epoch_body(epoch: Epoch, signatures: list[tuple[AgentId, bytes]]) -> dict[str, Any]:
    """The payload body that publishes an epoch."""
    return {
        "atlas": epoch.atlas,
        "lifted": list(epoch.lifted),
        "number": epoch.number,
        "previous": epoch.previous,
        "rules": epoch.rules,
        "signatures": [list(pair) for pair in sorted(signatures)],
    }


def epoch_from_body(body: dict[str, Any], manifest: Manifest) -> Epoch:
    """Read an epoch and check that enough distinct stewards signed it.

    Raises `RecordError` for its shape and `SignatureError` when the threshold is not reached.
    """
    if sorted(body) != ["atlas", "lifted", "number", "previous", "rules", "signatures"]:
        raise RecordError("an epoch has the fields atlas, lifted, number, previous, rules, signatures")
    atlas, lifted, number = body["atlas"], body["lifted"], body["number"]
    previous, rules, signatures = body["previous"], body["rules"], body["signatures"]
    if not (atlas is None or is_blob_cid(atlas)) or not is_cid(previous):
        raise RecordError("epoch has a malformed atlas or previous epoch")
    if type(number) is not int or not 1 <= number <= MAX_EPOCH_NUMBER:
        raise RecordError(f"epoch number {number!r:.40} is outside 1 … {MAX_EPOCH_NUMBER}")
    if type(rules) is not int or not 1 <= rules <= MAX_RULES:
        raise RecordError(f"epoch rule version {rules!r:.40} is outside 1 … {MAX_RULES}")
    if type(lifted) is not list or len(lifted) > MAX_LIFTED or not all(map(is_record_cid, lifted)):
        raise RecordError(f"epoch lifts a malformed list of at most {MAX_LIFTED} warrants")
    if type(signatures) is not list or len(signatures) > MAX_STEWARDS:
        raise RecordError(f"epoch carries a malformed list of at most {MAX_STEWARDS} signatures")
    epoch = Epoch(manifest.network_id, previous, number, atlas, rules, tuple(lifted))
    message = epoch.message()
    signers: list[AgentId] = []
    for pair in signatures:
        if type(pair) is not list or len(pair) != 2 or not all(type(part) is bytes for part in pair):
            raise RecordError("an epoch signature is the array [steward, signature]")
        steward, signature = pair
        if steward not in manifest.stewards or len(signature) != SIGNATURE_SIZE:
            raise SignatureError("epoch is signed by an agent that is not a steward")
        if signers and steward <= signers[-1]:
            raise RecordError("epoch signatures are not ascending by steward")
        if not verify(steward, message, signature):
            raise SignatureError("an epoch signature does not verify")
        signers.append(steward)
    if len(signers) < manifest.threshold:
        raise SignatureError(
            f"epoch has {len(signers)} steward signatures, the network asks for {manifest.threshold}"
        )
    return epoch
