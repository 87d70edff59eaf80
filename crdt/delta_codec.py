"""Compact deltas: records on their way to a replica, without what it can work out itself.

A header names its network, its author, the records before it and its payload by hash: some 400 bytes, hardly
any of which are news to whoever gets the records around it as well. A delta is a page of records that share
tables: authors, epochs, kinds, and the digests of records that are named and not in the page. A row says only
how its record differs from what follows from the rows before it: the author's previous record is its
predecessor, its height is one more, its lamport is one more than the greatest before it; CID and size of the
payload follow from the payload. CIDs that a payload names are replaced by places as well. What cannot be left
out are signature, salt, clock, and what is said.

It is lossless for any record, a liar's too: a row that differs says how. `decode_delta` gives back the same
header, signature and payload, or raises; like `decode_record` it verifies no signature, and unlike there only
the signature tells whether a payload is the one that the author hashed. So nothing here is to be believed
before `verify_signature`. Decoding is bounded before it allocates: in bytes, rows, elements, and in the bytes
that rows expand to.

The array: `[1, authors, outside, epochs, kinds, rows]`, authors and outside as 32 bytes each. A row:
`[author, kind, epoch, seq, prev, subject, subject_seq, subject_prev, deps, lamport, hlc, signature, said]`.
Places are counted back from the row (1: the row before; before the first row stands the table of outside),
0 is what was to be expected, -1 nothing. Numbers are differences to what was to be expected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from chain import canonical
from chain.cid import (
    DIGEST_SIZE,
    RAW_CID_SIZE,
    RECORD_CID_SIZE,
    Cid,
    digest,
    is_cid,
    is_raw_cid,
    raw_cid,
    record_cid_of_digest,
)
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId
from chain.record import (
    MAX_DEPS,
    MAX_HEADER,
    MAX_INT,
    MAX_KIND,
    MAX_PAYLOAD,
    VERSION,
    Header,
    Record,
    assembled,
)
from crdt.errors import DeltaError

FORMAT: Final = 1
MAX_RECORDS: Final = 1_000
"""Records of one page."""
PAGE_BYTES: Final = 1 << 20
"""Bytes of a page's records as they are elsewhere on the wire; a greater record has a page of its own."""
MAX_DELTA: Final = PAGE_BYTES + MAX_PAYLOAD
"""Bytes of an encoded page."""
MAX_EXPANDED: Final = MAX_DELTA
"""Bytes that a page's headers and payloads may come to."""
MAX_NAMED: Final = 64
"""CIDs that are taken out of one payload; further ones stay in it."""
MAX_TABLE: Final = 64
"""Epochs, and kinds, of one page."""
_ELEMENTS: Final = 60_000
_ROW: Final = 13
_EXPECTED: Final = 0
_NOTHING: Final = -1
_NAMES: Final = b"\xc4" + bytes([RECORD_CID_SIZE]) + record_cid_of_digest(bytes(DIGEST_SIZE))[:-DIGEST_SIZE]
"""What stands before the digest of a record's CID in a payload."""


class _Past:
    """What the rows so far lead one to expect; encoder and decoder keep the same."""

    def __init__(self) -> None:
        self.lamports: dict[Cid, int] = {}
        self.last: dict[AgentId, Record] = {}
        self.on_subject: dict[tuple[AgentId, Cid], Record] = {}
        self.seqs: dict[Cid, int] = {}
        self.subject: Cid | None = None
        self.hlc = 0

    def lamport(self, prev: Cid | None, deps: Sequence[Cid]) -> int:
        known = self.lamports
        greatest = -1 if prev is None else known.get(prev, -1)
        for dep in deps:
            lamport = known.get(dep, -1)
            if lamport > greatest:
                greatest = lamport
        return greatest + 1

    def subject_seq(self, subject_prev: Cid | None) -> int:
        return 0 if subject_prev is None else self.seqs.get(subject_prev, -1) + 1

    def add(self, record: Record) -> None:
        header, cid = record.header, record.cid
        self.lamports[cid] = header.lamport
        self.last[header.author] = record
        self.subject = record.subject
        self.on_subject[header.author, self.subject] = record
        self.seqs[cid] = header.subject_seq
        self.hlc = header.hlc


