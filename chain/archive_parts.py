"""What an archive of records holds, in which order, and how it ends.

The archive is a CARv1 (`chain.archive`) whose roots are the network id, a preface, and the entries asked for
(none for a whole network's worth). First come the preface, which names the version of what follows, and the
manifest. Then *groups*: a mark with the numbers of what follows, for authors that were not introduced yet
their first two records, the signed headers that the group's records name, and the records, each after what it
names. A group is about one entry, in ascending order of entries, or before all of these about the network
itself: its epochs, and what was proven against agents. So whoever reads it can judge record by record and
forget a group at its end. A record takes two or three blocks: its header, named by the record's own CID; its
signature; its payload, unless that was erased. A closing mark counts everything and hashes all CIDs in
order: an archive that was cut between two blocks, or lost one, lacks it.

Nothing here verifies a signature or asks whether a record is valid: see `validation.archive`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeAlias

from chain import canonical
from chain.archive import MAX_ROOTS, ArchiveError, Block, CarDecoder, encode_block, encode_header
from chain.cid import Cid, is_raw_cid, is_record_cid, raw_cid, to_text
from chain.errors import ChainError
from chain.identity import SIGNATURE_SIZE
from chain.manifest import Manifest, decode_manifest
from chain.record import Header, Record, check_payload, decode_header

VERSION: Final = 1
MAX_ENTRIES_NAMED: Final = MAX_ROOTS - 2
"""Entries that the roots name; an archive of more names none."""
MAX_RECORDS: Final = 8_192
"""Records in one group."""
MAX_OPENINGS: Final = 8_192
MAX_COMPANIONS: Final = 32_768
MAX_GROUP_BYTES: Final = 64 << 20
"""Bytes of a group's openings and companions, which are kept while its records are read."""
MAX_KNOWN_AUTHORS: Final = 100_000
"""Authors that need not be introduced again; writer and reader forget the longest known one beyond."""
_MAX_MARK: Final = 256
_PREFACE: Final = "roseforest/archive"
_GROUP: Final = "group"
_END: Final = "end"


@dataclass(frozen=True, slots=True)
class Begun:
    """The archive is of this network; `entries` are those that its roots promise."""

    manifest: Manifest
    network: Cid
    entries: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """What the next records are about (None: the network), and what their judge needs beside them."""

    entry: Cid | None
    openings: tuple[tuple[Record, Record], ...]
    companions: tuple[Record, ...]
    records: int
    at: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The next record of the group; without payload where that was erased. `at`: its place in bytes."""

    record: Record
    at: int


@dataclass(frozen=True, slots=True)
class GroupEnd:
    """All records of the group have come."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The archive is whole: so many blocks and groups."""

    blocks: int
    groups: int


Part: TypeAlias = Begun | Group | Stored | GroupEnd | Ended
_Steps: TypeAlias = Generator[list[Part], Block, None]


class ArchiveWriter:
    """Writes an archive part by part; each method gives the bytes that come next."""

    def __init__(self) -> None:
        self._seen = _Running()

    def begin(self, manifest: Manifest, entries: Sequence[Cid] = ()) -> bytes:
        """Header, preface and manifest. `entries`: at most `MAX_ENTRIES_NAMED`, ascending."""
        network = manifest.network_id
        preface = canonical.encode([_PREFACE, VERSION, network])
        header = encode_header((network, raw_cid(preface), *entries))
        self._seen.header(header)
        return header + self._block(raw_cid(preface), preface) + self._block(network, manifest.encode())

    def group(
        self,
        entry: Cid | None,
        openings: Sequence[tuple[Record, Record]],
        companions: Sequence[Record],
        records: Sequence[Record],
    ) -> Iterator[bytes]:
        """A group, block by block; groups about an entry ascend, and records stand after what they name.

        Raises `ArchiveError` for more than a group may hold.
        """
        if len(records) > MAX_RECORDS or len(companions) > MAX_COMPANIONS or len(openings) > MAX_OPENINGS:
            raise ArchiveError(f"a group has {len(records)} records, the limit is {MAX_RECORDS}")
        self._seen.groups += 1
        yield self._mark([_GROUP, entry, len(openings), len(companions), len(records)])
        for record in (*(one for pair in openings for one in pair), *companions, *records):
            yield self._block(record.cid, record.header_bytes)
            yield self._block(raw_cid(record.signature), record.signature)
            if record.payload is not None:
                yield self._block(record.header.payload, record.payload)

    def end(self) -> bytes:
        """The closing mark."""
        return self._mark([_END, self._seen.blocks, self._seen.groups, self._seen.digest()])

    def _mark(self, value: list[Any]) -> bytes:
        data = canonical.encode(value)
        return self._block(raw_cid(data), data)

    def _block(self, cid: Cid, data: bytes) -> bytes:
        self._seen.block(cid)
        return encode_block(cid, data)


