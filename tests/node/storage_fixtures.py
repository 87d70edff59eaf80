"""What the storage tests share: a chain with a counting clock and seeded salts, and inline blocking calls."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from chain.cid import raw_cid
from chain.identity import Identity
from chain.kinds import CREATE, GENESIS, MEMBRANE, PROFILE
from chain.record import Record
from chain.source_chain import Draft, Head, head_of, next_record
from dht.ports import Random, RunBlocking
from node.storage.database import Options
from node.storage.own_chain import OwnChain

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NETWORK = raw_cid(b"a network")
ALICE = Identity.from_seed(b"A" * 32)
BOB = Identity.from_seed(b"B" * 32)
OPENING = (Draft(GENESIS, {}), Draft(MEMBRANE, {"nonce": 1}), Draft(PROFILE, {}))
UNSYNCED = Options(synchronous="OFF")
"""For tests that are about content, not about durability: the same SQL without waiting for the disk."""


class CountingClock:
    """A clock that moves by a microsecond each time it is read."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def monotonic(self) -> float:
        return self.now / 1e6

    def wall_us(self) -> int:
        self.now += 1
        return self.now


async def inline(fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """`RunBlocking` as a simulator has it."""
    return fn(*args)


def open_chain(
    path: Path,
    run_blocking: RunBlocking = inline,
    options: Options = UNSYNCED,
    identity: Identity = ALICE,
) -> OwnChain:
    """The chain in `path`, with seeded salts."""
    source = random.Random(1)
    ports = Random(choice=source, random_bytes=source.randbytes)
    return OwnChain(path, identity, NETWORK, NETWORK, CountingClock(), ports, run_blocking, options)


def entry(text: str) -> Draft:
    """A draft that creates an entry."""
    return Draft(CREATE, {"codes": bytes(8), "text": text})


def authored(author: Identity, drafts: list[Draft], head: Head | None = None) -> list[Record]:
    """Records of `author` after `head`."""
    records: list[Record] = []
    for number, draft in enumerate(drafts):
        record = next_record(author, NETWORK, NETWORK, head, draft, 1_000_000 + number, bytes(16))
        head = head_of(record)
        records.append(record)
    return records