def delta_pages(records: Sequence[Record], network: Cid) -> Iterator[tuple[int, bytes]]:
    """Encoded pages of these records in this order, each with how many of them it holds.

    Raises `DeltaError` for a record of another network.
    """
    at = 0
    while at < len(records):
        count = page_length(records[at : at + MAX_RECORDS])
        yield count, encode_delta(records[at : at + count], network)
        at += count


def page_length(records: Sequence[Record]) -> int:
    """How many of these records, one at least, fit a page."""
    size = elements = 0
    kinds, epochs = set(), set()
    for count, record in enumerate(records[:MAX_RECORDS]):
        payload = record.payload or b""
        size += len(record.header_bytes) + len(payload) + SIGNATURE_SIZE
        elements += _ROW + 1 + len(record.header.deps) + 2 * min(MAX_NAMED, payload.count(_NAMES)) + 1
        kinds.add(record.header.kind)
        epochs.add(record.header.epoch)
        full = size > PAGE_BYTES or elements > _ELEMENTS or max(len(kinds), len(epochs)) > MAX_TABLE
        if full and count:
            return count
    return min(len(records), MAX_RECORDS)


def encode_delta(records: Sequence[Record], network: Cid) -> bytes:
    """The page of these records, which `page_length` says to fit one; best in causal order.

    Raises `DeltaError` when they do not fit, or one is of another network.
    """
    outside: dict[Cid, None] = {}
    seen: set[Cid] = set()
    authors: dict[AgentId, int] = {}
    kinds: dict[str, int] = {}
    epochs: dict[Cid, int] = {network: 0}
    for record in records:
        header = record.header
        if header.network != network or header.version != VERSION:
            raise DeltaError(f"record {record.cid.hex()} is of another network")
        for cid in (header.prev, header.subject, header.subject_prev, *header.deps):
            if cid is not None and cid not in seen:
                outside[cid] = None
        seen.add(record.cid)
        authors.setdefault(header.author, len(authors))
        kinds.setdefault(header.kind, len(kinds))
        epochs.setdefault(header.epoch, len(epochs))
    places = {cid: place for place, cid in enumerate(outside)}
    past = _Past()
    rows: list[list[Any]] = []
    for row, record in enumerate(records, len(places)):
        header = record.header
        rows.append(_row(record, past, places, row, authors, kinds, epochs))
        past.add(record)
        places[record.cid] = row
    value = [
        FORMAT,
        b"".join(authors),
        b"".join(map(digest, outside)),
        list(epochs)[1:],
        list(kinds),
        rows,
    ]
    try:
        data = canonical.encode(value)
    except ChainError as error:
        raise DeltaError(f"the records do not fit a page: {error}") from error
    if len(records) > MAX_RECORDS or len(data) > MAX_DELTA:
        raise DeltaError(f"{len(records)} records in {len(data)} bytes do not fit a page")
    return data


def _row(
    record: Record,
    past: _Past,
    places: dict[Cid, int],
    row: int,
    authors: dict[AgentId, int],
    kinds: dict[str, int],
    epochs: dict[Cid, int],
) -> list[Any]:
    header = record.header
    before = past.last.get(header.author)
    own = None if header.subject is None else past.on_subject.get((header.author, header.subject))

    def place(cid: Cid | None, expected: Cid | None) -> int:
        if cid == expected:
            return _EXPECTED
        return _NOTHING if cid is None else row - places[cid]

    deps: int | list[int] = [row - places[cid] for cid in header.deps]
    if own is not None and own.header.deps == header.deps:
        deps = _EXPECTED
    return [
        authors[header.author],
        kinds[header.kind],
        epochs[header.epoch],
        header.seq - (0 if before is None else before.header.seq + 1),
        place(header.prev, None if before is None else before.cid),
        place(header.subject, past.subject),
        header.subject_seq - past.subject_seq(header.subject_prev),
        place(header.subject_prev, None if own is None else own.cid),
        deps,
        header.lamport - past.lamport(header.prev, header.deps),
        header.hlc - past.hlc,
        record.signature,
        [digest(header.payload), header.payload_size]
        if record.payload is None
        else _shortened(record.payload, places, row),
    ]


