"""An entry's tags and references: add-wins observed-remove sets (Shapiro et al., 2011).

Each add stands under the CID of its record, and a removal lists the adds that it saw: one that it had not
seen stays. Tags of content records and tag records are adds, as references of content records and links are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from chain.cid import Cid
from chain.content import Content
from chain.reference import Reference, order_of
from crdt.operations import Link, Operation, Tag, Unlink, Untag

Member = TypeVar("Member", bound=Hashable)


def tag_adds(said: Mapping[Cid, Operation]) -> tuple[tuple[str, tuple[Cid, ...]], ...]:
    """Each tag with the records that added it and that no untag removed, both ascending."""
    removed = {(value.tag, add) for value in said.values() if isinstance(value, Untag) for add in value.adds}
    adds = _adds(said, _tags, removed)
    return tuple((tag, adds[tag]) for tag in sorted(adds))


def reference_adds(said: Mapping[Cid, Operation]) -> tuple[tuple[Reference, tuple[Cid, ...]], ...]:
    """The same for references, ascending by their canonical bytes."""
    removed = {
        (value.reference, add) for value in said.values() if isinstance(value, Unlink) for add in value.adds
    }
    adds = _adds(said, _references, removed)
    return tuple((one, adds[one]) for one in sorted(adds, key=order_of))


def _adds(
    said: Mapping[Cid, Operation],
    added_by: Callable[[Operation], Iterable[Member]],
    removed: set[tuple[Member, Cid]],
) -> dict[Member, tuple[Cid, ...]]:
    adds: dict[Member, list[Cid]] = {}
    for cid in sorted(said):
        for member in added_by(said[cid]):
            if (member, cid) not in removed:
                adds.setdefault(member, []).append(cid)
    return {member: tuple(cids) for member, cids in adds.items()}


def _tags(value: Operation) -> tuple[str, ...]:
    return value.tags if isinstance(value, Content) else (value.tag,) if isinstance(value, Tag) else ()


def _references(value: Operation) -> tuple[Reference, ...]:
    return value.references if isinstance(value, Content | Link) else ()
