"""The conflicts of an entry: what stands against what, by whom, and what each side had and had not seen.

A conflict is more than one maximal value of the text or of a field, or a delete that was overruled by a value
which it had not seen. Its history is cut where the sides parted: `common` are the last records that all sides
had in their past, and `history` of a side are the records that it had seen (itself among them) and not all of
the others had. A pure function of the records, so equal replicas list equal conflicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import DELETE
from chain.record import Record
from crdt.causal import parents, past
from crdt.entry import EntryState
from crdt.entry_view import Entry
from crdt.standing import CLEAR, Standing

MAX_SIDES = 32
"""Of more values, or deletes, the first are told, as they are shown: a liar can make any number of them."""

TEXT: Final = "text"
DELETED: Final = "delete"


@dataclass(frozen=True, slots=True)
class Side:
    """One side: the record that says it, its author, and what it had seen since the sides parted.

    `hlc` is the record's clock in µs. `history` is in the order in which records fold, the record itself last
    but for what has an equal or higher lamport.
    """

    record: Cid
    author: AgentId
    hlc: int
    history: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """`about` is "text", "delete" or a field's name; of the sides the one shown is first.

    `common` are the last records that all sides had seen, ascending.
    """

    about: str
    sides: tuple[Side, ...]
    common: tuple[Cid, ...]


def conflicts_of(records: Iterable[Record], standing: Standing = CLEAR) -> tuple[Conflict, ...]:
    """The conflicts of the entry that these records are about, the text's first; O(records · sides).

    Raises `SubjectError` when they are about different entries.
    """
    known = list(records)
    if not known:
        return ()
    state = EntryState(known[0].subject).add_all(known)
    view = state.view(standing)
    if view is None or not view.alive:
        return ()
    found: list[Conflict] = []
    values = [cid for cid, _ in view.contents[:MAX_SIDES]]
    if len(values) > 1:
        found.append(_conflict(TEXT, values, state.applied))
    if view.delete_overruled:
        deletes = _unheeded(view, state.applied, standing)[:MAX_SIDES]
        found.append(_conflict(DELETED, [*values, *deletes], state.applied))
    for name, maximal in view.fields:
        if len(maximal) > 1:
            found.append(_conflict(name, [cid for cid, _ in maximal[:MAX_SIDES]], state.applied))
    return tuple(found)


def _conflict(about: str, cids: Sequence[Cid], applied: Mapping[Cid, Record]) -> Conflict:
    pasts = [past((cid,), applied) for cid in cids]
    shared = set.intersection(*pasts)
    behind = past((parent for cid in shared for parent in parents(applied[cid])), applied)

    def side(cid: Cid, seen: set[Cid]) -> Side:
        header = applied[cid].header
        history = sorted(seen - shared, key=lambda one: (applied[one].header.lamport, one))
        return Side(cid, header.author, header.hlc, tuple(history))

    sides = tuple(side(cid, seen) for cid, seen in zip(cids, pasts, strict=True))
    return Conflict(about, sides, tuple(sorted(shared - behind)))


def _unheeded(view: Entry, applied: Mapping[Cid, Record], standing: Standing) -> list[Cid]:
    """The deletes that count and that no value shown had seen, ascending."""
    heeded = past((cid for cid, _ in view.contents), applied)
    return [
        cid
        for cid in sorted(applied)
        if applied[cid].header.kind == DELETE and cid not in heeded and standing.counts(applied[cid])
    ]
