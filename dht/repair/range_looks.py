"""Comparing by ranges for the repairer: what fellow holders lack, for whole parts of the key space at once.

The key space is cut into cells (`dht.repair.cells`) in each of which the same R nodes hold everything. Before
a look at its bases a node compares with each other holder the cells that it has something in: all of them in
a sweep, else those whose holders have changed, and those in which much was not in order at the last look.
What comes out is kept for that look: of a basis in a cell that was compared, the holder lacks what was found,
and has the rest. Of all other bases nothing is known from here, and the repairer asks about them one by one.
So it does where the other turned out to have much more: it would list that every time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from chain.cid import Cid
from chain.identity import AgentId
from dht.negentropy.range_messages import END, Bound
from dht.negentropy.reconciliation import cid_of, mask_of, prefix_of
from dht.ports import RunBlocking
from dht.records.record_store import HeldStore
from dht.repair.cells import SPACE, Cell, cells, shared
from dht.repair.comparison import Comparisons, Difference
from dht.repair.frontiers import Frontiers

MIN_ITEMS = 64
"""A cell with fewer records here is not worth two messages: it is compared basis by basis."""
MIN_RESTLESS = 16
"""So many bases that are not in order make it worth to compare their cell again."""
MAX_MISSING = 50_000
"""What one holder lacks is found out up to so many records at a time; the rest when those have been sent."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What one comparison told of the bases with prefixes in `ranges`: what is in `have` is lacking."""

    ranges: tuple[tuple[int, int], ...]
    have: Mapping[int, list[bytes]]
    chains: Mapping[bytes, frozenset[Cid]]
    """What is lacking of chains that were compared by their frontiers, by basis."""

    def lacks(self, basis: bytes) -> frozenset[Cid] | None:
        if basis in self.chains:
            return self.chains[basis]
        prefix = prefix_of(basis)
        place = bisect_right(self.ranges, (prefix, SPACE)) - 1
        if place < 0 or not self.ranges[place][0] <= prefix < self.ranges[place][1]:
            return None
        mask = mask_of(basis)
        return frozenset(cid_of(one, mask) for one in self.have.get(prefix, ()))