def _shortened(payload: bytes, places: dict[Cid, int], row: int) -> bytes | list[bytes | int]:
    """The payload, or its parts with the places of the CIDs that stood between them."""
    parts: list[bytes | int] = []
    start = at = 0
    while len(parts) < 2 * MAX_NAMED and (at := payload.find(_NAMES, at)) >= 0:
        end = at + 2 + RECORD_CID_SIZE
        place = places.get(payload[at + 2 : end])
        if place is None:
            at += 2
            continue
        parts += (payload[start:at], row - place)
        start = at = end
    return [*parts, payload[start:]] if parts else payload


def decode_delta(data: bytes, network: Cid) -> tuple[Record, ...]:
    """The records of a page, in its order; their signatures are not verified here.

    Raises `DeltaError` for whatever `encode_delta` cannot have written and its limits.
    """
    try:
        value = canonical.decode(data, MAX_DELTA)
    except ChainError as error:
        raise DeltaError(f"delta: {error}") from error
    if type(value) is not list or len(value) != 6 or value[0] != FORMAT or type(value[0]) is not int:
        raise DeltaError(f"a delta is the array [{FORMAT}, authors, outside, epochs, kinds, rows]")
    _, authors, outside, epochs, kinds, rows = value
    if type(rows) is not list or len(rows) > MAX_RECORDS:
        raise DeltaError(f"a delta has at most {MAX_RECORDS} rows")
    reader = _Reader(
        network,
        _split("authors", authors, AGENT_ID_SIZE),
        [record_cid_of_digest(one) for one in _split("outside", outside, DIGEST_SIZE)],
        [network, *_table("epochs", epochs, is_cid)],
        _table("kinds", kinds, _is_kind),
    )
    return tuple(map(reader.read, rows))


