"""Layouts: where content lies now, and where it still may lie, changed under a running node.

A network's atlas changes by an epoch. Each atlas is a *generation* (the number of the epoch that brought it,
0 for the manifest's), and its shards have bases of their own, which differ from those of another generation
in bits that hardly ever decide who is nearest (`sharding.tree.Prefix`). So a posting has one place in each
generation; at the old one its holders go on serving while it is brought to the new one
(`dht.repair.migration`).

Everybody counts the same time, from the clock reading in the epoch's record. Readers come first: who has
heard of an epoch asks both places and takes records at both. After `SPREAD_S` all who can be reached ask
both, and records are written to the new place and moved there. After `OVERLAP_S` a former shard takes nothing
new any more unless something still lies there. After `ASK_S` its holders may drop it once the new ones have
proven all of it, and when those nearest to it say that nothing is left, it is not asked any more. (So nobody
acts on a state that another one's last step does not allow for; Rae et al., "Online, asynchronous schema
change in F1", 2013.) `places_at` decides; a `Layouts` is what all parts of a node look at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import trio

from chain.content import Content
from chain.record import Record
from dht.records.placement import Layout
from sharding.tree import Prefix, shard_at

SPREAD_S = 60.0
"""Seconds after which an epoch is known to all that can be reached: notices are compared every 30."""
OVERLAP_S = 300.0
"""Seconds for which records are taken at former shards from whoever has not heard yet."""
ASK_S = OVERLAP_S + 60.0
"""Seconds for which both places are kept and asked in any case: clocks may differ by a minute."""
MAX_FORMER = 3
"""Former generations that are asked; beyond them holders still move what they have, unasked."""


class Taking(Enum):
    """What a holder does with a record that is to lie at a shard."""

    TAKES = auto()
    WAITS = auto()
    """The sender's layout, or ours, is not the newest: it is to try again when both have heard."""
    REFUSES = auto()
    """No network has such a shard."""


@dataclass(frozen=True, slots=True)
class Places:
    """What is written and asked at one moment.

    `current` is the newest layout; `writes` that by which content is placed now; `former` are older ones that
    are asked as well, newest first; `generations` all that there ever were, ascending; `open`: former shards
    take what comes; `kept`: nothing is dropped there yet.
    """

    current: Layout
    writes: Layout
    former: tuple[Layout, ...] = ()
    generations: tuple[int, ...] = (0,)
    open: bool = False
    kept: bool = False

    @property
    def asked(self) -> tuple[Layout, ...]:
        """All layouts that a query looks at, the newest first."""
        return (self.current, *self.former)


def places_at(history: Sequence[Layout], age_s: float) -> Places:
    """What is to be done `age_s` seconds after the newest of these layouts was published, oldest first.

    Who has not got the atlas before it, having come since, writes by the newest at once.
    """
    current, older = history[-1], tuple(reversed(history[:-1]))[:MAX_FORMER]
    generations = tuple(one.generation for one in history)
    writes = older[0] if older and older[0].known and age_s < SPREAD_S else current
    return Places(
        current, writes, older, generations, bool(older) and age_s < OVERLAP_S, bool(older) and age_s < ASK_S
    )


