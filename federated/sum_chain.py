"""What the parts of a secure sum amount to: who is in which group, whose vectors count, and what was opened.

The roster of a round is divided into groups by a hash of what the round builds on and the agents' keys, so
nobody chooses with whom it is. Each has `secure` members or more, and a sum hides its parts among those; a
roster that is too small for one makes no sums.

A group's parts form chains: openings and survivors name the masked vectors that count, these the shares that
they rest on, these the keys. `GroupParts` follows them, checks every link, and says what a chain comes to,
`Closed`, as a pure function of the ledger. Of two chains that are both open (for which many must lie) the one
with more openings counts, then the one with the lower records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_outcome import Outcome, quorum
from chain.learning_task import Task
from chain.statement import domain_tag
from federated.faults import DOUBLE, GROUP, SUM, WEIGHT
from federated.ledger import Ledger, Tip
from federated.privacy.group_sums import vector_length
from federated.privacy.opened_sum import Opened, Said, check_chain, open_sum, opening_fits
from federated.privacy.secure_messages import (
    Message,
    Phase,
    SecureSumError,
    Session,
    read_message,
    view_of,
)

_GROUP_TAG = domain_tag("secure-sum-group")


@dataclass(frozen=True, slots=True)
class Counted:
    """A member whose vector counts: the part that names the vector, its blob, and what came with the keys."""

    agent: AgentId
    part: Cid
    blob: Cid
    examples: int
    metrics: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Closed:
    """A group that came to its end: whose vectors count, ascending by agent, and what opens their sum.

    `opened` is None when a dealer's shares gave nothing. `liars` are who opened or dealt wrongly, with the
    part that shows it.
    """

    session: Session
    counted: tuple[Counted, ...]
    opened: Opened | None
    liars: tuple[tuple[AgentId, Cid], ...] = ()

    @property
    def parts(self) -> tuple[Cid, ...]:
        """The parts that name the vectors: what a result names as its evidence."""
        return tuple(sorted(one.part for one in self.counted))

    @property
    def weight(self) -> int:
        """Examples of all of them."""
        return sum(one.examples for one in self.counted)


def sum_groups(terms: Task, tip: Tip) -> tuple[tuple[AgentId, ...], ...]:
    """The groups of a round, each ascending; none when the roster is smaller than a group has to be."""
    assert terms.secure is not None
    order = sorted(tip.agents, key=lambda agent: sha256(_GROUP_TAG + tip.digest + agent).digest())
    count = len(order) // terms.secure
    bounds = [len(order) * place // count for place in range(count + 1)] if count else []
    return tuple(tuple(sorted(order[low:high])) for low, high in zip(bounds, bounds[1:], strict=False))


class GroupParts:
    """The parts of one group in one round, as far as the ledger has them. What was checked is remembered."""

    def __init__(self, ledger: Ledger, tip: Tip, members: tuple[AgentId, ...]) -> None:
        self.members = members
        self.session = Session(
            ledger.cid, tip.round, tip.digest, members, quorum(len(members)), vector_length(ledger.terms)
        )
        self._ledger = ledger
        self.previous = tip.digest
        self._messages: dict[Cid, Message | None] = {}
        self._closed: tuple[int, Closed | None] = (-1, None)

    # -- single parts --

    def of(self, phase: Phase, agent: AgentId) -> tuple[Cid, ...]:
        """What a member said in a phase, the first on its chain first; two if it said two things."""
        return self._ledger.book.of(self.previous, agent, phase)

    def message(self, cid: Cid) -> Message | None:
        """The message of a part, checked; None for one that is none of this session, phase and author."""
        if cid not in self._messages:
            author, part = self._ledger.book.parts[cid]
            found: Message | None = None
            with suppress(SecureSumError):
                found = read_message(self.session, part.message)
            if found is not None and (found.sender, found.phase) != (author, part.phase):
                found = None
            self._messages[cid] = found
        return self._messages[cid]

    def on(self, cid: Cid) -> tuple[Cid, ...]:
        """The parts that a part builds on."""
        return self._ledger.book.parts[cid][1].on

    def usable(self, phase: Phase, agent: AgentId) -> Cid | None:
        """A member's part of a phase, if it is its only one, and right in itself."""
        cids = self.of(phase, agent)
        if len(cids) != 1 or self.message(cids[0]) is None:
            return None
        return cids[0] if phase is not Phase.KEYS or self._weighs(cids[0]) else None

    def said(self, phase: Phase, cids: Iterable[Cid]) -> tuple[Message, ...] | None:
        """The messages of these parts, ascending by sender; None unless all are here, and of this phase."""
        found: list[Message] = []
        for cid in cids:
            if cid not in self._ledger.book.parts:
                return None
            message = self.message(cid)
            if message is None or message.phase is not phase:
                return None
            if phase is Phase.KEYS and not self._weighs(cid):
                return None
            found.append(message)
        return tuple(sorted(found, key=lambda message: message.sender))

    def faults(self) -> dict[AgentId, tuple[str, tuple[Cid, ...]]]:
        """What is wrong with what members said, as the records themselves show, and the records."""
        found: dict[AgentId, tuple[str, tuple[Cid, ...]]] = {}
        for agent in self.members:
            for phase in Phase:
                cids = self.of(phase, agent)
                if len(cids) > 1:
                    found.setdefault(agent, (DOUBLE, cids))
                elif cids and self.message(cids[0]) is None:
                    found.setdefault(agent, (SUM, cids))
                elif cids and phase is Phase.KEYS and not self._weighs(cids[0]):
                    found.setdefault(agent, (WEIGHT, cids))
        closed = self.closed()
        if closed is not None:
            for agent, cid in closed.liars:
                found.setdefault(agent, (SUM, (cid,)))
        return found

    def latest(self) -> dict[AgentId, Cid]:
        """Of a group that did not come to its end: the parts of the last phase in which half of those spoke
        who spoke at all; so nobody who runs ahead alone makes all the others look silent."""
        said = [
            {agent: cids[0] for agent in self.members if (cids := self.of(phase, agent))} for phase in Phase
        ]
        spoke = {agent for found in said for agent in found}
        by_most = [found for found in said if found and 2 * len(found) >= len(spoke)]
        return by_most[-1] if by_most else max(said, key=len)

    # -- chains --

    def closed(self) -> Closed | None:
        """What the group came to; None as long as fewer than the threshold have opened."""
        changes = self._ledger.book.changes
        if self._closed[0] != changes:
            self._closed = (changes, self._find())
        return self._closed[1]

    def rests_on(self, masked: tuple[Cid, ...]) -> Closed | None:
        """The same of the chain with these vectors; None when it is not here, or not open."""
        shares = self.shared(Phase.MASKED, masked)
        keys = None if shares is None else self.shared(Phase.SHARES, shares)
        if shares is None or keys is None:
            return None
        found = [self.said(phase, cids) for phase, cids in zip(Phase, (keys, shares, masked), strict=False)]
        if any(messages is None for messages in found):
            return None
        first, second, third = (messages or () for messages in found)
        try:
            check_chain(self.session, first, second, third)
        except SecureSumError:
            return None
        survivors = tuple(one.sender for one in third)
        view = view_of(self.session, third)
        openings: list[Message] = []
        liars: list[tuple[AgentId, Cid]] = []
        for agent in survivors:
            for cid in self.of(Phase.OPENING, agent)[:1]:
                message = self.message(cid)
                if message is None or self.on(cid) != masked:
                    continue
                if message.body[0] == view and opening_fits(second, survivors, message):
                    openings.append(message)
                else:
                    liars.append((agent, cid))
        if len(openings) < self.session.threshold:
            return None
        counted = self._counted(masked, keys)
        try:
            opened = open_sum(self.session, Said(first, second, third, tuple(openings)))
        except SecureSumError as error:
            liars += [
                (agent, cid) for cid in shares if (agent := self._ledger.book.parts[cid][0]) == error.agent
            ]
            return Closed(self.session, counted, None, tuple(liars))
        return Closed(self.session, counted, opened, tuple(liars))

    def shared(self, phase: Phase, cids: tuple[Cid, ...]) -> tuple[Cid, ...] | None:
        """The parts that all of these, which are of this phase, build on; None when they do not agree."""
        if self.said(phase, cids) is None:
            return None
        found = {self.on(cid) for cid in cids}
        return found.pop() if len(found) == 1 else None

    def _find(self) -> Closed | None:
        openings: dict[tuple[Cid, ...], int] = {}
        for agent in self.members:
            for cid in self.of(Phase.OPENING, agent)[:1]:
                openings[self.on(cid)] = openings.get(self.on(cid), 0) + 1
        ranked = sorted((-count, on) for on, count in openings.items() if count >= self.session.threshold)
        return next((found for _, on in ranked if (found := self.rests_on(on)) is not None), None)

    def _counted(self, masked: tuple[Cid, ...], keys: tuple[Cid, ...]) -> tuple[Counted, ...]:
        parts = self._ledger.book.parts
        shown = {parts[cid][0]: parts[cid][1] for cid in keys}
        found: list[Counted] = []
        for cid in masked:
            message = self.message(cid)
            assert message is not None
            first = shown[message.sender]
            found.append(
                Counted(message.sender, cid, message.body[1], first.examples, dict(first.metrics or {}))
            )
        return tuple(sorted(found, key=lambda one: one.agent))

    def _weighs(self, cid: Cid) -> bool:
        examples = self._ledger.book.parts[cid][1].examples
        return 1 <= examples <= self._ledger.terms.max_examples


