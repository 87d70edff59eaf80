"""derived.db: what can be computed again from the records, kept so that a start need not compute it.

Postings: for each content record, where its vector lies in the space (its shard key), its codes, and what a
search filters by; beside it the terms of its text (`node.storage.lexicon`). The vector index calls a posting
by its number and is loaded from here; the shards served are ranges of keys.
Because everything can be rebuilt, commits need not wait for the disk (`synchronous=NORMAL`: after a power cut
the newest may be missing, the file is sound), and this is the one file that may be recreated: `rebuild`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import trio

from chain import canonical
from chain.cid import Cid
from chain.content import MAX_TAG, MAX_TAGS
from chain.errors import EncodingError
from chain.identity import AgentId
from dht.ports import RunBlocking
from node.storage import lexicon
from node.storage.database import MAX_BOUND, Layout, Options, Row, open_database, remove_database
from node.storage.erasure import scrub
from node.storage.errors import StorageLimit
from node.storage.group_writer import GroupWriter
from sharding.terms import Counted

KEY_SIZE: Final = 32
"""Bytes of a shard key, big-endian, so that the order of bytes is the order along the curve."""
MAX_POSTINGS: Final = 4096
"""Postings in one call of `put` or `remove`."""

SAMPLE_RUNS = 8

_MODULUS = 1 << (8 * KEY_SIZE)
_MAX_TAG_BYTES = 8 + MAX_TAGS * (MAX_TAG + 5)

LAYOUT: Final = Layout(
    application_id=0x52466431,  # "RFd1"
    migrations=(
        """
        CREATE TABLE postings (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            shard_key BLOB NOT NULL,
            entry BLOB NOT NULL,
            record BLOB NOT NULL UNIQUE,
            codes BLOB NOT NULL,
            tags BLOB NOT NULL,
            author BLOB NOT NULL,
            hlc INTEGER NOT NULL
        );
        CREATE INDEX postings_by_key ON postings (shard_key, number);
        CREATE TABLE stamp (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            postings INTEGER NOT NULL,
            total BLOB NOT NULL
        );
        INSERT INTO stamp (id, postings, total) VALUES (1, 0, zeroblob(32));
        """,
        "CREATE INDEX postings_by_entry ON postings (entry);",
        "ALTER TABLE stamp ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;",
        # What the new columns would hold stands in the records: the next start makes all postings again. The
        # index has what filters look at, so a posting that does not pass is not read: that takes a fifth of
        # the time.
        """
        ALTER TABLE postings ADD COLUMN domain TEXT;
        ALTER TABLE postings ADD COLUMN confidence INTEGER;
        DROP INDEX postings_by_key;
        CREATE INDEX postings_by_key ON postings (shard_key, number, author, hlc, domain, confidence);
        DELETE FROM postings;
        UPDATE stamp SET postings = 0, total = zeroblob(32);
        """,
        f"""
        {lexicon.TABLE}
        ALTER TABLE stamp ADD COLUMN stale INTEGER NOT NULL DEFAULT 0;
        DELETE FROM postings;
        UPDATE stamp SET postings = 0, total = zeroblob(32);
        """,
    ),
    recovery="it only holds what can be computed again: stop the node and run `roseforest index rebuild`",
)
_COLUMNS = "number, shard_key, entry, record, codes, tags, author, hlc, domain, confidence"
LENGTHS_LOOKED_AT: Final = 256
MATCHING_PAGE: Final = 4_096
"""Rows of `DerivedState.matching` in memory at a time."""


@dataclass(frozen=True, slots=True)
class Posting:
    """One content value in the space: `codes` are int8 codes, `shard_key` has 32 bytes, `hlc` is in µs.

    `domain` and `confidence` (ppm) are what its record says; searches filter by them.

    `number` is given by `DerivedState.put` and never given again; it is 0 before.
    """

    number: int
    shard_key: bytes
    entry: Cid
    record: Cid
    codes: bytes
    tags: tuple[str, ...]
    author: AgentId
    hlc: int
    domain: str | None = None
    confidence: int | None = None
    words: Counted | None = None
    """The terms of its text, when it is put; not read back with it, see `DerivedState.words`."""


class DerivedState:
    """The derived database. Reads are plain calls, from any thread; writes need `run` to be running."""

    def __init__(
        self,
        path: Path,
        run_blocking: RunBlocking,
        options: Options | None = None,
        full_text: bool = True,
    ) -> None:
        """Open or create the file; raises what `open_database` raises. `full_text`: use FTS5 where it is."""
        self._database = open_database(path, LAYOUT, options or Options(synchronous="NORMAL"))
        self.indexed = lexicon.prepare(self._database.writer, full_text)
        """Whether terms are looked up in an index."""
        self._writer = GroupWriter(self._database, run_blocking)

    @classmethod
    def rebuild(cls, path: Path, run_blocking: RunBlocking, options: Options | None = None) -> DerivedState:
        """Throw the file away, whatever is in it, and open an empty one for the caller to fill."""
        remove_database(path)
        return cls(path, run_blocking, options)

    @property
    def read_only(self) -> str | None:
        """Why nothing more can be written, or None."""
        return self._writer.read_only

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `aclose`; see `GroupWriter.run`."""
        await self._writer.run(task_status=task_status)

    def close(self) -> None:
        """Write what is queued and close the file; not waited for, see `GroupWriter.close`."""
        self._writer.close()

    async def aclose(self) -> None:
        """`close`, and wait until it is done."""
        await self._writer.aclose()

    async def put(self, postings: Sequence[Posting]) -> list[Posting]:
        """Keep postings and return those that are new, in order, with their numbers.

        A posting of a content record that has one already is passed over. Raises `StorageLimit` for a key
        that has not 32 bytes or too many postings.
        """
        _check_size(postings)
        for posting in postings:
            if len(posting.shard_key) != KEY_SIZE:
                raise StorageLimit(f"a shard key has {len(posting.shard_key)} bytes, expected {KEY_SIZE}")
        return await self._writer.submit(lambda connection: _put(connection, postings, self.indexed))

    async def remove(self, records: Sequence[Cid]) -> list[int]:
        """Remove the postings of these content records; returns the numbers of those that were there."""
        _check_size(records)
        return await self._writer.submit(lambda connection: _remove(connection, records, self.indexed))

    async def retag(self, tags: Mapping[Cid, tuple[str, ...]]) -> None:
        """Give the postings of these content records other tags; their numbers and the stamp stay."""
        _check_size(list(tags))
        rows = [(canonical.encode(list(tags[record])), record) for record in sorted(tags)]
        await self._writer.submit(
            lambda connection: _retag(connection, rows),
        )

    async def rekey(self, keys: Mapping[int, bytes]) -> None:
        """Give postings other shard keys, by number; their numbers and the stamp stay."""
        _check_size(list(keys))
        rows = [(keys[number], number) for number in sorted(keys)]
        sql = "UPDATE postings SET shard_key = ? WHERE number = ?"

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(sql, rows)

        await self._writer.submit(write)

    async def note_generation(self, generation: int) -> None:
        """All keys are made by the atlas of this generation now; the stamp says so."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE stamp SET generation = ?", (generation,))

        await self._writer.submit(write)

    async def clear(self) -> None:
        """Remove everything."""
        await self._writer.submit(lambda connection: _clear(connection, self.indexed))

    async def scrub(self) -> bool:
        """Leave no trace in the files of what was removed; False: not all could be done yet."""

        def write(connection: sqlite3.Connection) -> bool:
            lexicon.merge(connection, self.indexed)
            return scrub(connection)

        return await self._writer.alone(write)

    def get_many(self, numbers: Sequence[int]) -> list[Posting | None]:
        """The postings with these numbers, in order, None where there is none."""
        sql = f"SELECT {_COLUMNS} FROM postings WHERE number IN ({{}})"
        found = {row[0]: self._posting(row) for row in self._database.rows_in(sql, sorted(set(numbers)))}
        return [found.get(number) for number in numbers]

    def of_entry(self, entry: Cid) -> list[Posting]:
        """The postings of an entry, one for each content record, by number."""
        sql = f"SELECT {_COLUMNS} FROM postings WHERE entry = ? ORDER BY number"
        return [self._posting(row) for row in self._database.rows(sql, (entry,))]

    def have(self, records: Sequence[Cid]) -> list[bool]:
        """For each content record whether it has a posting."""
        sql = "SELECT record FROM postings WHERE record IN ({})"
        found = {row[0] for row in self._database.rows_in(sql, sorted(set(records)))}
        return [record in found for record in records]

    def in_range(self, low_key: bytes, high_key: bytes) -> list[Posting]:
        """Postings with low_key ≤ key ≤ high_key, both of 32 bytes, by (key, number); O(answer)."""
        sql = f"SELECT {_COLUMNS} FROM postings WHERE shard_key BETWEEN ? AND ? ORDER BY shard_key, number"
        return [self._posting(row) for row in self._database.rows(sql, (low_key, high_key))]

    def records_in_range(self, low_key: bytes, high_key: bytes) -> list[tuple[int, Cid]]:
        """The numbers and content records of `in_range`, in any order; O(answer)."""
        sql = "SELECT number, record FROM postings WHERE shard_key BETWEEN ? AND ?"
        return [(row[0], row[1]) for row in self._database.rows(sql, (low_key, high_key))]

    def count_in(self, low_key: bytes, high_key: bytes) -> int:
        """How many postings have keys in a range; O(answer)."""
        sql = "SELECT COUNT(*) FROM postings WHERE shard_key BETWEEN ? AND ?"
        row = self._database.row(sql, (low_key, high_key))
        return 0 if row is None else int(row[0])

    def heads_in(self, low_key: bytes, high_key: bytes) -> list[int]:
        """The first 48 bits of the shard keys in a range, in any order; O(answer)."""
        sql = "SELECT shard_key FROM postings WHERE shard_key BETWEEN ? AND ?"
        return [int.from_bytes(row[0][:6], "big") for row in self._database.rows(sql, (low_key, high_key))]

    def keys_of(self, records: Sequence[Cid]) -> list[bytes]:
        """The shard keys of the postings of these content records, in any order; of those that are there."""
        sql = "SELECT shard_key FROM postings WHERE record IN ({})"
        return [row[0] for row in self._database.rows_in(sql, sorted(set(records)))]

    def matching(
        self,
        ranges: Sequence[tuple[bytes, bytes]],
        tags: Sequence[str],
        condition: str,
        parameters: Sequence[str | bytes | int],
    ) -> Iterator[list[tuple[int, bytes]]]:
        """(number, codes) of the postings in these ranges of keys, ends included, that may be wanted.

        All that meet `condition`, SQL over the columns with its `parameters`, and bear `tags`; beside them a
        few whose tags only look like it, so who needs to know reads the posting. In lists of up to
        `MATCHING_PAGE`, each a snapshot. O(postings in the ranges), none of which is read whole.
        """
        where = ["(shard_key, number) > (?, ?)", "shard_key <= ?", *(["instr(tags, ?) > 0"] * len(tags))]
        if condition:
            where.append(f"({condition})")
        sql = (
            f"SELECT shard_key, number, codes FROM postings WHERE {' AND '.join(where)} "
            f"ORDER BY shard_key, number LIMIT {MATCHING_PAGE}"
        )
        wanted = (*map(canonical.encode, tags), *parameters)
        for low, high in ranges:
            after = (low, -1)
            while page := list(self._database.rows(sql, (*after, high, *wanted))):
                yield [(number, codes) for _, number, codes in page]
                after = (page[-1][0], page[-1][1])

    def latest(
        self,
        below: int | None,
        among: int,
        tags: Sequence[str],
        condition: str,
        parameters: Sequence[str | bytes | int],
    ) -> tuple[list[Cid], int]:
        """Entries of the postings that came last, before number `below`, and the number to go on below.

        Looked at are the `among` numbers under `below` (None: under all), the last to come first; of those
        the entries that may be wanted, as `matching` has it of tags and condition, some maybe more than once.
        The number is 0 when there is nothing before. O(among).
        """
        if below is None:
            row = self._database.row("SELECT max(number) FROM postings")
            below = 1 if row is None or row[0] is None else int(row[0]) + 1
        where = ["number < ?", "number >= ?", *(["instr(tags, ?) > 0"] * len(tags))]
        sql = "SELECT entry FROM postings WHERE " + " AND ".join(
            [*where, *([f"({condition})"] if condition else [])]
        )
        lowest = max(0, below - among)
        wanted = (below, lowest, *map(canonical.encode, tags), *parameters)
        rows = self._database.rows(f"{sql} ORDER BY number DESC", wanted)
        return [row[0] for row in rows], lowest

    def sample(self, limit: int) -> list[bytes]:
        """The codes of up to `limit` postings, in runs from all over the file; O(limit)."""
        row = self._database.row("SELECT max(number) FROM postings")
        last = 0 if row is None or row[0] is None else int(row[0])
        runs = 1 if last <= limit else SAMPLE_RUNS
        sql = "SELECT codes FROM postings WHERE number > ? ORDER BY number LIMIT ?"
        starts = [last * run // runs for run in range(runs)]
        return [row[0] for start in starts for row in self._database.rows(sql, (start, limit // runs))]

    def numbers_in(
        self,
        ranges: Sequence[tuple[bytes, bytes]],
        tags: Sequence[str] = (),
        condition: str = "",
        parameters: Sequence[str | bytes | int] = (),
    ) -> list[int]:
        """As `matching`, the numbers alone, in any order."""
        where = ["shard_key BETWEEN ? AND ?", *(["instr(tags, ?) > 0"] * len(tags))]
        sql = "SELECT number FROM postings WHERE " + " AND ".join(
            [*where, *([condition] if condition else [])]
        )
        wanted = (*map(canonical.encode, tags), *parameters)
        return [row[0] for low, high in ranges for row in self._database.rows(sql, (low, high, *wanted))]

    def with_term(self, term: int) -> list[int]:
        """The numbers of the postings whose text has a term (its 32 bits); only when `indexed`."""
        sql = "SELECT rowid FROM lexicon WHERE lexicon MATCH ?"
        return [row[0] for row in self._database.rows(sql, (f'"{lexicon.token(term)}"',))]

    def with_words(
        self,
        numbers: Sequence[int],
        tags: Sequence[str] = (),
        condition: str = "",
        parameters: Sequence[str | bytes | int] = (),
    ) -> list[tuple[int, bytes, bytes, bytes]]:
        """(number, shard key, codes, encoded terms) of those of these postings that may be wanted.

        As `matching` has it of tags and condition.
        """
        where = [*(["instr(tags, ?) > 0"] * len(tags)), *([f"({condition})"] if condition else [])]
        sql = (
            "SELECT number, shard_key, codes, terms FROM postings JOIN words USING (number) "
            f"WHERE {' AND '.join([*where, 'number IN ({})'])}"
        )
        wanted = (*map(canonical.encode, tags), *parameters)
        found: list[tuple[int, bytes, bytes, bytes]] = []
        for start in range(0, len(numbers), MAX_BOUND):
            part = numbers[start : start + MAX_BOUND]
            found += self._database.rows(sql.format(",".join("?" * len(part))), (*wanted, *part))
        return found

    def words(self, numbers: Sequence[int]) -> dict[int, Counted]:
        """The counted terms of these postings, of those that are there."""
        sql = "SELECT number, terms FROM words WHERE number IN ({})"
        return {row[0]: Counted.decode(row[1]) for row in self._database.rows_in(sql, numbers)}

    def mean_length(self) -> float | None:
        """How many terms a text has, on average of `LENGTHS_LOOKED_AT`; None without postings."""
        rows = self._database.rows("SELECT terms FROM words LIMIT ?", (LENGTHS_LOOKED_AT,))
        lengths = [Counted.decode(row[0]).length for row in rows]
        return sum(lengths) / len(lengths) if lengths else None

    def words_in(self, low_key: bytes, high_key: bytes) -> list[Counted]:
        """The counted terms of the postings of `in_range`, in any order; O(answer)."""
        sql = "SELECT terms FROM words JOIN postings USING (number) WHERE shard_key BETWEEN ? AND ?"
        return [Counted.decode(row[0]) for row in self._database.rows(sql, (low_key, high_key))]

    def all(self, batch: int, after: int = 0) -> Iterator[list[Posting]]:
        """All postings by number beyond `after`, in lists of up to `batch`, each a snapshot of its own."""
        sql = f"SELECT {_COLUMNS} FROM postings WHERE number > ? ORDER BY number LIMIT ?"
        while page := [self._posting(row) for row in self._database.rows(sql, (after, batch))]:
            yield page
            after = page[-1].number

    def vectors(self, batch: int) -> Iterator[list[tuple[int, bytes, bytes]]]:
        """Number, shard key and codes of all postings by number, in lists of up to `batch`.

        A tenth of the cost of `all`: 1.3 us a posting.
        """
        sql = "SELECT number, shard_key, codes FROM postings WHERE number > ? ORDER BY number LIMIT ?"
        after = 0
        while rows := self._database.rows(sql, (after, batch)):
            yield rows
            after = rows[-1][0]

    def of_others(self, author: AgentId, batch: int) -> Iterator[list[Cid]]:
        """The records of all postings that are not by `author`, in lists of up to `batch`."""
        sql = "SELECT number, record FROM postings WHERE number > ? AND author != ? ORDER BY number LIMIT ?"
        after = 0
        while rows := self._database.rows(sql, (after, author, batch)):
            yield [Cid(row[1]) for row in rows]
            after = rows[-1][0]

    def count(self) -> int:
        """Postings kept; O(1)."""
        return int(self._state()[0])

    def stamp(self) -> str:
        """A name for exactly these postings with these numbers; O(1).

        Equal stamps mean equal content, so what was computed from the postings can be kept beside its stamp.
        """
        count, total, generation = self._state()
        return f"{count}-{total.hex()}" + (f"-{generation}" if generation else "")

    @property
    def generation(self) -> int:
        """By which generation of the network's atlas all keys are made, at least."""
        return int(self._state()[2])

    def _state(self) -> Row:
        row = self._database.row("SELECT postings, total, generation FROM stamp")
        if row is None:
            raise self._database.corrupt("its stamp is missing")
        return row

    def _posting(self, row: Row) -> Posting:
        number, key, entry, record, codes, tags, author, hlc, domain, confidence = row
        try:
            shown = tuple(canonical.decode(tags, _MAX_TAG_BYTES))
        except (EncodingError, TypeError) as error:
            raise self._database.corrupt(f"the tags of posting {number} cannot be read: {error}") from error
        return Posting(number, key, entry, record, codes, shown, author, hlc, domain, confidence)


