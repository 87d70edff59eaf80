"""Campaigns of hostile input against learning: its HTTP routes, its methods on the wire, records, updates.

`python -m tests.fuzz_learning [--minutes M] [--only NAME] [--seed N]`. Where `tests/fuzz.py` gives decoders
bytes, these give whole machines and whole nodes messages that real code made, with something changed in them
(`tests.mutation`), and look at what comes of it: what is answered, what is kept, what the honest come to.
Each runs for its share of the time. What breaks one is printed with the seed and number that make it again,
and belongs into a test of what it broke. `tests/node/test_hostile_learning.py` runs a little of each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from tests.federated import hostile_parts, hostile_shares, hostile_updates
from tests.node import hostile_deliveries, hostile_requests

More = Callable[[int], bool]
CAMPAIGNS: dict[str, Callable[[Path, int, More], object]] = {
    "requests": lambda folder, seed, more: trio.run(hostile_requests.campaign, folder, seed, more),
    "deliveries": hostile_deliveries.campaign,
    "shares": lambda _, seed, more: hostile_shares.campaign(seed, more),
    "parts": lambda _, seed, more: hostile_parts.campaign(seed, more),
    "updates": lambda _, seed, more: hostile_updates.campaign(seed, more),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Hostile input against everything that learns.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all campaigns together")
    parser.add_argument("--only", choices=CAMPAIGNS)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(CAMPAIGNS)
    broke = 0
    for name in names:
        end = time.monotonic() + 60 * arguments.minutes / len(names)
        try:
            with tempfile.TemporaryDirectory(prefix="roseforest-fuzz-") as folder:
                more = partial(_until, end)
                print(f"{name:12} held: {CAMPAIGNS[name](Path(folder), arguments.seed, more)}", flush=True)
        except Exception as error:
            broke += 1
            traceback.print_exception(error)
            print(f"{name:12} broke", flush=True)
    sys.exit(1 if broke else 0)


def _until(end: float, _number: int) -> bool:
    return time.monotonic() < end


if __name__ == "__main__":
    main()