class _Reader:
    """Turns rows into records, one after the other."""

    def __init__(
        self, network: Cid, authors: list[bytes], known: list[Cid], epochs: list[Cid], kinds: list[str]
    ) -> None:
        if not is_raw_cid(network):
            raise DeltaError("not the id of a network")
        self._network = network
        self._authors = authors
        self._known = known
        self._epochs = epochs
        self._kinds = kinds
        self._past = _Past()
        self._left = MAX_EXPANDED

    def read(self, row: Any) -> Record:
        if type(row) is not list or len(row) != _ROW:
            raise DeltaError(f"a row is an array of {_ROW} fields")
        who, what, when, seq, prev, subject, subject_seq, subject_prev, deps, lamport, hlc = row[:11]
        signature, said = row[11:]
        past = self._past
        author = _at("author", self._authors, who)
        before = past.last.get(author)
        subject_cid = self._cid(subject, past.subject)
        own = None if subject_cid is None else past.on_subject.get((author, subject_cid))
        prev_cid = self._cid(prev, None if before is None else before.cid)
        own_cid = self._cid(subject_prev, None if own is None else own.cid)
        named = self._deps(deps, own)
        if type(signature) is not bytes or len(signature) != SIGNATURE_SIZE:
            raise DeltaError("a signature is malformed")
        payload, payload_cid, size = self._payload(said)
        header = Header(
            VERSION,
            self._network,
            _at("epoch", self._epochs, when),
            author,
            _number(seq, 0 if before is None else before.header.seq + 1),
            prev_cid,
            subject_cid,
            _number(subject_seq, past.subject_seq(own_cid)),
            own_cid,
            named,
            _number(lamport, past.lamport(prev_cid, named)),
            _number(hlc, past.hlc),
            _at("kind", self._kinds, what),
            payload_cid,
            size,
        )
        record = assembled(header, signature, payload)
        self._take(len(record.header_bytes))
        if len(record.header_bytes) > MAX_HEADER:
            raise DeltaError(f"a header has {len(record.header_bytes)} bytes, the limit is {MAX_HEADER}")
        past.add(record)
        self._known.append(record.cid)
        return record

    def _cid(self, place: Any, expected: Cid | None) -> Cid | None:
        if place == _EXPECTED and type(place) is int:
            return expected
        return None if place == _NOTHING else self._named(place)

    def _named(self, place: Any) -> Cid:
        if type(place) is not int or not 0 < place <= len(self._known):
            raise DeltaError(f"a place is malformed: {place!r:.40}")
        return self._known[-place]

    def _deps(self, places: Any, own: Record | None) -> tuple[Cid, ...]:
        if type(places) is int and places == _EXPECTED:
            if own is None:
                raise DeltaError("a row's deps are those of a row that is not there")
            return own.header.deps
        if type(places) is not list or len(places) > MAX_DEPS:
            raise DeltaError(f"deps are an array of at most {MAX_DEPS} places")
        deps = tuple(map(self._named, places))
        if any(a >= b for a, b in zip(deps, deps[1:], strict=False)):
            raise DeltaError("deps are not ascending and unique")
        return deps

    def _payload(self, said: Any) -> tuple[bytes | None, Cid, int]:
        if type(said) is list and len(said) == 2 and type(said[1]) is int:
            name, size = said
            if type(name) is not bytes or len(name) != DIGEST_SIZE or not 0 <= size <= MAX_INT:
                raise DeltaError("the name of a payload is malformed")
            return None, raw_cid(b"")[: RAW_CID_SIZE - DIGEST_SIZE] + name, size
        payload = said if type(said) is bytes else self._joined(said)
        self._take(len(payload))
        if len(payload) > MAX_PAYLOAD:
            raise DeltaError(f"a payload has {len(payload)} bytes, the limit is {MAX_PAYLOAD}")
        return payload, raw_cid(payload), len(payload)

    def _joined(self, parts: Any) -> bytes:
        if type(parts) is not list or not 3 <= len(parts) <= 2 * MAX_NAMED + 1 or len(parts) % 2 == 0:
            raise DeltaError("a payload is malformed")
        joined: list[bytes] = []
        for number, part in enumerate(parts):
            if number % 2:
                joined += (_NAMES[:2], self._named(part))
            elif type(part) is bytes:
                joined.append(part)
            else:
                raise DeltaError("a part of a payload is malformed")
        return b"".join(joined)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DeltaError(f"a delta's records have more than {MAX_EXPANDED} bytes")


def _number(difference: Any, expected: int) -> int:
    if type(difference) is not int or not 0 <= difference + expected <= MAX_INT:
        raise DeltaError(f"a number is malformed: {difference!r:.40}")
    return difference + expected


def _at(name: str, table: list[Any], index: Any) -> Any:
    if type(index) is not int or not 0 <= index < len(table):
        raise DeltaError(f"{name} is malformed: {index!r:.40}")
    return table[index]


def _split(name: str, data: Any, size: int) -> list[bytes]:
    if type(data) is not bytes or len(data) % size:
        raise DeltaError(f"{name} are malformed")
    return [data[start : start + size] for start in range(0, len(data), size)]


def _table(name: str, values: Any, fits: Any) -> list[Any]:
    if type(values) is not list or len(values) > MAX_TABLE or not all(map(fits, values)):
        raise DeltaError(f"{name} are malformed")
    return values


def _is_kind(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_KIND and value.isascii() and value.isprintable()