class Layouts:
    """The layouts of one network as a node knows them. Reads from any thread, changes on the event loop."""

    def __init__(self, layout: Layout, here: Callable[[bytes], bool] = lambda basis: False) -> None:
        """`here` tells whether something lies here at a basis."""
        self.here = here
        self._places = Places(layout, layout, generations=(layout.generation,))
        self._done: frozenset[Prefix] = frozenset()
        self._changed = trio.Event()
        self.version = 0
        """Counts changes."""

    @property
    def places(self) -> Places:
        """What holds now; one value that does not change."""
        return self._places

    @property
    def current(self) -> Layout:
        """The newest layout."""
        return self._places.current

    @property
    def writes(self) -> Layout:
        """The layout by which content is placed now."""
        return self._places.writes

    @property
    def moving(self) -> bool:
        """Whether former shards are still asked."""
        return bool(self._places.former)

    def change(self, places: Places) -> bool:
        """Go on with these; whether they are others."""
        former = tuple(one for one in places.former if not self._done.issuperset(one.tree.leaves))
        places = replace(places, former=former)
        if places == self._places:
            return False
        self._places = places
        self._tell()
        return True

    def finish(self, shards: Iterable[Prefix]) -> None:
        """Nothing is left at these former shards."""
        self._done |= frozenset(shards)
        self.change(self._places)

    async def wait_changed(self, seen: int) -> int:
        """Wait until `version` is not `seen`; return the new one."""
        while self.version == seen:
            await self._changed.wait()
        return self.version

    def former_shards(self) -> tuple[Prefix, ...]:
        """The former shards that are still asked."""
        return tuple(leaf for one in self._places.former for leaf in self.leaves_of(one))

    def leaves_of(self, layout: Layout) -> tuple[Prefix, ...]:
        """The shards of a layout that are asked."""
        if layout.generation == self._places.current.generation:
            return layout.tree.leaves
        return tuple(leaf for leaf in layout.tree.leaves if leaf not in self._done)

    def shards(self) -> tuple[Prefix, ...]:
        """The shards to be complete in: the current ones, and former ones until they may be dropped."""
        kept = self._places.kept
        former = (leaf for leaf in self.former_shards() if kept or self.here(leaf.basis()))
        return (*self.current.tree.leaves, *former)

    def every_shard(self) -> list[Prefix]:
        """The shards of all generations, the newest first."""
        leaves = self.current.tree.leaves
        return [
            Prefix(leaf.bits, leaf.length, generation)
            for generation in reversed(self._places.generations)
            for leaf in leaves
        ]

    def left_behind(self) -> list[Prefix]:
        """The shards of earlier generations at which something lies here; a look-up for each."""
        generation = self.current.generation
        return [one for one in self.every_shard() if one.generation != generation and self.here(one.basis())]

    def is_former(self, basis: bytes) -> bool:
        """Whether this is the basis of a shard of an earlier generation."""
        return self.current.generation > 0 and is_other(basis, self.current)

    def taking(self, basis: bytes) -> Taking:
        """Whether a record may be held at the shard of this basis now."""
        shard, places = shard_at(basis), self._places
        if shard is None:
            return Taking.REFUSES
        plain = Prefix(shard.bits, shard.length, places.current.generation)
        if plain not in places.current.tree:
            return Taking.REFUSES
        if shard.generation == places.current.generation:
            return Taking.TAKES
        if shard.generation not in places.generations:
            return Taking.WAITS
        return Taking.TAKES if places.open or self.here(basis) else Taking.WAITS

    def unnamed(self) -> Layout | None:
        """The layout of records that come without the names of their shards, if it is known here."""
        for one in self._places.asked:
            if one.generation == 0 and one.known:
                return one
        return None

    def shards_of(self, items: Sequence[tuple[Record, Content]]) -> list[frozenset[Prefix]]:
        """For each content record its shards in all layouts asked whose atlas is known."""
        known = [one for one in self._places.asked if one.known]
        columns = [[one.tree.leaf_of(key) for key in one.keys(items)] for one in known]
        return [frozenset(column[place] for column in columns) for place in range(len(items))]

    def unknown(self, shards: Collection[Prefix]) -> bool:
        """Whether one of these shards is of a generation whose atlas is not known here."""
        strange = {one.generation for one in self._places.former if not one.known}
        return bool(strange) and any(shard.generation in strange for shard in shards)

    def _tell(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = trio.Event()


def is_other(basis: bytes, layout: Layout) -> bool:
    """Whether this is the basis of a shard of another generation than the layout's."""
    shard = shard_at(basis)
    return shard is not None and shard.generation != layout.generation


def shard_named(basis: bytes | None) -> tuple[bytes, ...]:
    """The shards named beside a record that is to lie at this one; those of generation 0 need no name."""
    shard = None if basis is None else shard_at(basis)
    return (basis,) if basis is not None and shard is not None and shard.generation else ()


def bases_ever(record_basis: bytes | None, layouts: Layouts) -> Iterable[bytes]:
    """Bases at which a record may have lain, that of its present shard first if that is known.

    As many as there are shards in all generations.
    """
    if record_basis is not None:
        yield record_basis
    yield from (basis for one in layouts.every_shard() if (basis := one.basis()) != record_basis)