class ArchiveReader:
    """Reads an archive as it comes, and keeps the openings and companions of one group at most.

    `feed` and `close` raise `ArchiveError` in one line that says where; what came before it stands.
    """

    def __init__(self) -> None:
        self._car = CarDecoder()
        self._seen = _Running()
        self._promised: set[Cid] = set()
        self._steps = self._read()
        next(self._steps)

    def feed(self, data: bytes) -> Iterator[Part]:
        """The parts that are complete with `data`; to be exhausted before the next call."""
        for block in self._car.feed(data):
            if not self._seen.blocks:
                self._seen.header(self._car.header)
            parts = self._steps.send(block)
            self._seen.block(block.cid)
            yield from parts

    def close(self) -> None:
        """Say that nothing follows."""
        self._car.end()
        if not self._seen.ended:
            raise ArchiveError("the archive ends before its closing block: a part of it is missing")

    def _read(self) -> _Steps:
        """Takes block after block, and gives the parts that each completes."""
        block = yield []
        network = self._preface(block)
        block = yield []
        begun = self._begun(block, network)
        block = yield [begun]
        due: list[Part] = []
        last: Cid | None = None
        while (counts := self._counts(block, last)) is not None:
            entry, count_openings, count_companions, count_records = counts
            last = entry
            budget = _Budget(block.at)
            mark_at = block.at
            block = yield due
            openings: list[tuple[Record, Record]] = []
            for _ in range(count_openings):
                genesis, block = yield from _record(block, budget, [])
                membrane, block = yield from _record(block, budget, [])
                openings.append((genesis, membrane))
            companions: list[Record] = []
            for _ in range(count_companions):
                companion, block = yield from _record(block, budget, [])
                companions.append(companion)
            due = [Group(entry, tuple(openings), tuple(companions), count_records, mark_at)]
            budget.left = None
            for _ in range(count_records):
                at = block.at
                record, block = yield from _record(block, budget, due)
                due = [Stored(record, at)]
            due.append(GroupEnd())
            if entry is not None:
                self._promised.discard(entry)
        self._seen.ended = True
        block = yield [*due, Ended(self._seen.blocks, self._seen.groups)]
        raise ArchiveError(f"at byte {block.at}: a block follows the closing block")

    def _preface(self, block: Block) -> Cid:
        value = _value(block)
        if type(value) is not list or len(value) != 3 or value[0] != _PREFACE:
            raise ArchiveError(f"at byte {block.at}: this is no archive of records of a knowledge network")
        if value[1] != VERSION or type(value[1]) is not int:
            raise ArchiveError(
                f"the archive is of version {value[1]!r:.20}, and this release reads version {VERSION}"
            )
        if tuple(self._car.roots[:2]) != (value[2], block.cid):
            raise ArchiveError("the archive's first two roots are not its network and its preface")
        network: Cid = self._car.roots[0]
        return network

    def _begun(self, block: Block, network: Cid) -> Begun:
        if block.cid != network:
            raise ArchiveError(f"at byte {block.at}: expected the manifest {to_text(network)}")
        entries = self._car.roots[2:]
        if not all(map(is_record_cid, entries)) or list(entries) != sorted(set(entries)):
            raise ArchiveError("the archive's roots are not its network, its preface, and ascending entries")
        self._promised = set(entries)
        try:
            return Begun(decode_manifest(block.data), network, tuple(entries))
        except ChainError as error:
            raise ArchiveError(f"at byte {block.at}: the manifest: {error}") from error

    def _counts(self, block: Block, last: Cid | None) -> tuple[Cid | None, int, int, int] | None:
        """What a mark announces; None for the closing one."""
        value = _value(block)
        if type(value) is list and len(value) == 4 and value[0] == _END:
            if value[1:] != [self._seen.blocks, self._seen.groups, self._seen.digest()]:
                raise ArchiveError(
                    f"at byte {block.at}: a part is missing or moved: its closing block differs"
                )
            if self._promised:
                raise ArchiveError(f"the root {to_text(min(self._promised))} is not in the archive")
            return None
        if type(value) is not list or len(value) != 5 or value[0] != _GROUP:
            raise ArchiveError(f"at byte {block.at}: expected the mark of a group, or the closing block")
        entry, counts = value[1], value[2:]
        if not (entry is None or is_record_cid(entry)) or any(type(one) is not int for one in counts):
            raise ArchiveError(f"at byte {block.at}: the mark of a group is malformed")
        if last is not None and (entry is None or entry <= last):
            raise ArchiveError(f"at byte {block.at}: groups do not ascend, or one comes twice")
        for count, most in zip(counts, (MAX_OPENINGS, MAX_COMPANIONS, MAX_RECORDS), strict=True):
            if not 0 <= count <= most:
                raise ArchiveError(f"at byte {block.at}: a group announces {count}, the limit is {most}")
        self._seen.groups += 1
        return entry, counts[0], counts[1], counts[2]


