"""Epochs: the signed changes of what a manifest lets change (atlas, rules, lifted warrants, who is out).

Epoch 0 is the manifest itself. Each later epoch names its predecessor and carries the signatures of at least
`threshold` of the manifest's stewards over its content, under a domain tag of its own; it is published as
the payload of a `network.epoch` record. One of the stewards publishes it: what others publish again counts
nowhere (`validation.ledger`), as each copy would be an epoch of another name. An epoch is judged by the
manifest and its predecessor alone. What it says about who is out is written, and signed, only where there is
something to say: an epoch that puts nobody out is the same bytes as before there was that.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from chain import canonical
from chain.cid import Cid, is_blob_cid, is_cid, is_record_cid
from chain.errors import RecordError, SignatureError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId, Identity, verify
from chain.manifest import MAX_STEWARDS, Manifest
from chain.record import MAX_INT

EPOCH_TAG = b"roseforest/epoch/1\0"
MAX_LIFTED = 256
MAX_EXPELLED = 256
"""Agents that one epoch puts out, and as many that it lets in again."""
MAX_EPOCH_NUMBER = 1 << 31
MAX_RULES = 1 << 16


@dataclass(frozen=True, slots=True)
class Expulsion:
    """An agent that is put out: nothing counts that its chain says from `since` on.

    `guests`: nor is anybody let in by its invitation any more.
    """

    agent: AgentId
    since: int
    guests: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch. `number` is its predecessor's plus one; `lifted` are warrants that no longer count.

    `expelled` and `readmitted`, ascending by agent, say who is out from then on and who is not any more.
    """

    network: Cid
    previous: Cid
    number: int
    atlas: Cid | None
    rules: int
    lifted: tuple[Cid, ...] = ()
    expelled: tuple[Expulsion, ...] = ()
    readmitted: tuple[AgentId, ...] = ()

    def message(self) -> bytes:
        """What a steward signs."""
        fields: list[Any] = [
            self.network,
            self.previous,
            self.number,
            self.atlas,
            self.rules,
            list(self.lifted),
        ]
        if self.expelled or self.readmitted:
            fields += [_expelled_value(self.expelled), list(self.readmitted)]
        return EPOCH_TAG + sha256(canonical.encode(fields)).digest()

    def sign(self, steward: Identity) -> tuple[AgentId, bytes]:
        """One steward's signature, as it goes into the payload."""
        return steward.agent, steward.sign(self.message())


def epoch_body(epoch: Epoch, signatures: list[tuple[AgentId, bytes]]) -> dict[str, Any]:
    """The payload body that publishes an epoch."""
    out = {"expelled": _expelled_value(epoch.expelled), "readmitted": list(epoch.readmitted)}
    return (out if epoch.expelled or epoch.readmitted else {}) | {
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
    fields = ["atlas", "lifted", "number", "previous", "rules", "signatures"]
    if sorted(body) not in (fields, sorted([*fields, "expelled", "readmitted"])):
        raise RecordError(
            "an epoch has the fields atlas, lifted, number, previous, rules, signatures, "
            "and expelled and readmitted where it says who is out"
        )
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
    expelled, readmitted = _read_out(body, manifest) if "expelled" in body else ((), ())
    epoch = Epoch(manifest.network_id, previous, number, atlas, rules, tuple(lifted), expelled, readmitted)
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


def _expelled_value(expelled: tuple[Expulsion, ...]) -> list[list[Any]]:
    return [[one.agent, one.since, one.guests] for one in expelled]


def _read_out(body: dict[str, Any], manifest: Manifest) -> tuple[tuple[Expulsion, ...], tuple[AgentId, ...]]:
    """Who is put out and who is let in again; neither founder nor stewards, all rests on their keys."""
    expelled, readmitted = body["expelled"], body["readmitted"]
    if type(expelled) is not list or type(readmitted) is not list or not (expelled or readmitted):
        raise RecordError("an epoch says who is out by two lists, of which one at least holds somebody")
    if len(expelled) > MAX_EXPELLED or len(readmitted) > MAX_EXPELLED:
        raise RecordError(f"an epoch puts out, or lets in again, at most {MAX_EXPELLED} agents")
    out: list[Expulsion] = []
    for one in expelled:
        if type(one) is not list or len(one) != 3 or type(one[1]) is not int or type(one[2]) is not bool:
            raise RecordError("an expelled agent is the array [agent, since, guests too]")
        if not 0 <= one[1] <= MAX_INT:
            raise RecordError(f"an agent is expelled from seq {one[1]} on, outside 0 … {MAX_INT}")
        out.append(Expulsion(*one))
    for agents in ([one.agent for one in out], readmitted):
        if not all(type(agent) is bytes and len(agent) == AGENT_ID_SIZE for agent in agents):
            raise RecordError(f"an epoch names an agent that is no {AGENT_ID_SIZE}-byte key")
        if agents != sorted(set(agents)):
            raise RecordError("an epoch names agents that are not ascending, or twice")
    named = {one.agent for one in out}
    if named & {manifest.founder, *manifest.stewards}:
        raise RecordError("an epoch expels the founder or a steward, on whose keys the network rests")
    if named & set(readmitted):
        raise RecordError("an epoch expels and readmits the same agent")
    return tuple(out), tuple(readmitted)
