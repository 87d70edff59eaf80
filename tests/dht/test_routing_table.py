"""The routing table against a model made of plain lists, and what no sequence of offers can do to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.contact import Contact, address_groups
from dht.overlay.distance import FARTHEST, bucket_index, distance
from dht.overlay.routing_table import (
    GROUP_PER_BUCKET,
    GROUP_PER_TABLE,
    MAX_REPLACEMENTS,
    K,
    Offer,
    RoutingTable,
)
from tests.dht.people import key, placed

OWN = bytes(32)
SMALL_K = 2
PEOPLE = 9


def person(number: int, version: int = 0, capacity: int = 1, moved: bool = False) -> Contact:
    """Agent `number`, in one of two buckets; who moved is in the other."""
    position = bytes([0x80 if (number % 2 == 0) != moved else 0x40]) + key(number)[1:]
    return placed(position, agent=key(number), issued_us=version, capacity=capacity)


class Model:
    """The table as lists: members by bucket, oldest confirmation first, and who waits."""

    def __init__(self) -> None:
        self.members: list[Contact] = []
        self.waiting: list[Contact] = []

    def bucket(self, people: list[Contact], index: int) -> list[Contact]:
        return [one for one in people if bucket_index(OWN, one.position) == index]

    def offer(self, contact: Contact) -> None:
        held = [one for one in self.members if one.agent == contact.agent]
        if held and not contact.newer_than(held[0]):
            return
        if held and contact.stores and contact.position == held[0].position:
            self.members[self.members.index(held[0])] = contact
            return
        if held:
            self.remove(contact.agent)
        for queued in [one for one in self.waiting if one.agent == contact.agent]:
            self.waiting.remove(queued)
            contact = queued if queued.newer_than(contact) else contact
        if not contact.stores:
            return
        index = bucket_index(OWN, contact.position)
        if len(self.bucket(self.members, index)) < SMALL_K:
            self.members.append(contact)
            return
        self.waiting.append(contact)
        queue = self.bucket(self.waiting, index)
        if len(queue) > MAX_REPLACEMENTS:
            self.waiting.remove(queue[0])

    def remove(self, agent: bytes) -> None:
        self.waiting = [one for one in self.waiting if one.agent != agent]
        gone = [one for one in self.members if one.agent == agent]
        if gone:
            self.members.remove(gone[0])
            queue = self.bucket(self.waiting, bucket_index(OWN, gone[0].position))
            if queue:
                self.waiting.remove(queue[-1])
                self.members.append(queue[-1])

    def confirm(self, agent: bytes) -> None:
        for one in [one for one in self.members if one.agent == agent]:
            self.members.remove(one)
            self.members.append(one)


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"),
            st.builds(
                person,
                st.integers(0, PEOPLE),
                st.integers(0, 3),
                st.sampled_from([0, 1, 1, 1]),
                st.sampled_from([False, False, True]),
            ),
        ),
        st.tuples(st.sampled_from(["remove", "confirm"]), st.builds(person, st.integers(0, PEOPLE))),
    ),
    min_size=20,
    max_size=100,
)


@given(steps, st.integers(0, 50), st.integers(0, 30))
def test_the_table_does_what_the_model_does(
    story: list[tuple[str, Contact]], target: int, count: int
) -> None:
    table, model = RoutingTable(OWN, SMALL_K), Model()
    for step, contact in story:
        if step == "offer":
            table.offer(contact)
            model.offer(contact)
        elif step == "remove":
            table.remove(contact.agent)
            model.remove(contact.agent)
        else:
            table.confirm(contact.agent)
            model.confirm(contact.agent)
        expected = [one for index in range(256) for one in model.bucket(model.members, index)]
        assert list(table) == expected
        assert table.holds_everyone == (not model.waiting)
        assert len(table) == len(model.members)
    for one in model.members:
        assert table.get(one.agent) == one
        assert one.agent in table
        assert table.has_replacement(one.agent) == bool(
            model.bucket(model.waiting, bucket_index(OWN, one.position))
        )
    nearest = sorted(model.members, key=lambda one: distance(key(target), one.position))
    assert table.closest(key(target), count) == nearest[:count]
    assert (
        table.closest(key(target), count, lambda one: one.issued_us > 0)
        == [one for one in nearest if one.issued_us > 0][:count]
    )


hosts = st.sampled_from(
    ["8.8.8.1", "8.8.8.2", "8.8.4.4", "9.9.9.9", "2600:1:2::1", "2600:1:2::9", "10.0.0.1", "127.0.0.1"]
)


@given(
    st.lists(st.tuples(st.integers(0, 40), hosts, hosts, st.booleans()), max_size=120),
    st.integers(0, 3),
)
def test_no_address_group_gets_more_than_its_share(
    offers: list[tuple[int, str, str, bool]], seed: int
) -> None:
    table = RoutingTable(OWN)
    for turn, (number, one, other, leaves) in enumerate(offers):
        contact = replace(person(number, turn), addresses=(f"/ip4/{one}/tcp/1", f"/ip6/{other}/tcp/1"))
        offer = table.offer(contact)
        if offer is Offer.CROWDED:
            assert not table.holds_everyone
        if leaves:
            table.remove(key(number + seed))
        whole: Counter[str] = Counter()
        part: Counter[tuple[int, str]] = Counter()
        for member in table:
            for group in address_groups(member.addresses):
                whole[group] += 1
                part[bucket_index(OWN, member.position), group] += 1
        assert max(whole.values(), default=0) <= GROUP_PER_TABLE
        assert max(part.values(), default=0) <= GROUP_PER_BUCKET


def test_a_private_network_is_not_limited_by_groups() -> None:
    table = RoutingTable(OWN)
    for number in range(15):
        assert table.offer(placed(bytes([128 + number]) + bytes(31), hosts=("10.0.0.1",))) is Offer.ADDED
    for number in range(5):
        offer = table.offer(placed(bytes([64 + number]) + bytes(31), hosts=("8.8.8.8",)))
        assert offer is (Offer.ADDED if number < GROUP_PER_BUCKET else Offer.CROWDED)


def test_a_group_spread_over_many_buckets_is_limited_in_the_whole_table() -> None:
    table = RoutingTable(OWN)
    offers = [
        table.offer(placed(bytes([0x80 >> depth, number]) + bytes(30), hosts=("8.8.8.8",)))
        for depth in range(8)
        for number in range(GROUP_PER_BUCKET)
    ]
    assert offers[:GROUP_PER_TABLE] == [Offer.ADDED] * GROUP_PER_TABLE
    assert set(offers[GROUP_PER_TABLE:]) == {Offer.CROWDED}


def test_who_stores_nothing_has_no_address_or_is_ourselves_never_enters() -> None:
    table = RoutingTable(OWN)
    for contact in (placed(key(1), capacity=0), placed(key(1), hosts=()), placed(OWN)):
        assert table.offer(contact) is Offer.USELESS
    assert len(table) == 0
    assert table.holds_everyone


def test_old_contacts_keep_their_places_and_the_last_newcomer_inherits() -> None:
    table = RoutingTable(OWN)
    people = [placed(b"\x80" + key(number)[1:]) for number in range(K + MAX_REPLACEMENTS + 5)]
    offers = [table.offer(one) for one in people]
    assert offers == [Offer.ADDED] * K + [Offer.WAITING] * (MAX_REPLACEMENTS + 5)
    assert list(table) == people[:K]
    assert table.remove(people[0].agent) == people[-1]
    assert table.remove(people[-2].agent) is None, "who only waits has no heir"
    assert table.remove(people[1].agent) == people[-3]


def test_discard_drops_waiting_contacts_too() -> None:
    table = RoutingTable(OWN)
    people = [placed(b"\x80" + key(number)[1:], issued_us=number) for number in range(K + 4)]
    for one in people:
        table.offer(one)
    gone = table.discard(lambda one: one.issued_us < 5 or one.issued_us == K + 3)
    assert sorted(gone) == sorted(one.agent for one in people[:5])
    assert sorted(one.issued_us for one in table) == list(range(5, K + 3))
    assert table.holds_everyone


def test_refreshing_covers_every_bucket_down_to_the_deepest_member() -> None:
    table = RoutingTable(OWN)
    assert table.occupied() == []
    table.offer(placed(b"\x04" + key(1)[1:]))
    assert table.occupied() == [0, 1, 2, 3, 4, 5]


positions = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=60, unique=True)


@given(positions, st.sampled_from([1, 3, 8]), st.integers(0, 255), st.data())
def test_what_it_says_without_a_lookup_is_true_of_the_whole_network(
    places: list[bytes], count: int, beyond: int, data: st.DataObject
) -> None:
    """The first node was there when all others came; a target is near one of them."""
    own, *others = places
    people = [placed(place, agent=place) for place in others]
    table = RoutingTable(own, k=8)
    for one in people:
        table.offer(one)
    near = data.draw(st.sampled_from(places))
    target = near[: beyond // 8] + data.draw(st.binary(min_size=32, max_size=32))[beyond // 8 :]
    ignored = data.draw(st.sets(st.sampled_from(places)))
    wanted = [one for one in people if one.agent not in ignored]
    truth = sorted(wanted, key=lambda one: distance(one.position, target))[:count]

    said = table.surely_closest(target, count, lambda one: one.agent not in ignored)
    assert said is None or said == truth
    assert said is not None or len(others) >= 8, "a small network is known as a whole"

    closer = [one for one in table if one.agent not in ignored]
    closer = [one for one in closer if distance(one.position, target) < distance(own, target)]
    assert table.crowds_us_out(target, count, lambda one: one.agent not in ignored) == (len(closer) >= count)


@given(positions, st.sampled_from([1, 3]), st.binary(min_size=32, max_size=32), st.data())
def test_what_it_says_stays_true_when_those_it_has_met_go(
    places: list[bytes], count: int, target: bytes, data: st.DataObject
) -> None:
    """A node that came last has met those nearest to it; that there are few of them later says nothing."""
    own, *others = places
    people = sorted(
        (placed(place, agent=place) for place in others), key=lambda one: distance(own, one.position)
    )
    table = RoutingTable(own, k=8)
    for one in people[:8]:
        table.offer(one)
    table.proven(distance(own, people[7].position) if len(people) >= 8 else FARTHEST)
    gone = data.draw(st.sets(st.sampled_from(places)))
    for agent in sorted(gone):
        table.remove(agent)
    left = [one for one in people if one.agent not in gone]
    truth = sorted(left, key=lambda one: distance(one.position, target))[:count]
    said = table.surely_closest(target, count)
    assert said is None or said == truth
    assert said is not None or len(others) >= 8, "a small network is known as a whole"

    if len(left) < 8:  # a lookup that finds nobody else
        for one in left:
            table.offer(one)
        table.proven(FARTHEST)
        assert table.surely_closest(target, count) == truth


def test_refreshing_is_for_buckets_with_few_members_outside_of_the_part_that_is_known() -> None:
    def of(index: int, members: int) -> list[Contact]:
        heads = [bytes([0x80 >> index, number]) for number in range(members)]
        return [placed(head + key(1)[2:], agent=head + key(1)[2:]) for head in heads]

    table = RoutingTable(bytes(32), k=8)
    for index, members in enumerate((2, 3, 1, 4, 2, 1)):
        for one in of(index, members):
            table.offer(one)
    assert table.known_from == 3, "seven are beyond, and no eighth was turned away"
    assert table.thin(3) == [0, 2]
    assert RoutingTable(OWN).thin(3) == []


def test_in_a_large_network_it_knows_its_own_part() -> None:
    table = RoutingTable(OWN)
    people = [placed(sha256(bytes([n // 256, n % 256])).digest(), agent=key(n)) for n in range(1000)]
    for one in people:
        table.offer(one)
    known = [table.surely_closest(OWN[:1] + key(n)[1:], 5) for n in range(20)]
    assert None not in known
    assert table.surely_closest(bytes([255]) * 32, 5) is None