def summed(ledger: Ledger, place: Tip, outcome: Outcome) -> tuple[Closed, ...]:
    """The groups whose sums a result is made of, as far as their parts are here; a look at all of them.

    Of a group that the result refuses no member counts.
    """
    refused = dict(outcome.refused)
    named = set(outcome.reveals)
    found: list[Closed] = []
    for members in sum_groups(ledger.terms, place):
        closed = GroupParts(ledger, place, members).closed()
        if closed is None or not named.issuperset(closed.parts):
            continue
        if not any(refused.get(agent) == GROUP for agent in members):
            found.append(closed)
    return tuple(found)


def named_by_links(ledger: Ledger, place: Tip, outcome: Outcome) -> tuple[Counted, ...]:
    """The same as a list of members, by what the records say of each other, unchecked: for people to read.

    Who signed the result has checked it, and an audit does. The size of the blobs is not in it. Cheap.
    """
    book, refused, named = ledger.book, dict(outcome.refused), set(outcome.reveals)
    found: list[Counted] = []
    for members in sum_groups(ledger.terms, place):
        openings: dict[tuple[Cid, ...], int] = {}
        for agent in members:
            for cid in book.of(place.digest, agent, Phase.OPENING)[:1]:
                on = book.parts[cid][1].on
                openings[on] = openings.get(on, 0) + 1
        for on, count in openings.items():
            known = named.issuperset(on) and all(cid in book.parts for cid in on)
            if count < quorum(len(members)) or not known:
                continue
            if any(refused.get(agent) == GROUP for agent in members):
                continue
            for cid in on:
                agent = book.parts[cid][0]
                first = [book.parts[key][1] for key in book.of(place.digest, agent, Phase.KEYS)[:1]]
                examples, metrics = (first[0].examples, first[0].metrics or {}) if first else (0, {})
                found.append(Counted(agent, cid, b"", examples, metrics))
    return tuple(sorted(found, key=lambda one: one.agent))
