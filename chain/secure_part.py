"""Payload body of learning.part: one of the five messages by which members of a task sum updates in secret.

| field | value |
|---|---|
| `round`, `previous` | as in a commit: the round, and the digest of what it builds on |
| `phase` | 0 keys, 1 shares, 2 masked, 3 survivors, 4 opening |
| `on` | the parts of the others that it builds on, ascending; none with the keys |
| `message` | the signed message of the sum itself (`federated.privacy.secure_messages`) |
| `examples`, `metrics` | with the keys alone: the weight of the update to come, and what the app said of it |

A part says in `on` with whom its author goes on: of each of these it names the record of the phase before
(survivors and openings: the masked vectors that count). So the parts form a chain back to the keys, which
anybody can follow. The reader checks shape and limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chain.body_fields import check_bytes, check_integer, expect_fields, read_record_cids
from chain.cid import DIGEST_SIZE, Cid
from chain.errors import RecordError
from chain.learning import MAX_METRIC, read_metrics
from chain.learning_task import MAX_MEMBERS, MAX_ROUNDS, MIN_SECURE

LAST_PHASE: Final = 4
MAX_MESSAGE: Final = 5 * 1024
"""Bytes of the longest message, that of sixteen members' shares."""


@dataclass(frozen=True, slots=True)
class Part:
    """A member's part in a secure sum. `examples` is 0 and `metrics` (in ppm) empty but with the keys."""

    round: int
    previous: bytes
    phase: int
    on: tuple[Cid, ...]
    message: bytes
    examples: int = 0
    metrics: Mapping[str, int] | None = None


def part_body(part: Part) -> dict[str, Any]:
    """Body of learning.part; raises `RecordError` beyond the limits."""
    body: dict[str, Any] = {
        "message": part.message,
        "on": list(part.on),
        "phase": part.phase,
        "previous": part.previous,
        "round": part.round,
    }
    if part.phase == 0:
        body |= {"examples": part.examples, "metrics": dict(part.metrics or {})}
    read_part(body)
    return body


def read_part(body: dict[str, Any]) -> Part:
    """Read a body; raises `RecordError` naming what is wrong with it."""
    check_integer("phase", body.get("phase"), 0, LAST_PHASE)
    first = body["phase"] == 0
    expect_fields(body, ("examples metrics " if first else "") + "message on phase previous round")
    check_integer("round", body["round"], 1, MAX_ROUNDS)
    check_bytes("previous", body["previous"], DIGEST_SIZE)
    message = body["message"]
    if type(message) is not bytes or not 0 < len(message) <= MAX_MESSAGE:
        raise RecordError(f"message is not 1 to {MAX_MESSAGE} bytes")
    on = (
        read_record_cids("on", body["on"], 0, 0)
        if first
        else read_record_cids("on", body["on"], MIN_SECURE, MAX_MEMBERS)
    )
    if not first:
        return Part(body["round"], body["previous"], body["phase"], on, message)
    check_integer("examples", body["examples"], 0, MAX_METRIC)
    metrics = read_metrics(body["metrics"])
    return Part(body["round"], body["previous"], 0, on, message, body["examples"], metrics)
