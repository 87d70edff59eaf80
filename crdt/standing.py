"""Standing: from which place of its chain on an agent's records do not count, by warrants and by lifting.

A pure function of what has been proven and of the epochs: of each offender the earliest offence that is not
forgiven decides, so the order in which warrants and records arrive cannot show, and one more warrant never
makes more records count. An epoch lifts by naming a warrant: that forgives its offender whatever is proven,
by this or any other warrant, at the same place of its chain or later, of records signed in an epoch before
the lifting one. So a second accuser does not undo a pardon, a chain that forked by accident goes on in the
new epoch, and a fork of what it writes there counts again. A revocation by the recovery key counts like an
offence just after the last good record, and nothing lifts it: what a thief signed stays out. But who stole a
key can sign a second genesis with it, which names a recovery key of the thief's, and revoke by that. So of an
agent that is proven to have two an epoch may lift a revocation, by naming it or one by the same genesis.

Stewards may put an agent out by an epoch and let it in again by a later one (`outsiders_of`): while it is out
it counts like an offender from the place of its chain that the epoch names. What is true is what the line of
epochs says that leads to the newest, from the first on.

Of an agent that goes on under a new key (`chain.agent_life.Rotation`) the votes count once, the last key's
first; a rotation that does not count itself joins nobody. All other rights stay with the key that has them:
they are judged by what a record names, and a retract names no rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from chain.agent_life import Rotation
from chain.cid import Cid
from chain.epoch import Epoch, Expulsion
from chain.identity import AgentId
from chain.record import Record
from chain.warrant import FORK, Offence

MAX_LINE = 32
"""Keys of one agent, one after the other, that are taken for one; nobody changes keys so often."""


@dataclass(frozen=True, slots=True)
class Standing:
    """`first`: of each offender the seq from which on nothing counts, on whatever branch of its chain."""

    first: Mapping[AgentId, int] = field(default_factory=dict)
    successors: Mapping[AgentId, AgentId] = field(default_factory=dict)
    """Of each agent whose rotation counts the key that it goes on under."""

    def doubting(self, doubts: Mapping[AgentId, int]) -> Standing:
        """This standing, and besides nothing of these agents from these places on counts."""
        if not doubts:
            return self
        first = dict(self.first)
        for agent, seq in doubts.items():
            first[agent] = min(seq, first.get(agent, seq))
        return Standing(first, self.successors)

    def line_of(self, agent: AgentId) -> tuple[AgentId, ...]:
        """The agent and those that it went on as, one after the other; at most `MAX_LINE` of them.

        Lines that come back end before. Whoever shows votes follows the lines of all voters: one of thousands
        of keys must not cost thousands of steps.
        """
        line = [agent]
        while len(line) < MAX_LINE and (after := self.successors.get(line[-1])) is not None:
            if after in line:
                break
            line.append(after)
        return tuple(line)

    def same_as(self, agent: AgentId) -> tuple[AgentId, ...]:
        """All keys under which this agent has gone on or will, ascending, itself too; O(rotations)."""
        end = self.line_of(agent)[-1]
        known = {agent, end, *self.successors}
        return tuple(sorted(one for one in known if self.line_of(one)[-1] == end))

    def counts(self, record: Record) -> bool:
        """Whether what this record says is to be shown."""
        if not self.first:
            return True
        seq = self.first.get(record.header.author)
        return seq is None or record.header.seq < seq

    def since(self, agent: AgentId) -> int | None:
        """The seq from which on `agent` is not heard; None for agents in good standing."""
        return self.first.get(agent)


@dataclass(frozen=True, slots=True)
class Outsiders:
    """Who is out of the network: `expelled` by agent, and whom a later epoch `readmitted` by name."""

    expelled: Mapping[AgentId, Expulsion] = field(default_factory=dict)
    readmitted: frozenset[AgentId] = frozenset()

    def bars(self, agent: AgentId, inviter: AgentId | None) -> bool:
        """Whether `agent`, who came by the invitation of `inviter` or of nobody, is out."""
        if agent in self.expelled:
            return True
        host = None if inviter is None else self.expelled.get(inviter)
        return host is not None and host.guests and agent not in self.readmitted


NOBODY = Outsiders()
"""Nobody was ever put out."""
CLEAR = Standing()
"""Nobody has been proven to do wrong."""


def successors_of(rotations: Iterable[Rotation], first: Mapping[AgentId, int]) -> dict[AgentId, AgentId]:
    """Whom each agent goes on as, by the rotations that count; of several of one agent the smallest CID's."""
    found: dict[AgentId, Rotation] = {}
    for one in rotations:
        since = first.get(one.agent)
        if since is None or one.seq < since:
            known = found.get(one.agent)
            found[one.agent] = one if known is None or one.record < known.record else known
    return {agent: found[agent].successor for agent in sorted(found)}


