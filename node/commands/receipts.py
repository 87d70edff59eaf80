"""Waiting, on the command line, until other nodes have signed that they judged and hold what was added."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from node.commands.output import print_line
from node.errors import InvalidInput

if TYPE_CHECKING:
    from node.api_client import ApiClient

POLL_S = 20.0
"""Seconds of one request of a longer wait: below the time-out of requests."""


def check_wanted(client: ApiClient, wanted: int) -> None:
    """Refuse, before anything is added, to wait for more receipts than can come; raises `InvalidInput`."""
    most = client.get("/v1/status")["replication"]
    if wanted > most:
        raise InvalidInput(
            f"this network keeps {most} copies: wait for {most} receipts at most, not {wanted}"
        )


def await_receipts(client: ApiClient, record: str, wanted: int, timeout_s: float) -> dict[str, Any]:
    """Wait until `wanted` holders have signed in full; on a terminal each one that comes is shown.

    Returns `reached`, `wanted`, and `receipts`, the holders so far.
    """
    path = f"/v1/records/{record}/receipts"
    left, have, talk = timeout_s, -1, sys.stderr.isatty()
    answer = client.get(path, at_least=wanted)
    while True:
        if len(answer["full"]) != have:
            have = len(answer["full"])
            if talk:
                print_line(f"validated by {have} of {wanted}", err=True)
        if have >= wanted or left <= 0:
            break
        # For one more, not for all: each is shown when it comes.
        answer = client.get(path, at_least=have + 1, timeout_s=f"{min(left, POLL_S):g}")
        left -= max(answer["waited_s"], 0.001)
    if have < wanted:
        print_line(
            f"roseforest: added, but {have} of {wanted} nodes had signed for it after {timeout_s:g} s; it is "
            f"safe here and goes on being published (roseforest get {record} --provenance)",
            err=True,
        )
    return {"reached": have >= wanted, "wanted": wanted, "receipts": answer["full"]}