def _check_size(items: Sequence[object]) -> None:
    if len(items) > MAX_POSTINGS:
        raise StorageLimit(
            f"{len(items)} postings in one call, the limit is {MAX_POSTINGS}; write them in parts"
        )


def _put(connection: sqlite3.Connection, postings: Sequence[Posting], indexed: bool) -> list[Posting]:
    sql = (
        "INSERT OR IGNORE INTO postings "
        "(shard_key, entry, record, codes, tags, author, hlc, domain, confidence) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    added: list[Posting] = []
    words: list[tuple[int, bytes]] = []
    for p in postings:
        tags = canonical.encode(p.tags)
        row = (p.shard_key, p.entry, p.record, p.codes, tags, p.author, p.hlc, p.domain, p.confidence)
        cursor = connection.execute(sql, row)
        if cursor.rowcount and cursor.lastrowid is not None:
            added.append(replace(p, number=cursor.lastrowid, words=None))
            if p.words is not None:
                words.append((cursor.lastrowid, p.words.encode()))
    lexicon.put(connection, words, indexed)
    _restamp(connection, len(added), sum(_share(p.number, p.record) for p in added))
    return added


def _remove(connection: sqlite3.Connection, records: Sequence[Cid], indexed: bool) -> list[int]:
    numbers: list[int] = []
    shares = 0
    for record in records:
        found = connection.execute("SELECT number FROM postings WHERE record = ?", (record,)).fetchone()
        if found is not None:
            connection.execute("DELETE FROM postings WHERE number = ?", found)
            numbers.append(found[0])
            shares += _share(found[0], record)
    lexicon.remove(connection, numbers, indexed)
    _restamp(connection, -len(numbers), -shares)
    return numbers


def _retag(connection: sqlite3.Connection, rows: Sequence[tuple[bytes, Cid]]) -> None:
    connection.executemany("UPDATE postings SET tags = ? WHERE record = ?", rows)


def _clear(connection: sqlite3.Connection, indexed: bool) -> None:
    connection.execute("DELETE FROM postings")
    lexicon.clear(connection, indexed)
    connection.execute("UPDATE stamp SET postings = 0, total = zeroblob(32)")


def _restamp(connection: sqlite3.Connection, postings: int, shares: int) -> None:
    before = connection.execute("SELECT postings, total FROM stamp").fetchone()
    total = (int.from_bytes(before[1], "big") + shares) % _MODULUS
    values = (before[0] + postings, total.to_bytes(KEY_SIZE, "big"))
    connection.execute("UPDATE stamp SET postings = ?, total = ?", values)


def _share(number: int, record: Cid) -> int:
    return int.from_bytes(sha256(number.to_bytes(8, "big") + record).digest(), "big")
