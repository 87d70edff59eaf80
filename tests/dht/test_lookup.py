"""A lookup ends, names only who answered, and on an honest network finds exactly the closest."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.contact import Contact
from dht.overlay.distance import FARTHEST, closest, distance
from dht.overlay.lookup import ALPHA, MAX_ANSWER, MAX_QUERIES, Lookup
from dht.overlay.routing_table import K, RoutingTable
from tests.dht.people import key, placed

SMALL_K = 4
Answer = Callable[[Contact], list[Contact] | None]
"""What a node answers to a find; None when it does not."""


class Village:
    """Nodes at random positions, each with the table that a long honest life would have given it."""

    def __init__(self, seed: int, size: int, k: int = SMALL_K) -> None:
        self.rng = random.Random(seed)
        self.k = k
        self.target = self.rng.randbytes(32)
        self.nodes = [placed(self.rng.randbytes(32)) for _ in range(size)]
        self.tables = {}
        for node in self.nodes:
            table = self.tables[node.agent] = RoutingTable(node.position, k)
            for other in self.rng.sample(self.nodes, size):
                table.offer(other)

    def honest(self, contact: Contact) -> list[Contact] | None:
        table = self.tables.get(contact.agent)
        return None if table is None else table.closest(self.target, self.k)

    def seeds(self, count: int) -> list[Contact]:
        return self.rng.sample(self.nodes, min(count, len(self.nodes)))


def drive(lookup: Lookup, answer: Answer, rng: random.Random) -> list[Contact]:
    """Run a lookup with answers in random order; returns everybody who was asked."""
    asked: list[Contact] = []
    under_way: list[Contact] = []
    while not lookup.done:
        fresh = lookup.next_queries()
        asked += fresh
        under_way += fresh
        assert len(under_way) <= ALPHA
        assert under_way, "a lookup that is not done has a question under way"
        contact = under_way.pop(rng.randrange(len(under_way)))
        named = answer(contact)
        if named is None:
            lookup.on_failure(contact)
        else:
            lookup.on_response(contact, named)
    assert len({contact.agent for contact in asked}) == len(asked), "nobody is asked twice"
    return asked


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([1, 3]), st.integers(1, SMALL_K))
def test_on_an_honest_network_the_result_equals_brute_force(
    seed: int, size: int, paths: int, seeds: int
) -> None:
    village = Village(seed, size)
    lookup = Lookup(village.target, SMALL_K, seeds=village.seeds(seeds), paths=paths)
    drive(lookup, village.honest, village.rng)
    assert lookup.result == closest(village.target, village.nodes, lambda node: node.position, SMALL_K)
    assert lookup.complete


@given(
    st.integers(0, 10**6),
    st.integers(2, 50),
    st.sampled_from([1, 3]),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
)
def test_among_the_dead_and_liars_it_ends_and_names_only_who_answered(
    seed: int, size: int, paths: int, dead_share: float, liar_share: float
) -> None:
    village = Village(seed, size)
    rng = village.rng
    dead = {node.agent for node in village.nodes if rng.random() < dead_share}
    liars = {node.agent for node in village.nodes if rng.random() < liar_share}
    answered: set[bytes] = set()

    def fake() -> Contact:
        near = village.target[: rng.randrange(32)]
        return placed(near + rng.randbytes(32 - len(near)))

    def answer(contact: Contact) -> list[Contact] | None:
        if contact.agent in dead or contact.agent not in village.tables:
            return None
        answered.add(contact.agent)
        if contact.agent not in liars:
            return village.honest(contact)
        lies: list[Callable[[], Contact]] = [
            fake,
            lambda: contact,
            lambda: rng.choice(village.nodes),
            lambda: placed(rng.randbytes(32), capacity=0),
            lambda: placed(contact.position, agent=rng.randbytes(32)),
        ]
        return [rng.choice(lies)() for _ in range(rng.randrange(60))]

    lookup = Lookup(village.target, SMALL_K, seeds=village.seeds(3), paths=paths)
    asked = drive(lookup, answer, rng)
    assert len(asked) <= MAX_QUERIES
    result = lookup.result
    assert len(result) <= SMALL_K
    assert {contact.agent for contact in result} <= answered
    assert result == closest(
        village.target,
        [node for node in village.nodes if node.agent in answered],
        lambda node: node.position,
        SMALL_K,
    ), "the closest of those who answered"


def test_liars_who_name_ever_closer_nodes_do_not_keep_a_lookup_going() -> None:
    rng = random.Random(1)
    answered: list[bytes] = []

    def answer(contact: Contact) -> list[Contact]:
        answered.append(contact.agent)
        shared = min(len(answered) // 8, 31)
        return [placed(key(0)[:shared] + rng.randbytes(32 - shared)) for _ in range(MAX_ANSWER)]

    lookup = Lookup(key(0), K, seeds=[placed(key(1))])
    assert len(drive(lookup, answer, rng)) == MAX_QUERIES == lookup.queries
    assert not lookup.complete
    assert len(lookup.result) == K
    assert {contact.agent for contact in lookup.result} <= set(answered)


def test_only_the_first_of_an_answer_are_taken() -> None:
    lookup = Lookup(key(0), 200, seeds=[placed(key(1))], alpha=1000)
    (first,) = lookup.next_queries()
    lookup.on_response(first, [placed(key(number)) for number in range(2, 200)])
    assert len(lookup.next_queries()) == MAX_ANSWER


def test_one_lying_path_does_not_keep_the_others_from_the_closest() -> None:
    village = Village(7, 60, k=8)
    liar = closest(village.target, village.nodes, lambda node: node.position, 1)[0]
    fakes = [placed(village.target[:31] + bytes([number])) for number in range(MAX_ANSWER)]

    def answer(contact: Contact) -> list[Contact] | None:
        return fakes if contact is liar else village.honest(contact)

    lookup = Lookup(village.target, 8, seeds=[liar, *village.seeds(4)], paths=3)
    drive(lookup, answer, village.rng)
    assert lookup.result == closest(village.target, village.nodes, lambda node: node.position, 8)


def test_what_one_path_hears_does_not_end_the_search_of_another() -> None:
    honest, liar = placed(b"\x20" + bytes(31)), placed(b"\x40" + bytes(31))
    lies = [placed(b"\x02" + bytes(31)), placed(b"\x01" + bytes(31))]
    lookup = Lookup(bytes(32), 2, seeds=[liar, honest], paths=2)
    assert lookup.next_queries() == [honest, liar]
    lookup.on_response(liar, lies)
    assert lookup.next_queries() == lies[::-1]
    for lie in lies:
        lookup.on_response(lie, [])
    assert lookup.result == lies[::-1]
    assert not lookup.done, "the other path still waits for its own"
    truth = placed(bytes(31) + b"\x01")
    lookup.on_response(honest, [*lies, truth])
    assert lookup.next_queries() == [truth]
    lookup.on_response(truth, [])
    assert lookup.done
    assert lookup.result == [truth, lies[1]]


def test_the_radius_counts_who_failed_because_answers_named_them() -> None:
    people = [placed(bytes([first]) + bytes(31)) for first in (1, 2, 4, 8)]
    lookup = Lookup(bytes(32), 2, seeds=people)
    assert lookup.radius == FARTHEST
    for contact in lookup.next_queries():
        lookup.on_failure(contact)
    assert lookup.radius == distance(bytes(32), people[1].position)
    for contact in lookup.next_queries():
        lookup.on_response(contact, [])
    assert lookup.complete
    assert lookup.result == people[2:]
    assert lookup.radius == distance(bytes(32), people[1].position)


def test_results_stream_in_as_nodes_answer() -> None:
    far, near = placed(b"\x40" + bytes(31)), placed(b"\x01" + bytes(31))
    lookup = Lookup(bytes(32), 2, seeds=[far])
    assert lookup.take_confirmed() == []
    lookup.on_response(lookup.next_queries()[0], [near])
    assert lookup.take_confirmed() == [far]
    assert lookup.next_queries() == [near]
    assert not lookup.done
    lookup.on_response(near, [])
    assert lookup.take_confirmed() == [near]
    assert lookup.done
    assert lookup.result == [near, far]


def test_what_is_under_way_and_too_far_to_matter_is_not_waited_for() -> None:
    far, near = placed(b"\x40" + bytes(31)), placed(b"\x01" + bytes(31))
    lookup = Lookup(bytes(32), 1, alpha=2, seeds=[far])
    lookup.next_queries()
    lookup.on_response(far, [near, placed(b"\x20" + bytes(31))])
    assert lookup.next_queries() == [near]
    lookup.on_response(near, [])
    assert lookup.done
    assert lookup.result == [near]


def test_the_silent_keep_nobody_waiting_and_are_still_waited_for() -> None:
    """All questions stall before the first answer comes; at the end nothing is missing."""
    village = Village(5, 40)
    lookup = Lookup(village.target, SMALL_K, seeds=village.seeds(3))
    late: list[Contact] = []
    while not lookup.done:
        fresh = lookup.next_queries()
        late += fresh
        for contact in fresh:
            lookup.on_stall(contact)
            lookup.on_stall(contact)
        if not fresh:
            contact = late.pop(0)
            lookup.on_response(contact, village.honest(contact) or [])
    assert lookup.result == closest(village.target, village.nodes, lambda node: node.position, SMALL_K)


def test_whoever_takes_the_place_of_a_silent_one_is_asked_before_it_has_failed() -> None:
    nodes = [placed(bytes([number + 1]) * 32) for number in range(8)]
    lookup = Lookup(bytes(32), 2, 2, nodes)
    first = lookup.next_queries()
    assert lookup.next_queries() == []
    for contact in first:
        lookup.on_stall(contact)
    second = lookup.next_queries()
    assert second == nodes[2:4]
    for contact in second:
        lookup.on_response(contact, [])
    assert not lookup.done, "the silent ones are nearer, and may yet answer"
    lookup.on_response(first[0], [])
    lookup.on_failure(first[1])
    assert lookup.done
    assert lookup.result == [nodes[0], nodes[2]]


def test_nobody_to_ask_is_an_empty_result_and_we_are_no_candidate_ourselves() -> None:
    assert Lookup(key(0), K).done
    me = placed(key(1))
    lookup = Lookup(key(0), K, seeds=[me], own=me.agent)
    assert lookup.done
    assert lookup.result == []


def test_events_that_cannot_be_are_refused() -> None:
    one = placed(key(1))
    lookup = Lookup(key(0), K, seeds=[one])
    with pytest.raises(ValueError, match="not been asked"):
        lookup.on_response(one, [])
    lookup.next_queries()
    lookup.on_failure(one)
    with pytest.raises(ValueError, match="answered before"):
        lookup.on_failure(one)
    with pytest.raises(ValueError, match="positive"):
        Lookup(key(0), 0)
