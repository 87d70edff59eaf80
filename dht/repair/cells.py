"""Cells: the parts of the key space in which the same R nodes are the nearest to every key.

Going down the bits of a key, a node is nearer than another from the first bit on in which only it agrees with
the key. So the R nearest are found by halving the space: of those still in question, the ones on the key's
side come first; if they are enough, the others are out, else they are all in and the rest is chosen among the
others, by the bits that follow. Where no choice is left the cell ends. N nodes make a few N cells, which two
nodes that know of the same ones cut alike. Two nodes with close positions make many small cells: no more than
`MAX_CELLS` are cut. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from chain.identity import AgentId

MAX_CELLS = 4_096
"""Cells that are cut, the large ones first; what would be beyond it belongs to none."""
SPACE = 1 << 64


@dataclass(frozen=True, slots=True)
class Cell:
    """Keys whose first 64 bits are `first` or more and below `end`, and who is nearest to all of them."""

    first: int
    end: int
    holders: frozenset[AgentId]


def cells(
    positions: Mapping[AgentId, bytes],
    replication: int,
    is_worth: Callable[[int, int], bool] = lambda first, end: True,
) -> list[Cell]:
    """The cells of the key space, ascending, where `positions` are the 32-byte keys of all nodes.

    Up to `MAX_CELLS`, adjoining ones with the same holders as one. Of a part [first, end) of the space that
    is not worth it no cell is cut; what is worth it has to lie in parts that are.
    O(nodes · bits + cells · replication), and a question for each part.
    """
    where = {agent: int.from_bytes(key[:8], "big") for agent, key in positions.items()}
    done: list[Cell] = []
    open_ = deque([_Part(0, SPACE, sorted(where), replication, frozenset())])
    while open_ and len(open_) + len(done) < MAX_CELLS:
        part = open_.popleft()
        if not is_worth(part.first, part.first + part.size):
            continue
        if len(part.choice) <= part.wanted or not part.wanted:
            holders = part.chosen.union(part.choice) if part.wanted else part.chosen
            done.append(Cell(part.first, part.first + part.size, holders))
        elif part.size > 1:
            open_.extend(part.halves(where))
    found: list[Cell] = []
    for cell in sorted(done, key=lambda cell: cell.first):
        if found and found[-1].end == cell.first and found[-1].holders == cell.holders:
            cell = Cell(found.pop().first, cell.end, cell.holders)
        found.append(cell)
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the space: `chosen` are nearest to all of it, and `wanted` more are to be chosen."""

    first: int
    size: int
    choice: list[AgentId]
    wanted: int
    chosen: frozenset[AgentId]

    def halves(self, where: Mapping[AgentId, int]) -> Iterator[_Part]:
        half = self.size // 2
        sides: tuple[list[AgentId], list[AgentId]] = ([], [])
        for agent in self.choice:
            sides[where[agent] & half != 0].append(agent)
        for side in (0, 1):
            here, there = sides[side], sides[1 - side]
            if len(here) >= self.wanted:
                yield _Part(self.first + side * half, half, here, self.wanted, self.chosen)
            else:
                left = self.wanted - len(here)
                yield _Part(self.first + side * half, half, there, left, self.chosen.union(here))


def shared(cells_: Iterable[Cell]) -> list[tuple[int, int]]:
    """The ranges [first, end) that cells cover, ascending, adjoining ones as one."""
    ranges: list[tuple[int, int]] = []
    for cell in sorted(cells_, key=lambda cell: cell.first):
        if ranges and ranges[-1][1] == cell.first:
            ranges[-1] = (ranges[-1][0], cell.end)
        else:
            ranges.append((cell.first, cell.end))
    return ranges
