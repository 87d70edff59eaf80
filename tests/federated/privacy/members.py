"""Secure sums in tests: all members of a session in one place, with seeded randomness and public messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chain.cid import blob_cid
from chain.identity import AgentId, Identity
from chain.learning_outcome import quorum
from federated.privacy.keystream import keystream
from federated.privacy.opened_sum import Said, open_sum, unmask
from federated.privacy.secure_messages import Message, Phase, Session, read_message
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
    """A session under way. `transcript` is everything that was said, in order, and `blobs` what was shown."""

    members: dict[AgentId, SecureSum]
    vectors: dict[AgentId, Words]
    expand: Expand = keystream
    transcript: list[bytes] = field(default_factory=list)
    blobs: dict[AgentId, bytes] = field(default_factory=dict)

    @property
    def session(self) -> Session:
        return next(iter(self.members.values())).session

    def close(self, agent: AgentId, agreed: Collection[AgentId]) -> bytes | None:
        """End a member's phase; None when it was the last one."""
        member = self.members[agent]
        if member.phase is Phase.OPENING:
            return None
        data = member.close(agreed, self.vectors[agent].copy())
        if member.phase is Phase.MASKED:
            assert member.masked is not None
            self.blobs[agent] = member.masked.tobytes()
        return data

    def said(self, without: Collection[AgentId] = ()) -> Said:
        """What was said in public, as a sum is opened from; of some nothing from their vectors on."""
        said: dict[Phase, list[Message]] = {phase: [] for phase in Phase}
        for message in sorted((read_message(self.session, data) for data in self.transcript), key=_sender):
            if message.sender not in without or message.phase < Phase.MASKED:
                said[message.phase].append(message)
        four = (Phase.KEYS, Phase.SHARES, Phase.MASKED, Phase.OPENING)
        return Said(*(tuple(said[phase]) for phase in four))

    def opened(self, without: Collection[AgentId] = ()) -> tuple[tuple[AgentId, ...], Words]:
        """Whose vectors count and what they come to, from what was said in public."""
        session = self.session
        opened = open_sum(session, self.said(without))
        survivors = tuple(agent for agent, _ in opened.vectors)
        vectors = [np.frombuffer(self.blobs[agent], "<u8") for agent in survivors]
        return survivors, unmask(session, opened, vectors, self.expand)

    def say(self, messages: Collection[bytes]) -> None:
        """Everybody who is left hears these, in an order of its own."""
        self.transcript += messages
        for number, member in enumerate(self.members.values()):
            for data in random.Random(number).sample(list(messages), len(messages)):
                member.receive(data)

    def run(
        self,
        gone: Mapping[Phase, Collection[AgentId]] | None = None,
        alter: Callable[[Message], bytes | None] = lambda message: None,
    ) -> None:
        """Until the end; members of `gone` say nothing from their phase on. `alter` gives a message in place
        of another one, which its sender believes to have said.
        """
        first = {agent: member.start() for agent, member in self.members.items()}
        words: dict[AgentId, bytes] = first
        for phase in Phase:
            for agent in (gone or {}).get(phase, ()):
                self.members.pop(agent)
                words.pop(agent)
            for agent, data in words.items():
                other = alter(read_message(self.session, data))
                if other is not None:
                    words[agent] = other
                    self.members[agent]._heard[phase][agent] = read_message(self.session, other)
            self.say(list(words.values()))
            left = sorted(words)
            said = {agent: self.close(agent, left) for agent in self.members}
            words = {agent: data for agent, data in said.items() if data is not None}


def table(session: Session, vectors: list[Words], seed: int = 1, expand: Expand = keystream) -> Table:
    """All members; member i's randomness depends on the seed and i alone."""
    made = {}
    for number, identity in enumerate(identities(len(vectors))):
        rng = random.Random(f"{seed}/{number}")
        made[identity.agent] = SecureSum(session, identity, rng.randbytes, expand)
    return Table(made, dict(zip(made, vectors, strict=True)), expand)


def _sender(message: Message) -> AgentId:
    return message.sender


def plain_sum(vectors: Collection[Words]) -> Words:
    total = np.zeros(len(next(iter(vectors))), np.uint64)
    for vector in vectors:
        total += vector
    return total
