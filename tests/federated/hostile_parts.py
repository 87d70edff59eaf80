"""A campaign against secure sums: a member whose parts are none, are several, or build on what they like.

Each input is a round of eight members in two groups, one of whom lies: in place of each of its parts (or
beside it, or in place of some) it says hostile ones, made of the right part, of what others said, and of
messages that it signs itself with a changed body. The round has to end for the others with one model, in
which whoever counts has its update, bit for bit, unless the liar's own vector is among them; nobody but the
liar is refused for a lie, and what is kept of it stays within its bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from chain import canonical
from chain.cid import blob_cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import PART
from chain.secure_part import LAST_PHASE, Part, part_body, read_part
from federated.faults import REASONS
from federated.ledger import Ledger
from federated.part_book import MAX_OF_ONE
from federated.penalties import COSTS_ROUNDS
from federated.privacy.secure_messages import Phase
from federated.privacy.secure_messages import _signed as signed_bytes
from tests.federated.secure_table import SecureTable
from tests.federated.test_secure_round import check_model, counted, eight
from tests.mutation import Mutator

LIAR = 3


class Lies:
    """What a member says in the place of its parts."""

    def __init__(self, rng: random.Random, table: SecureTable) -> None:
        self.rng = rng
        self.table = table
        self.liar = table.members[LIAR]
        self.invalid = 0

    def __call__(self, part: Part) -> Sequence[Part]:
        """Instead of a part: others, together with it, before or after it, or alone."""
        rng = self.rng
        if rng.random() < 0.3:
            return [part]
        lies = [one for one in (self.lie(part) for _ in range(rng.choice((1, 1, 2, 6)))) if one is not None]
        return rng.choice((lies, [part, *lies], [*lies, part], []))

    def lie(self, part: Part) -> Part | None:
        """One part of another kind; None where it is no valid record, which nobody's ledger ever sees."""
        rng = self.rng
        said = [cid for cid, _ in self.liar.ledger.book.parts.items()]
        others: list[Any] = [part.message, part.on, said, *said[-3:], blob_cid(b"nobody's")]
        mutator = Mutator(rng, others)
        match rng.randrange(6):
            case 0:
                body = mutator.value(part_body(part))
            case 1:
                body = part_body(part) | {"message": mutator.data(part.message)}
            case 2:
                body = part_body(part) | {"message": self.signed(mutator, part)}
            case 3:
                on = sorted(rng.sample(said, min(len(said), rng.randrange(3, 17))))
                body = part_body(part) | ({} if part.phase == 0 else {"on": on})
            case 4:
                other = rng.choice(list(self.liar.ledger.book.parts.values()) or [(b"", part)])[1]
                body = part_body(replace(part, message=other.message or part.message))
            case _:
                body = part_body(part)
                body["phase"] = rng.randrange(LAST_PHASE + 1)
        try:
            assert type(body) is dict
            return read_part(body)
        except (ChainError, KeyError, TypeError, AssertionError):
            self.invalid += 1
            return None

    def signed(self, mutator: Mutator, part: Part) -> bytes:
        """The message of a part with a changed body, which the liar signs: so it is looked at."""
        phase, sender, name, body, _ = canonical.decode(part.message, len(part.message))
        body = mutator.value(body)
        phase = self.rng.choice((phase, phase, phase, self.rng.randrange(5)))
        try:
            signature = self.liar.scribe.identity.sign(signed_bytes(Phase(phase), name, body))
            return canonical.encode([phase, sender, name, body, signature])
        except (ChainError, TypeError, ValueError):
            return part.message


def check(table: SecureTable) -> None:
    """What has to hold once the round has ended."""
    liar = table.members[LIAR].agent
    honest = [member for number, member in enumerate(table.members) if number != LIAR]
    ledger = honest[0].ledger
    assert len({step.digest for member in honest for step in member.ledger.steps[:1]}) == 1
    for step in ledger.steps:
        for agent, reason in step.outcome.refused:
            assert reason in REASONS
            assert agent == liar or reason not in COSTS_ROUNDS, reason
        if liar not in counted(table, step):
            check_model(table, step)
    for member in honest:
        check_book(member.ledger)
    # What was said early, late, twice and in another order comes to the same.
    shuffled = list(honest[0].records.values())
    random.Random(table.seed).shuffle(shuffled)
    other = Ledger(table.task)
    other.add_all([*shuffled, *shuffled[:50]])
    assert other.tip == ledger.tip


def check_book(ledger: Ledger) -> None:
    """No more of one member than two parts in each phase of each round that there was."""
    places = {step.before.digest for step in ledger.steps} | ({ledger.tip.digest} if ledger.tip else set())
    agents = {agent for agent, _ in ledger.book.parts.values()}
    for agent in agents:
        kept = sum(len(ledger.book.all_of(place, agent)) for place in places)
        assert kept <= MAX_OF_ONE * len(Phase) * len(places)
    assert len(ledger.book.parts) <= MAX_OF_ONE * len(Phase) * len(places) * len(agents)
    assert set(ledger.book._whole) <= places


def play(rng: random.Random, seed: int) -> tuple[SecureTable, Lies]:
    """A round with a liar, from its begin to its end."""
    table = eight(seed, delay=rng.choice((0.02, 0.2)))
    lies = Lies(rng, table)
    table.lies[lies.liar.agent] = lies
    table.run()
    return table, lies


def charged(table: SecureTable) -> bool:
    """Whether the liar was refused for a lie."""
    liar: AgentId = table.members[LIAR].agent
    refused = [dict(step.outcome.refused).get(liar) for step in table.members[0].ledger.steps]
    return any(reason in COSTS_ROUNDS for reason in refused)


def flood(rng: random.Random, table: SecureTable) -> None:
    """Records of the liar that nobody judged, straight into the ledger of another: they change nothing."""
    member, liar = table.members[0], table.members[LIAR]
    mutator = Mutator(rng, list(member.records)[:5])
    tip = member.ledger.tip
    assert tip is not None
    part = Part(1, tip.digest, 0, (), b"x", 1, {})
    for _ in range(5):
        body = mutator.value(part_body(part))
        try:
            record = liar.scribe.on(table.task, PART, body)
        except (ChainError, ValueError, TypeError, AttributeError):
            continue
        member.ledger.add(record)
    assert member.ledger.tip == tip


def campaign(seed: int, more: Callable[[int], bool]) -> tuple[int, int]:
    """Play rounds as long as `more(how many so far)`; how many there were, and in how many the liar paid."""
    number = paid = 0
    while more(number):
        rng = random.Random(f"{seed}/{number}")
        try:
            table, _ = play(rng, rng.randrange(1 << 16))
            check(table)
            paid += charged(table)
            flood(rng, table)
        except Exception as error:
            error.add_note(f"input {number} of seed {seed}")
            raise
        number += 1
    return number, paid
