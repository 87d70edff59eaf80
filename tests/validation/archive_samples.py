"""An archive of two authors' work on one entry, built by hand, and how to read one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from chain.archive_parts import ArchiveReader, ArchiveWriter, Begun, Part
from chain.content import Content
from chain.kinds import PURGE
from chain.record import Record
from crdt import drafts
from crdt.entry import fold
from crdt.entry_view import Entry
from tests.dht.authors import Author
from tests.dht.people import MANIFEST, NOW_US
from validation.archive import ArchiveJudge, Fault, Tally
from validation.archive_order import in_order, named_beside

RULES = replace(MANIFEST, rules=5)
CODES = bytes([127, 0, 0, 1])


@cache
def authors() -> tuple[Author, Author]:
    return Author(1, RULES, NOW_US), Author(2, RULES, NOW_US)


@cache
def work() -> tuple[tuple[Record, ...], dict[bytes, Record]]:
    """The entry's records, one of them purged, and every record of both authors by CID."""
    ann, bob = authors()
    ann.create("something else", CODES)
    entry = ann.create("the moon is of cheese", CODES, ("moon",))
    records = [entry]

    def view() -> Entry:
        folded = fold(records)
        assert folded is not None
        return folded

    for author, draft in (
        (bob, lambda: drafts.draft_edit(view(), bob.agent, Content("it is of rock", CODES))),
        (ann, lambda: drafts.draft_tag(view(), ann.agent, "geology")),
        (bob, lambda: drafts.draft_vote(view(), bob.agent, 1, "seen it", 900_000)),
        (ann, lambda: drafts.draft_purge(view(), ann.agent, {entry.cid})),
    ):
        records.append(author.append(draft()))
    assert records[-1].header.kind == PURGE
    every = {one.cid: one for author in (ann, bob) for one in author.records}
    return (entry.without_payload(), *records[1:]), every


def pieces(
    records: Sequence[Record] | None = None, companions: Sequence[Record] | None = None
) -> list[bytes]:
    """The archive block by block; without arguments of all that there is."""
    mine, every = work()
    ordered = in_order(mine) if records is None else list(records)
    beside = [every[cid].without_payload() for cid in named_beside(ordered) if cid in every]
    writer = ArchiveWriter()
    entry = mine[0].cid
    openings = [author.opening for author in authors()]
    return [
        writer.begin(RULES, [entry]),
        *writer.group(None, openings, [], []),
        *writer.group(entry, [], beside if companions is None else companions, ordered),
        writer.end(),
    ]


def judged(data: bytes, portion: int = 4096) -> tuple[Tally, list[Fault]]:
    """What an offline judge says of an archive; raises `ArchiveError`."""
    reader = ArchiveReader()
    judge: ArchiveJudge | None = None
    faults: list[Fault] = []
    for part in _parts(reader, data, portion):
        if isinstance(part, Begun):
            judge = ArchiveJudge(part)
        assert judge is not None
        faults += judge.take(part)
    reader.close()
    assert judge is not None
    return judge.tally, faults


def _parts(reader: ArchiveReader, data: bytes, portion: int) -> Iterator[Part]:
    for start in range(0, len(data), portion):
        yield from reader.feed(data[start : start + portion])
