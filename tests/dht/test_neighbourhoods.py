"""A remembered lookup answers for other keys exactly when its answer is provably the right one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.contact import Contact
from dht.overlay.distance import FARTHEST, closest, distance
from dht.overlay.neighbourhoods import ENTRY_TTL, GROWN_TTL, MAX_ADDED, MAX_ENTRIES, Neighbourhoods
from dht.overlay.routing_table import K
from tests.dht.people import key, placed

bases = st.integers(0, 255).map(lambda first: bytes([first]) + bytes(31))


def everyone(_contact: Contact) -> bool:
    return True


def nearest(basis: bytes, nodes: list[Contact], count: int) -> list[Contact]:
    return closest(basis, nodes, lambda node: node.position, count)


def radius(target: bytes, nodes: list[Contact], k: int) -> int:
    return FARTHEST if len(nodes) < k else distance(target, nearest(target, nodes, k)[-1].position)


@given(
    st.lists(bases, unique=True, min_size=1, max_size=40),
    st.lists(bases, min_size=1, max_size=5),
    st.lists(bases, min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sets(st.integers(0, 39)),
    st.lists(bases, unique=True, max_size=5),
)
def test_what_it_answers_is_what_a_lookup_would_find(
    positions: list[bytes],
    targets: list[bytes],
    asked: list[bytes],
    k: int,
    count: int,
    dead: set[int],
    come: list[bytes],
) -> None:
    """Also when some have died since, and some have come."""
    nodes = [placed(position) for position in positions]
    newcomers = [placed(position) for position in come if position not in positions]
    gone = {nodes[number].agent for number in dead if number < len(nodes)}
    alive = [node for node in [*nodes, *newcomers] if node.agent not in gone]
    memory = Neighbourhoods()
    for target in targets:
        memory.remember(target, nearest(target, nodes, k), radius(target, nodes, k), 0.0)
    for newcomer in newcomers:
        memory.appeared(newcomer)
        memory.appeared(newcomer)
    for basis in asked:
        found = memory.covering(basis, count, lambda node: node.agent not in gone, 1.0)
        if found is not None:
            assert found == nearest(basis, alive, count)
        elif basis in targets and not gone:
            assert count > k, "the target itself is covered as far as its lookup went"


def test_few_lookups_answer_for_many_bases() -> None:
    nodes = [placed(key(number)) for number in range(1000)]
    memory = Neighbourhoods()
    lookups = 0
    for number in range(10_000, 13_000):
        basis = key(number)
        found = memory.covering(basis, 3, everyone, 0.0)
        if found is None:
            lookups += 1
            found = nearest(basis, nodes, 20)
            memory.remember(basis, found, radius(basis, nodes, 20), 0.0)
        assert found[:3] == nearest(basis, nodes, 3)
    assert lookups < 200


def test_an_entry_ends_with_its_time() -> None:
    memory = Neighbourhoods()
    memory.remember(key(0), [placed(key(1))], FARTHEST, 0.0)
    assert memory.covering(key(2), 3, everyone, ENTRY_TTL - 0.1) == [placed(key(1))]
    assert memory.covering(key(2), 3, everyone, ENTRY_TTL) is None
    assert len(memory) == 0


def test_what_too_many_have_come_to_is_looked_up_again() -> None:
    target = bytes(32)
    memory = Neighbourhoods()
    memory.remember(target, [], FARTHEST, 0.0)
    for number in range(MAX_ADDED):
        assert memory.appeared(placed(key(number)))
        assert not memory.appeared(placed(key(number))), "it was missed once"
    assert len(memory.covering(target, K, everyone, 0.0) or ()) == MAX_ADDED
    assert memory.appeared(placed(key(MAX_ADDED)))
    assert memory.covering(target, 1, everyone, 0.0) is None


def test_memory_is_bounded_and_can_be_cleared() -> None:
    memory = Neighbourhoods()
    for number in range(MAX_ENTRIES + 10):
        memory.remember(key(number), [], FARTHEST, 0.0)
    assert len(memory) == MAX_ENTRIES
    memory.clear()
    assert len(memory) == 0
    assert memory.covering(key(1), 1, everyone, 0.0) is None


def test_what_was_looked_up_before_the_network_grew_is_soon_forgotten() -> None:
    old, new = Neighbourhoods(), Neighbourhoods()
    old.remember(key(0), [placed(key(1))], FARTHEST, 0.0)
    for second in range(3):  # each arrival shortens its time, none prolongs it
        old.grew(1.0 + second)
    assert old.covering(key(0), 1, everyone, 1.0 + GROWN_TTL - 0.1) is not None
    assert old.covering(key(0), 1, everyone, 1.0 + GROWN_TTL) is None
    new.grew(1.0)
    new.remember(key(0), [placed(key(1))], FARTHEST, 1.0)
    assert new.covering(key(0), 1, everyone, ENTRY_TTL) is not None


def test_a_later_lookup_mends_an_earlier_one() -> None:
    nodes = [placed(key(number)) for number in range(30)]
    target, later = key(100), key(101)
    memory = Neighbourhoods()
    memory.remember(target, nodes[:20], FARTHEST, 0.0)
    assert memory.covering(target, 1, everyone, 1.0) == nearest(target, nodes[:20], 1)
    memory.remember(later, nodes[20:], radius(later, nodes[20:], 10), 1.0)
    assert memory.covering(target, 20, everyone, 1.0) == nearest(target, nodes, 20)


def test_who_did_not_answer_a_lookup_is_named_once_it_is_usable() -> None:
    answered, silent = placed(key(1)), placed(key(2))
    memory = Neighbourhoods()
    memory.remember(key(2), [answered], FARTHEST, 0.0, [silent])
    assert memory.covering(key(2), 2, lambda one: one is not silent, 1.0) == [answered]
    assert memory.covering(key(2), 2, everyone, 1.0) == [silent, answered]
