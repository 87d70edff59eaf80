"""The routing table: who this node knows, dense near itself and sparse far away.

Kademlia's table (Maymounkov and Mazières, 2002): bucket i holds up to k nodes that share exactly i leading
bits with our position, so that the nearest part of the network is known in full and every other part by a
sample. Long-lived nodes are the ones most likely to stay, so a full bucket keeps whom it has and a newcomer
waits in a replacement cache until one of them goes. Only storing nodes enter, at most a few from one group
of public addresses, so that a cheap block of addresses cannot fill it (loopback and private ranges are
exempt). Pure: no clock and no liveness here; the caller confirms and removes, and a table that saw the same
calls holds the same nodes in the same order.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from chain.identity import AgentId
from dht.overlay.contact import Contact, address_groups
from dht.overlay.distance import KEY_BITS, bucket_index, closest, distance, prefix_length

K = 20
"""Nodes in a bucket, in an answer, and in the result of a lookup (Kademlia's k)."""
MAX_REPLACEMENTS = K
"""Newcomers waiting at a full bucket; one more forgets the one that waited longest."""
GROUP_PER_BUCKET = 3
"""Nodes of one public address group in a bucket."""
GROUP_PER_TABLE = 10
"""Nodes of one public address group in the table."""


class Offer(Enum):
    """What became of a contact offered to the table."""

    ADDED = "added"
    UPDATED = "updated"
    """It was in the table; a newer record replaced its old one, or nothing changed."""
    WAITING = "waiting"
    """Its bucket is full; it waits for a place."""
    CROWDED = "crowded"
    """Its public address group has its share already."""
    USELESS = "useless"
    """It stores nothing, or it is ourselves."""


@dataclass(slots=True)
class _Bucket:
    members: OrderedDict[AgentId, Contact] = field(default_factory=OrderedDict)
    """Least recently confirmed first."""
    waiting: OrderedDict[AgentId, Contact] = field(default_factory=OrderedDict)
    groups: Counter[str] = field(default_factory=Counter)


class RoutingTable:
    """The known storing nodes around `own`, a 32-byte position; at most k + replacements in each bucket."""

    def __init__(self, own: bytes, k: int = K) -> None:
        self._own = own
        self._k = k
        self._buckets: defaultdict[int, _Bucket] = defaultdict(_Bucket)
        """By index; all but a few of the 256 stay empty for ever, so each is made when first used."""
        self._index: dict[AgentId, int] = {}
        self._waiting: dict[AgentId, int] = {}
        self._groups: Counter[str] = Counter()
        self._crowded = False
        self._floor = 0
        """So many bits a node has to share with us for the table to say for sure whether it is there."""

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, agent: AgentId) -> bool:
        return agent in self._index

    def __iter__(self) -> Iterator[Contact]:
        """All contacts: bucket by bucket, least recently confirmed first."""
        for index in sorted(self._buckets):
            yield from self._buckets[index].members.values()

    @property
    def holds_everyone(self) -> bool:
        """Whether nobody was ever turned away, so that a small table is all of a small network."""
        return not self._crowded and not self._waiting

    def proven(self, radius: int) -> None:
        """A lookup has just found everybody who answers within this distance of us (its `radius`): what was
        not sure there is now. O(buckets)."""
        # of those that share i bits with us the farthest is at 2^(256 - i) - 1
        self._floor = KEY_BITS + 1 - (radius + 1).bit_length()
        self._floor = max(self._floor, self._counted_from())

    @property
    def known_from(self) -> int:
        """The least number of bits such that all nodes that share so many with us are in the table.

        They are as long as there are fewer than k and nobody waits: whoever comes there finds us among its
        own k nearest, and shows itself. Once there were more, that there are fewer now proves nothing, before
        a lookup of our own position does. O(1).
        """
        return KEY_BITS if self._crowded else self._floor

    def _counted_from(self) -> int:
        """The least number of bits that fewer than k of our nodes share with us, with nobody waiting."""
        there = 0
        for index in sorted(self._buckets, reverse=True):
            bucket = self._buckets[index]
            there += len(bucket.members)
            if there >= self._k or bucket.waiting:
                return index + 1
        return 0

    def surely_closest(
        self,
        target: bytes,
        n: int,
        wanted: Callable[[Contact], bool] | None = None,
        *,
        sure: int | None = None,
    ) -> list[Contact] | None:
        """The `n` wanted nodes closest to `target` of all there are, if the table can say that.

        It can for the whole of a small network, and in a large one for what lies in our own part of it: if n
        nodes are there, they are closer than everybody elsewhere. With `sure` only so many need be.
        """
        depth = self.known_from
        if prefix_length(self._own, target) < depth:
            return None
        near = [
            one for index in self._buckets if index >= depth for one in self._buckets[index].members.values()
        ]
        found = closest(target, filter(wanted, near), _position, n)
        if len(found) < n and depth > 0:
            return self.closest(target, n, wanted) if sure is not None and len(found) >= sure else None
        return found

    def crowds_us_out(self, target: bytes, n: int, wanted: Callable[[Contact], bool]) -> bool:
        """Whether `n` wanted contacts are closer to `target` than we are. O(contacts near the target).

        All of the bucket where the target belongs are, none of those before it; each of those beyond may be.
        """
        home = prefix_length(self._own, target)
        if home == KEY_BITS:
            return False
        closer = 0
        if home in self._buckets:
            closer = sum(map(wanted, self._buckets[home].members.values()))
        if closer >= n:
            return True
        mine = distance(self._own, target)
        beyond = (
            one for index in self._buckets if index > home for one in self._buckets[index].members.values()
        )
        return closer + sum(distance(one.position, target) < mine and wanted(one) for one in beyond) >= n

    def get(self, agent: AgentId) -> Contact | None:
        """The contact of `agent`, if it has a place."""
        index = self._index.get(agent)
        return None if index is None else self._buckets[index].members[agent]

    def offer(self, contact: Contact) -> Offer:
        """Take in a verified contact whose agent is known to be alive, or a newer record of one we have.

        An older record than the one held changes nothing. A record that stops storing, moves to another
        position or to a crowded address group loses its old place first.
        """
        held = self.get(contact.agent)
        if held is not None:
            if not contact.newer_than(held):
                return Offer.UPDATED
            if self._same_place(held, contact):
                bucket = self._buckets[self._index[contact.agent]]
                self._count(bucket, held, -1)
                bucket.members[contact.agent] = contact
                self._count(bucket, contact, +1)
                return Offer.UPDATED
            self.remove(contact.agent)
        return self._insert(contact)

    def confirm(self, agent: AgentId) -> None:
        """`agent` has just answered: it is now the last of its bucket to be doubted."""
        index = self._index.get(agent)
        if index is not None:
            self._buckets[index].members.move_to_end(agent)

    def remove(self, agent: AgentId) -> Contact | None:
        """Drop `agent`; the newcomer that arrived last and fits takes its place and is returned."""
        self._unqueue(agent)
        index = self._index.pop(agent, None)
        if index is None:
            return None
        bucket = self._buckets[index]
        self._count(bucket, bucket.members.pop(agent), -1)
        for candidate in reversed(bucket.waiting.values()):
            if self._fits(bucket, candidate):
                self._unqueue(candidate.agent)
                self._place(index, bucket, candidate)
                return candidate
        return None

    def has_replacement(self, agent: AgentId) -> bool:
        """Whether somebody waits for the place of `agent`."""
        index = self._index.get(agent)
        return index is not None and bool(self._buckets[index].waiting)

    def discard(self, unwanted: Callable[[Contact], bool]) -> list[AgentId]:
        """Drop all contacts, waiting ones too, for which `unwanted`; return those that had a place."""
        queued = [self._buckets[index].waiting[agent] for agent, index in self._waiting.items()]
        for contact in queued:
            if unwanted(contact):
                self._unqueue(contact.agent)
        gone = [contact.agent for contact in self if unwanted(contact)]
        for agent in gone:
            self.remove(agent)
        return gone

    def closest(
        self, target: bytes, n: int, wanted: Callable[[Contact], bool] | None = None
    ) -> list[Contact]:
        """The `n` contacts closest to `target` (32 bytes), nearest first; only `wanted` ones.

        O(k · log k + buckets) where the table is full near the target, O(table) at worst.
        """
        found: list[Contact] = []
        for indices in self._outward(target):
            group = [one for index in indices for one in self._buckets[index].members.values()]
            found += closest(target, filter(wanted, group), _position, n - len(found))
            if len(found) >= n:
                break
        return found

    def _outward(self, target: bytes) -> Iterator[list[int]]:
        """The buckets that have members, in groups each of which is nearer to `target` than the next.

        The bucket where the target itself belongs shares more bits with it than all others; then come those
        beyond, which all part from the target at the same bit; then the others, one by one towards the first.
        """
        home = prefix_length(self._own, target)
        indices = sorted(index for index, bucket in self._buckets.items() if bucket.members)
        yield [index for index in indices if index == home]
        yield [index for index in indices if index > home]
        for index in reversed(indices):
            if index < home:
                yield [index]

    def occupied(self) -> list[int]:
        """The indices of all buckets up to the deepest that has a member."""
        deepest = max(self._index.values(), default=-1)
        return list(range(deepest + 1))

    def thin(self, few: int) -> list[int]:
        """The buckets worth refreshing, from the farthest: those with fewer than `few` members, outside of
        the part of the network that is known in full."""
        outside = self.occupied()[: self.known_from]
        there = Counter(self._index.values())
        return [index for index in outside if there[index] < few]

    def _insert(self, contact: Contact) -> Offer:
        offer = self._take_in(contact)
        if offer in (Offer.ADDED, Offer.WAITING):
            self._floor = max(self._floor, self._counted_from())
        return offer

    def _take_in(self, contact: Contact) -> Offer:
        queued = self._unqueue(contact.agent)
        if queued is not None and queued.newer_than(contact):
            contact = queued
        if not contact.stores or contact.position == self._own:
            return Offer.USELESS
        index = bucket_index(self._own, contact.position)
        bucket = self._buckets[index]
        if len(bucket.members) >= self._k:
            bucket.waiting[contact.agent] = contact
            self._waiting[contact.agent] = index
            if len(bucket.waiting) > MAX_REPLACEMENTS:
                self._unqueue(next(iter(bucket.waiting)))
            return Offer.WAITING
        if not self._fits(bucket, contact):
            self._crowded = True
            return Offer.CROWDED
        self._place(index, bucket, contact)
        return Offer.ADDED

    def _unqueue(self, agent: AgentId) -> Contact | None:
        index = self._waiting.pop(agent, None)
        return None if index is None else self._buckets[index].waiting.pop(agent)

    def _place(self, index: int, bucket: _Bucket, contact: Contact) -> None:
        bucket.members[contact.agent] = contact
        self._index[contact.agent] = index
        self._count(bucket, contact, +1)

    def _fits(self, bucket: _Bucket, contact: Contact) -> bool:
        return all(
            bucket.groups[group] < GROUP_PER_BUCKET and self._groups[group] < GROUP_PER_TABLE
            for group in address_groups(contact.addresses)
        )

    def _same_place(self, held: Contact, contact: Contact) -> bool:
        return (
            contact.stores
            and contact.position == held.position
            and address_groups(contact.addresses) == address_groups(held.addresses)
        )

    def _count(self, bucket: _Bucket, contact: Contact, step: int) -> None:
        for group in address_groups(contact.addresses):
            for counter in (bucket.groups, self._groups):
                counter[group] += step
                if not counter[group]:
                    del counter[group]


def _position(contact: Contact) -> bytes:
    return contact.position
