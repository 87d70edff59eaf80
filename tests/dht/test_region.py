"""A crowd around a key hides nothing that honest nodes hold just beyond it."""

from __future__ import annotations

import random

import pytest

from dht.overlay.contact import Contact
from dht.overlay.distance import FARTHEST, KEY_BITS, as_int, closest, prefix_length
from dht.overlay.lookup import READ_PATHS, Lookup
from dht.overlay.region import PROBES, merged, probes, usual_radius
from dht.overlay.routing_table import K, RoutingTable
from tests.dht.people import placed

HONEST = 160
HOLDERS = 3


class Siege:
    """Honest nodes with grown tables, and attackers who came later with keys near `basis`, known to all.

    An attacker answers every find, with attackers only; which ones, nearest to what is asked for.
    """

    def __init__(self, seed: int, attackers: int, shared: int) -> None:
        self.rng = random.Random(seed)
        self.basis = self.rng.randbytes(32)
        self.honest = [placed(self.rng.randbytes(32)) for _ in range(HONEST)]
        self.attackers = [placed(self._near(shared)) for _ in range(attackers)]
        self.evil = {one.agent for one in self.attackers}
        self.tables = {one.agent: RoutingTable(one.position) for one in self.honest}
        for one in self.honest:  # who was there first keeps its place in a full bucket
            for crowd in (self.honest, self.attackers):
                for other in self.rng.sample(crowd, len(crowd)):
                    self.tables[one.agent].offer(other)

    def _near(self, shared: int) -> bytes:
        free = KEY_BITS - shared
        return (as_int(self.basis) ^ self.rng.getrandbits(free)).to_bytes(32, "big")

    def holders(self) -> set[bytes]:
        return {one.agent for one in closest(self.basis, self.honest, lambda one: one.position, HOLDERS)}

    def look_up(self, asker: Contact, target: bytes) -> Lookup:
        seeds = self.tables[asker.agent].closest(target, 3 * K)
        lookup = Lookup(target, K, seeds=seeds, paths=READ_PATHS, own=asker.agent)
        while not lookup.done:
            for contact in lookup.next_queries():
                if contact.agent in self.evil:
                    named = closest(target, self.attackers, lambda one: one.position, K)
                else:
                    named = self.tables[contact.agent].closest(target, K)
                lookup.on_response(contact, named)
        return lookup

    def around(self, asker: Contact) -> list[Contact]:
        known = [one.position for one in self.tables[asker.agent]]
        others = [self.look_up(asker, self.rng.randbytes(32)).radius for _ in range(3)]
        radius = usual_radius(asker.position, known, others)
        keys = probes(self.basis, radius, self.rng.randbytes)
        return merged([self.look_up(asker, key).result for key in keys], ())


@pytest.mark.parametrize("attackers", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_who_owns_the_nearest_places_hides_nothing_from_a_search_around_them(attackers: int) -> None:
    for seed in range(2):
        siege = Siege(seed, attackers, shared=14)
        asker = next(one for one in siege.honest if one.agent not in siege.holders())
        nearest = siege.look_up(asker, siege.basis).result
        assert {one.agent for one in nearest} <= siege.evil, "the attack works, or the test shows nothing"
        found = siege.around(asker)
        assert {one.agent for one in found} >= siege.holders()
        first = next(place for place, one in enumerate(found) if one.agent in siege.holders())
        assert first < 2 * PROBES, "and soon"


@pytest.mark.slow
def test_a_crowd_that_fills_the_whole_region_too_does_hide_what_is_there() -> None:
    """The honest limit: with ten times as many keys as honest nodes everywhere around, luck decides."""
    hidden = 0
    for seed in range(3):
        siege = Siege(seed, 10 * HONEST // 8, shared=3)
        asker = next(one for one in siege.honest if one.agent not in siege.holders())
        found = {one.agent for one in siege.around(asker)}
        hidden += not found >= siege.holders()
    assert hidden


def test_the_probes_lie_in_subtrees_of_their_own_and_the_radius_is_the_usual_one() -> None:
    rng = random.Random(1)
    basis, own = rng.randbytes(32), rng.randbytes(32)
    keys = probes(basis, 1 << 249, rng.randbytes)
    assert [prefix_length(basis, one) for one in keys] == list(range(6, 6 + PROBES))
    assert len(probes(basis, FARTHEST, rng.randbytes)) == PROBES
    assert len(probes(basis, 0, rng.randbytes)) == 1
    few = [rng.randbytes(32) for _ in range(K - 1)]
    assert usual_radius(own, few, []) == FARTHEST
    crowd = [(as_int(own) ^ number).to_bytes(32, "big") for number in range(1, 100)]
    assert usual_radius(own, crowd, [1 << 250, 1 << 249, 1 << 251]) == 1 << 250
