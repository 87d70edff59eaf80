"""The registers of an entry's fields: title, type, subdomains, reasoning and statements (`chain.metadata`).

Each field is a multi-value register of its own (Shapiro et al., 2011), as the text is: a create or a
description writes fields and lists under `over` what it overwrites, all maximal values are kept, and the one
shown first is the greatest by (hlc, CID). Clearing a field ends what it lists and writes nothing, so a
concurrent value survives it. A description that was purged ends, in every field, all that lies in its causal
past: nobody can read any more what it replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chain.cid import Cid
from chain.content import Content
from chain.kinds import DESCRIBE
from chain.metadata import FieldValue
from chain.record import Record
from crdt.causal import parents, past
from crdt.operations import Describe, Operation
from crdt.purging import known_before, purged_by
from crdt.standing import CLEAR, Standing

FieldValues = tuple[tuple[Cid, FieldValue], ...]
"""Maximal values of a field, each with the record that wrote it, the winner first."""


def field_values(
    applied: Mapping[Cid, Record], every: Mapping[Cid, Operation], standing: Standing = CLEAR
) -> tuple[tuple[str, FieldValues], ...]:
    """The fields that have a value, ascending by name. O(records); a purge or an offender costs a walk more.

    `every` is what all records say, also those that do not count.
    """
    registers = _Registers(applied, every, standing)
    written: dict[str, dict[Cid, FieldValue]] = {}
    touching: dict[str, list[Cid]] = {}
    for cid, value in every.items():
        if not standing.counts(applied[cid]):
            continue
        for name, field in value.fields if isinstance(value, Content | Describe) else ():
            written.setdefault(name, {})[cid] = field
        for name in _touched(value):
            touching.setdefault(name, []).append(cid)
    erased = registers.ended_by_erased()
    found: list[tuple[str, FieldValues]] = []
    for name in sorted(written):
        ended = registers.overwrites(touching.get(name, ()), name)
        living = [one for one in written[name] if one not in ended and one not in erased]
        living.sort(key=lambda cid: (applied[cid].header.hlc, cid), reverse=True)
        if living:
            found.append((name, tuple((cid, written[name][cid]) for cid in living)))
    return tuple(found)


class _Registers:
    def __init__(
        self, applied: Mapping[Cid, Record], every: Mapping[Cid, Operation], standing: Standing
    ) -> None:
        self._applied = applied
        self._every = every
        self._standing = standing
        self._purged = {cid for cid in purged_by(applied, every) if applied[cid].header.kind == DESCRIBE}

    def overwrites(self, cids: Iterable[Cid], name: str) -> set[Cid]:
        """What records overwrite in a field, and what the excluded ones among that had; O(records)."""
        reached: set[Cid] = set()
        erased: list[Cid] = []
        stack = list(cids)
        while stack:
            value = self._every.get(stack.pop())
            if not isinstance(value, Describe) or name not in _touched(value):
                continue
            for target in value.over:
                if target in reached:
                    continue
                reached.add(target)
                if target in self._applied and not self._standing.counts(self._applied[target]):
                    stack.append(target)
                    if target in self._purged:
                        erased.append(target)
        return reached | self._before(erased)

    def ended_by_erased(self) -> set[Cid]:
        """All that lies before a purged description that counts."""
        return self._before(cid for cid in self._purged if self._standing.counts(self._applied[cid]))

    def _before(self, cids: Iterable[Cid]) -> set[Cid]:
        start = [parent for cid in cids for parent in parents(self._applied[cid])]
        return past(start, self._applied, lambda record: known_before(record, self._every))


def _touched(value: Operation) -> tuple[str, ...]:
    """The fields in which an operation ends what it overwrites."""
    return (*(name for name, _ in value.fields), *value.clear) if isinstance(value, Describe) else ()