class RangeLooks:
    """What fellow holders lack, by ranges, for one look after the other."""

    def __init__(
        self, comparisons: Comparisons, frontiers: Frontiers, store: HeldStore, run_blocking: RunBlocking
    ) -> None:
        self._comparisons = comparisons
        self._frontiers = frontiers
        self._store = store
        self._run_blocking = run_blocking
        self._positions: Mapping[AgentId, bytes] = {}
        self._replication = 0
        self._cut_for: int | None = None
        """How many records lay here when the cells were cut; None: they are to be cut."""
        self._cells: list[Cell] = []
        self._starts: list[int] = []
        self._agreed: set[tuple[AgentId, Cell]] = set()
        self._poor: set[tuple[AgentId, Cell]] = set()
        self._restless: Counter[Cell] = Counter()
        self._said: dict[AgentId, _Said] = {}
        self._held: dict[Cell, int] = {}

    def place(self, positions: Mapping[AgentId, bytes], replication: int) -> None:
        """From now on these nodes, by their positions, hold things."""
        self._positions, self._replication, self._cut_for = positions, replication, None

    async def begin(self, me: AgentId, everything: bool) -> dict[AgentId, list[Cell]]:
        """Forget the last look; returns whom to `compare` with in this one, and what."""
        restless = {cell for cell, count in self._restless.items() if count >= MIN_RESTLESS}
        self._restless.clear()
        self._said.clear()
        cut, here, self._held = await self._run_blocking(self._look_at_store)
        if cut is not None:
            self._cut_for, self._cells, self._starts = here, cut, [cell.first for cell in cut]
            self._agreed = {pair for pair in self._agreed if pair[1] in self._held}
            self._poor = {pair for pair in self._poor if pair[1] in self._held}
        asked: dict[AgentId, list[Cell]] = {}
        for cell, count in self._held.items():
            if count >= MIN_ITEMS:
                for agent in cell.holders - {me}:
                    pair = (agent, cell)
                    again = everything or cell in restless or pair not in self._agreed
                    if again and pair not in self._poor and self._comparisons.knows(agent):
                        asked.setdefault(agent, []).append(cell)
        return asked

    async def compare(self, agent: AgentId, wanted: Sequence[Cell], everything: bool) -> None:
        """Compare some cells with one holder of theirs. Raises what `Comparisons.compare` raises.

        Long chains first by their frontiers, unless `everything` is to be compared by what is there.
        """
        arcs = shared(wanted)
        chains = {} if everything else await self._by_frontiers(agent, arcs)
        for basis in sorted(chains):
            arcs = _without(arcs, prefix_of(basis))
        bounds = [(_bound(first), _bound(end)) for first, end in arcs]
        found = await self._comparisons.compare(agent, bounds, MAX_MISSING)
        if found is None:
            return
        self._said[agent] = _said(arcs, found, chains)
        unknown = [(lower[0], SPACE if upper == END else upper[0] + 1) for lower, upper in found.unknown]
        needed = Counter(self._cell_of(prefix) for prefix, _ in found.need)
        self._poor |= {(agent, cell) for cell in wanted if 2 * needed[cell] > self._held.get(cell, 0)}
        self._agreed |= {
            (agent, cell)
            for cell in wanted
            if not any(first < cell.end and cell.first < end for first, end in unknown)
        }

    async def _by_frontiers(
        self, agent: AgentId, arcs: Sequence[tuple[int, int]]
    ) -> dict[bytes, frozenset[Cid]]:
        chains = [
            chain
            for chain in await self._run_blocking(self._store.long_chains)
            if any(first <= prefix_of(chain.basis) < end for first, end in arcs)
        ]
        if not chains:
            return {}
        lacking = await self._frontiers.lacking(agent, chains)
        return {chain.basis: cids for chain, cids in zip(chains, lacking, strict=True) if cids is not None}

    def lacks(self, agent: AgentId, basis: bytes) -> frozenset[Cid] | None:
        """What a holder lacks at a basis of what was here when the look began; None if that is not known."""
        said = self._said.get(agent)
        return None if said is None else said.lacks(basis)

    def note_restless(self, basis: bytes) -> None:
        """A basis is not in order, or has just changed."""
        cell = self._cell_of(prefix_of(basis))
        if cell is not None:
            self._restless[cell] += 1

    def _cell_of(self, prefix: int) -> Cell | None:
        place = bisect_right(self._starts, prefix) - 1
        return self._cells[place] if place >= 0 and prefix < self._cells[place].end else None

    def _look_at_store(self) -> tuple[list[Cell] | None, int, dict[Cell, int]]:
        """The cells if they have to be cut, how many records are here, and how many in each cell.

        They are cut when others hold things, or much more is here; and only where there is enough to compare:
        in a network of N nodes nearly all of some N cells are others'.
        """
        with self._store.ranges() as view:

            def count(first: int, end: int) -> int:
                return view.below(_bound(end)).count - view.below(_bound(first)).count

            here = count(0, SPACE)
            cut = None
            if self._cut_for is None or here >= self._cut_for + max(MIN_ITEMS, self._cut_for // 4):
                cut = cells(
                    self._positions, self._replication, lambda first, end: count(first, end) >= MIN_ITEMS
                )
            there = self._cells if cut is None else cut
            return cut, here, {cell: count(cell.first, cell.end) for cell in there}


def _bound(prefix: int) -> Bound:
    return END if prefix >= SPACE - 1 else (prefix, b"")


def _without(arcs: Sequence[tuple[int, int]], prefix: int) -> list[tuple[int, int]]:
    """These ranges without one prefix."""
    left: list[tuple[int, int]] = []
    for first, end in arcs:
        if first <= prefix < end:
            left += [part for part in ((first, prefix), (prefix + 1, end)) if part[0] < part[1]]
        else:
            left.append((first, end))
    return left


def _said(
    arcs: Sequence[tuple[int, int]], found: Difference, chains: Mapping[bytes, frozenset[Cid]]
) -> _Said:
    """What was compared: the arcs without what is unknown, to whole prefixes."""
    known: list[tuple[int, int]] = []
    unknown = [(lower[0], SPACE if upper == END else upper[0] + 1) for lower, upper in found.unknown]
    for first, end in arcs:
        at = first
        for low, high in _within(unknown, first, end):
            if at < low:
                known.append((at, low))
            at = max(at, high)
        if at < end:
            known.append((at, end))
    have: dict[int, list[bytes]] = {}
    for prefix, one in found.have:
        have.setdefault(prefix, []).append(one)
    return _Said(tuple(known), have, chains)


def _within(ranges: Collection[tuple[int, int]], first: int, end: int) -> list[tuple[int, int]]:
    return sorted((low, high) for low, high in ranges if low < end and first < high)
