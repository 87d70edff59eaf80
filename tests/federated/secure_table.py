"""Members of a task with secure sums around a table; they may fall silent at any of their messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chain.blob import chunk_list
from chain.cid import Cid, blob_cid
from chain.identity import AgentId
from chain.kinds import PART
from chain.learning_task import Task
from chain.secure_part import Part, part_body
from federated.actions import LookVector, Mask, Sum, Tell
from federated.engagement import AnyRound
from federated.faults import UNAVAILABLE
from federated.privacy.group_sums import GroupSum, model_of_sums, vector_of
from federated.privacy.opened_sum import unmask
from federated.privacy.secure_messages import Phase
from federated.proposal import Verdict
from federated.secure_round import SecureRound
from federated.sum_chain import Closed
from federated.update import Fault
from tests.federated.privacy.members import Words
from tests.federated.table import Member, Table, initial

Falls = dict[AgentId, tuple[Phase, float]]
"""Whose node goes down in the first round as it says its message of a phase, and to what share of the others
that message still gets; 1 or more: it goes down just after."""


class SecureTable(Table):
    """`falls` as above; `lies` may change a part before it is said."""

    def __init__(self, terms: Task, members: int, seed: int = 0, **how: float) -> None:
        self.falls: Falls = {}
        self.lies: dict[AgentId, Callable[[Part], Sequence[Part]]] = {}
        self.wrongs: dict[AgentId, Callable[[Words], Words]] = {}
        """What a liar puts in place of its vector, before it is masked."""
        self.seed = seed
        self.said: list[Part] = []
        super().__init__(terms, members, seed, **how)

    def new_round(self, member: Member) -> AnyRound:
        place = 0 if member.ledger.tip is None else member.ledger.tip.round
        rng = random.Random(f"{self.seed}/{member.agent.hex()}/{place}/{self.now}")
        return SecureRound(member.ledger, member.scribe.identity, self.now, rng.randbytes)

    def fall(self, agents: Sequence[int], phase: Phase, share: float) -> None:
        for number in agents:
            self.falls[self.members[number].agent] = (phase, share)

    def act(self, member: Member, round_: AnyRound, action: Any) -> None:
        if not member.alive:
            return
        assert isinstance(round_, SecureRound)
        match action:
            case Tell(part=part):
                self.tell(member, part)
            case Mask(offer=offer):
                self.carry(lambda: self.mask(member, round_, offer.blob, offer.examples), sure=True)
            case LookVector():
                self.carry(lambda: self.look_vector(member, round_, action), sure=True)
            case Sum(key=key, base=base, groups=groups):
                data, spoilt = self.model_of(member, base, groups)
                if data is not None:
                    member.blobs[blob_cid(data)] = data
                round_.averaged(key, base if data is None else blob_cid(data), 0.01, spoilt)
            case _:
                super().act(member, round_, action)

    def tell(self, member: Member, part: Part) -> None:
        phase, share = self.falls.get(member.agent, (None, 0.0))
        falls = part.round == 1 and part.phase == phase
        others = [one for one in self.members if one is not member]
        to = others[: round(share * len(others))] if falls and share < 1 else others
        lies = self.lies.get(member.agent)
        if not falls or share > 0:
            for one in [part] if lies is None else lies(part):
                self.said.append(one)
                self.say(member, PART, part_body(one), to)
        if falls:
            self.crash(member)

    def mask(self, member: Member, round_: SecureRound, blob: Cid, examples: int) -> None:
        vector = vector_of(member.ledger.terms, member.blobs[blob], examples)
        wrong = self.wrongs.get(member.agent)
        words = round_.mask(vector if wrong is None else wrong(vector))
        if words is None:
            round_.unmasked()
        else:
            data = words.tobytes()
            member.blobs[chunk_list(data).cid] = data
            round_.masked()
        self.poke(member)

    def look_vector(self, member: Member, round_: SecureRound, look: LookVector) -> None:
        verdict: Verdict = UNAVAILABLE
        for agent in (member.agent, *look.agents):
            other = self.member(agent)
            if other.alive and look.blob in other.blobs:
                data = member.blobs[look.blob] = other.blobs[look.blob]
                verdict = None if len(data) == look.size else Fault.SIZE
                break
        round_.looked(look.part, verdict)
        self.poke(member)

    def model_of(
        self, member: Member, base: Cid, groups: Sequence[Closed]
    ) -> tuple[bytes | None, frozenset[AgentId]]:
        terms = member.ledger.terms
        start = next((one.blobs[base] for one in self.members if base in one.blobs), initial(terms))
        sums: list[GroupSum] = []
        for closed in groups:
            assert closed.opened is not None
            vectors = [np.frombuffer(member.blobs[one.blob], "<u8") for one in closed.counted]
            total = unmask(closed.session, closed.opened, vectors)
            sums.append(GroupSum(tuple(one.agent for one in closed.counted), total, closed.weight))
        data, refused = model_of_sums(terms, start, sums)
        return data, frozenset(agent for number in refused for agent in sums[number].members)