def newest_of(epochs: Mapping[Cid, Epoch], network: Cid) -> Cid:
    """The newest epoch: the highest number, of several the smallest CID; the network's id for epoch 0."""
    return min(epochs, key=lambda cid: (-epochs[cid].number, cid), default=network)


def outsiders_of(epochs: Mapping[Cid, Epoch], network: Cid) -> Outsiders:
    """Who is out by the line of epochs that leads to the newest one. O(epochs)."""
    line: list[Epoch] = []
    at = newest_of(epochs, network)
    while (epoch := epochs.get(at)) is not None and len(line) < len(epochs):
        line.append(epoch)
        at = epoch.previous
    expelled: dict[AgentId, Expulsion] = {}
    readmitted: set[AgentId] = set()
    for epoch in reversed(line):
        for agent in epoch.readmitted:
            expelled.pop(agent, None)
            readmitted.add(agent)
        for one in epoch.expelled:
            expelled[one.agent] = one
            readmitted.discard(one.agent)
    return Outsiders(expelled, frozenset(readmitted)) if line else NOBODY


def standing_of(offences: Mapping[Cid, Offence], epochs: Mapping[Cid, Epoch], network: Cid) -> Standing:
    """The standing that these offences, by the CIDs of their warrants, and epochs amount to.

    `epochs` are those after epoch 0 by CID; epoch 0 goes by the network's id. O(offences · liftings).
    """
    lifted = lifted_of(offences, epochs, network)
    first: dict[AgentId, int] = {}
    for warrant, offence in offences.items():
        if warrant not in lifted:
            first[offence.offender] = min(offence.seq, first.get(offence.offender, offence.seq))
    return Standing(first).doubting(places_of(outsiders_of(epochs, network)))


def places_of(outsiders: Outsiders) -> dict[AgentId, int]:
    """Of each expelled agent the seq from which on nothing counts."""
    return {one.agent: one.since for one in outsiders.expelled.values()}


def lifted_of(offences: Mapping[Cid, Offence], epochs: Mapping[Cid, Epoch], network: Cid) -> frozenset[Cid]:
    """The warrants among `offences` whose offences are forgiven, whether an epoch names them or another's."""
    return frozenset(
        warrant for warrant, one in offences.items() if is_forgiven(one, offences, epochs, network)
    )


def is_forgiven(
    offence: Offence, offences: Mapping[Cid, Offence], epochs: Mapping[Cid, Epoch], network: Cid
) -> bool:
    """Whether an offence, proven or to be proven, is forgiven by an epoch that lifts one of `offences`."""
    lifting = [
        epoch.number
        for epoch in epochs.values()
        for warrant in epoch.lifted
        if (pardoned := offences.get(warrant)) is not None
        and pardoned.pardonable == offence.pardonable
        and pardoned.offender == offence.offender
        and (offence.seq >= pardoned.seq if offence.pardonable else offence.records == pardoned.records)
    ]
    if not lifting:
        return False
    if not offence.pardonable:
        return has_two_geneses(offence.offender, offences.values())
    numbers = {network: 0} | {cid: epoch.number for cid, epoch in epochs.items()}
    signed_in = [numbers.get(epoch) for epoch in offence.epochs]
    return all(number is not None and number < max(lifting) for number in signed_in)


def has_two_geneses(agent: AgentId, offences: Iterable[Offence]) -> bool:
    """Whether the chain of an agent is proven to fork at its first record, forgiven or not."""
    return any((one.offender, one.seq, one.rule) == (agent, 0, FORK) for one in offences)
