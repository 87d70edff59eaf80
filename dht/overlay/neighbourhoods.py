"""Neighbourhoods: lookups remembered, so that thousands of bases do not cost thousands of lookups.

A lookup of t that ended by its own rule found every responsive node within the distance of the k-th node it
asked, its *radius*. A node x that it did not find is therefore farther than the radius from t, which bounds
from below how close x can be to another key b (`distance.least_distance_beyond`). When the n-th closest of
the known nodes is closer to b than that bound, the n closest known ones are the n closest of all, and b
needs no lookup of its own. So one lookup answers for about the whole subtree that its k nodes fill, and a
network of N nodes is covered by some N/10 lookups, whatever the number of bases.

What can be wrong is only what the lookup itself did not know: a node that appeared since. Hence entries
live for a short time; a node that is seen to appear within the radius of one is added to it, be it that a
later lookup found it; a node that went is left out by the caller, and the rule then asks more of the rest.
Who did not answer the lookup is kept too, and named once it is known to live: mostly a message was lost.
Who comes far from us does not show itself here. But a node knows who comes to its own part of the network,
and as many, for its size, come everywhere: when that grows, older entries end within seconds (`grew`). Pure:
`now` is an argument.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dht.overlay.contact import Contact
from dht.overlay.distance import FARTHEST, as_int, least_distance_beyond
from dht.overlay.distance import closest as closest_to

MAX_ENTRIES = 1024
"""Lookups remembered; one more forgets the oldest."""
MAX_ADDED = 20
"""Nodes added to one lookup; with one more it is forgotten."""
ENTRY_TTL = 120.0
"""Seconds for which a lookup answers: former holders keep what is now a newcomer's for longer."""

GROWN_TTL = 5.0
"""The same for what was looked up before somebody new came near us: not at once, or who is asked much while
a thousand nodes join would look everything up for each of them."""


@dataclass(frozen=True, slots=True)
class _Entry:
    contacts: tuple[Contact, ...]
    radius: int
    until: float
    added: int = 0


class Neighbourhoods:
    """Recent lookups by target. `covering` is O(k), `appeared` and `grew` O(entries)."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._targets: list[int] = []

    def __len__(self) -> int:
        return len(self._entries)

    def remember(
        self,
        target: bytes,
        contacts: Sequence[Contact],
        radius: int,
        now: float,
        silent: Sequence[Contact] = (),
    ) -> None:
        """A complete lookup of `target` found that `contacts` are all who answer within `radius`.

        `silent`: those there who did not answer it. Often a message was lost and nothing else; they are named
        as soon as they are usable again, and not only once this entry has ended.
        """
        origin = as_int(target)
        self._drop(origin)
        self._entries[origin] = _Entry((*contacts, *silent), radius, now + ENTRY_TTL)
        insort(self._targets, origin)
        while len(self._entries) > MAX_ENTRIES:
            self._drop(next(iter(self._entries)))
        for contact in contacts:
            self.appeared(contact)

    def covering(
        self, basis: bytes, count: int, usable: Callable[[Contact], bool], now: float
    ) -> list[Contact] | None:
        """The `count` usable contacts closest to `basis`, nearest first, if a recent lookup proves them."""
        goal = as_int(basis)
        place = bisect_left(self._targets, goal)
        # the remembered target that shares most bits with the basis stands next to it in the order
        for origin in self._targets[max(0, place - 1) : place + 1]:
            entry = self._entries[origin]
            if entry.until <= now:
                self._drop(origin)
                continue
            found = closest_to(basis, filter(usable, entry.contacts), _position, count)
            bound = least_distance_beyond(entry.radius, origin ^ goal)
            if bound > FARTHEST:
                return found
            if len(found) == count and goal ^ as_int(found[-1].position) < bound:
                return found
        return None

    def radii(self) -> list[int]:
        """The radii of the lookups remembered: how far K nodes lie from points elsewhere. O(entries)."""
        return [entry.radius for entry in self._entries.values()]

    def appeared(self, contact: Contact) -> bool:
        """`contact` answers now: add it to what was looked up when it did not and would have found it.

        Returns whether there was any.
        """
        where = as_int(contact.position)
        missed = [
            (origin, entry)
            for origin, entry in self._entries.items()
            if origin ^ where <= entry.radius
            and all(contact.position != known.position for known in entry.contacts)
        ]
        for origin, entry in missed:
            if entry.added == MAX_ADDED:
                self._drop(origin)
            else:
                self._entries[origin] = replace(
                    entry, contacts=(*entry.contacts, contact), added=entry.added + 1
                )
        return bool(missed)

    def grew(self, now: float) -> None:
        """Somebody new came near us: what was looked up before is believed for `GROWN_TTL` at most."""
        for origin, entry in self._entries.items():
            if entry.until > now + GROWN_TTL:
                self._entries[origin] = replace(entry, until=now + GROWN_TTL)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._targets.clear()

    def _drop(self, origin: int) -> None:
        if self._entries.pop(origin, None) is not None:
            del self._targets[bisect_left(self._targets, origin)]


def _position(contact: Contact) -> bytes:
    return contact.position