class _Budget:
    """What a group may still keep (None: no more is kept), and which records it has."""

    def __init__(self, at: int) -> None:
        self.left: int | None = MAX_GROUP_BYTES
        self.cids: set[Cid] = set()
        self._at = at

    def spend(self, record: Record) -> None:
        if record.cid in self.cids:
            raise ArchiveError(f"the group at byte {self._at} has the record {to_text(record.cid)} twice")
        self.cids.add(record.cid)
        if self.left is not None:
            self.left -= len(record.header_bytes) + len(record.payload or b"")
            if self.left < 0:
                raise ArchiveError(f"the group at byte {self._at} keeps more than {MAX_GROUP_BYTES} bytes")


def _record(
    block: Block, budget: _Budget, due: list[Part]
) -> Generator[list[Part], Block, tuple[Record, Block]]:
    """The record whose header is `block`, and the block after it."""
    if not is_record_cid(block.cid):
        raise ArchiveError(f"at byte {block.at}: expected the header of a record")
    header = _header(block)
    signature = yield due
    if not is_raw_cid(signature.cid) or len(signature.data) != SIGNATURE_SIZE:
        raise ArchiveError(f"at byte {signature.at}: expected the signature of {to_text(block.cid)}")
    after = yield []
    payload = None
    if after.cid == header.payload:
        payload = after.data
        try:
            check_payload(header, payload)
        except ChainError as error:
            raise ArchiveError(f"at byte {after.at}: {error}") from error
        after = yield []
    record = Record(header, signature.data, payload, block.cid, block.data)
    budget.spend(record)
    return record, after


def _header(block: Block) -> Header:
    try:
        return decode_header(block.data)
    except ChainError as error:
        raise ArchiveError(f"at byte {block.at}: the record {to_text(block.cid)}: {error}") from error


def _value(block: Block) -> Any:
    try:
        return canonical.decode(block.data, _MAX_MARK)
    except ChainError as error:
        raise ArchiveError(f"at byte {block.at}: expected a mark, and found: {error}") from error


class _Running:
    """What the closing mark says: counts and a hash over the header and all CIDs so far."""

    def __init__(self) -> None:
        self.blocks = 0
        self.groups = 0
        self.ended = False
        self._hash = sha256()

    def header(self, data: bytes) -> None:
        self._hash.update(data)

    def block(self, cid: Cid) -> None:
        self.blocks += 1
        self._hash.update(cid)

    def digest(self) -> bytes:
        return self._hash.digest()
