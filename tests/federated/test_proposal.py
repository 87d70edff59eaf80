"""What follows from a round's records: whose update counts, who is refused and why, and who is in next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from chain.cid import Cid, blob_cid
from chain.identity import AgentId
from chain.kinds import COMMIT, JOIN, LEAVE, REVEAL, ROUNDS_FROM
from chain.learning import Commit, Reveal, commit_body, reveal_body
from chain.record import Record
from federated.faults import DOUBLE, EXCLUDED, HASH, LATE, UNAVAILABLE, WITHHELD
from federated.ledger import Ledger, Tip
from federated.penalties import FIRST_ROUNDS, Penalty
from federated.proposal import (
    MAX_CANDIDATES,
    Verdict,
    decide,
    next_roster,
    proposers,
    relevant_standings,
    view_of,
)
from tests.federated.models import task_of
from tests.federated.table import Scribe, Table

MEMBERS = 4


class Round:
    """The first round of four members, whose records are written by hand."""

    def __init__(self, rules: int | None = None) -> None:
        self.table = Table(task_of(max_members=MEMBERS, rules=rules), MEMBERS)
        self.scribes = sorted((one.scribe for one in self.table.members), key=lambda one: one.agent)
        self.ledger = Ledger(self.table.task)
        self.ledger.add_all(self.table.members[0].records.values())
        tip = self.ledger.tip
        assert tip is not None
        self.tip: Tip = tip
        self.agents = tip.agents
        self.verdicts: dict[Cid, Verdict] = {}
        self.offers = [self.offer(by) for by in range(MEMBERS)]

    def offer(self, by: int, salt: int = 0) -> Reveal:
        """What a member has to show, before it says which commit it keeps and which ones it saw."""
        blob = blob_cid(b"update %d" % by)
        return Reveal(1, self.tip.digest, blob, bytes([salt, by]) * 16, blob, 100, 10, {}, ())

    def say(self, by: int, kind: str, body: dict[str, object]) -> Record:
        record = self.scribes[by].on(self.table.task, kind, body)
        self.ledger.add(record)
        return record

    def promise(self, by: int, offer: Reveal | None = None) -> Cid:
        offer = self.offers[by] if offer is None else offer
        promised = offer.hash(self.ledger.terms.promiser(self.agents[by]))
        return self.copy(by, promised)

    def copy(self, by: int, promised: bytes) -> Cid:
        return self.say(by, COMMIT, commit_body(Commit(1, self.tip.digest, promised))).cid

    def show(self, by: int, commit: Cid, seen: Collection[Cid], offer: Reveal | None = None) -> Cid:
        offer = self.offers[by] if offer is None else offer
        reveal = replace(offer, commit=commit, commits=tuple(sorted(seen)))
        shown = self.say(by, REVEAL, reveal_body(reveal)).cid
        self.verdicts[shown] = None
        return shown

    def refused(self, excluded: Collection[AgentId] = ()) -> dict[int, str]:
        decision = decide(self.ledger, self.tip, self.agents, self.verdicts, excluded)
        found = {self.agents.index(agent): reason for agent, reason in decision.refused}
        counted = {self.agents.index(agent) for agent in decision.contributors}
        assert counted.isdisjoint(found)
        return found

    def roster(
        self, contributed: Sequence[int], refused: dict[int, str] | None = None, excluded: Sequence[int] = ()
    ) -> list[AgentId]:
        seats = next_roster(
            self.ledger,
            self.tip,
            [self.agents[by] for by in contributed],
            {self.agents[by]: reason for by, reason in (refused or {}).items()},
            [self.agents[by] for by in excluded],
        )
        assert list(seats) == sorted(seats)
        return [agent for agent, _ in seats]


@pytest.mark.parametrize(("seen_by", "counts"), [((3,), False), ((2, 3), False), ((1, 2, 3), True)])
def test_a_promise_counts_when_more_than_half_had_seen_it(seen_by: Sequence[int], counts: bool) -> None:
    """A reveal lists its own commit, as the last one's does here."""
    said = Round()
    commits = [said.promise(by) for by in range(MEMBERS)]
    for by, commit in enumerate(commits):
        said.show(by, commit, commits if by in seen_by else commits[:3])
    assert said.refused() == ({} if counts else {3: LATE})


def test_who_promises_or_shows_two_things_is_refused_and_who_keeps_anothers_promise_too() -> None:
    said = Round()
    commits = [said.promise(by) for by in range(3)]
    said.promise(0, said.offer(0, salt=1))
    twin = said.promise(3, said.offers[2])  # the same hash as another's
    everything = [*commits, twin]
    said.show(0, commits[0], everything)
    said.show(1, commits[1], everything)
    said.show(1, commits[1], everything[:1])
    said.show(2, commits[2], everything)
    said.show(3, commits[2], everything, said.offers[2])
    assert said.refused() == {0: DOUBLE, 1: DOUBLE, 3: HASH}
    assert len(view_of(said.ledger, said.tip, said.agents, said.verdicts)) == 2 + 1 + 1 + 1 + 1 + 2 + 1 + 1


