"""Postings: what an entry shows in a search, from whichever of its records are at hand.

A holder of a shard, and an asker with a few records before it, seldom have all of an entry, so nothing here
asks for causal closure: each fact counts as soon as the record that says it is known. A content value ends
for good when a known edit overwrites it or a known delete saw it, whatever comes later and in whatever order;
so the record that ended it is its tombstone. A value that was concurrent with a delete is another value, and
lives. On a causally closed set the result is that of the full view (`crdt.entry_view`); the laws check it.

Tags belong to the entry, not to one value, and most often stand in other records than the value shown.
`proofs` picks the records that show which tags a value bears, `proven_tags` reads them again: who is asked
sends them along, who asks believes nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from chain.cid import Cid
from chain.content import MAX_TAGS, Content
from chain.record import Record
from crdt.entry_view import is_retracted, killed_by, maximal_values
from crdt.observed_sets import tag_adds
from crdt.operations import Operation, Tag, Untag
from crdt.purging import operations
from crdt.standing import CLEAR, Standing

MAX_PROOFS = MAX_TAGS + 64
"""Records that show one value's tags: each of its own tags may need one that removed it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of an entry: living values by ascending CID, and at most `MAX_TAGS` tags, ascending.

    Of more tags, those that a content record or the entry's creator gave are kept first.
    """

    values: tuple[tuple[Cid, Content], ...]
    tags: tuple[str, ...]


def shown(subject: Cid, records: Mapping[Cid, Record], standing: Standing = CLEAR) -> Shown:
    """What these records, all about `subject`, show; O(records). `standing`: whose do not count."""
    every = operations(records)
    create = records.get(subject)
    if create is not None and is_retracted(create.header.author, records.values(), standing):
        return Shown((), ())
    ended = killed_by(records, every, standing)
    said = {cid: value for cid, value in every.items() if standing.counts(records[cid])}
    values = tuple(
        (cid, value)
        for cid in maximal_values(records, every, standing)
        if cid not in ended and isinstance(value := said.get(cid), Content)
    )
    adds = tag_adds(said)
    if len(adds) > MAX_TAGS:
        creator = None if create is None else create.header.author

        def by_others(add: tuple[str, tuple[Cid, ...]]) -> bool:
            return not any(
                isinstance(said[cid], Content) or records[cid].header.author == creator for cid in add[1]
            )

        adds = tuple(sorted(adds, key=lambda add: (by_others(add), add[0]))[:MAX_TAGS])
    return Shown(values, tuple(sorted(tag for tag, _ in adds)))


def proofs(
    value: Cid,
    tags: Collection[str],
    wanted: Collection[str],
    records: Mapping[Cid, Record],
    standing: Standing = CLEAR,
) -> list[Cid]:
    """The records, beside the value's own, that show that it bears `tags`; at most `MAX_PROOFS`.

    First those that removed tags of the value itself, then for each tag one that added it, `wanted` tags
    first; a tag whose add does not fit is not proven. Where only another value added it, whatever removed
    that value's other tags comes before it: or it would prove them, too.
    """
    said = {cid: one for cid, one in operations(records).items() if standing.counts(records[cid])}
    chosen = dict.fromkeys(_removals(value, said))
    adds = dict(tag_adds(said))
    for tag in sorted(tags, key=lambda tag: (tag not in wanted, tag)):
        cids = adds.get(tag, ())
        if value not in cids and cids:
            add = min(cids, key=lambda cid: (isinstance(said[cid], Content), cid))
            chosen.update(dict.fromkeys([*_removals(add, said), add]))
    return list(chosen)[:MAX_PROOFS]


def _removals(value: Cid, said: Mapping[Cid, Operation]) -> list[Cid]:
    """The records that removed tags which the content record `value` itself gave; none for another kind."""
    content = said.get(value)
    own = content.tags if isinstance(content, Content) else ()
    return [
        cid
        for cid, operation in said.items()
        if isinstance(operation, Untag) and operation.tag in own and value in operation.adds
    ]


def proven_tags(value: Record, others: Iterable[Record]) -> tuple[str, ...]:
    """The tags that a content record bears by itself and by other records of its entry; ascending."""
    about = {one.cid: one for one in others if one.subject == value.subject}
    said = operations(about | {value.cid: value})
    return tuple(tag for tag, _ in tag_adds(said))[:MAX_TAGS]


def overwritten(values: Iterable[Record]) -> set[tuple[Cid, Cid]]:
    """The (entry, content record) pairs that one of these content records overwrites."""
    return {
        (record.subject, target)
        for record in values
        for said in operations({record.cid: record}).values()
        if isinstance(said, Content)
        for target in said.over
    }


def is_tag_record(record: Record) -> bool:
    """Whether a record says something about tags, and so can be a proof."""
    said = operations({record.cid: record}).get(record.cid)
    return isinstance(said, Content | Tag | Untag)
