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

A shard that divides, or two that become one, are a small change of the same kind inside one generation
(`sharding.growth`), with the same steps counted from the time of the decision: the prefixes that were leaves
before it are former shards, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import trio

from chain.content import Content
from chain.record import Record
from dht.records.bundle import MAX_SHARDS
from dht.records.placement import Layout
from sharding.growth import Growth, overlap, with_leaf, within
from sharding.tree import FIRST_DEPTH, Prefix, ShardTree, shard_at

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

    def __init__(
        self,
        layout: Layout,
        here: Callable[[bytes], bool] = lambda basis: False,
        now_us: Callable[[], int] = lambda: 0,
    ) -> None:
        """`here` tells whether something lies here at a basis, `now_us` the time on the wall."""
        self.here = here
        self.now_us = now_us
        self._born = Places(layout, layout, generations=(layout.generation,))
        self._places = self._born
        self._growth = Growth()
        self._former: Mapping[Prefix, int] = {}
        self._layers: tuple[Layout, ...] = ()
        self._done: frozenset[Prefix] = frozenset()
        self.finished: dict[Prefix, int] = {}
        """Former shards of the tree at which nothing is left, each with since when it was one, in µs."""
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
    def birth(self) -> Layout:
        """The newest layout as it was before anything divided."""
        return self._born.current

    @property
    def growth(self) -> Growth:
        """What was decided about shards."""
        return self._growth

    @property
    def moving(self) -> bool:
        """Whether former shards are still asked."""
        return bool(self._places.former) or bool(self.settling())

    def change(self, places: Places) -> bool:
        """Go on with these, whose trees are as they were born; whether that changes anything."""
        self._born = places
        return self._go_on()

    def grow(self, growth: Growth | None = None) -> bool:
        """Go on with these decisions, None: with the same, as time has passed; whether something changed."""
        if growth is not None:
            self._growth = growth
        return self._go_on()

    def _go_on(self) -> bool:
        born, growth = self._born, self._growth
        former = tuple(self._grown(one) for one in born.former)
        former = tuple(one for one in former if not self._done.issuperset(one.tree.leaves))
        written_us = self.now_us() - int(SPREAD_S * 1_000_000)
        places = replace(
            born,
            current=self._grown(born.current),
            writes=self._grown(born.writes, written_us),
            former=former,
        )
        asked = (born.current, *born.former)
        were = {leaf: since for one in asked for leaf, since in growth.former(one.tree).items()}
        if places == self._places and were == self._former:
            return False
        self._places, self._former = places, were
        self.finished = {one: since for one, since in self.finished.items() if were.get(one) == since}
        self._layers = tuple(self._layered())
        self._tell()
        return True

    def finish(self, shards: Iterable[Prefix]) -> None:
        """Nothing is left at these former shards."""
        shards = tuple(shards)
        self._done |= frozenset(one for one in shards if one not in self._former)
        grown = {one: self._former[one] for one in shards if one in self._former}
        if grown.keys() - self.finished.keys():
            self.finished = self.finished | grown
            self._layers = tuple(self._layered())
            self._tell()
        self._go_on()

    async def wait_changed(self, seen: int) -> int:
        """Wait until `version` is not `seen`; return the new one."""
        while self.version == seen:
            await self._changed.wait()
        return self.version

    def settling(self) -> list[Prefix]:
        """The shards that the tree has not got any more and that are still asked."""
        return [one for one, since in self._former.items() if self.finished.get(one) != since]

    def changes_at(self) -> float:
        """When, in seconds of the wall clock, time alone changes what is written; inf: it does not."""
        times = (one.at_us / 1_000_000 + SPREAD_S for one in self._growth.decisions.values())
        now = self.now_us() / 1_000_000
        return min((time for time in times if time > now), default=float("inf"))

    def age_s(self, shard: Prefix, layout_age_s: float) -> float:
        """Seconds since this shard is a former one; `layout_age_s`: since the newest atlas was published."""
        since = self._former.get(shard)
        if since is None:
            return layout_age_s
        own = (self.now_us() - since) / 1_000_000
        return own if shard.generation == self.current.generation else max(0.0, min(own, layout_age_s))

    def former_shards(self) -> tuple[Prefix, ...]:
        """The former shards that are still asked."""
        left = tuple(leaf for one in self._places.former for leaf in self.leaves_of(one))
        return (*left, *self.settling())

    def leaves_of(self, layout: Layout) -> tuple[Prefix, ...]:
        """The shards of a layout's tree that are asked."""
        if layout.generation == self._places.current.generation:
            return layout.tree.leaves
        return tuple(leaf for leaf in layout.tree.leaves if leaf not in self._done)

    def beside(self, layout: Layout) -> list[Prefix]:
        """The shards that a layout's tree has not got any more and that are asked as well."""
        return [one for one in self.settling() if one.generation == layout.generation]

    def shards(self) -> tuple[Prefix, ...]:
        """The shards to be complete in: the current ones, and former ones until they may be dropped."""
        kept = self._places.kept
        grown = [one for one in self.settling() if self._is_open(one) or self.here(one.basis())]
        former = (
            leaf
            for one in self._places.former
            for leaf in self.leaves_of(one)
            if kept or self.here(leaf.basis())
        )
        return (*self.current.tree.leaves, *former, *grown)

    def every_shard(self) -> list[Prefix]:
        """The shards that there ever were in all generations, the present ones first."""
        current = self.current.tree.leaves
        shards = list(current)
        for generation in reversed(self._places.generations):
            birth = ShardTree(
                tuple(replace(one, generation=generation) for one in self._born.current.tree.leaves)
            )
            tree = self._growth.tree(birth)
            shards += [
                one for one in (*tree.leaves, *self._growth.former(birth)) if one not in self.current.tree
            ]
        return shards

    def left_behind(self) -> list[Prefix]:
        """The shards that are none any more and at which something lies here; a look-up for each."""
        present = self.current.tree
        return [one for one in self.every_shard() if one not in present and self.here(one.basis())]

    def is_former(self, basis: bytes) -> bool:
        """Whether this is the basis of a shard that is none any more."""
        shard = shard_at(basis)
        return shard is not None and shard not in self.current.tree

    def is_home(self, basis: bytes, key: bytes, layout: Layout) -> bool:
        """Whether a record with this key by `layout` lies at this basis for its own sake, now or formerly."""
        shard = shard_at(basis)
        if shard is None:
            return False
        return shard.contains(key) if shard.generation == layout.generation else self.is_former(basis)

    def taking(self, basis: bytes) -> Taking:
        """Whether a record may be held at the shard of this basis now."""
        shard, places = shard_at(basis), self._places
        if shard is None:
            return Taking.REFUSES
        least = self._born.current.tree.leaves[0].length
        if shard.length < least:
            return Taking.REFUSES
        if shard in places.current.tree:
            return Taking.TAKES
        if shard in self._former:
            open_here = self._is_open(shard) or self.here(basis)
        elif (
            shard.generation in places.generations
            and shard.generation != places.current.generation
            and (shard.length == least or any(shard in one.tree for one in places.former))
        ):
            open_here = places.open or self.here(basis)
        else:
            return Taking.WAITS  # of an atlas, or divided as, nobody told us yet
        return Taking.TAKES if open_here else Taking.WAITS

    def _is_open(self, shard: Prefix) -> bool:
        """Whether a shard that the tree has not got any more takes what comes."""
        return (self.now_us() - self._former.get(shard, 0)) / 1_000_000 < OVERLAP_S

    def unnamed(self) -> Layout | None:
        """The layout of records that come without the names of their shards, if it is known here."""
        for one in (self._born.current, *self._born.former):
            if one.generation == 0 and one.known:
                return one
        return None

    def written(self) -> tuple[Layout, ...]:
        """The layouts by whose shards entries are shown: operations have to reach those of them all.

        First the one that content is written by.
        """
        places = self._places
        former = (one for one in places.former if one.known and one.generation < places.writes.generation)
        return (places.writes, *self._layers, *former)

    def shards_of(self, items: Sequence[tuple[Record, Content]]) -> list[frozenset[Prefix]]:
        """For each content record its shards in all layouts asked whose atlas is known."""
        known = [one for one in self._places.asked if one.known]
        columns: list[list[tuple[Prefix, ...]]] = []
        for one in known:
            beside = self.beside(one)
            columns.append(
                [
                    (one.tree.leaf_of(key), *(shard for shard in beside if shard.contains(key)))
                    for key in one.keys(items)
                ]
            )
        return [
            frozenset(shard for column in columns for shard in column[place]) for place in range(len(items))
        ]

    def unknown(self, shards: Collection[Prefix]) -> bool:
        """Whether one of these shards is of a generation whose atlas is not known here."""
        strange = {one.generation for one in self._places.former if not one.known}
        return bool(strange) and any(shard.generation in strange for shard in shards)

    def _grown(self, layout: Layout, before_us: int | None = None) -> Layout:
        tree = (
            self._growth.tree(layout.tree) if before_us is None else self._growth.tree(layout.tree, before_us)
        )
        return layout if tree is layout.tree else replace(layout, tree=tree)

    def _layered(self) -> Iterator[Layout]:
        """Layouts that have among them all shards that are still asked beside the trees; few."""
        for layout in self._places.asked:
            if not layout.known:
                continue
            left = sorted(self.beside(layout))
            if (
                layout.tree != self._places.writes.tree
                and layout.generation == self._places.writes.generation
            ):
                yield layout
            while left:
                tree, chosen, rest = layout.tree, list[Prefix](), list[Prefix]()
                for one in left:
                    if any(overlap(one, other) for other in chosen):
                        rest.append(one)
                    else:
                        tree = with_leaf(tree, one)
                        chosen.append(one)
                yield replace(layout, tree=tree)
                left = rest

    def _tell(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = trio.Event()


def shards_for(basis: bytes, layout: Layout) -> tuple[bytes, ...]:
    """The bases of the layout's shards where what once lay at this one may lie now, at most `MAX_SHARDS`."""
    shard = shard_at(basis)
    if shard is None or shard in layout.tree:
        return (basis,)
    return tuple(leaf.basis() for leaf in within(layout.tree, shard)[:MAX_SHARDS])


def is_other(basis: bytes, layout: Layout) -> bool:
    """Whether this is the basis of a shard that the layout has not got."""
    shard = shard_at(basis)
    return shard is not None and shard not in layout.tree


def shard_named(basis: bytes | None) -> tuple[bytes, ...]:
    """The shards named beside a record that is to lie at this one; the first of all need no name."""
    shard = None if basis is None else shard_at(basis)
    plain = shard is None or (shard.generation == 0 and shard.length == FIRST_DEPTH)
    return () if basis is None or plain else (basis,)


def bases_ever(record_basis: bytes | None, layouts: Layouts) -> Iterable[bytes]:
    """Bases at which a record may have lain, that of its present shard first if that is known.

    Of the present atlas's shards those that have keys in common with that one; of others all.
    """
    present = None if record_basis is None else shard_at(record_basis)
    if record_basis is not None:
        yield record_basis
    for one in layouts.every_shard():
        elsewhere = present is not None and one.generation == present.generation and not overlap(one, present)
        if not elsewhere and (basis := one.basis()) != record_basis:
            yield basis