@pytest.mark.parametrize(("rules", "refused"), [(None, {}), (ROUNDS_FROM, {3: HASH})])
def test_a_promise_that_was_copied_from_another_member_is_not_its_own(
    rules: int | None, refused: dict[int, str]
) -> None:
    """It copies the hash before anybody shows, and shows what the other shows; old tasks cannot tell."""
    said = Round(rules)
    commits = [said.promise(by) for by in range(3)]
    everything = [*commits, said.copy(3, said.ledger.commits[commits[2]][1].hash)]
    for by in range(3):
        said.show(by, commits[by], everything)
    said.show(3, everything[3], everything, said.offers[2])
    assert said.refused() == refused


def test_of_each_member_two_promises_are_shown_at_most() -> None:
    said = Round()
    shown = [said.promise(0, said.offer(0, salt)) for salt in range(4)]
    assert view_of(said.ledger, said.tip, said.agents, {}) == frozenset(shown[:2])


def test_who_cannot_be_had_has_seen_what_it_has_seen() -> None:
    """Its list counts, or it could make the others' promises too late by being slow."""
    said = Round()
    commits = [said.promise(by) for by in range(3)]
    shown = said.show(0, commits[0], commits)
    said.show(1, commits[1], commits)
    said.show(2, commits[2], commits[2:])
    said.verdicts[shown] = UNAVAILABLE
    assert said.refused() == {0: UNAVAILABLE}


def test_a_promise_is_withheld_when_it_would_have_counted() -> None:
    said = Round()
    commits = [said.promise(by) for by in range(3)]
    for by in range(2):
        said.show(by, commits[by], commits)
    assert said.refused() == {2: WITHHELD}
    said.promise(3)  # which nobody had seen
    assert said.refused() == {2: WITHHELD}
    assert said.refused([said.agents[2], said.agents[3]]) == {2: EXCLUDED, 3: EXCLUDED}


def test_who_contributed_stays_but_who_left_or_lied_or_is_not_heard() -> None:
    said = Round()
    assert said.roster(range(MEMBERS)) == list(said.agents)
    assert said.roster([0, 1, 2]) == list(said.agents[:3]), "who was absent has to ask again"
    assert said.roster([0, 1, 2, 3], {3: HASH}) == list(said.agents[:3])
    assert said.roster([0, 1, 2, 3], {3: LATE}) == list(said.agents), "that may happen to anybody"
    assert said.roster([0, 1, 2, 3], excluded=[3]) == list(said.agents[:3])
    said.say(3, LEAVE, {})
    assert said.roster([0, 1, 2, 3]) == list(said.agents[:3])
    said.say(3, JOIN, {})
    assert said.roster([0, 1, 2]) == list(said.agents), "it asked again"
    assert said.roster([0, 1, 2], {3: HASH}) == list(said.agents[:3])
    assert said.roster([0, 1, 2], excluded=[3]) == list(said.agents[:3])


def newcomers(said: Round, count: int) -> dict[AgentId, Cid]:
    """So many agents from outside who join, by the CIDs of their joins, ascending."""
    joins: dict[AgentId, Cid] = {}
    for number in range(count):
        scribe = Scribe(100 + number)
        join = scribe.on(said.table.task, JOIN, {})
        said.ledger.add(join)
        joins[scribe.agent] = join.cid
    return dict(sorted(joins.items(), key=lambda pair: pair[1]))


def test_free_seats_go_to_the_lowest_joins_and_none_to_one_of_before() -> None:
    said = Round()
    joins = newcomers(said, 6)
    first, second, *_ = joins
    assert said.roster([0, 1]) == sorted([*said.agents[:2], first, second])
    assert said.roster(range(MEMBERS)) == list(said.agents)
    said.tip = replace(said.tip, spent=said.tip.spent | {joins[first]})
    third = list(joins)[2]
    assert said.roster([0, 1]) == sorted([*said.agents[:2], second, third])


def test_so_many_who_want_a_seat_are_considered_and_none_who_sits_out() -> None:
    said = Round()
    joins = newcomers(said, MAX_CANDIDATES + 3)
    lowest = list(joins)[:MAX_CANDIDATES]
    assert list(relevant_standings(said.ledger, said.tip)) == lowest
    for until, out in ((1, False), (2, True)):
        sits_out = Penalty(lowest[0], 1, until, HASH)
        tip = replace(said.tip, penalties=(sits_out,))
        assert (lowest[0] not in relevant_standings(said.ledger, tip)) is out, "in the next round"
    assert FIRST_ROUNDS > 1


def test_an_outcome_names_those_who_could_sign_it() -> None:
    said = Round()
    commits = [said.promise(by) for by in range(MEMBERS)]
    shown = [said.show(by, commits[by], commits) for by in range(MEMBERS)]
    said.verdicts[shown[0]] = said.verdicts[shown[1]] = "shape"
    decision = decide(said.ledger, said.tip, said.agents, said.verdicts)
    assert len(decision.refused) == 2
    outcome = decision.outcome(said.tip, said.agents[1:], blob_cid(b"model"), said.tip.roster)
    assert outcome.refused == ((said.agents[1], "shape"),)
    assert outcome.reveals == tuple(sorted(shown[1:]))


def test_the_order_of_proposers_is_drawn_for_each_round() -> None:
    said = Round()
    orders = {
        tuple(proposers(replace(said.tip, digest=bytes([number]) * 32), said.agents)) for number in range(9)
    }
    assert len({order[0] for order in orders}) > 1
    assert all(sorted(order) == list(said.agents) for order in orders)
