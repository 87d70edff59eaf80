"""Payload body of `learning.share`: the model that a member of a task of the topology gossip shows.

Nobody agrees on anything there: each member has a model of its own, trains it, shows what came out, and makes
its next model of that and of what a few others show (`federated.gossip`). So a share says two things: what
its author trained (`blob`, from `examples`), and how the model that it trained from had been made (`base`, of
the shares `combined`, while those in `refused` had a fault). The second can be computed again by anybody.

| field | of a share |
|---|---|
| `round` | the round in which it is shown; one after the task's last shows the author's result |
| `blob`, `size`, `examples`, `metrics` | as in a reveal; of a result the blob is `base` and `examples` is 0 |
| `base` | the model that the training began with |
| `combined` | the shares it was made of; none where it is what the task begins with |
| `refused` | the shares looked at for it that had a fault, each with its code |

Readers check shape and limits; what follows from several shares together is for `federated.share_log`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chain.body_fields import check_integer, expect_fields, read_record_cids
from chain.cid import Cid, is_blob_cid, is_record_cid
from chain.errors import RecordError
from chain.learning import MAX_METRIC, read_metrics
from chain.learning_outcome import MAX_REASON
from chain.learning_task import MAX_FANOUT, MAX_ROUNDS
from chain.text import check_text

MAX_REFUSED: Final = 16
"""Shares with a fault that one share names."""


@dataclass(frozen=True, slots=True)
class Share:
    """A member's model of a round; `metrics` in ppm of their unit, `combined` and `refused` ascending."""

    round: int
    blob: Cid
    size: int
    examples: int
    metrics: Mapping[str, int]
    base: Cid
    combined: tuple[Cid, ...] = ()
    refused: tuple[tuple[Cid, str], ...] = ()


def share_body(share: Share) -> dict[str, Any]:
    """Body of learning.share; raises `RecordError` beyond the limits."""
    body = {
        "base": share.base,
        "blob": share.blob,
        "combined": list(share.combined),
        "examples": share.examples,
        "metrics": dict(share.metrics),
        "refused": [list(pair) for pair in share.refused],
        "round": share.round,
        "size": share.size,
    }
    read_share(body)
    return body


def read_share(body: dict[str, Any]) -> Share:
    """Read a body of learning.share; raises `RecordError` naming what is wrong with it."""
    expect_fields(body, "base blob combined examples metrics refused round size")
    check_integer("round", body["round"], 1, MAX_ROUNDS + 1)
    for name in ("base", "blob"):
        if not is_blob_cid(body[name]):
            raise RecordError(f"{name} is not a blob CID")
    check_integer("size", body["size"], 0, MAX_METRIC)
    check_integer("examples", body["examples"], 0, MAX_METRIC)
    return Share(
        body["round"],
        body["blob"],
        body["size"],
        body["examples"],
        read_metrics(body["metrics"]),
        body["base"],
        read_record_cids("combined", body["combined"], 0, MAX_FANOUT + 1),
        _refused(body["refused"]),
    )


def _refused(value: object) -> tuple[tuple[Cid, str], ...]:
    if type(value) is not list or len(value) > MAX_REFUSED:
        raise RecordError(f"refused is malformed: expected at most {MAX_REFUSED} pairs")
    for pair in value:
        if type(pair) is not list or len(pair) != 2 or not is_record_cid(pair[0]):
            raise RecordError("a pair of refused is [share, reason]")
        check_text("a reason", pair[1], MAX_REASON)
    read_record_cids("refused", [pair[0] for pair in value], 0, MAX_REFUSED)
    return tuple((cid, reason) for cid, reason in value)
