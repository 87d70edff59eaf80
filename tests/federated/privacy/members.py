"""Secure sums in tests: all members of a session in one place, with seeded randomness and public messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chain.cid import blob_cid
from chain.identity import AgentId, Identity
from chain.learning import quorum
from federated.privacy.keystream import keystream
from federated.privacy.secure_messages import Phase, Session
from federated.privacy.secure_sum import SecureSum

Words = NDArray[np.uint64]
Expand = Callable[[bytes], Callable[[int], Words]]
LENGTH = 7


def identities(count: int) -> list[Identity]:
    """Ascending by agent."""
    return sorted((Identity.from_seed(bytes([7, n]) * 16) for n in range(count)), key=lambda one: one.agent)


def session_of(count: int, length: int = LENGTH, threshold: int | None = None) -> Session:
    roster = tuple(one.agent for one in identities(count))
    return Session(blob_cid(b"task"), 3, bytes(32), roster, threshold or quorum(count), length)


def inputs(count: int, seed: int, length: int = LENGTH) -> list[Words]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 2**64, length, np.uint64) for _ in range(count)]


@dataclass(slots=True)
class Table:
    """A session under way. `transcript` is everything that was said, in order."""

    members: dict[AgentId, SecureSum]
    transcript: list[bytes] = field(default_factory=list)

    def say(self, messages: Collection[bytes]) -> None:
        """Everybody who is left hears these, in an order of its own."""
        self.transcript += messages
        for number, member in enumerate(self.members.values()):
            for data in random.Random(number).sample(list(messages), len(messages)):
                member.receive(data)

    def run(self, gone: Mapping[Phase, Collection[AgentId]] | None = None) -> None:
        """Until the end; members of `gone` say nothing from their phase on."""
        first = {agent: member.start() for agent, member in self.members.items()}
        words: dict[AgentId, bytes] = first
        for phase in Phase:
            if phase is Phase.DONE:
                break
            for agent in (gone or {}).get(phase, ()):
                self.members.pop(agent)
                words.pop(agent)
            self.say(list(words.values()))
            left = sorted(words)
            said = {agent: member.close(left) for agent, member in self.members.items()}
            words = {agent: data for agent, data in said.items() if data is not None}


def table(session: Session, vectors: list[Words], seed: int = 1, expand: Expand = keystream) -> Table:
    """All members; member i's randomness depends on the seed and i alone."""
    made = {}
    for number, (identity, vector) in enumerate(zip(identities(len(vectors)), vectors, strict=True)):
        rng = random.Random(f"{seed}/{number}")
        made[identity.agent] = SecureSum(session, identity, vector, rng.randbytes, expand)
    return Table(made)


def plain_sum(vectors: Collection[Words]) -> Words:
    total = np.zeros(len(next(iter(vectors))), np.uint64)
    for vector in vectors:
        total += vector
    return total
